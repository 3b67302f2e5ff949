"""What all documents for people share: the order of their parts, marks for what is missing, times, paragraphs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.transcript import Gap, Segment, Transcript

# A pause of this length begins a new paragraph; people seldom take turns faster in a meeting.
PARAGRAPH_PAUSE_S: Final = 2.0
_S_PER_MINUTE: Final = 60
_S_PER_HOUR: Final = 3600


class Kind(Enum):
    """What an item is: speech, a gap in it, or the point where the recording could not be read on."""

    SPEECH = "speech"
    GAP = "gap"
    CUT = "cut"


@dataclass(frozen=True, slots=True)
class Item:
    """One part of a document.

    Attributes:
        start_s: seconds from the start of the recording, as `end_s`.
        text: the words, or the mark that is shown in their place.
        segment: of speech, with all that is known of it; None for a mark.
    """

    start_s: float
    end_s: float
    text: str
    kind: Kind = Kind.SPEECH
    segment: Segment | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """What the configuration sets for documents.

    Attributes:
        has_timestamps: whether each paragraph of the txt begins with its time.
    """

    has_timestamps: bool = False


def list_items(transcript: Transcript) -> list[Item]:
    """Return speech and marks in the order of time; the mark of a cut recording comes last."""
    items = [Item(part.start_s, part.end_s, part.text, segment=part) for part in transcript.segments]
    items += [Item(gap.start_s, gap.end_s, describe_gap(gap), Kind.GAP) for gap in transcript.coverage.gaps]
    items.sort(key=lambda item: (item.start_s, item.end_s))
    if not transcript.audio.is_complete:
        end_s = transcript.audio.duration_s
        items.append(Item(end_s, end_s, f"[the recording could only be read up to {clock(end_s)}]", Kind.CUT))
    return items


def group_paragraphs(items: Sequence[Item]) -> list[list[Item]]:
    """Return the items by paragraph: one ends at a long pause, and each mark is a paragraph of its own."""
    groups = [[item] for item in items[:1]]
    for before, item in pairwise(items):
        is_same = item.kind is before.kind is Kind.SPEECH and item.start_s - before.end_s < PARAGRAPH_PAUSE_S
        if is_same:
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def describe_gap(gap: Gap) -> str:
    """Return the mark that is shown in place of speech without a transcription."""
    return f"[not transcribed, {clock(gap.start_s)} to {clock(gap.end_s)}: {gap.reason}]"


def clock(time_s: float) -> str:
    """Return a time as h:mm:ss."""
    whole_s = int(time_s)
    minutes = whole_s // _S_PER_MINUTE % _S_PER_MINUTE
    return f"{whole_s // _S_PER_HOUR}:{minutes:02}:{whole_s % _S_PER_MINUTE:02}"
