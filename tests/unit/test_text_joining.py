from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.text import bare, join_texts, tokens_of, words_of


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        ([], ""),
        (["", "  ", "\n"], ""),
        (["hello", "world"], "hello world"),
        ([" hello ", "", " world. "], "hello world."),
        (["你好。", "再见。"], "你好。再见。"),
        (["今日は", "東京です"], "今日は東京です"),
        (["สวัสดี", "ครับ"], "สวัสดีครับ"),
        (["안녕하세요", "여러분"], "안녕하세요 여러분"),
        (["我们用", "Python", "写程序"], "我们用 Python 写程序"),
        (["it is called", "你好", "over there"], "it is called 你好 over there"),
    ],
)
def test_texts_are_joined_with_the_spacing_of_their_language(texts: list[str], joined: str) -> None:
    assert join_texts(texts) == joined


@given(st.text(alphabet=st.sampled_from("ab ,.-'\n\u4f60\u597d\u3002\u30d5\u0e2a\uff21")))
def test_tokens_keep_every_character_but_trailing_space(text: str) -> None:
    assert "".join(tokens_of(text)) == text.rstrip()


def test_wide_space_is_no_token() -> None:
    assert tokens_of("\u6211 \u3000\u7528\u3000") == ["\u6211", " \u3000\u7528"]


def test_letters_of_unspaced_scripts_are_tokens_of_their_own() -> None:
    assert tokens_of("我用 Python 3。") == ["我", "用", " Python", " 3", "。"]
    assert words_of("我用 Python_3。 Don't!") == ["我", "用", "python", "3", "don", "t"]


@pytest.mark.parametrize(("token", "key"), [(" Hello,", "hello"), ("Don't", "dont"), ("...", "..."), (" 。", "。")])
def test_tokens_are_compared_without_case_punctuation_and_space(token: str, key: str) -> None:
    assert bare(token) == key
