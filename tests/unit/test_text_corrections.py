"""Corrections: literals, regular expressions, and what rules may not do."""

from __future__ import annotations

import pytest

from daemon.text.corrections import Correction, Corrector, find_regex_fault

SLOW = Correction(r"(a|aa)+$", "x", is_regex=True)
SLOW_TEXT = "a" * 80 + "b"


def apply(text: str, *rules: str | Correction, language: str | None = "English") -> str:
    return Corrector(rules).apply(text, language)


def test_literal_is_found_with_its_case_and_within_words() -> None:
    assert apply("Shmidt, Shmidts, shmidt", Correction("Shmidt", "Schmidt")) == "Schmidt, Schmidts, shmidt"
    assert apply("1.5 (approx.)", Correction("(approx.)", r"\1 [c.]")) == r"1.5 \1 [c.]"


def test_rules_apply_in_order() -> None:
    first, second = Correction("one", "two"), Correction("two", "three")
    assert apply("one two", first, second) == "three three"
    assert apply("one two", second, first) == "two three"


def test_regular_expression_has_groups() -> None:
    rule = Correction(r"(?i)(?P<n>\d+) euros?\b", r"€ \g<n>", is_regex=True)
    assert apply("20 Euros and 1 euro, europe", rule) == "€ 20 and € 1, europe"


def test_built_in_set_applies_at_its_place_and_to_its_language_only() -> None:
    mark = Correction("觉得", "覺得")
    assert apply("我觉的好", "zh-common", mark, language="Chinese") == "我覺得好"
    assert apply("我觉的好", mark, "zh-common", language="Chinese") == "我觉得好"
    assert apply("我觉的好", "zh-common", language="Cantonese") == "我觉的好"


def test_rule_that_times_out_is_skipped_and_named() -> None:
    corrector = Corrector([Correction("b", "c"), SLOW, Correction("c", "b")])
    assert corrector.apply("aa", None) == "x"
    assert corrector.notes() == ()
    assert corrector.apply(SLOW_TEXT, None) == SLOW_TEXT
    (note,) = corrector.notes()
    assert note.startswith("correction 2 ((a|aa)+$) was skipped in one segment: ")


def test_rule_that_keeps_timing_out_is_given_up() -> None:
    corrector = Corrector([SLOW])
    for _ in range(5):
        assert corrector.apply(SLOW_TEXT, None) == SLOW_TEXT
    (note,) = corrector.notes()
    assert "was skipped in 3 segments and all after them" in note
    assert corrector.apply("aa", None) == "aa"


def test_rules_that_double_the_text_again_and_again_do_not_fill_the_memory() -> None:
    corrector = Corrector([Correction("a", "aa")] * 1000)
    assert len(corrector.apply("a", None)) <= 2000
    assert corrector.notes()
    regexes = Corrector([Correction("a", "aa", is_regex=True)] * 30)
    assert len(regexes.apply("a", None)) <= 2000


@pytest.mark.parametrize(
    ("find", "replace", "what"),
    [
        ("(", "", "missing )"),
        ("a", r"\1", "invalid group reference"),
        ("(?P<n>a)", r"\g<m>", "unknown group"),
        ("[", "", "unterminated"),
        ("a|b", r"\2", "invalid group reference"),
    ],
)
def test_fault_of_a_regular_expression_is_found_before_it_is_used(find: str, replace: str, what: str) -> None:
    fault = find_regex_fault(find, replace)
    assert fault is not None
    assert what in fault


@pytest.mark.parametrize(("find", "replace"), [("(a)|b", r"[\1]"), ("(?i)a", ""), ("(?x) a # letter", "b")])
def test_good_regular_expression_has_no_fault(find: str, replace: str) -> None:
    assert find_regex_fault(find, replace) is None
