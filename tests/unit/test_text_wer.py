from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.text import count_word_errors


@pytest.mark.parametrize(
    ("reference", "said", "n_errors", "n_words"),
    [
        ("", "", 0, 0),
        ("one two three", "one two three", 0, 3),
        ("One, two. THREE!", "one two three", 0, 3),
        ("one two three", "", 3, 3),
        ("", "one two", 2, 0),
        ("one two three", "one too three", 1, 3),
        ("one two three", "one three", 1, 3),
        ("one two three", "one and two three", 1, 3),
        ("one two three four", "four three two one", 4, 4),
        ("你好世界", "你好地界", 1, 4),
    ],
)
def test_word_errors_are_counted(reference: str, said: str, n_errors: int, n_words: int) -> None:
    assert count_word_errors(reference, said) == (n_errors, n_words)


WORDS = st.lists(st.sampled_from(["no", "yes", "well"]), max_size=12)


@settings(deadline=None)
@given(WORDS, WORDS)
def test_word_errors_are_a_distance(one: list[str], other: list[str]) -> None:
    errors, n_words = count_word_errors(" ".join(one), " ".join(other))
    assert n_words == len(one)
    assert errors == count_word_errors(" ".join(other), " ".join(one))[0]
    assert abs(len(one) - len(other)) <= errors <= max(len(one), len(other))
    assert (errors == 0) == (one == other)
