from __future__ import annotations

from math import exp, isclose, log

import pytest

from daemon.engine import TextToken
from daemon.pipeline.confidence import score_segment, score_words
from daemon.transcript import Word


def tokens(*parts: tuple[str, float]) -> tuple[TextToken, ...]:
    return tuple(TextToken(text, log(probability)) for text, probability in parts)


def scores(text: str, parts: tuple[TextToken, ...]) -> list[tuple[str, float | None]]:
    return [
        (word.text, None if word.confidence is None else round(word.confidence, 6)) for word in score_words(text, parts)
    ]


def test_word_of_several_tokens_has_their_joint_probability() -> None:
    assert scores("Good morning.", tokens(("Good", 0.9), (" mor", 0.5), ("ning", 0.8), (".", 1.0))) == [
        ("Good", 0.9),
        ("morning.", 0.4),
    ]


def test_token_of_several_words_counts_for_each() -> None:
    assert scores("of the day", tokens(("of the", 0.5), (" day", 0.25))) == [("of", 0.5), ("the", 0.5), ("day", 0.25)]


def test_each_character_of_an_unspaced_script_is_a_word() -> None:
    assert scores("\u4eca\u5929.", tokens(("\u4eca", 0.5), ("\u5929", 0.75), (".", 1.0))) == [
        ("\u4eca", 0.5),
        ("\u5929", 0.75),
        (".", 1.0),
    ]


def test_wide_space_belongs_to_no_word() -> None:
    parts = tokens(("\u4eca", 0.5), ("\u3000", 0.9), ("\u5929", 0.75), ("\u3000", 0.9))
    assert scores("\u4eca\u3000\u5929", parts) == [("\u4eca", 0.5), ("\u5929", 0.75)]


def test_words_from_the_next_chunk_keep_their_confidence() -> None:
    first, second = tokens(("one", 0.9), (" two", 0.8)), tokens(("too", 0.1), (" three", 0.7), (" four", 0.6))
    assert scores("one two three", first + tokens((" ", 1.0)) + second) == [("one", 0.9), ("two", 0.8), ("three", 0.7)]


def test_word_that_no_token_wrote_has_no_confidence() -> None:
    assert scores("one 2 three", tokens(("one", 0.9), (" two", 0.8), (" three", 0.7))) == [
        ("one", 0.9),
        ("2", None),
        ("three", 0.7),
    ]


def test_text_without_tokens_has_no_words() -> None:
    assert score_words("one two", ()) == ()
    assert score_segment(()) is None


@pytest.mark.parametrize(
    ("confidences", "expected"),
    [([0.5], 0.5), ([0.9, 0.4], 0.6), ([0.5, None], 0.5), ([None], None), ([0.0, 1.0], None)],
)
def test_segment_has_the_geometric_mean_of_its_words(confidences: list[float | None], expected: float | None) -> None:
    score = score_segment([Word("word", confidence=confidence) for confidence in confidences])
    if 0.0 in confidences:
        assert score is not None
        assert score < exp(-300)
    else:
        assert (score is None) == (expected is None)
        assert expected is None or isclose(score or 0, expected)
