"""Spacing and tokens, for scripts with and without spaces between words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

# Scripts written without spaces between words: Thai, kana, Han. Hangul is written with spaces. The
# ranges are those of the Unicode blocks (https://www.unicode.org/Public/UNIDATA/Blocks.txt).
_LETTERS: Final = (
    "\u0e00-\u0e7f\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0002ebef"
)
_PUNCTUATION: Final = "\u3001-\u3040\uff00-\uff65"  # their punctuation without their space, and full-width forms
_UNSPACED: Final = f"{_LETTERS}{_PUNCTUATION}"

_IS_UNSPACED: Final = re.compile(f"[{_UNSPACED}]")
_UNSPACED_LETTER: Final = re.compile(f"[{_LETTERS}]")
_TOKEN: Final = re.compile(f"\\s*(?:[{_UNSPACED}]|[^\\s{_UNSPACED}]+)")
_WORD: Final = re.compile(f"[{_LETTERS}]|[^\\W_{_LETTERS}]+")
_NOT_LETTER: Final = re.compile(r"[\W_]+")


def join_texts(texts: Iterable[str]) -> str:
    """Join texts with a space, or without one between two characters of unspaced scripts."""
    joined = ""
    for text in (text.strip() for text in texts):
        if not text:
            continue
        joined = f"{joined}{'' if not joined or is_tight(joined, text) else ' '}{text}"
    return joined


def is_tight(before: str, after: str) -> bool:
    """Return whether two texts, neither empty, are written without a space between them."""
    return bool(_IS_UNSPACED.match(before[-1])) and bool(_IS_UNSPACED.match(after[0]))


def unspaced_of(text: str) -> list[str]:
    """Return the letters of a text that belong to scripts without spaces."""
    return _UNSPACED_LETTER.findall(text)


def tokens_of(text: str) -> list[str]:
    """Return the text cut into words and single characters of unspaced scripts, each with the space before it.

    Punctuation stays with its word. Joined with "", the tokens give the text without trailing space.
    """
    return _TOKEN.findall(text)


def words_of(text: str) -> list[str]:
    """Return the words in lower case without punctuation; each letter of an unspaced script is a word."""
    return _WORD.findall(text.casefold())


def bare(token: str) -> str:
    """Return a token as it is compared: lower case, without punctuation and space.

    A token of nothing but punctuation stays as it is.
    """
    token = token.strip()
    return _NOT_LETTER.sub("", token.casefold()) or token
