"""Echoes between the streams of a recording: speech that one picks up from another is not transcribed twice.

An echo is far quieter than what it repeats, and it is the same sound, delayed and filtered. Both have to hold, in each
moment: someone who says "yes" softly while the other talks is not an echo, even if there is one below it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from daemon.segment.chunking import Span
from daemon.segment.echo_path import DELAY_FRAMES, SYLLABLE_FRAMES, fit_path
from daemon.segment.frames import average, find_floors, to_db, to_energies, to_frames, to_mask, to_ranges
from daemon.segment.silero import FRAME_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from daemon.decode import Waveform
    from daemon.segment.examination import Examined

_BELOW_OTHER_DB: Final = 8.0  # an echo is at least so far below what it repeats
_MIN_FRAMES: Final = 5  # of sound that is compared: 160 ms, as much as it takes to tell who talks
_MIN_SHARPNESS: Final = 30.0  # of the filter; two people reach 12
_GROUP_FRAMES: Final = 625  # 20 s: as much as one path is fitted to, or up to twice that at the end

# On top of an echo, someone talks where it explains less than half of the energy, and where there is far more energy
# than that of echo and noise.
_MIN_SHARE: Final = 0.5
_MAX_MISFIT: Final = 2.0  # an echo may have this many times the energy that was fitted; more is someone who talks
_MIN_OWN_EXCESS: Final = 4.0
_MIN_OWN_FRAMES: Final = 5  # 160 ms, of energies over a syllable; the fit may fail for less
_PADDING_FRAMES: Final = 6  # around what is not an echo: words begin and end softly
_MIN_ECHO_FRAMES: Final = 12  # less, next to a word, costs nothing, and may be a soft syllable

_FLOOR_BLOCK_FRAMES: Final = 156  # 5 s
_FLOOR_AROUND_FRAMES: Final = 469  # 15 s
_LOWEST_FLOOR_DBFS: Final = -75.0
_QUIET_DB: Final = 8.0  # above the noise floor
_MIN_SPEECH_FRAMES: Final = 4  # less that is not quiet, next to an echo, belongs to it
_SILENCE_DBFS: Final = -120.0


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
        self._examined = examined
        recorded = self._frame_levels()
        averaged = to_db(average(to_energies(recorded), SYLLABLE_FRAMES)) if len(recorded) else recorded
        self.levels = np.asarray(averaged, np.float32)  # there are up to eight streams of many hours

    def _frame_levels(self) -> NDArray[np.float32]:
        return self._examined.levels - np.float32(20 * math.log10(self.waveform.gain))

    def loudest_before(self, n_frames: int) -> NDArray[np.float32]:
        """Return the highest level in the last 0.6 s before each of some frames, shape (n_frames,)."""
        levels = self.levels[:n_frames]
        padded = np.concatenate(
            (np.full(DELAY_FRAMES, _SILENCE_DBFS), levels, np.full(n_frames - len(levels), _SILENCE_DBFS)),
            dtype=np.float32,
        )
        return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, DELAY_FRAMES + 1).max(axis=1), np.float32)

    def is_quiet(self) -> NDArray[np.bool_]:
        """Return which frames are hardly louder than the noise around them, shape (n_frames,)."""
        floors = find_floors(self._frame_levels(), _FLOOR_BLOCK_FRAMES, _FLOOR_AROUND_FRAMES, _LOWEST_FLOOR_DBFS)
        return np.asarray(self.levels <= floors + _QUIET_DB)


def _without_echoes(sound: _Sound, others: Sequence[_Sound], speech: tuple[Span, ...]) -> tuple[Span, ...]:
    """Return the speech of a stream without echoes of others."""
    levels = sound.levels
    is_speech = to_mask(to_frames(speech), len(levels))
    loudest = np.full(len(levels), _SILENCE_DBFS, np.float32)
    for other in others:
        np.maximum(loudest, other.loudest_before(len(levels)), out=loudest)
    if not (is_speech & (levels >= loudest)).any():
        return speech
    is_echo, is_own = np.zeros((2, len(levels)), np.bool_)
    for other in others:
        may_be = is_speech & ~is_echo & (levels <= other.loudest_before(len(levels)) - _BELOW_OTHER_DB)
        for ranges in _group(to_ranges(may_be)):
            _mark(is_echo, is_own, sound.waveform, other.waveform, ranges)
    if not is_echo.any():
        return speech
    is_loud = is_own | ~sound.is_quiet()
    own = [
        (start, stop)
        for start, stop in to_ranges(is_speech & ~is_echo).tolist()
        if not (_touches(is_echo, start, stop) and is_loud[start:stop].sum() < _MIN_SPEECH_FRAMES)
    ]
    padded = np.array(own, np.int64).reshape(-1, 2) + np.array([-_PADDING_FRAMES, _PADDING_FRAMES])
    left_out = to_ranges(is_speech & ~to_mask(np.maximum(padded, 0), len(levels)))
    is_kept = np.pad(is_speech & ~to_mask(left_out, len(levels)), 1)
    is_next_to_word = is_kept[left_out[:, 0]] | is_kept[left_out[:, 1] + 1]
    left_out = left_out[(left_out[:, 1] - left_out[:, 0] >= _MIN_ECHO_FRAMES) | ~is_next_to_word]
    kept = to_ranges(is_speech & ~to_mask(left_out, len(levels))).tolist()
    return _clip(speech, kept)


def _group(ranges: NDArray[np.int64]) -> Iterator[list[tuple[int, int]]]:
    """Yield ranges of frames in groups of 20 s or more, if there are as many; short ones are left out."""
    group: list[tuple[int, int]] = []
    n_frames, n_left = 0, int((ranges[:, 1] - ranges[:, 0]).sum())
    for start, end in ranges[ranges[:, 1] - ranges[:, 0] >= _MIN_FRAMES].tolist():
        for at in range(start, end, _GROUP_FRAMES):
            stop = min(end, at + _GROUP_FRAMES)
            group.append((at, stop))
            n_frames, n_left = n_frames + stop - at, n_left - (stop - at)
            if n_frames >= _GROUP_FRAMES and n_left >= _GROUP_FRAMES:
                yield group
                group, n_frames = [], 0
    if group:
        yield group


def _mark(
    is_echo: NDArray[np.bool_],
    is_own: NDArray[np.bool_],
    quiet: Waveform,
    loud: Waveform,
    ranges: Sequence[tuple[int, int]],
) -> None:
    """Mark the frames of some ranges that are an echo of another waveform, and those that are speech on top of one."""
    path = fit_path(quiet, loud, ranges)
    if path.sharpness < _MIN_SHARPNESS:
        return
    noise = 2 * np.percentile(path.heard, 5)
    is_clear = path.echo > noise
    misfit = np.median((path.heard[is_clear] - noise) / path.echo[is_clear]) if is_clear.any() else 1.0
    excess = path.heard / (noise + np.clip(misfit, 1.0, _MAX_MISFIT) * path.echo + np.finfo(np.float32).tiny)
    is_more = (path.rest > (1 - _MIN_SHARE) * path.heard) & (excess >= _MIN_OWN_EXCESS)
    at = 0
    for start, stop in ranges:
        own = to_ranges(is_more[at : at + stop - start])
        own = own[own[:, 1] - own[:, 0] >= _MIN_OWN_FRAMES]
        is_own[start:stop] = to_mask(own, stop - start)
        is_echo[start:stop] = ~is_own[start:stop]
        at += stop - start


def _touches(is_echo: NDArray[np.bool_], start: int, stop: int) -> bool:
    return bool(is_echo[max(0, start - 1)] or is_echo[min(stop, len(is_echo) - 1)])


def _clip(speech: Sequence[Span], kept: Sequence[tuple[int, int]]) -> tuple[Span, ...]:
    """Return the parts of spans that lie in some frames (start, stop)."""
    return tuple(
        Span(max(span.start, start * FRAME_SAMPLES), min(span.stop, stop * FRAME_SAMPLES))
        for span in speech
        for start, stop in kept
        if max(span.start, start * FRAME_SAMPLES) < min(span.stop, stop * FRAME_SAMPLES)
    )
