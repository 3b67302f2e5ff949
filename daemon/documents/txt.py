"""The txt document: what a person reads."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from daemon.text import join_texts
from daemon.transcript import Gap, Segment

if TYPE_CHECKING:
    from daemon.transcript import Transcript

# A pause of this length begins a new paragraph; speakers seldom take turns faster in a meeting.
PARAGRAPH_PAUSE_S = 2.0
_S_PER_MINUTE, _S_PER_HOUR = 60, 3600


def clock(at_s: float) -> str:
    """Return a time as h:mm:ss."""
    whole_s = int(at_s)
    minutes = whole_s // _S_PER_MINUTE % _S_PER_MINUTE
    return f"{whole_s // _S_PER_HOUR}:{minutes:02}:{whole_s % _S_PER_MINUTE:02}"


def describe_gap(gap: Gap) -> str:
    """Return the mark that stands in place of speech which could not be transcribed."""
    return f"[not transcribed, {clock(gap.start_s)} to {clock(gap.end_s)}: {gap.reason}]"


def describe_cut(transcript: Transcript) -> str | None:
    """Return the mark at the end of a recording that could not be read to its end."""
    if transcript.audio.is_complete:
        return None
    return f"[the recording could be read up to {clock(transcript.audio.duration_s)} only]"


def in_order(transcript: Transcript) -> list[Segment | Gap]:
    """Return segments and gaps by time."""
    parts: list[Segment | Gap] = [*transcript.segments, *transcript.coverage.gaps]
    return sorted(parts, key=lambda part: (part.start_s, part.end_s))


def render_txt(transcript: Transcript, *, has_timestamps: bool) -> str:
    """Return paragraphs of text, broken at long pauses, with every gap marked; "" without speech."""
    paragraphs = [_paragraph(group, has_timestamps=has_timestamps) for group in _by_pause(in_order(transcript))]
    if cut := describe_cut(transcript):
        paragraphs.append(cut)
    return "\n\n".join(paragraphs) + "\n" if paragraphs else ""


def _by_pause(parts: list[Segment | Gap]) -> list[list[Segment | Gap]]:
    groups = [[part] for part in parts[:1]]
    for before, part in pairwise(parts):
        is_new = part.start_s - before.end_s >= PARAGRAPH_PAUSE_S or Gap in {type(before), type(part)}
        if is_new:
            groups.append([part])
        else:
            groups[-1].append(part)
    return groups


def _paragraph(group: list[Segment | Gap], *, has_timestamps: bool) -> str:
    text = join_texts(describe_gap(part) if isinstance(part, Gap) else part.text for part in group)
    return f"[{clock(group[0].start_s)}] {text}" if has_timestamps else text
