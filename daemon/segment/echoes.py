"""Echoes between the streams of a recording: speech that one picks up from another is not transcribed twice.

An echo is far quieter than what it repeats and than the stream's own talker, and has the same waveform, delayed. All
three have to hold: someone who says "yes" softly while the other talks is not an echo.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from daemon.decode import SAMPLE_RATE_HZ
from daemon.segment.chunking import Span
from daemon.segment.frames import average, to_db, to_energies, to_frames, to_mask, to_ranges
from daemon.segment.silero import FRAME_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from daemon.decode import Waveform
    from daemon.segment.examination import Examined

_SYLLABLE_FRAMES: Final = 8  # 256 ms
_DELAY_FRAMES: Final = 19  # 0.6 s: longer than the echo of any network
_BELOW_OTHER_DB: Final = 15.0
_BELOW_OWN_DB: Final = 12.0
_MIN_FRAMES: Final = 8  # of an echo: 256 ms
_LONGEST: Final = 4 * SAMPLE_RATE_HZ  # most samples that are compared
# Of two talkers, at the delay that fits best; an echo under noise that is as loud reaches 0.7.
_MIN_CORRELATION: Final = 0.4
_SILENCE_DBFS: Final = -120.0
_MIN_SPEECH_FRAMES: Final = 8  # shorter speech between echoes belongs to them


def leave_out_echoes(waveforms: Sequence[Waveform], examined: Sequence[Examined]) -> list[tuple[Span, ...]]:
    """Return the speech of several streams without echoes of each other.

    Args:
        waveforms: of the streams, all from the same time on.
        examined: what was found in them.

    Raises:
        errors.TransientError: the disk of a waveform cannot be read.
    """
    sounds = [_Sound(waveform, each) for waveform, each in zip(waveforms, examined, strict=True)]
    return [
        _without_echoes(sound, [other for other in sounds if other is not sound], each.speech)
        for sound, each in zip(sounds, examined, strict=True)
    ]


class _Sound:
    """A waveform with the level of each frame as it was recorded, in dBFS, averaged over a syllable."""

    def __init__(self, waveform: Waveform, examined: Examined) -> None:
        self.waveform = waveform
        recorded = examined.levels - np.float32(20 * math.log10(waveform.gain))
        self.levels = to_db(average(to_energies(recorded), _SYLLABLE_FRAMES)) if len(recorded) else recorded

    def loudest_before(self, n_frames: int) -> NDArray[np.float32]:
        """Return the highest level in the last 0.6 s before each of some frames, shape (n_frames,)."""
        levels = self.levels[:n_frames]
        padded = np.concatenate(
            (np.full(_DELAY_FRAMES, _SILENCE_DBFS), levels, np.full(n_frames - len(levels), _SILENCE_DBFS))
        )
        return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, _DELAY_FRAMES + 1).max(axis=1), np.float32)


def _without_echoes(sound: _Sound, others: Sequence[_Sound], speech: tuple[Span, ...]) -> tuple[Span, ...]:
    """Return the speech of a stream without echoes of others."""
    levels = sound.levels
    is_speech = to_mask(to_frames(speech), len(levels))
    loudest = [other.loudest_before(len(levels)) for other in others]
    is_own = is_speech & (levels >= np.max(loudest, axis=0))
    if not is_own.any():
        return speech
    is_faint = is_speech & (levels <= np.median(levels[is_own]) - _BELOW_OWN_DB)
    is_echo = np.zeros(len(levels), np.bool_)
    for other, before in zip(others, loudest, strict=True):
        found = to_ranges(is_faint & ~is_echo & (levels <= before - _BELOW_OTHER_DB))
        for start, stop in found[found[:, 1] - found[:, 0] >= _MIN_FRAMES].tolist():
            is_echo[start:stop] = _is_copy(sound.waveform, other.waveform, start, stop)
    if not is_echo.any():
        return speech
    kept = [
        (start, stop)
        for start, stop in to_ranges(is_speech & ~is_echo).tolist()
        if not (_touches(is_echo, start, stop) and (is_faint[start:stop].all() or stop - start < _MIN_SPEECH_FRAMES))
    ]
    return _clip(speech, kept)


def _touches(is_echo: NDArray[np.bool_], start: int, stop: int) -> bool:
    return bool(is_echo[max(0, start - 1)] or is_echo[min(stop, len(is_echo) - 1)])


def _is_copy(quiet: Waveform, loud: Waveform, first: int, last: int) -> bool:
    """Return whether frames of one waveform repeat the other, at most 0.6 s later."""
    start, stop = first * FRAME_SAMPLES, min(last * FRAME_SAMPLES, first * FRAME_SAMPLES + _LONGEST)
    n_before = _DELAY_FRAMES * FRAME_SAMPLES
    heard = quiet.read(start, stop).astype(np.float64)
    said = loud.read(max(0, start - n_before), stop).astype(np.float64)
    said = np.pad(said, (n_before + stop - start - len(said), 0))  # before the recording it was silent
    size = 1 << (len(heard) + len(said)).bit_length()
    products = np.fft.irfft(np.conj(np.fft.rfft(heard, size)) * np.fft.rfft(said, size), size)[: n_before + 1]
    sums = np.concatenate(([0.0], np.cumsum(said**2)))
    energies = sums[len(heard) : len(heard) + n_before + 1] - sums[: n_before + 1]
    floor = np.finfo(np.float32).tiny
    return float((np.abs(products) / np.sqrt(energies * np.sum(heard**2) + floor)).max(initial=0.0)) >= _MIN_CORRELATION


def _clip(speech: Sequence[Span], kept: Sequence[tuple[int, int]]) -> tuple[Span, ...]:
    """Return the parts of spans that lie in some frames (start, stop)."""
    return tuple(
        Span(max(span.start, start * FRAME_SAMPLES), min(span.stop, stop * FRAME_SAMPLES))
        for span in speech
        for start, stop in kept
        if max(span.start, start * FRAME_SAMPLES) < min(span.stop, stop * FRAME_SAMPLES)
    )
