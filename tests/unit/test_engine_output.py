from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.engine import TextToken
from daemon.engine.qwen3_asr.output import parse_output, split_by_token


@pytest.mark.parametrize(
    ("raw", "forced", "expected"),
    [
        ("language English<asr_text>Good morning.", None, ("Good morning.", "English")),
        ("language English<asr_text> Good morning.<|im_end|>", None, ("Good morning.", "English")),
        ("language Chinese<asr_text>\u65e9\u4e0a\u597d", None, ("\u65e9\u4e0a\u597d", "Chinese")),
        ("language None<asr_text>", None, ("", None)),
        ("language None<asr_text>la la", None, ("", None)),
        ("language None<asr_text>", "English", ("", None)),
        ("language None", "English", ("", None)),
        ("language English<asr_text>", None, ("", None)),
        ("language English", None, ("", None)),
        ("language", None, ("", None)),
        ("", None, ("", None)),
        ("", "English", ("", None)),
        ("English<asr_text>Yes.", None, ("Yes.", "English")),
        ("<asr_text>Yes.", None, ("Yes.", None)),
        ("Good morning.", None, ("Good morning.", None)),
        ("Good morning.", "English", ("Good morning.", "English")),
        ("language English<asr_text>Yes.", "English", ("Yes.", "English")),
        ("language German<asr_text>Ja.", "English", ("Ja.", "English")),
        ("None of them.", "English", ("None of them.", "English")),
        ("language English<asr_text>None.", None, ("None.", "English")),
        ("language", "English", ("language", "English")),
        ("language barriers are high", None, ("language barriers are high", None)),
        ("one two<asr_text>three", None, ("one two three", None)),
        ("language English<asr_text>one<asr_text> two", None, ("one two", "English")),
        ("<|im_start|>language English<asr_text>one<|endoftext|>", None, ("one", "English")),
        ("language English<asr_text>no no no no no no", None, ("no no no no no no", "English")),
        (
            "language English<asr_text>one\ntwo\r\n\tthree\x00\x1b[31m\u2028four",
            None,
            ("one two three [31m four", "English"),
        ),
        ("language English<asr_text>" + "la " * 200, None, (("la " * 200).strip(), "English")),
        ("language English<asr_text>a < b and <b> or |x|", None, ("a < b and <b> or |x|", "English")),
    ],
)
def test_output_is_split_into_text_and_language(raw: str, forced: str | None, expected: tuple[str, str | None]) -> None:
    assert parse_output(raw, forced)[:2] == expected


@given(st.text(st.characters(exclude_characters="<>", exclude_categories=["Cs"])).filter(lambda t: bool(t.split())))
def test_every_word_after_the_marker_is_kept(text: str) -> None:
    parsed, language, _ = parse_output(f"language English<asr_text>{text}")
    printable = "".join(
        " " if char < " " or "\x7f" <= char <= "\x9f" or char in "\u2028\u2029" else char for char in text
    )
    assert parsed.split() == printable.split()
    assert (language == "English") == bool(parsed)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["language", " English", "<asr_text>", "Good", " mor", "ning."], [("Good", 3), (" mor", 4), ("ning.", 5)]),
        (["language", " English", "<asr_text>", "English", " is"], [("English", 3), (" is", 4)]),
        (["<asr_text>", " Yes", "<|im_end|>", " \n", "no"], [("Yes", 1), (" no", 4)]),
        (["language English<asr_text>a b", " c"], [("a b", 0), (" c", 1)]),
        (["one", " two", "<asr_text>", "three"], [("one", 0), (" two", 1), (" three", 3)]),
        (["language None", "<asr_text>"], []),
        ([], []),
    ],
)
def test_text_is_split_by_token(parts: list[str], expected: list[tuple[str, int]]) -> None:
    logprobs = [-0.5 * (index + 1) for index in range(len(parts))]
    tokens = split_by_token(parse_output("".join(parts)), parts, logprobs)
    assert tokens == tuple(TextToken(text, logprobs[index]) for text, index in expected)


def test_character_of_several_tokens_has_their_joint_probability() -> None:
    parts = ["<asr_text>", "", "", "\u4eca", "", "\u5929", "."]
    tokens = split_by_token(parse_output("".join(parts)), parts, [-1.0, -2.0, -4.0, -8.0, -16.0, -32.0, -64.0])
    assert tokens == (TextToken("\u4eca", -14.0), TextToken("\u5929", -48.0), TextToken(".", -64.0))


def test_text_that_cannot_be_assigned_to_tokens_has_none() -> None:
    assert split_by_token(parse_output("one two"), ["one two"], [-1.0, -2.0]) == ()


_PART = st.text(st.characters(exclude_categories=["Cs"]), max_size=4) | st.sampled_from(
    ["<asr_text>", "<|im_end|>", " ", "language English"]
)


@given(st.lists(_PART, max_size=12))
def test_tokens_always_add_up_to_the_text(parts: list[str]) -> None:
    output = parse_output("".join(parts))
    tokens = split_by_token(output, parts, [-1.0] * len(parts))
    assert "".join(token.text for token in tokens) == output.text
