"""Paragraphs of the documents for people."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.documents.layout import Item
from daemon.documents.paragraphs import Paragraph, group_paragraphs
from daemon.text import join_texts, words_of
from daemon.transcript import Segment, Word


def talk(*parts: tuple[float, float, str], **facts: int) -> list[Item]:
    return [
        Item(start, stop, text, segment=Segment(start, stop, text, channel=facts.get("channel")))
        for start, stop, text in parts
    ]


def texts(paragraphs: list[Paragraph]) -> list[str]:
    return [paragraph.text for paragraph in paragraphs]


def sentence(n_words: int, number: int = 0) -> str:
    return " ".join([f"Word{number}", *["more"] * (n_words - 2), "end."])


def test_long_pause_ends_a_paragraph_only_after_a_sentence() -> None:
    items = talk((0, 2, "We agreed on"), (5, 7, "four hundred."), (10, 12, "Next point."), (13, 14, "The move."))
    assert texts(group_paragraphs(items)) == ["We agreed on four hundred.", "Next point. The move."]


def test_very_long_pause_ends_a_paragraph_within_a_sentence_too() -> None:
    items = talk((0, 2, "We agreed on"), (9, 11, "four hundred."))
    assert len(group_paragraphs(items)) == 2


def test_text_without_full_stops_is_divided_at_pauses() -> None:
    items = talk((0, 2, "we agreed on"), (5, 7, "four hundred"), (7.5, 8, "and so on"))
    assert texts(group_paragraphs(items)) == ["we agreed on", "four hundred and so on"]


def test_change_of_channel_begins_a_paragraph() -> None:
    items = [*talk((0, 2, "Hello."), channel=1), *talk((2, 3, "Hello."), channel=2), *talk((3, 4, "Yes."), channel=2)]
    assert texts(group_paragraphs(items)) == ["Hello.", "Hello. Yes."]


def test_an_hour_of_speech_without_long_pauses_has_paragraphs_of_readable_length() -> None:
    items = talk(*((at * 5.0, at * 5.0 + 4.5, sentence(11, at)) for at in range(720)))
    paragraphs = group_paragraphs(items)
    sizes = [len(words_of(paragraph.text)) for paragraph in paragraphs]
    assert max(sizes) <= 120
    assert min(sizes) >= 30
    assert join_texts(texts(paragraphs)) == join_texts(item.text for item in items)
    assert all(paragraph.text.endswith("end.") for paragraph in paragraphs)


def test_of_several_places_the_longest_pause_is_chosen() -> None:
    starts = [0.0]
    for at in range(1, 16):
        starts.append(starts[-1] + 5.0 + (1.2 if at == 7 else 0.2))
    items = talk(*((start, start + 5.0, sentence(12)) for start in starts))
    assert [len(words_of(text)) for text in texts(group_paragraphs(items))] == [84, 108]


def test_endless_sentence_is_divided_at_its_clauses() -> None:
    text = ", ".join(f"and then there was number {at}" for at in range(60))
    paragraphs = group_paragraphs(talk((0, 90, text)))
    assert max(len(words_of(paragraph.text)) for paragraph in paragraphs) <= 120
    assert all(paragraph.text.endswith(",") for paragraph in paragraphs[:-1])
    assert " ".join(texts(paragraphs)) == text


def test_chinese_paragraphs_have_at_most_250_characters() -> None:
    text = "今天下午三点我们在会议室讨论明年的预算，然后决定。" * 30  # noqa: RUF001  # full-width, as it is written
    paragraphs = group_paragraphs(talk((0, 200, text)))
    assert "".join(texts(paragraphs)) == text
    assert max(len(paragraph.text) for paragraph in paragraphs) <= 280  # with punctuation
    assert all(paragraph.text.endswith("。") for paragraph in paragraphs)


def test_time_of_a_paragraph_is_that_of_its_first_word_where_words_have_times() -> None:
    text = f"{sentence(100)} {sentence(60)}"
    words = tuple(Word(word, 0.1 * at + (3.0 if at >= 100 else 0.0), None) for at, word in enumerate(text.split()))
    timed = Item(0.0, 60.0, text, segment=Segment(0.0, 60.0, text, words=words))
    assert [paragraph.start_s for paragraph in group_paragraphs([timed])] == [0.0, 13.0]


SENTENCES = st.lists(st.sampled_from(["Yes.", "word", "今天。", "three, four", "3.5", "a " * 150 + "b."]), min_size=1)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 6), st.floats(0, 30), SENTENCES), max_size=6))
def test_any_text_keeps_its_words_and_its_order(parts: list[tuple[float, float, list[str]]]) -> None:
    items: list[Item] = []
    for pause_s, length_s, words in parts:
        start_s = (items[-1].end_s if items else 0.0) + pause_s
        items += talk((start_s, start_s + length_s, " ".join(words)))
    paragraphs = group_paragraphs(items)
    assert "".join(texts(paragraphs)).replace(" ", "") == "".join(item.text for item in items).replace(" ", "")
    assert all(before.start_s <= before.end_s <= after.end_s for before, after in pairwise(paragraphs))
