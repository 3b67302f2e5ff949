from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import unicodedata
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.documents import FORMATS, RESERVED_ENDINGS, Sound, render
from daemon.transcript import (
    Coverage,
    Gap,
    ModelIdentity,
    Processing,
    Receipt,
    Segment,
    SoundEvent,
    Source,
    Speaker,
    Transcript,
    Word,
)

RECEIPT = Receipt(
    125.5, 44_100, 2, "pcm_s16le", -6.021, 3.0214, 0.125, notes=("left channel is silent",), peaks=(0.25, 1.0)
)
TALK = Transcript(
    job_id="20260131T093000-1f2e3d4c",
    source=Source("talk.wav", "team/talk.wav", "ab" * 32, 4242, "2026-01-30T08:00:00Z"),
    audio=RECEIPT,
    model=ModelIdentity("Qwen3-ASR-1.7B-hf", "cd" * 32, "bfloat16", "cuda:0"),
    coverage=Coverage(125.5, 20.0, 18.0, (Gap(30.0, 32.0, "the model did not finish here"),)),
    processing=Processing(1, "2026-01-31T09:30:00Z", "2026-01-31T09:30:10Z", 10.0, 12.55),
    segments=(
        Segment(0.5, 4.0, "Good morning.", "English"),
        Segment(4.5, 9.0, "Let us begin.", "English", ("overlap",)),
        Segment(12.0, 20.0, "First the budget.", "English"),
        Segment(32.5, 40.0, "Then the plan.", "English", ("retried",)),
    ),
)
SILENCE = replace(TALK, segments=(), coverage=Coverage(125.5, 0.0, 0.0), audio=replace(RECEIPT, peak_dbfs=None))


def text(transcript: Transcript, form: str, *, has_timestamps: bool = False) -> str:
    return render(transcript, [form], has_timestamps=has_timestamps)[form].decode()


def saying(words: str, start_s: float = 0.0, end_s: float = 10.0) -> Transcript:
    return replace(TALK, segments=(Segment(start_s, end_s, words),), coverage=Coverage(60.0, 10.0, 10.0))


def test_documents_are_in_order_with_json_last() -> None:
    assert list(render(TALK, ("json", "vtt", "txt", "srt"), has_timestamps=False)) == ["txt", "srt", "vtt", "json"]
    assert list(render(TALK, ["txt"], has_timestamps=False)) == ["txt"]
    assert list(FORMATS)[-1] == "json"


def test_endings_of_all_formats_are_reserved() -> None:
    assert set(RESERVED_ENDINGS) >= set(FORMATS) == {"txt", "json", "srt", "vtt", "md", "html", "docx"}


# txt


def test_txt_has_paragraphs_and_marked_gaps() -> None:
    assert text(TALK, "txt") == (
        "Good morning. Let us begin.\n"
        "\n"
        "First the budget.\n"
        "\n"
        "[not transcribed, 00:00:30 to 00:00:32: the model did not finish here]\n"
        "\n"
        "Then the plan.\n"
    )


def test_txt_with_timestamps() -> None:
    late = replace(TALK, segments=(*TALK.segments[:2], Segment(3725.0, 3726.0, "Late.")))
    assert text(late, "txt", has_timestamps=True).split("\n\n") == [
        "[00:00:00] Good morning. Let us begin.",
        "[00:00:30] [not transcribed, 00:00:30 to 00:00:32: the model did not finish here]",
        "[01:02:05] Late.\n",
    ]


def test_txt_marks_a_cut_recording() -> None:
    cut = replace(TALK, audio=replace(RECEIPT, is_complete=False))
    assert text(cut, "txt").endswith("Then the plan.\n\n[the recording could only be read up to 00:02:05]\n")


def test_txt_without_speech_is_empty() -> None:
    assert render(SILENCE, ["txt"], has_timestamps=True)["txt"] == b""


# json


def schema_of(value: object) -> object:
    if isinstance(value, dict):
        return {key: schema_of(part) for key, part in value.items()}
    return [schema_of(value[0])] if isinstance(value, list) and value else type(value).__name__


def test_json_has_the_keys_of_the_contract() -> None:
    assert schema_of(json.loads(text(TALK, "json"))) == {
        "schema": "str",
        "job_id": "str",
        "source": {
            "name": "str",
            "path": "str",
            "sha256": "str",
            "bytes": "int",
            "modified_at": "str",
            "duplicate_of": "NoneType",
        },
        "audio": {
            "duration_s": "float",
            "sample_rate_hz": "int",
            "channels": "int",
            "codec": "str",
            "peak_dbfs": "float",
            "gain_db": "float",
            "leveled_db": "float",
            "clipped_s": "float",
            "notes": ["str"],
            "peaks": ["float"],
            "tracks": "list",
            "channel_names": "list",
            "complete": "bool",
        },
        "model": {"name": "str", "digest": "str", "dtype": "str", "device": "str"},
        "language": "str",
        "complete": "bool",
        "coverage": {
            "audio_s": "float",
            "speech_s": "float",
            "transcribed_s": "float",
            "gaps": [{"start_s": "float", "end_s": "float", "reason": "str"}],
        },
        "text": "str",
        "segments": [
            {
                "start_s": "float",
                "end_s": "float",
                "text": "str",
                "text_raw": "NoneType",
                "language": "str",
                "flags": "list",
                "confidence": "NoneType",
                "speaker": "NoneType",
                "channel": "NoneType",
                "track": "NoneType",
                "words": "list",
            }
        ],
        "speakers": "list",
        "events": "list",
        "corrected_at": "NoneType",
        "calibration": "NoneType",
        "processing": {
            "attempt": "int",
            "started_at": "str",
            "finished_at": "str",
            "wall_s": "float",
            "rtfx": "float",
        },
    }


def test_json_has_the_facts_of_the_transcript() -> None:
    document = json.loads(text(TALK, "json"))
    assert document["schema"] == "scribed.transcript/1"
    assert document["source"] == {
        "name": "talk.wav",
        "path": "team/talk.wav",
        "sha256": "ab" * 32,
        "bytes": 4242,
        "modified_at": "2026-01-30T08:00:00Z",
        "duplicate_of": None,
    }
    assert document["complete"] is False
    assert document["text"] == "Good morning. Let us begin. First the budget. Then the plan."
    assert [segment["flags"] for segment in document["segments"]] == [[], ["overlap"], [], ["retried"]]
    assert (document["audio"]["peak_dbfs"], document["audio"]["gain_db"]) == (-6.02, 3.02)


def test_json_has_words_speakers_and_events_where_they_are_known() -> None:
    word = Word("morning.", 0.8, 1.25, 0.98765)
    spoken = replace(TALK.segments[0], words=(Word("Good"), word), speaker="S1", channel=2, text_raw="Good mourning.")
    known = replace(
        TALK, segments=(spoken,), speakers=(Speaker("S1", None, 3.5),), events=(SoundEvent(5, 6.5, "applause", 0.75),)
    )
    document = json.loads(text(known, "json"))
    assert document["segments"][0]["words"] == [
        {"start_s": None, "end_s": None, "text": "Good", "confidence": None},
        {"start_s": 0.8, "end_s": 1.25, "text": "morning.", "confidence": 0.988},
    ]
    assert [document["segments"][0][key] for key in ("speaker", "channel", "text_raw")] == ["S1", 2, "Good mourning."]
    assert document["speakers"] == [{"id": "S1", "name": None, "speech_s": 3.5}]
    assert document["events"] == [{"start_s": 5.0, "end_s": 6.5, "kind": "applause", "score": 0.75}]


def test_json_has_the_outline_of_the_sound_on_one_line() -> None:
    confusing = replace(TALK, audio=replace(RECEIPT, notes=('"peaks": []',), peaks=(0.5,) * 4000))
    document = text(confusing, "json")
    assert json.loads(document)["audio"]["peaks"] == [0.5] * 4000
    assert json.loads(document)["audio"]["notes"] == ['"peaks": []']
    assert len(document.splitlines()) == len(text(TALK, "json").splitlines())


def test_json_without_speech_says_so() -> None:
    document = json.loads(text(SILENCE, "json"))
    assert (document["text"], document["segments"], document["language"]) == ("", [], None)
    assert document["coverage"] == {"audio_s": 125.5, "speech_s": 0.0, "transcribed_s": 0.0, "gaps": []}
    assert document["complete"] is True
    assert document["audio"]["peak_dbfs"] is None


@pytest.mark.parametrize("level", [-math.inf, math.nan])
def test_json_level_of_silence_is_null(level: float) -> None:
    silent = replace(SILENCE, audio=replace(RECEIPT, peak_dbfs=level, gain_db=level))
    audio: dict[str, Any] = json.loads(text(silent, "json"))["audio"]
    assert (audio["peak_dbfs"], audio["gain_db"]) == (None, None)


def test_json_is_valid_for_names_that_are_not_utf8() -> None:
    name = os.fsdecode(b'caf\xe9\n\x1b[31m"\\.wav')
    odd = replace(TALK, source=replace(TALK.source, name=name, path=f"m\u00fcll/{name}"))
    source: dict[str, Any] = json.loads(render(odd, ["json"], has_timestamps=False)["json"].decode("utf-8"))["source"]
    assert source["name"] == 'caf\\xe9\n\x1b[31m"\\.wav'
    assert source["path"] == f"m\u00fcll/{source['name']}"


def test_json_keeps_other_scripts_readable() -> None:
    assert "今天" in text(saying("今天"), "json")


# srt and vtt

STAMP = re.compile(r"(\d{2,}):([0-5]\d):([0-5]\d)([,.])(\d{3})")


def seconds(stamp: str) -> float:
    match = STAMP.fullmatch(stamp)
    assert match is not None, stamp
    hours, minutes, whole, _, ms = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + int(whole) + int(ms) / 1000


def cues_of(document: str, point: str) -> list[tuple[float, float, list[str]]]:
    """Read subtitles as a player does, and check what makes them valid."""
    blocks = document.removesuffix("\n").split("\n\n") if document else []
    if point == ".":
        assert blocks.pop(0) == "WEBVTT"
    cues = []
    for number, block in enumerate(blocks, 1):
        lines = block.split("\n")
        if point == ",":
            assert lines.pop(0) == str(number)
        start, arrow, end = lines.pop(0).split(" ")
        assert arrow == "-->"
        assert {start[-4], end[-4]} == {point}
        cues.append((seconds(start), seconds(end), lines))
    for start_s, end_s, lines in cues:
        assert start_s < end_s
        assert 1 <= len(lines) <= 2
        assert all(line.strip() == line and line for line in lines)
    assert all(before[1] <= after[0] for before, after in pairwise(cues))
    return cues


def columns(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in line)


def test_srt_of_a_talk() -> None:
    assert text(TALK, "srt").startswith(
        "1\n00:00:00,500 --> 00:00:04,000\nGood morning.\n\n2\n00:00:04,500 --> 00:00:09,000\nLet us begin.\n\n"
    )
    shown = " ".join(" ".join(lines) for *_, lines in cues_of(text(TALK, "srt"), ","))
    assert shown == (
        "Good morning. Let us begin. First the budget."
        " [not transcribed, 00:00:30 to 00:00:32: the model did not finish here] Then the plan."
    )


def test_vtt_of_a_talk() -> None:
    assert text(TALK, "vtt").startswith("WEBVTT\n\n00:00:00.500 --> 00:00:04.000\nGood morning.\n\n")
    assert len(cues_of(text(TALK, "vtt"), ".")) == len(cues_of(text(TALK, "srt"), ","))


def test_vtt_escapes_reserved_characters() -> None:
    (cue,) = cues_of(text(saying("R&D <b>is</b> --> here"), "vtt"), ".")
    assert cue[2] == ["R&amp;D &lt;b&gt;is&lt;/b&gt; --&gt; here"]
    assert "R&D <b>is</b> --> here" in text(saying("R&D <b>is</b> --> here"), "srt")


def test_subtitles_without_speech_are_empty() -> None:
    assert text(SILENCE, "srt") == ""
    assert text(SILENCE, "vtt") == "WEBVTT\n"


def test_long_segment_shares_its_time_among_cues() -> None:
    words = " ".join(f"word{number}" for number in range(100))
    cues = cues_of(text(saying(words, 10.0, 40.0), "srt"), ",")
    assert len(cues) > 5
    assert cues[0][0] == 10.0
    assert 40.0 <= cues[-1][1] <= 43.0  # the last one is shown until it can be read
    assert " ".join(" ".join(lines) for *_, lines in cues) == words


def test_chinese_lines_have_16_characters_and_never_begin_with_a_full_stop() -> None:
    words = "今天下午三点我们在会议室讨论明年的预算,然后决定。" * 7
    cues = cues_of(text(saying(words, 0.0, 40.0), "srt"), ",")
    lines = [line for *_, shown in cues for line in shown]
    assert "".join(lines) == words
    assert max(map(len, lines)) <= 16
    assert not any(line.startswith("。") for line in lines)


def test_thai_marks_stay_with_their_letters() -> None:
    lines = [line for *_, shown in cues_of(text(saying("ที่นี่" * 40), "srt"), ",") for line in shown]
    assert len(lines) > 1
    assert not any(unicodedata.category(line[0]).startswith("M") for line in lines)


def test_hours_beyond_a_hundred_are_written_out() -> None:
    assert "101:00:00,000 --> 101:00:05,000" in text(saying("late", 363_600.0, 363_605.0), "srt")


def test_subtitles_mark_a_cut_recording_at_its_end() -> None:
    cut = replace(TALK, audio=replace(RECEIPT, duration_s=3600.0, is_complete=False))
    start_s, end_s, lines = cues_of(text(cut, "srt"), ",")[-1]
    assert (start_s, end_s) == (3595.0, 3600.0)
    assert " ".join(lines) == "[the recording could only be read up to 01:00:00]"


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=90)
SENTENCES = st.lists(WORDS | st.sampled_from(["and", "今天", "---", "&", "-->"]), min_size=1, max_size=25)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 30), SENTENCES), max_size=5), st.booleans())
def test_any_words_at_any_times_make_valid_subtitles(parts: list[tuple[float, float, list[str]]], is_cut: bool) -> None:  # noqa: FBT001  # hypothesis gives it
    segments: list[Segment] = []
    for pause_s, length_s, words in parts:
        start_s = (segments[-1].end_s if segments else 0.0) + pause_s
        segments.append(Segment(start_s, start_s + length_s, " \n ".join(words)))
    transcript = replace(
        SILENCE, segments=tuple(segments), audio=replace(RECEIPT, is_complete=not is_cut, duration_s=200.0)
    )
    srt, vtt = cues_of(text(transcript, "srt"), ","), cues_of(text(transcript, "vtt"), ".")
    assert [cue[:2] for cue in srt] == [cue[:2] for cue in vtt]
    assert all(columns(line) <= 42 for *_, lines in srt for line in lines)
    shown = "".join("".join(lines) for *_, lines in srt)
    assert shown.replace(" ", "").startswith("".join("".join(words) for *_, words in parts))


# html: tests/documents has the tests in a browser


def page_data(transcript: Transcript, element: str, **options: Any) -> Any:  # noqa: ANN401  # JSON
    page = render(transcript, ["html"], has_timestamps=False, **options)["html"].decode()
    found = re.search(rf'<script type="application/json" id="{element}">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_html_contains_the_json_document() -> None:
    assert page_data(TALK, "transcript") == json.loads(text(TALK, "json"))


def test_html_allows_only_its_own_script_and_style() -> None:
    page = text(TALK, "html")
    for element, body in (("script", r'<script type="module">(.*?)</script>'), ("style", "<style>(.*?)</style>")):
        found = re.search(body, page, re.DOTALL)
        assert found is not None
        digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in page
    assert "default-src 'none'" in page
    assert not re.search(
        r"https?://", re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    )


def test_html_escapes_every_text() -> None:
    nasty = "</script><script>alert(1)</script><!-- $title"
    hostile = replace(
        saying(nasty), job_id=nasty, source=replace(TALK.source, name=nasty), audio=replace(RECEIPT, notes=(nasty,))
    )
    page = text(hostile, "html")
    assert page.count("<script") == 3
    assert page.count("</script>") == 3
    assert "<!--" not in page
    assert page_data(hostile, "transcript")["text"] == nasty


def test_html_places_each_paragraph_in_its_segments() -> None:
    mixed = Segment(41.0, 60.0, "\U0001d518nd so 😀 weiter.  今天。 The end", channel=2)
    odd = replace(TALK, segments=(*TALK.segments, mixed))
    page = page_data(odd, "page")
    paragraphs = text(odd, "txt").rstrip().split("\n\n")
    for paragraph, shown in zip(page["paragraphs"], paragraphs, strict=True):
        if "mark" in paragraph:
            assert page["marks"][paragraph["mark"]]["text"] == shown
            continue
        parts = []
        for number, first, stop, start_s, end_s in paragraph["pieces"]:
            encoded = odd.segments[number].text.encode("utf-16-le")  # as scripts count
            parts.append(encoded[2 * first : 2 * stop].decode("utf-16-le"))
            assert odd.segments[number].start_s <= start_s <= end_s <= odd.segments[number].end_s
        assert "".join("".join(parts).split()) == "".join(shown.removeprefix("Channel 2:").split())
    assert page["voices"] == [{"name": "Channel 2", "speaker": None, "channel": 2, "track": None}]


def test_html_looks_for_the_recording_in_the_folders_it_is_given() -> None:
    assert page_data(TALK, "page", sound=Sound(("../processed", ".")))["audio_folders"] == ["../processed", "."]
    assert page_data(TALK, "page")["audio_folders"] == ["."]


@pytest.mark.parametrize(
    ("length_s", "shown"), [(0.0, "0:00.00"), (59.999, "1:00.00"), (754.56, "12:34.56"), (3723.45, "1:02:03.45")]
)
def test_html_shows_the_length_to_the_hundredth(length_s: float, shown: str) -> None:
    assert f"<span>{shown}</span>" in text(replace(TALK, audio=replace(RECEIPT, duration_s=length_s)), "html")


def test_html_says_that_a_recording_has_no_speech() -> None:
    assert "This recording has no speech." in text(SILENCE, "html")
