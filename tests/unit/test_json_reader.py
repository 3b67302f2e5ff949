"""Reading the json document back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from daemon.documents import UnreadableDocumentError, read_json, render
from daemon.transcript import Calibration, Segment, SoundEvent, Speaker, Transcript, Word
from tests.unit.test_documents import RECEIPT, SILENCE, TALK

WORDS = (Word("Good", 0.5, 0.75, 0.5), Word("morning.", None, None, 0.125))
FULL = replace(
    TALK,
    segments=(Segment(0.5, 4.0, "Good morning.", "English", ("overlap",), WORDS, "S1", 2, 1, "Good mourning.", 0.25),),
    speakers=(Speaker("S1", None, 3.5),),
    events=(SoundEvent(5.0, 6.5, "applause", 0.75),),
    corrected_at="2026-02-01T00:00:00Z",
    calibration=Calibration("2026-01-30T12:00:00.000Z", 1834, 12),
    source=replace(TALK.source, duplicate_of="20260131T093000-00000000"),
)


def written(transcript: Transcript) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(render(transcript, ["json"], has_timestamps=False)["json"])
    return document


def read(document: object) -> Transcript:
    return read_json(json.dumps(document).encode())


@pytest.mark.parametrize(
    "transcript",
    [TALK, FULL, SILENCE, replace(FULL, audio=replace(RECEIPT, is_complete=False)), replace(SILENCE, audio=RECEIPT)],
)
def test_document_read_back_is_the_same_document(transcript: Transcript) -> None:
    assert written(read(written(transcript))) == written(transcript)
    assert read(written(transcript)).segments == transcript.segments
    assert read(written(transcript)).is_complete == transcript.is_complete
    assert read(written(transcript)).audio.peaks == transcript.audio.peaks
    assert read(written(transcript)).calibration == transcript.calibration


def test_document_of_an_earlier_version_is_read() -> None:
    document = written(FULL)
    for key in ("speakers", "events", "corrected_at", "calibration"):
        del document[key]
    for key in ("text_raw", "confidence", "speaker", "channel", "track", "words"):
        del document["segments"][0][key]
    del document["source"]["duplicate_of"]
    for key in ("complete", "leveled_db", "peaks"):
        del document["audio"][key]
    document["later"] = {"more": 1}
    assert read(document).segments == (Segment(0.5, 4.0, "Good morning.", "English", ("overlap",)),)


def test_recording_that_was_cut_is_still_marked() -> None:
    document = written(replace(SILENCE, audio=replace(RECEIPT, is_complete=False)))
    del document["audio"]["complete"]
    assert not read(document).audio.is_complete


def test_words_that_no_longer_fit_a_corrected_text_are_dropped() -> None:
    document = written(FULL)
    document["segments"][0]["text"] = "Good evening."
    assert read(document).segments[0].words == ()


def change(path: str, value: object) -> dict[str, Any]:
    document = written(FULL)
    *parts, last = path.split(".")
    place: Any = document
    for part in parts:
        place = place[int(part)] if part.isdigit() else place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema", "scribed.status/1", "It is not a transcript: `schema` is not scribed.transcript/1."),
        ("job_id", None, "`job_id` is missing; it must be a text."),
        ("segments", "words", "`segments` is not a list."),
        ("segments", ["words"], "`segments` is not a list of objects."),
        ("segments.0.text", 5, "`segments[0].text` is not a text."),
        ("segments.0.end_s", 0.25, "`segments[0].end_s` is not `start_s` or later."),
        ("segments.0.start_s", True, "`segments[0].start_s` is not a number."),
        ("segments.0.flags", [1], "`segments[0].flags` is not a list of texts."),
        ("segments.0.channel", "left", "`segments[0].channel` is not a whole number."),
        ("coverage.gaps.0.reason", None, "`coverage.gaps[0].reason` is missing; it must be a text."),
        ("audio.duration_s", -1, "`audio.duration_s` is not 0 or more."),
        ("audio.duration_s", 10**400, "`audio.duration_s` is not a number within range."),
        ("audio.peaks", [0.5, 1.5], "`audio.peaks` is not a list of numbers from 0 to 1."),
        ("audio.peaks", [True], "`audio.peaks` is not a list of numbers from 0 to 1."),
        ("complete", 1, "`complete` is not true or false."),
        ("source", [], "`source` is not an object."),
    ],
)
def test_wrong_value_is_named_with_its_place(path: str, value: object, message: str) -> None:
    with pytest.raises(UnreadableDocumentError) as caught:
        read(change(path, value))
    assert caught.value.what == message


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"{", b"[]", b"null", b'{"schema": NaN}', b"[" * 100_000, b"1" * 10_000, b"RIFF\0\0\0\0WAVE"],
)
def test_file_that_is_not_a_transcript_is_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(UnreadableDocumentError, match="It is not") as caught:
        read_json(content)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


def test_half_a_character_is_replaced() -> None:
    document = written(FULL)
    document["segments"][0]["text"] = "a \ud800 b"
    assert render(read(document), ["txt", "json"], has_timestamps=False)["txt"].startswith("S1: a \ufffd b".encode())


@pytest.mark.parametrize("seconds", [1e9, 1.7e308])
def test_times_that_no_recording_has_are_refused(seconds: float) -> None:
    document = written(FULL)
    document["segments"][0]["end_s"] = seconds
    with pytest.raises(UnreadableDocumentError, match=r"`segments\[0\].end_s` is not 100000000 or less"):
        read(document)
