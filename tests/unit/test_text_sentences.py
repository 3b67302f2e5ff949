"""Where sentences end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.text import ends_sentence, split_sentences, weigh


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Good morning. Let us begin!", ["Good morning.", " Let us begin!"]),
        ('He said "Stop." Then he left.', ['He said "Stop."', " Then he left."]),
        ("Dr. Weber came on 3. Mai, z.B. by train.", ["Dr. Weber came on 3. Mai, z.B. by train."]),
        ("It costs 3.50 euros. Fine.", ["It costs 3.50 euros.", " Fine."]),
        ("He left in 2020. She stayed.", ["He left in 2020.", " She stayed."]),
        ("今天开会。他说：“好。”然后走了！", ["今天开会。", "他说：“好。”", "然后走了！"]),  # noqa: RUF001  # full-width, as it is written
        ("هل أنت هنا؟ نعم.", ["هل أنت هنا؟", " نعم."]),
        ("no marks at all", ["no marks at all"]),
        ("", []),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@given(st.text())
def test_sentences_joined_are_the_text(text: str) -> None:
    assert "".join(split_sentences(text)).rstrip() == text.rstrip()


def test_end_of_a_sentence_is_found_behind_quotes_only_at_the_end() -> None:
    assert ends_sentence("“Is it done?” ")
    assert not ends_sentence("Done. And then")
    assert not ends_sentence("See Dr.")
    assert not ends_sentence("")


def test_a_chinese_character_weighs_as_much_as_a_syllable() -> None:
    assert weigh("今天") == weigh("abc def")
    assert weigh("... ,") == 0
