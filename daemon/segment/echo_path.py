"""The way of an echo: how one stream reaches another, and how much of what is heard there came that way.

An echo passes through a loudspeaker, a room, a microphone and a telephone line. All of them together are one filter,
which stays the same for a while. It is fitted to as much sound as there is, so that neither short vowels that two
people share nor what someone says on top of the echo decide it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from daemon.segment.frames import average
from daemon.segment.silero import FRAME_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from daemon.decode import Waveform

    Sound = NDArray[np.float32]
    Weights = Sequence[NDArray[np.float32]]

DELAY_FRAMES: Final = 19  # 0.6 s: longer than the echo of any network
SYLLABLE_FRAMES: Final = 8  # 256 ms: energies are taken over a syllable

_BLOCK_FRAMES: Final = 16
_DELAY: Final = DELAY_FRAMES * FRAME_SAMPLES
_SIZE: Final = 18_000  # of a transform: a block, the delay before it, and little more; a product of small primes
_EARLY: Final = 64  # samples that a filter may begin before its peak
_TAIL: Final = 2_400  # samples that it goes on after it: 150 ms of a room
_SAMPLES_EACH: Final = 12  # of sound for each sample of the filter; with fewer it would fit anything
_PEAK: Final = 80  # samples over which the energy of a filter is added up
_REGULARIZATION: Final = 0.003  # of the mean power; frequencies that are weaker are hardly fitted
_ROUNDS: Final = 2
_SILENCE: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Path:
    """What one stream hears of another, frame by frame; the frames are those of the ranges, one after the other.

    Attributes:
        sharpness: how far the filter stands out from chance at its delay. Two people reach 12, an echo 30 and more.
        heard: energy of each frame, averaged over a syllable, shape (n_frames,).
        rest: what is left of it without the echo.
        echo: the energy of the echo.
    """

    sharpness: float
    heard: NDArray[np.float32]
    rest: NDArray[np.float32]
    echo: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Block:
    """Frames of the stream that hears, and the spectrum of the other from 0.6 s before them on."""

    heard: Sound
    said: NDArray[np.complexfloating]


def fit_path(quiet: Waveform, loud: Waveform, ranges: Sequence[tuple[int, int]]) -> Path:
    """Fit the filter through which one stream reaches another, at most 0.6 s later.

    Args:
        quiet: the stream that may hear an echo.
        loud: the other.
        ranges: (start, stop) frames to fit it to; some may hold other sound as well.

    Raises:
        errors.TransientError: the disk of a waveform cannot be read.
    """
    starts = [(at, min(at + _BLOCK_FRAMES, stop)) for start, stop in ranges for at in range(start, stop, _BLOCK_FRAMES)]
    blocks = [_read_block(quiet, loud, first, last) for first, last in starts]
    n_taps = min(_TAIL, sum(len(block.heard) for block in blocks) // _SAMPLES_EACH)
    heard = [_energies(block.heard) for block in blocks]
    usual = np.float32(np.median(np.concatenate(heard)) + _SILENCE)  # noise between words is not to outweigh them
    weights = [np.asarray(1 / (energies + usual), np.float32) for energies in heard]
    for _ in range(_ROUNDS):
        taps, sharpness = _fit(blocks, weights, n_taps)
        echoes = _predict(blocks, weights, taps)
        rest = [_energies(block.heard - echo) for block, echo in zip(blocks, echoes, strict=True)]
        weights = [_weigh(left, each, usual) for left, each in zip(rest, heard, strict=True)]
    echo = [_energies(each) for each in echoes]
    return Path(sharpness, np.concatenate(heard), np.concatenate(rest), np.concatenate(echo))


def _weigh(rest: NDArray[np.float32], heard: NDArray[np.float32], usual: np.float32) -> NDArray[np.float32]:
    """Return how far the next round relies on each frame: little where the echo explains little, for someone talks."""
    share = np.maximum(1 - rest / (heard + np.float32(_SILENCE)), 0.05)
    return np.asarray(share / (rest + usual), np.float32)


def _read_block(quiet: Waveform, loud: Waveform, first: int, last: int) -> _Block:
    start, stop = first * FRAME_SAMPLES, last * FRAME_SAMPLES
    return _Block(_read(quiet, start, stop), np.fft.rfft(_read(loud, start - _DELAY, stop), _SIZE))


def _read(waveform: Waveform, start: int, stop: int) -> Sound:
    """Return samples of a waveform, with zeros outside it."""
    samples = waveform.read(max(0, start), max(0, min(stop, waveform.n_samples)))
    before = max(0, -start)
    return np.pad(samples, (before, stop - start - before - len(samples)))


def _energies(sound: Sound) -> NDArray[np.float32]:
    """Return the energy of each frame, averaged over a syllable."""
    frames = sound.reshape(-1, FRAME_SAMPLES)
    return average(np.vecdot(frames, frames), SYLLABLE_FRAMES)


def _fit(blocks: Sequence[_Block], weights: Weights, n_taps: int) -> tuple[NDArray[np.float32], float]:
    """Return a filter by its places from 0.6 s before a sample on, shape (18000,), and its sharpness."""
    cross, power = np.zeros(_SIZE // 2 + 1, np.complex128), np.zeros(_SIZE // 2 + 1)
    for block, weight in zip(blocks, weights, strict=True):
        weighted = (block.heard.reshape(-1, FRAME_SAMPLES) * weight[:, np.newaxis]).reshape(-1)
        cross += block.said * np.conj(np.fft.rfft(weighted, _SIZE))
        power += weight.mean() * np.abs(block.said) ** 2
    taps = np.fft.irfft(cross / (power + _REGULARIZATION * power.mean() + np.finfo(np.float64).tiny), _SIZE)
    energies = np.convolve(taps[: _DELAY + 1] ** 2, np.ones(_PEAK), "same")
    peak = int(energies.argmax())
    taps[: max(0, peak - n_taps)] = 0
    taps[min(peak, _DELAY) + _EARLY :] = 0
    return taps.astype(np.float32), float(energies[peak] / (np.median(energies) + np.finfo(np.float64).tiny))


def _predict(blocks: Sequence[_Block], weights: Weights, taps: NDArray[np.float32]) -> list[Sound]:
    """Return the echo in each block, scaled so that the least is left of what is heard."""
    response = np.conj(np.fft.rfft(taps, _SIZE))
    echoes = [np.fft.irfft(block.said * response, _SIZE)[: len(block.heard)].astype(np.float32) for block in blocks]
    common = energy = 0.0
    for block, weight, echo in zip(blocks, weights, echoes, strict=True):
        frames = echo.reshape(-1, FRAME_SAMPLES)
        common += float(weight @ np.vecdot(frames, block.heard.reshape(-1, FRAME_SAMPLES)))
        energy += float(weight @ np.vecdot(frames, frames))
    scale = np.float32(common / (energy + np.finfo(np.float64).tiny))
    return [echo * scale for echo in echoes]
