"""What is ignored when texts are compared. Both sides go through the same function. Pure."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

from daemon.text import tokens_of

# Each normalization with the sentence that reports show.
NORMALIZATIONS: Final = {
    "standard": "Ignored on both sides: case, punctuation, apostrophes, and the difference between a hyphen and a "
    "space. Unicode NFKC. Numbers and abbreviations are not spelled out: 9 and nine are different words.",
    "none": "Nothing is ignored: case and punctuation count.",
}
_LETTER_KINDS: Final = frozenset("LNM")  # letters, numbers, and the marks that belong to letters
_APOSTROPHES: Final = frozenset("'\u2019\u02bc\u2018`")
# The point in 3.5 and the colon in 10:30 are part of the number.
_IN_NUMBER: Final = re.compile(r"(?<=\d)[.,:](?=\d)")


@dataclass(frozen=True, slots=True)
class ComparedWord:
    """One word, or one letter of a script without spaces.

    Attributes:
        key: as it is compared.
        shown: as it was written, without space.
    """

    key: str
    shown: str


def words_of(text: str, normalization: str) -> list[ComparedWord]:
    """Return the words of a text.

    Args:
        text: any text.
        normalization: one of NORMALIZATIONS.
    """
    if normalization == "none":
        return [ComparedWord(token.strip(), token.strip()) for token in tokens_of(text) if token.strip()]
    # Full-width letters become plain ones before the text is cut into tokens.
    tokens = tokens_of(unicodedata.normalize("NFKC", text))
    return [word for token in tokens for word in _normalize(token.strip())]


def _normalize(token: str) -> list[ComparedWord]:
    """Return the words of one token: none if it is punctuation, several if it has a hyphen."""
    text = unicodedata.normalize("NFKC", token.casefold())
    kept = {match.start() for match in _IN_NUMBER.finditer(text)}
    spaced = "".join(
        char
        if index in kept or unicodedata.category(char)[0] in _LETTER_KINDS
        else ("" if char in _APOSTROPHES or unicodedata.category(char) == "Cf" else " ")
        for index, char in enumerate(text)
    )
    keys = [part.strip() for part in tokens_of(spaced)]
    if len(keys) == 1:
        return [ComparedWord(keys[0], token)]
    return [ComparedWord(key, key) for key in keys if key]
