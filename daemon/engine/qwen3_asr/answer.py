"""What the model writes, told apart: `language English<asr_text>the words`. Pure text, no model.

The library's own parser folds repeated words away, and with them the sign that the model ran in
circles; this one changes no word.
"""

from __future__ import annotations

import re
from typing import Final

_MARKER: Final = "<asr_text>"
# Tokens with a meaning of their own that may stray into an answer: <|im_end|>, a second marker and
# the markers of the model's sisters (timestamps, text to speech, blanks).
_STRAY = re.compile(r"<\|[^<>|]*\|>|<(?:asr_text|timestamp|non_speech|tts_\w+|blank\d*)>")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# What may stand before the marker: "language English", or the name alone.
_LANGUAGE = re.compile(r"language\b(.*)|([A-Z]\w*)?")
# An answer without marker that is no speech: it ended right behind the name. Where the prompt named
# the language, the answer is speech from its first word, and "language" may be that word.
_NO_TEXT = re.compile(r"language( [A-Z]\w*)?")
_NO_TEXT_FORCED = re.compile(r"language None")


def parse_answer(raw: str, forced: str | None = None) -> tuple[str, str | None]:
    """Split an answer into its text and its language.

    Args:
        raw: the decoded answer, with or without special tokens.
        forced: the language the prompt already named; the answer then holds the text alone, but
            some answers name the language again.

    Returns:
        (text, language): text on one line; ("", None) where the model heard no speech. The language
        is None where the answer names none.
    """
    prefix, marker, text = raw.partition(_MARKER)
    named = _LANGUAGE.fullmatch(_to_line(prefix)) if marker else None
    if named is not None:
        text, language = _to_line(text), (named[1] or named[2] or "").strip()
    else:
        # No marker, or words before it: never lose a word for the sake of the form.
        text, language = _to_line(raw.replace(_MARKER, " ")), ""
        if (_NO_TEXT_FORCED if forced else _NO_TEXT).fullmatch(text):
            return "", None
    if not text or language == "None":
        return "", None
    return text, forced or language or None


def _to_line(text: str) -> str:
    """Return the text without stray tokens and control characters, with single spaces."""
    return " ".join(_CONTROL.sub(" ", _STRAY.sub("", text)).split())
