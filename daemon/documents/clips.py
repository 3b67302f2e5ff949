"""Clips: the audio of flagged and missing passages, embedded in the html page."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from daemon.transcript import Transcript

MAX_CLIPS: Final = 20
MAX_CLIP_S: Final = 30.0
MAX_BYTES: Final = 5_000_000
"""The most bytes that all clips of a page may take."""
_MARGIN_S: Final = 0.5  # before and after, so that a listener hears how it begins
# The least urgent flag: the words are there, and only where two texts were joined is uncertain.
_JOINED: Final = ("overlap",)


@dataclass(frozen=True, slots=True)
class Clip:
    """A part of the cleaned recording as an mp3 file."""

    start_s: float
    end_s: float
    mp3: bytes

    @property
    def page_bytes(self) -> int:
        """Its size in the page, as base64."""
        return 4 * -(-len(self.mp3) // 3)


def choose_stretches(transcript: Transcript) -> list[tuple[float, float]]:
    """Return the start and end, in seconds, of the passages for clips, in the order of time.

    Missing passages are chosen before those tried twice, and those before joined ones. Of a stretch longer than a
    clip, the rest is left for when the others have theirs.
    """
    segments = [segment for segment in transcript.segments if segment.flags]
    urgent = [(segment.start_s, segment.end_s) for segment in segments if segment.flags != _JOINED]
    joined = [(segment.start_s, segment.end_s) for segment in segments if segment.flags == _JOINED]
    missing = [(gap.start_s, gap.end_s) for gap in transcript.coverage.gaps]
    parts = [list(_cut(*stretch, transcript.audio.duration_s)) for stretch in (*missing, *urgent, *joined)]
    firsts, rests = [part[:1] for part in parts], [part[1:] for part in parts]
    each = dict.fromkeys(chain.from_iterable((*firsts, *rests)))  # channels can have the same gap
    return sorted(list(each)[:MAX_CLIPS])


def fit_into_page(clips: Iterable[Clip]) -> list[Clip]:
    """Return the first clips, as many as fit into a page."""
    fitting, n_bytes = [], 0
    for clip in clips:
        n_bytes += clip.page_bytes
        if n_bytes > MAX_BYTES:
            break
        fitting.append(clip)
    return fitting


def describe_clip(clip: Clip) -> dict[str, Any]:
    """Return a clip for the script of the page."""
    data = f"data:audio/mpeg;base64,{base64.b64encode(clip.mp3).decode()}"
    return {"start_s": clip.start_s, "end_s": clip.end_s, "data": data}


def _cut(start_s: float, end_s: float, length_s: float) -> Iterator[tuple[float, float]]:
    """Yield the parts of a stretch with its margins, none longer than a clip."""
    start_s, end_s = max(0.0, start_s - _MARGIN_S), min(length_s, end_s + _MARGIN_S)
    while start_s < end_s:
        yield round(start_s, 3), round(min(end_s, start_s + MAX_CLIP_S), 3)
        start_s += MAX_CLIP_S
