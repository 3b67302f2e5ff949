"""The page of formats says what the tests read."""

from __future__ import annotations

from tests.formats_page import PAGE, page


def test_page_of_formats_is_generated_from_the_tests() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tests.formats_page`"
