"""The srt and vtt documents: cues of readable length.

A segment can be half a minute long. Without word timestamps, its cues share its time by the length
of their text, which is off by a second or so in the middle of a long segment.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from daemon.documents.layout import Kind, list_items
from daemon.text import tokens_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.documents.layout import Options
    from daemon.transcript import Transcript

# Two lines of 42 columns: the common limit of broadcasters' subtitle guides (EBU, BBC, Netflix).
_LINE_COLUMNS: Final = 42
_CUE_LINES: Final = 2
_MIN_CUE_S: Final = 0.5
_CUT_CUE_S: Final = 5.0  # how long the mark of a cut-off recording is shown
# Chinese and Japanese lines do not begin with these.
_NEVER_FIRST: Final = frozenset("、。，．！？；：）」』】〕》…ー々")  # noqa: RUF001  # exactly these characters are meant
_MS_PER_S: Final = 1000
_MS_PER_MINUTE: Final = 60_000
_MS_PER_HOUR: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Cue:
    """One subtitle: when it is shown, and its lines."""

    start_s: float
    end_s: float
    text: str


def render_srt(transcript: Transcript, options: Options) -> str:
    """Return SubRip subtitles; "" without speech."""
    del options
    blocks = (
        f"{number}\n{_stamp(cue.start_s, ',')} --> {_stamp(cue.end_s, ',')}\n{cue.text}\n"
        for number, cue in enumerate(_cues(transcript), 1)
    )
    return "\n".join(blocks)


def render_vtt(transcript: Transcript, options: Options) -> str:
    """Return WebVTT subtitles (https://www.w3.org/TR/webvtt1/), with its reserved characters escaped."""
    del options
    blocks = (
        f"{_stamp(cue.start_s, '.')} --> {_stamp(cue.end_s, '.')}\n{_escape(cue.text)}\n" for cue in _cues(transcript)
    )
    return "\n".join(["WEBVTT\n", *blocks])


def _cues(transcript: Transcript) -> Iterator[Cue]:
    shown_s = 0.0
    for item in list_items(transcript):
        start_s = item.start_s - _CUT_CUE_S if item.kind is Kind.CUT else item.start_s
        for cue in _share(max(start_s, shown_s), item.end_s, item.text):  # never two at a time
            yield cue
            shown_s = cue.end_s


def _share(start_s: float, end_s: float, text: str) -> Iterator[Cue]:
    """Divide a segment's text into cues, and its time among them by their length."""
    texts = _wrap(text)
    n_letters = sum(map(len, texts)) or 1
    length_s = max(end_s - start_s, _MIN_CUE_S)
    at_s = start_s
    for cue_text in texts:
        cue_s = length_s * len(cue_text) / n_letters
        yield Cue(at_s, at_s + cue_s, cue_text)
        at_s += cue_s


def _wrap(text: str) -> list[str]:
    """Return the texts of the cues: lines of at most 42 columns, two to a cue."""
    lines = [""]
    for word in _words(" ".join(text.split())):
        if lines[-1] and _columns(lines[-1] + word) > _LINE_COLUMNS:
            lines.append("")
        lines[-1] = (lines[-1] + word).lstrip()
        while _columns(lines[-1]) > _LINE_COLUMNS:  # one word that is longer than a line
            lines[-1:] = _split(lines[-1])
    return ["\n".join(lines[at : at + _CUE_LINES]) for at in range(0, len(lines), _CUE_LINES) if lines[at]]


def _words(text: str) -> list[str]:
    """Return what must stay on one line: words, and letters of unspaced scripts with their marks and punctuation."""
    words: list[str] = []
    for token in tokens_of(text):
        if words and (token in _NEVER_FIRST or unicodedata.category(token[0]).startswith("M")):
            words[-1] += token
        else:
            words.append(token)
    return words


def _split(line: str) -> tuple[str, str]:
    """Split a line at the last column that fits."""
    n_columns = 0
    for at, letter in enumerate(line):
        n_columns += _columns(letter)
        if n_columns > _LINE_COLUMNS:
            return line[:at], line[at:]
    return line, ""


def _columns(text: str) -> int:
    """Return the width of a text: Chinese and Japanese letters take two columns."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _stamp(time_s: float, point: str) -> str:
    ms = round(time_s * _MS_PER_S)
    minutes, seconds = ms // _MS_PER_MINUTE % 60, ms // _MS_PER_S % 60
    return f"{ms // _MS_PER_HOUR:02}:{minutes:02}:{seconds:02}{point}{ms % _MS_PER_S:03}"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
