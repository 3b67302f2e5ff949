"""A waveform frame by frame: its samples, its levels, and the noise floor around each frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from daemon.decode import SAMPLE_RATE_HZ
from daemon.segment.silero import FRAME_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from daemon.decode import Waveform
    from daemon.segment.chunking import Span

_BLOCK_FRAMES: Final = 30 * SAMPLE_RATE_HZ // FRAME_SAMPLES
_FLOOR_PERCENTILE: Final = 10  # even in speech without pauses a tenth of the frames lie between syllables
_SILENCE: Final = 1e-12  # -120 dBFS


def count_frames(waveform: Waveform) -> int:
    """Return the number of frames of 512 samples; the last may be cut short."""
    return -(-waveform.n_samples // FRAME_SAMPLES)


def read_frames(waveform: Waveform, first: int, n_frames: int, n_context: int = 0) -> NDArray[np.float32]:
    """Return the samples of some frames and `n_context` before them, with zeros outside the recording."""
    start, stop = first * FRAME_SAMPLES - n_context, (first + n_frames) * FRAME_SAMPLES
    samples = np.zeros(stop - start, np.float32)
    audio = waveform.read(max(0, start), max(0, stop))
    n_before = max(0, -start)
    samples[n_before : n_before + len(audio)] = audio
    return samples


def has_audio(waveform: Waveform, first: int, n_frames: int) -> bool:
    """Return whether any of some frames was recorded; a pause of the recorder is not examined."""
    return waveform.has_audio(first * FRAME_SAMPLES, (first + n_frames) * FRAME_SAMPLES)


def measure_levels(waveform: Waveform, raise_if_stopped: Callable[[], None]) -> NDArray[np.float32]:
    """Return the RMS level of each frame in dBFS, shape (n_frames,); silence is -120.

    Args:
        waveform: the recording.
        raise_if_stopped: called at least every two seconds.
    """
    n_frames = count_frames(waveform)
    energies = np.zeros(n_frames, np.float32)
    for first in range(0, n_frames, _BLOCK_FRAMES):
        if not has_audio(waveform, first, _BLOCK_FRAMES):
            continue
        raise_if_stopped()
        frames = read_frames(waveform, first, min(_BLOCK_FRAMES, n_frames - first)).reshape(-1, FRAME_SAMPLES)
        energies[first : first + len(frames)] = np.vecdot(frames, frames)
    energies /= FRAME_SAMPLES
    return to_db(energies)


def to_db(energies: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return mean squares as levels in dBFS."""
    levels: NDArray[np.float32] = np.log10(energies + np.float32(_SILENCE))
    levels *= 10
    return levels


def to_energies(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return levels in dBFS as mean squares."""
    energies: NDArray[np.float32] = np.power(np.float32(10), levels / 10)
    return energies


def average(values: NDArray[np.float32], n_frames: int) -> NDArray[np.float32]:
    """Return the mean of the `n_frames` around each frame, of fewer at the ends, shape (n,)."""
    before, after = n_frames // 2, n_frames - n_frames // 2 - 1
    sums = np.pad(np.cumsum(values, dtype=np.float64), (before + 1, after), mode="constant")
    sums[len(sums) - after :] = sums[len(sums) - after - 1]
    means = np.asarray(sums[n_frames:] - sums[:-n_frames], np.float32)
    means /= n_frames
    for index in {*range(min(before, len(values))), *range(max(0, len(values) - after), len(values))}:
        n_missing = max(0, before - index) + max(0, index + after + 1 - len(values))
        means[index] *= n_frames / (n_frames - n_missing)
    return means


def find_floors(levels: NDArray[np.float32], n_block: int, n_around: int, lowest_dbfs: float) -> NDArray[np.float32]:
    """Return the level below which a tenth of the frames around each frame lie, shape (n_frames,).

    Args:
        levels: of the frames, in dBFS.
        n_block: frames that share one floor.
        n_around: frames on either side of them that it is taken from.
        lowest_dbfs: no floor is lower.
    """
    floors = np.empty_like(levels)
    for first in range(0, len(levels), n_block):
        around = levels[max(0, first - n_around) : first + n_block + n_around]
        floors[first : first + n_block] = max(lowest_dbfs, float(np.percentile(around, _FLOOR_PERCENTILE)))
    return floors


def to_ranges(is_on: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the (start, stop) of each run of frames that are on, shape (n, 2)."""
    edges = np.concatenate(([False], is_on, [False]))
    return np.flatnonzero(edges[1:] != edges[:-1]).reshape(-1, 2)


def to_mask(ranges: NDArray[np.int64], n_frames: int) -> NDArray[np.bool_]:
    """Return which frames lie in one of the (start, stop) ranges, shape (n_frames,)."""
    steps = np.zeros(n_frames + 1, np.int32)
    np.add.at(steps, np.minimum(ranges[:, 0], n_frames), 1)
    np.add.at(steps, np.minimum(ranges[:, 1], n_frames), -1)
    return np.cumsum(steps[:-1]) > 0


def to_frames(spans: Sequence[Span]) -> NDArray[np.int64]:
    """Return the (start, stop) frames that spans of samples touch, shape (n, 2)."""
    edges = np.array([(span.start, span.stop) for span in spans], np.int64).reshape(-1, 2)
    return np.stack((edges[:, 0] // FRAME_SAMPLES, -(-edges[:, 1] // FRAME_SAMPLES)), axis=1)
