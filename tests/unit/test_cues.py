"""Subtitles by the rules of broadcasters, read back by webvtt-py and pysubs2."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pysubs2
import pytest
import webvtt

from daemon.documents import render
from daemon.documents.cues import Cue, make_cues
from daemon.transcript import Coverage, Segment, Transcript, Word
from tests.unit.test_documents import RECEIPT, TALK

if TYPE_CHECKING:
    from collections.abc import Sequence

LONG = (
    "The budget for next year is 1 250 000 euros, which is more than we had, and we still need figures from three "
    "departments. No one knows why they are late, because the system was down. Please call +49 170 123 456 today."
)
CHINESE = "今天下午三点我们在会议室讨论明年的预算，预算是一千二百五十万元，然后决定。谁也不知道为什么这么晚。"  # noqa: RUF001  # full-width, as it is written


def saying(*segments: Segment) -> Transcript:
    audio = replace(RECEIPT, duration_s=3600.0)
    return replace(TALK, segments=segments, coverage=Coverage(3600.0, 60.0, 60.0), audio=audio)


def lines_of(cues: Sequence[Cue]) -> list[str]:
    return [line for cue in cues for line in cue.text.split("\n")]


def test_lines_are_short_and_cues_are_readable() -> None:
    cues = make_cues(saying(Segment(10.0, 24.0, LONG), Segment(30.0, 44.0, LONG)))
    assert max(map(len, lines_of(cues))) <= 42
    assert all(cue.text.count("\n") <= 1 for cue in cues)
    assert all(1.0 <= cue.end_s - cue.start_s <= 7.0 for cue in cues)
    assert all(before.end_s <= after.start_s for before, after in pairwise(cues))
    assert " ".join(lines_of(cues)) == f"{LONG} {LONG}"


def test_cues_end_with_sentences_and_clauses_rather_than_between_words() -> None:
    cues = make_cues(saying(Segment(10.0, 24.0, LONG)))
    assert sum(cue.text[-1] in ".," for cue in cues) >= len(cues) - 1


@pytest.mark.parametrize("width", range(4, 40))
def test_number_is_never_broken(width: int) -> None:
    text = f"{'x' * width} it is 1 250 000 or +49 170 123 456 in all of the cases that we know about today"
    lines = lines_of(make_cues(saying(Segment(0.0, 6.0, text))))
    assert any("1 250 000" in line for line in lines)
    assert any("+49 170 123 456" in line for line in lines)


def test_chinese_has_16_characters_to_a_line_and_unbroken_numbers() -> None:
    cues = make_cues(saying(Segment(0.0, 12.0, CHINESE)))
    assert max(map(len, lines_of(cues))) <= 16
    assert "".join(lines_of(cues)) == CHINESE
    assert any("一千二百五十万" in line for line in lines_of(cues))


def test_short_cue_is_shown_for_a_second_where_there_is_time() -> None:
    first, second = make_cues(saying(Segment(5.0, 5.3, "Yes."), Segment(9.0, 12.0, "We begin.")))
    assert (first.start_s, first.end_s) == (5.0, 6.0)
    assert second.start_s == 9.0


def test_fast_speech_is_shown_longer_where_there_is_time() -> None:
    text = "It goes on and on, and it never ends, as fast as it can be said at all."
    (cue,) = make_cues(saying(Segment(5.0, 6.5, text)))
    assert len(text) / (cue.end_s - cue.start_s) <= 20.01


def test_cue_too_short_to_read_joins_the_next_one() -> None:
    cues = make_cues(saying(Segment(5.0, 5.3, "Yes."), Segment(5.5, 8.0, "We begin.")))
    assert [(cue.start_s, cue.text) for cue in cues] == [(5.0, "Yes. We begin.")]


def test_cues_are_cut_at_words_where_their_times_are_known() -> None:
    words = LONG.split()
    starts = [at * 0.3 + (8.0 if at >= 13 else 0.0) for at in range(len(words))]  # silence before "and"
    timed = tuple(Word(word, start, start + 0.25) for word, start in zip(words, starts, strict=True))
    cues = make_cues(saying(Segment(0.0, starts[-1] + 0.25, LONG, words=timed)))
    assert any(cue.start_s == pytest.approx(starts[13]) for cue in cues)
    assert {cue.start_s for cue in cues} <= set(starts) | {cue.end_s for cue in cues}


def test_words_stay_in_order_where_segments_have_no_length() -> None:
    cues = make_cues(saying(Segment(0.0, 0.0, LONG), Segment(0.0, 0.0, "That is all.")))
    assert " ".join(lines_of(cues)) == f"{LONG} That is all."


def test_two_channels_at_the_same_time_share_a_cue_with_a_line_each() -> None:
    cues = make_cues(
        saying(
            Segment(1.0, 3.0, "Shall we begin?", channel=1),
            Segment(2.0, 4.0, "Just a moment.", channel=2),
            Segment(6.0, 8.0, "Go on.", channel=1),
        )
    )
    assert [cue.text for cue in cues] == ["- Shall we begin?\n- Just a moment.", "Go on."]
    assert (cues[0].start_s, cues[0].end_s) == (1.0, 4.0)


def test_long_talk_of_two_channels_at_the_same_time_loses_no_word() -> None:
    cues = make_cues(saying(Segment(1.0, 15.0, LONG, channel=1), Segment(2.0, 16.0, LONG, channel=2)))
    assert all(len(line) <= 42 for line in lines_of(cues))
    assert all(before.end_s <= after.start_s for before, after in pairwise(cues))
    said = sorted(re.sub(r"^- ", "", line) for line in lines_of(cues))
    assert sorted(" ".join(said).split()) == sorted([*LONG.split(), *LONG.split()])


@pytest.mark.parametrize("text", [LONG, CHINESE, "R&D <b>is</b> --> here", "صباح الخير. لدينا ثلاث نقاط اليوم."])
def test_other_parsers_read_the_same_cues(text: str) -> None:
    transcript = saying(Segment(1.0, 14.5, text), Segment(3500.0, 3510.0, text))
    documents = render(transcript, ["srt", "vtt"], has_timestamps=False)
    cues = make_cues(transcript)
    read = pysubs2.SSAFile.from_string(documents["srt"].decode(), format_="srt", keep_unknown_html_tags=True)
    times = [(round(cue.start_s * 1000), round(cue.end_s * 1000)) for cue in cues]
    assert [(event.start, event.end) for event in read] == times
    captions = webvtt.from_buffer(io.StringIO(documents["vtt"].decode()))
    shown = [
        caption.raw_text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        for caption in captions.captions
    ]
    assert shown == [cue.text for cue in cues]
