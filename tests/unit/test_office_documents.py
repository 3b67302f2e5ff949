"""md and docx, read back by parsers that are not ours."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import docx
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.documents import render
from daemon.transcript import Calibration, Segment, Speaker, Transcript, Word
from tests.unit.test_documents import RECEIPT, TALK

NASTY = replace(
    TALK,
    source=replace(TALK.source, name='a "b": <c> & {d}.wav'),
    segments=(Segment(0.0, 5.0, "1. R&D <script>alert(1)</script> *not* {bold} | [x](y) \x00\x1b # & --- \ud7ff"),),
)


def markdown(transcript: Transcript, *, has_timestamps: bool = False) -> tuple[dict[str, Any], str]:
    text = render(transcript, ["md"], has_timestamps=has_timestamps)["md"].decode()
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def word(transcript: Transcript, *, has_timestamps: bool = False) -> Any:  # noqa: ANN401  # python-docx names no type
    return docx.Document(io.BytesIO(render(transcript, ["docx"], has_timestamps=has_timestamps)["docx"]))


def spoken(*parts: tuple[str, str]) -> Transcript:
    segments = tuple(Segment(5.0 * at, 5.0 * at + 4, text, speaker=who) for at, (who, text) in enumerate(parts))
    return replace(TALK, segments=segments, speakers=(Speaker("S1", "Zoë Lüders", 8.0), Speaker("S2", None, 4.0)))


def test_front_matter_of_markdown_has_the_facts() -> None:
    front, body = markdown(spoken(("S2", "Hello."), ("S1", "Hi.")))
    assert front == {
        "title": "talk",
        "date": "2026-01-30T08:00:00Z",
        "duration": "00:02:05",
        "language": None,
        "speakers": ["S2", "Zoë Lüders"],
        "complete": False,
    }
    assert body.startswith("\n# talk\n\n**S2:** Hello.\n\n**Zoë Lüders:** Hi.\n\n*\\[not transcribed, 00:00:30 to")


def test_markdown_has_times_where_configured() -> None:
    assert "\n\n`[00:00:12]` First the budget.\n\n" in markdown(TALK, has_timestamps=True)[1]


def test_words_in_markdown_never_turn_into_markup() -> None:
    front, body = markdown(NASTY)
    assert front["title"] == 'a "b": <c> & {d}'
    line = body.split("\n\n")[1]
    assert line.startswith(r"1\. R\&D \<script\>alert(1)\</script\> \*not\* {bold} \| \[x\](y)")


def test_docx_has_title_facts_and_the_paragraphs_of_the_txt() -> None:
    document = word(TALK)
    texts = [paragraph.text for paragraph in document.paragraphs]
    assert texts[:4] == ["talk", "Date: 2026-01-30", "Duration: 00:02:05", "Language: English"]
    assert "\n\n".join(texts[4:]) + "\n" == render(TALK, ["txt"], has_timestamps=False)["txt"].decode()
    assert document.paragraphs[0].style.name == "Title"
    assert document.core_properties.title == "talk"


def test_docx_has_speakers_as_bold_names_and_times_in_brackets() -> None:
    document = word(spoken(("S1", "Hello."), ("S2", "Hi.")), has_timestamps=True)
    assert document.paragraphs[3].text == "Speakers: Zoë Lüders, S2"
    first = document.paragraphs[4]
    assert first.text == "[00:00:00] Zoë Lüders: Hello."
    assert [run.text for run in first.runs if run.bold] == ["Zoë Lüders: "]


def test_docx_comments_on_gaps() -> None:
    (comment,) = word(TALK).comments
    assert (comment.author, comment.text) == (
        "scribed",
        "There is speech here that is not in the text. Listen from 00:00:30.",
    )


def test_docx_comments_on_doubtful_words_that_follow_one_another_once() -> None:
    text = "Ask Mr Quux Frobnitz about it. Today."
    scores = [0.9, 0.9, 0.31, 0.2, 0.9, 0.9, 0.9]
    words = tuple(Word(part, confidence=score) for part, score in zip(text.split(), scores, strict=True))
    sure = replace(TALK, segments=(Segment(60.0, 65.0, text, words=words),), coverage=replace(TALK.coverage, gaps=()))
    document = word(sure)
    assert document.paragraphs[-1].text == text
    assert [comment.text for comment in document.comments] == ["Not sure (confidence 20%). Listen at 00:01:00."]
    assert "Quux Frobnitz" in [run.text for run in document.paragraphs[-1].runs]
    measured = word(replace(sure, calibration=Calibration("2026-01-30T12:00:00.000Z", 1834, 12)))
    assert [comment.text for comment in measured.comments] == [
        "Not sure (by the measurement of 2026-01-30, 20% of such words are right). Listen at 00:01:00."
    ]


def test_docx_keeps_text_that_looks_like_xml_and_replaces_what_xml_cannot_hold() -> None:
    document = word(NASTY)
    assert document.paragraphs[0].text == 'a "b": <c> & {d}'
    assert "<script>alert(1)</script> *not* {bold}" in document.paragraphs[3].text
    assert "\ufffd" in document.paragraphs[3].text


def test_docx_writes_arabic_from_right_to_left() -> None:
    arabic = word(replace(TALK, segments=(Segment(0.0, 5.0, "صباح الخير."),)))
    paragraph = arabic.paragraphs[3]
    assert paragraph.text == "صباح الخير."
    assert "<w:bidi/>" in paragraph._p.xml
    assert "<w:rtl/>" in paragraph._p.xml
    assert "<w:bidi/>" not in word(TALK).paragraphs[4]._p.xml


def test_docx_of_one_transcript_is_always_the_same() -> None:
    assert render(TALK, ["docx"], has_timestamps=True) == render(TALK, ["docx"], has_timestamps=True)


@pytest.mark.parametrize("form", ["md", "docx"])
def test_documents_without_speech_have_their_head(form: str) -> None:
    silent = replace(TALK, segments=(), coverage=replace(TALK.coverage, gaps=()), audio=RECEIPT)
    assert render(silent, [form], has_timestamps=True)[form]
    assert markdown(silent)[0]["complete"] is True


@settings(deadline=None, max_examples=60)
@given(st.text(), st.text(min_size=1))
def test_any_name_and_text_make_documents_that_others_read(text: str, name: str) -> None:
    odd = replace(TALK, source=replace(TALK.source, name=name), segments=(Segment(0.0, 5.0, text),))
    assert isinstance(markdown(odd)[0]["title"], str)
    assert len(word(odd).paragraphs) >= 4
