"""The docx document, for Word and LibreOffice: the few parts of Office Open XML (ECMA-376) that it takes."""

from __future__ import annotations

import html
import io
import re
import unicodedata
import zipfile
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Final

from daemon.documents import docx_parts as parts
from daemon.documents.layout import DOUBTFUL, Kind, clock, describe_voice, list_items, list_voices, title_of
from daemon.documents.paragraphs import group_paragraphs
from daemon.text import is_tight, tokens_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from daemon.documents.layout import Item, Options
    from daemon.documents.paragraphs import Paragraph
    from daemon.transcript import Transcript, Word

# https://www.w3.org/TR/xml/#charsets
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# The same transcript gives the same bytes: files in a zip archive have a date, and this is the first possible.
_ZIP_DATE: Final = (1980, 1, 1, 0, 0, 0)
_N_DATE_LETTERS: Final = len("2026-01-30")


def render_docx(transcript: Transcript, options: Options) -> bytes:
    """Return title, facts and paragraphs; comments explain each gap and each doubtful word."""
    writer = _Writer(transcript, options)
    body = "".join([*writer.head(), *map(writer.paragraph, group_paragraphs(list_items(transcript)))])
    comments = "".join(
        parts.COMMENT.format(number=number, at=_escape(transcript.processing.finished_at), text=_escape(text))
        for number, text in enumerate(writer.comments)
    )
    title, at = _escape(title_of(transcript)), _escape(transcript.processing.finished_at)
    files = {
        "[Content_Types].xml": parts.CONTENT_TYPES,
        "_rels/.rels": parts.PACKAGE_RELATIONS,
        "docProps/core.xml": parts.CORE.format(title=title, at=at),
        "word/_rels/document.xml.rels": parts.DOCUMENT_RELATIONS,
        "word/document.xml": parts.DOCUMENT.format(body=body),
        "word/styles.xml": parts.STYLES,
        "word/comments.xml": parts.COMMENTS.format(comments=comments),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name, _ZIP_DATE), text, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes the body; `comments` has the text of each comment so far, by number."""

    transcript: Transcript
    options: Options
    comments: list[str] = field(default_factory=list)

    def head(self) -> Iterator[str]:
        """Yield the title and the facts below it."""
        transcript = self.transcript
        title = title_of(transcript)
        yield _paragraph("Title", _run(title), is_rtl=_is_rtl(title))
        facts = {
            "Date": transcript.source.modified_at[:_N_DATE_LETTERS],
            "Duration": clock(transcript.audio.duration_s),
            "Language": transcript.language or "",
            "Speakers": ", ".join(list_voices(transcript)),
        }
        for name, value in facts.items():
            if value:
                yield _paragraph("Facts", _run(f"{name}: ") + _run(value))

    def paragraph(self, paragraph: Paragraph) -> str:
        """Return one paragraph, with its time and its speaker as far as they are wanted and known."""
        is_rtl = _is_rtl(paragraph.text)
        stamp = paragraph.stamp if self.options.has_timestamps else ""
        voice = describe_voice(self.transcript, paragraph.segment)
        runs = [_run(f"{stamp} ", '<w:color w:val="666666"/>') if stamp else ""]
        runs += [_run(f"{voice}: ", f"<w:b/><w:bCs/>{'<w:rtl/>' if _is_rtl(voice) else ''}") if voice else ""]
        if paragraph.kind is Kind.SPEECH:
            runs += self._words(paragraph, is_rtl=is_rtl)
            return _paragraph("Normal", "".join(runs), is_rtl=is_rtl)
        runs += [self._comment(_run(paragraph.text), _explain(paragraph))]
        return _paragraph("Gap", "".join(runs))

    def _words(self, paragraph: Paragraph, *, is_rtl: bool) -> Iterator[str]:
        """Yield the runs of a paragraph; doubtful words that follow one another share a comment."""
        look = "<w:rtl/>" if is_rtl else ""
        for is_doubtful, group in groupby(_tokens(paragraph.items), key=_is_doubtful):
            tokens = list(group)
            text = "".join(token for token, *_ in tokens)
            if not is_doubtful:
                yield _run(text, look)
                continue
            n_spaces = len(text) - len(text.lstrip())
            yield _run(text[:n_spaces], look)
            lowest = min(word.confidence or 0.0 for _, word, _ in tokens if word is not None)
            at_s = next((word.start_s for _, word, _ in tokens if word and word.start_s is not None), tokens[0][2])
            yield self._comment(_run(text[n_spaces:], look), self._doubt(lowest, at_s))

    def _doubt(self, confidence: float, at_s: float) -> str:
        facts = self.transcript.calibration
        if facts is None:
            return f"Not sure (confidence {confidence:.0%}). Listen at {clock(at_s)}."
        measured = (
            f"by the measurement of {facts.fitted_at[:_N_DATE_LETTERS]}, {confidence:.0%} of such words are right"
        )
        return f"Not sure ({measured}). Listen at {clock(at_s)}."

    def _comment(self, runs: str, text: str) -> str:
        self.comments.append(text)
        return parts.COMMENTED.format(number=len(self.comments) - 1, runs=runs)


def _tokens(items: Sequence[Item]) -> Iterator[tuple[str, Word | None, float]]:
    """Yield each token of a paragraph with the space before it, its word, and the start of its sentence."""
    before = ""
    for item in items:
        tokens = tokens_of(item.text)
        words: Sequence[Word | None] = item.words if len(item.words) == len(tokens) else [None] * len(tokens)
        for token, word in zip(tokens, words, strict=True):
            bare = token.lstrip()
            text = bare if len(bare) == len(token) else f" {bare}"
            is_joint = bool(before) and not text[0].isspace() and token is tokens[0] and not is_tight(before, text)
            yield f" {text}" if is_joint else text, word, item.start_s
            before = text


def _is_doubtful(token: tuple[str, Word | None, float]) -> bool:
    word = token[1]
    return word is not None and word.confidence is not None and word.confidence < DOUBTFUL


def _explain(paragraph: Paragraph) -> str:
    if paragraph.kind is Kind.CUT:
        return "The rest of the recording could not be read."
    return f"There is speech here that is not in the text. Listen from {clock(paragraph.start_s)}."


def _paragraph(style: str, runs: str, *, is_rtl: bool = False) -> str:
    return parts.PARAGRAPH.format(style=style, bidi="<w:bidi/>" if is_rtl else "", runs=runs)


def _run(text: str, look: str = "") -> str:
    return parts.RUN.format(look=look, text=_escape(text)) if text else ""


def _escape(text: str) -> str:
    return html.escape(_NOT_XML.sub("\ufffd", text))


def _is_rtl(text: str) -> bool:
    """Return whether the first letter with a direction is written from right to left."""
    directions = (unicodedata.bidirectional(letter) for letter in text)
    return next((way in {"R", "AL"} for way in directions if way in {"L", "R", "AL"}), False)
