from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.engine.qwen3_asr.output import parse_output


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
    assert parse_output(raw, forced) == expected


@given(st.text(st.characters(exclude_characters="<>", exclude_categories=["Cs"])).filter(lambda t: bool(t.split())))
def test_every_word_after_the_marker_is_kept(text: str) -> None:
    parsed, language = parse_output(f"language English<asr_text>{text}")
    printable = "".join(
        " " if char < " " or "\x7f" <= char <= "\x9f" or char in "\u2028\u2029" else char for char in text
    )
    assert parsed.split() == printable.split()
    assert (language == "English") == bool(parsed)
