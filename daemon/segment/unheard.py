"""Sounds as loud as speech in which no speech was found: the receipt says where, so that people can listen there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from daemon.decode import SAMPLE_RATE_HZ
from daemon.documents.layout import clock
from daemon.segment.frames import average, to_db, to_energies, to_frames, to_mask, to_ranges
from daemon.segment.silero import FRAME_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from daemon.segment.chunking import Span

_SMOOTHING_FRAMES: Final = 16  # half a second: speech is as loud as its words, not as the gaps between them
_BELOW_SPEECH_DB: Final = 10.0
_ABOVE_FLOOR_DB: Final = 6.0
_LOWEST_DBFS: Final = -50.0
_FLOOR_PERCENTILE: Final = 10
_MIN_FRAMES: Final = 31  # 1 s
_MAX_PAUSE_FRAMES: Final = 62  # 2 s: closer ones are one
_MAX_NAMED: Final = 10


def describe_unheard(levels: NDArray[np.float32], speech: Sequence[Span]) -> str | None:
    """Return a sentence with the times of sounds as loud as speech that were not taken for it; None without any.

    Such a sound lasts a second or more, is at most 10 dB quieter than the speech, and stands out from the quietest
    tenth of the recording. In a recording without speech it is everything above -50 dBFS.

    Args:
        levels: of the recording's frames, from `frames.measure_levels`.
        speech: detected in it.
    """
    found = _find_unheard(levels, speech)
    if len(found) == 0:
        return None
    longest = np.sort(np.argsort(found[:, 0] - found[:, 1], kind="stable")[:_MAX_NAMED])
    frame_s = FRAME_SAMPLES / SAMPLE_RATE_HZ
    times = ", ".join(f"{clock(start * frame_s)} to {clock(stop * frame_s)}" for start, stop in found[longest])
    more = f", and {len(found) - _MAX_NAMED} shorter ones" if len(found) > _MAX_NAMED else ""
    return f"As loud as speech, but not taken for speech: {times}{more}."


def _find_unheard(levels: NDArray[np.float32], speech: Sequence[Span]) -> NDArray[np.int64]:
    """Return the (start, stop) frames of these sounds, shape (n, 2)."""
    if len(levels) == 0:
        return np.zeros((0, 2), np.int64)
    loudness = to_db(average(to_energies(levels), _SMOOTHING_FRAMES))
    is_speech = to_mask(to_frames(speech), len(levels))
    lowest = _LOWEST_DBFS
    if is_speech.any():
        of_speech = float(np.median(loudness[is_speech]))
        floor = float(np.percentile(loudness, _FLOOR_PERCENTILE))
        lowest = max(lowest, of_speech - _BELOW_SPEECH_DB, floor + _ABOVE_FLOOR_DB)
    loud = to_ranges((loudness >= lowest) & ~is_speech)
    loud = loud[loud[:, 1] - loud[:, 0] >= _MIN_FRAMES]
    is_apart = loud[1:, 0] - loud[:-1, 1] > _MAX_PAUSE_FRAMES
    starts = loud[np.concatenate(([True], is_apart))[: len(loud)], 0]
    stops = loud[np.concatenate((is_apart, [True]))[: len(loud)], 1]
    return np.stack((starts, stops), axis=1)
