"""Text as the index compares it, and what a person types as a query of SQLite's FTS5. Pure."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from daemon.errors import UsageError
from daemon.text import unspaced_of, words_of
from daemon.text.script import to_script

if TYPE_CHECKING:
    from collections.abc import Iterable


def fold(text: str) -> str:
    """Return a text as it is indexed.

    Each letter of a script without spaces is a word, so that every Chinese word is a run of such words; traditional
    characters are indexed as simplified ones, so that both scripts find each other.
    """
    folded = unicodedata.normalize("NFC", text).casefold()
    letters = unspaced_of(folded)
    if not letters:
        return folded
    spaced = re.sub(f"[{re.escape(''.join(sorted(set(letters))))}]", r" \g<0> ", folded)
    return to_script(spaced, "simplified", "Chinese")


def to_query(words: Iterable[str]) -> str:
    """Return the query for lines that contain all these words; several words in one are next to one another.

    A star at the end stands for the rest of the word.

    Raises:
        UsageError: a word has no letter or digit.
    """
    phrases = []
    for word in words:
        if not words_of(word):
            raise UsageError(f"{word!r} has no letter or digit to search for.", "Search for words or numbers.")
        phrase = fold(word).replace('"', " ")
        phrases.append(f'"{phrase}"{" *" if word.rstrip().endswith("*") else ""}')
    return " AND ".join(phrases)
