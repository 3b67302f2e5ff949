"""Segments cut where a pause and the end of a sentence meet."""

from __future__ import annotations

from daemon.pipeline.cuts import cut_at_pauses
from daemon.text import join_texts
from daemon.transcript import Segment, Word

THREE = "We begin with the budget of next year. It is not finished. Friday is the last day for figures."


def test_segment_is_cut_at_the_pauses_where_sentences_end() -> None:
    speech = [(10.0, 12.5), (13.1, 14.4), (15.2, 17.9)]
    parts = cut_at_pauses(Segment(10.0, 17.9, THREE, "English", ("overlap", "retried"), channel=2), speech)
    assert [(part.start_s, part.end_s, part.text) for part in parts] == [
        (10.0, 12.5, "We begin with the budget of next year."),
        (13.1, 14.4, "It is not finished."),
        (15.2, 17.9, "Friday is the last day for figures."),
    ]
    assert [part.flags for part in parts] == [("overlap", "retried"), ("retried",), ("retried",)]
    assert {(part.language, part.channel) for part in parts} == {("English", 2)}


def test_pause_within_a_sentence_is_not_cut() -> None:
    speech = [(0.0, 0.6), (1.2, 5.0)]  # after "We begin"
    segment = Segment(0.0, 5.0, THREE)
    assert cut_at_pauses(segment, speech) == (segment,)


def test_of_two_pauses_near_a_sentence_end_the_longer_is_cut() -> None:
    speech = [(0.0, 2.2), (2.55, 2.9), (3.9, 5.5)]
    first, second = cut_at_pauses(Segment(0.0, 5.5, "The first one is this here. The second is that."), speech)
    assert (first.end_s, second.start_s) == (2.9, 3.9)


def test_short_silence_and_speech_without_a_pause_are_not_cut() -> None:
    segment = Segment(0.0, 5.0, THREE)
    assert cut_at_pauses(segment, [(0.0, 5.0)]) == (segment,)
    assert cut_at_pauses(segment, [(0.0, 2.0), (2.2, 5.0)]) == (segment,)


def test_words_and_their_confidence_go_with_their_part() -> None:
    words = tuple(Word(word, confidence=0.9 if word != "finished." else 0.4) for word in THREE.split())
    speech = [(10.0, 12.5), (13.1, 14.4), (15.2, 17.9)]
    parts = cut_at_pauses(Segment(10.0, 17.9, THREE, words=words, confidence=0.7), speech)
    assert [tuple(word.text for word in part.words) for part in parts] == [tuple(part.text.split()) for part in parts]
    first, second, _ = (part.confidence for part in parts)
    assert first is not None
    assert second is not None
    assert second < first


def test_word_timestamps_say_which_pause_ends_a_sentence() -> None:
    text = "Yes. That is what all of us had in mind for a long time."
    late = tuple(Word(word, 1.0 + at, 3.0 + at) for at, word in enumerate(text.split()))
    speech = [(0.0, 3.0), (3.5, 16.0)]
    assert len(cut_at_pauses(Segment(0.0, 16.0, text), speech)) == 1
    assert [part.text for part in cut_at_pauses(Segment(0.0, 16.0, text, words=late), speech)] == ["Yes.", text[5:]]


def test_cut_keeps_chinese_text_without_spaces() -> None:
    text = "今天下午三点开会。请大家准时到。谢谢。"
    parts = cut_at_pauses(Segment(0.0, 5.0, text), [(0.0, 2.0), (2.6, 4.0), (4.5, 5.0)])
    assert len(parts) == 3
    assert join_texts(part.text for part in parts) == text


def test_text_that_could_not_be_joined_again_is_not_cut() -> None:
    text = "今天开会用的是。Python"
    segment = Segment(0.0, 4.0, text)
    assert cut_at_pauses(segment, [(0.0, 2.4), (3.0, 4.0)]) == (segment,)
