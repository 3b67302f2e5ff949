"""The html document: a page to read, hear and correct the transcript, in one file that loads nothing.

`review/` has its template, its style and its scripts, which are joined in the order of SCRIPTS. The
page contains the json document and where each paragraph begins and ends in it.
"""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING, Any, Final

from daemon.display import printable
from daemon.documents import docx_parts
from daemon.documents.clips import describe_clip
from daemon.documents.json_document import as_dict
from daemon.documents.layout import DOUBTFUL, Kind, clock, describe_voice, list_items, title_of
from daemon.documents.page_parts import read_parts
from daemon.documents.paragraphs import group_paragraphs
from daemon.text import LANGUAGES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from daemon.documents.layout import Item, Options
    from daemon.documents.paragraphs import Paragraph
    from daemon.transcript import Segment, Transcript

SCRIPTS: Final = ("words.js", "talk.js", "subtitles.js", "formats.js", "player.js", "view.js", "search.js", "main.js")
# The recording, next to the page or chosen by its reader.
_MEDIA: Final = "'self' file: blob: data:"
_S_DIGITS: Final = 3
_HUNDREDTHS: Final = 100
_N_DATE_LETTERS: Final = len("2026-01-30")


def render_html(transcript: Transcript, options: Options) -> str:
    """Return the page. Texts of the recording appear in it as data or escaped, never as markup."""
    parts = read_parts("review", SCRIPTS)
    placement = _Placement(transcript)
    paragraphs = group_paragraphs(list_items(transcript))
    page = {
        "title": title_of(transcript),
        "paragraphs": [placement.place(paragraph) for paragraph in paragraphs],
        "voices": placement.voices,
        "marks": placement.marks,
        "doubtful": DOUBTFUL,
        "has_timestamps": options.has_timestamps,
        "languages": {name: code for code, name in LANGUAGES.items()},
        "audio_folders": list(dict.fromkeys(map(printable, (*options.sound.folders, ".")))),
        "listening_copies": list(options.sound.copies),
        "clips": [describe_clip(clip) for clip in options.sound.clips],
        "docx": {name: text for name, text in vars(docx_parts).items() if name.isupper() and not name.startswith("_")},
    }
    return parts.template.substitute(
        policy=parts.policy(_MEDIA),
        title=_escape(title_of(transcript)),
        style=parts.style,
        facts="".join(f"<span>{_escape(fact)}</span>" for fact in _facts(transcript)),
        notices="".join(_notices(transcript)),
        threshold=round(_HUNDREDTHS * DOUBTFUL),
        text="\n".join(_plain(transcript, paragraph) for paragraph in paragraphs),
        transcript=_data(as_dict(transcript)),
        page=_data(page),
        script=parts.script,
    )


class _Placement:
    """Where paragraphs are in the json document, for the page's script.

    Attributes:
        voices: who speaks, in the order of their first paragraphs.
        marks: what is missing, with the text that is shown in its place.
    """

    def __init__(self, transcript: Transcript) -> None:
        self.voices: list[dict[str, Any]] = []
        self.marks: list[dict[str, Any]] = []
        self._transcript = transcript
        self._numbers = {id(segment): number for number, segment in enumerate(transcript.segments)}
        self._ends = [0] * len(transcript.segments)  # how far each segment is placed, in characters
        self._voices: dict[tuple[object, ...], int] = {}

    def place(self, paragraph: Paragraph) -> dict[str, Any]:
        """Return a paragraph of the page; to be called in their order."""
        segment = paragraph.segment
        if segment is None:
            start_s, end_s = (round(time_s, _S_DIGITS) for time_s in (paragraph.start_s, paragraph.end_s))
            kind, text = paragraph.kind.value, paragraph.text
            self.marks.append({"kind": kind, "start_s": start_s, "end_s": end_s, "text": text})
            return {"mark": len(self.marks) - 1}
        return {"voice": self._voice(segment), "pieces": list(self._pieces(paragraph.items))}

    def _voice(self, segment: Segment) -> int | None:
        name = describe_voice(self._transcript, segment)
        if name is None:
            return None
        speaker = segment.speaker
        channel, track = (segment.channel, segment.track) if speaker is None else (None, None)
        number = self._voices.setdefault((speaker, channel, track), len(self.voices))
        if number == len(self.voices):
            self.voices.append({"name": name, "speaker": speaker, "channel": channel, "track": track})
        return number

    def _pieces(self, items: Sequence[Item]) -> Iterator[list[float]]:
        """Yield [segment, first and last character, start and end in seconds] of each part of a segment."""
        for item in items:
            number = self._numbers[id(item.segment)]
            text, first = self._transcript.segments[number].text, self._ends[number]
            stop = self._ends[number] = text.index(item.text, first) + len(item.text)
            start_s, end_s = (round(time_s, _S_DIGITS) for time_s in (item.start_s, item.end_s))
            yield [number, _utf16(text[:first]), _utf16(text[:stop]), start_s, end_s]


def _facts(transcript: Transcript) -> Iterator[str]:
    """Yield the facts below the title."""
    yield transcript.source.modified_at[:_N_DATE_LETTERS]
    yield _length(transcript.audio.duration_s)
    if transcript.language:
        yield transcript.language
    if transcript.corrected_at:
        yield f"corrected {transcript.corrected_at[:_N_DATE_LETTERS]}"


def _notices(transcript: Transcript) -> Iterator[str]:
    """Yield what a reader must know of the whole text."""
    gaps = transcript.coverage.gaps
    if not transcript.segments and not gaps:
        yield '<p class="notice">This recording has no speech.</p>'
    if gaps or not transcript.audio.is_complete:
        missing_s = sum(gap.end_s - gap.start_s for gap in gaps)
        what = f"{_length(missing_s)} of speech is not in this text. It is marked below." if gaps else ""
        cut = "" if transcript.audio.is_complete else "The rest of the recording could not be read."
        yield f'<p class="notice gaps">{_escape(" ".join(filter(None, (what, cut))))}</p>'
    for note in transcript.audio.notes:
        yield f'<p class="notice">{_escape(note[:1].upper() + note[1:])}</p>'


def _plain(transcript: Transcript, paragraph: Paragraph) -> str:
    """Return a paragraph for programs that run no scripts."""
    voice = describe_voice(transcript, paragraph.segment)
    name = f"<b>{_escape(voice)}:</b> " if voice else ""
    text = _escape(paragraph.text)
    return f'<p dir="auto">{name}{text if paragraph.kind is Kind.SPEECH else f"<i>{text}</i>"}</p>'


def _length(time_s: float) -> str:
    """Return a length to the hundredth of a second: 12:34.56, or 1:02:03.45 from an hour on."""
    hundredths = round(time_s * _HUNDREDTHS)
    hours, rest = clock(hundredths / _HUNDREDTHS).split(":", 1)
    whole = f"{int(hours)}:{rest}" if int(hours) else rest.removeprefix("0")
    return f"{whole}.{hundredths % _HUNDREDTHS:02}"


def _escape(text: str) -> str:
    return escape(printable(text))


def _data(value: object) -> str:
    """Return JSON that cannot end the script element it is in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _utf16(text: str) -> int:
    """Return the length of a text as scripts of a page count it."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2
