"""The built-in corrections `zh-common`: they correct slips and change no correct sentence."""

# ruff: noqa: RUF001  # Chinese punctuation is meant

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.text import zh_common
from daemon.text.script import Script, to_script
from daemon.text.zh_common import correct_zh_common

ROOT = Path(__file__).parents[2]
SCRIPTS: tuple[Script, ...] = ("simplified", "traditional")
CORRECT = [
    line
    for line in (ROOT / "tests/texts/zh_correct.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
PAGE = (ROOT / "docs/corrections.md").read_text(encoding="utf-8")
SLIPS = re.findall(r"^\| (\S+) \| (\S+) \|$", PAGE, re.MULTILINE)


def test_there_are_enough_correct_sentences() -> None:
    assert len(set(CORRECT)) >= 100


@pytest.mark.parametrize("sentence", CORRECT)
def test_correct_sentence_stays_as_it_is_in_both_scripts(sentence: str) -> None:
    for script in SCRIPTS:
        text = to_script(sentence, script, "Chinese")
        assert correct_zh_common(text, "Chinese") == text


def test_correct_sentences_stay_next_to_one_another() -> None:
    text = "".join(CORRECT)
    assert correct_zh_common(text, "Chinese") == text


@pytest.mark.parametrize(("slip", "right"), SLIPS)
def test_slip_is_corrected_in_both_scripts(slip: str, right: str) -> None:
    assert correct_zh_common(slip, "Chinese") == right
    for script in SCRIPTS:
        converted = to_script(slip, script, "Chinese")
        assert correct_zh_common(converted, "Chinese") == to_script(right, script, "Chinese")
        assert correct_zh_common(right, "Chinese") == right


def test_page_has_an_example_of_each_rule() -> None:
    used = {
        index
        for slip, _ in SLIPS
        for index, (pattern, _) in enumerate(zh_common._RULES)
        if pattern.search(slip.translate(zh_common._SIMPLIFIED))
    }
    assert used == set(range(len(zh_common._RULES)))


@pytest.mark.parametrize("language", ["Chinese", "Cantonese"])  # characters of Taiwan and of Hong Kong
def test_rules_know_the_traditional_form_of_each_of_their_characters(language: str) -> None:
    characters = "".join(sorted({c for pattern, _ in zh_common._RULES for c in pattern.pattern if c >= "一"}))
    for character in characters:
        assert to_script(character, "traditional", language).translate(zh_common._SIMPLIFIED) == character


def test_only_mandarin_is_touched() -> None:
    slip = "我覺的這樣不錯。"
    assert {correct_zh_common(slip, language) for language in ("Cantonese", "Japanese", "English", None)} == {slip}


@given(st.text(alphabet="的地得在再我他们不家现正觉见三一哪里，。好很快跑来及还"))
def test_nothing_but_the_five_words_changes(text: str) -> None:
    corrected = correct_zh_common(text, "Chinese")
    assert len(corrected) == len(text)
    changed = {(old, new) for old, new in zip(text, corrected, strict=True) if old != new}
    assert changed <= {("的", "得"), ("的", "地"), ("得", "的"), ("地", "的"), ("在", "再"), ("再", "在")}
