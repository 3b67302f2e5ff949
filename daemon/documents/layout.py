"""What all documents for people share: the order of their parts, marks for what is missing, voices, times."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from daemon.display import printable

if TYPE_CHECKING:
    from daemon.documents.clips import Clip
    from daemon.transcript import Gap, Segment, Transcript, Word

_S_PER_MINUTE: Final = 60
_S_PER_HOUR: Final = 3600
# A word that the model holds for less likely than this is marked.
DOUBTFUL: Final = 0.5
# The endings of listening copies, by their formats.
LISTENING_COPIES: Final = {form: f"listen.{form}" for form in ("mp3", "m4a", "opus")}


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
        words: of the text, one for each of its tokens; () where they are not known by themselves.
    """

    start_s: float
    end_s: float
    text: str
    kind: Kind = Kind.SPEECH
    segment: Segment | None = None
    words: tuple[Word, ...] = ()

    @property
    def voice(self) -> tuple[object, ...]:
        """Who speaks, as far as it is known, for comparison."""
        part = self.segment
        return () if part is None else (part.track, part.channel, part.speaker)


@dataclass(frozen=True, slots=True)
class Sound:
    """What the page can play.

    Attributes:
        folders: where the recording may be, from the folder of the documents, such as "../processed".
        copies: endings of the listening copies that there may be, such as "listen.mp3".
        clips: parts of the recording that the page contains.
    """

    folders: tuple[str, ...] = ()
    copies: tuple[str, ...] = tuple(LISTENING_COPIES.values())
    clips: tuple[Clip, ...] = ()


@dataclass(frozen=True, slots=True)
class Options:
    """What the configuration sets for documents.

    Attributes:
        has_timestamps: whether each paragraph begins with its time.
        sound: for the page that plays it.
    """

    has_timestamps: bool = False
    sound: Sound = Sound()


def list_items(transcript: Transcript) -> list[Item]:
    """Return speech and marks in the order of time; the mark of a cut recording comes last.

    A segment whose words a correction has all removed is left out.
    """
    items = [Item(part.start_s, part.end_s, part.text, segment=part) for part in transcript.segments if part.text]
    items += [Item(gap.start_s, gap.end_s, describe_gap(gap), Kind.GAP) for gap in transcript.coverage.gaps]
    items.sort(key=lambda item: (item.start_s, item.end_s))
    if not transcript.audio.is_complete:
        end_s = transcript.audio.duration_s
        items.append(Item(end_s, end_s, f"[the recording could only be read up to {clock(end_s)}]", Kind.CUT))
    return items


def describe_gap(gap: Gap) -> str:
    """Return the mark that is shown in place of speech without a transcription."""
    return f"[not transcribed, {clock(gap.start_s)} to {clock(gap.end_s)}: {gap.reason}]"


def describe_voice(transcript: Transcript, segment: Segment | None) -> str | None:
    """Return who speaks in a segment: a name or an id, else the channel or track; None if that is not known."""
    if segment is None:
        return None
    if segment.speaker is not None:
        names = {speaker.speaker_id: speaker.name for speaker in transcript.speakers}
        return names.get(segment.speaker) or segment.speaker
    channel = None if segment.channel is None else _name_channel(transcript, segment.channel)
    has_tracks = sum(track.is_used for track in transcript.audio.tracks) > 1
    track = _name_track(transcript, segment.track) if segment.track is not None and has_tracks else None
    return ", ".join(name for name in (track, channel) if name) or None


def _name_channel(transcript: Transcript, channel: int) -> str:
    names = transcript.audio.channel_names
    return names[channel - 1] if 0 < channel <= len(names) else f"Channel {channel}"


def _name_track(transcript: Transcript, index: int) -> str:
    titles = {track.index: track.title for track in transcript.audio.tracks}
    return printable(titles.get(index) or f"Track {index}")


def list_voices(transcript: Transcript) -> list[str]:
    """Return who speaks, in the order of their first words."""
    voices = (describe_voice(transcript, segment) for segment in transcript.segments if segment.text)
    return list(dict.fromkeys(voice for voice in voices if voice))


def title_of(transcript: Transcript) -> str:
    """Return the name of the recording without its ending."""
    name = printable(transcript.source.name)
    return PurePath(name).stem or name


def clock(time_s: float) -> str:
    """Return a time as hh:mm:ss."""
    whole_s = int(time_s)
    minutes = whole_s // _S_PER_MINUTE % _S_PER_MINUTE
    return f"{whole_s // _S_PER_HOUR:02}:{minutes:02}:{whole_s % _S_PER_MINUTE:02}"
