"""What the model writes, parsed: `language English<asr_text>the words`. Pure text, no model.

The parser of qwen-asr removes repeated words, and with them the sign that the model was looping. This one
keeps every word.
"""

from __future__ import annotations

import re
from typing import Final

_MARKER: Final = "<asr_text>"
# Special tokens that may end up in the output: <|im_end|>, a second marker, and the special tokens of related
# models (timestamps, text to speech, blanks).
_SPECIAL: Final = re.compile(r"<\|[^<>|]*\|>|<(?:asr_text|timestamp|non_speech|tts_\w+|blank\d*)>")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# What may precede the marker: "language English", or the name alone.
_LANGUAGE: Final = re.compile(r"language\b(.*)|([A-Z]\w*)?")
# Output without a marker that contains no speech: it ends after the name of the language. If the prompt named the
# language, the output is speech from its first word on, and "language" may be that word.
_NO_TEXT: Final = re.compile(r"language( [A-Z]\w*)?")
_NO_TEXT_FORCED: Final = re.compile(r"language None")


def parse_output(raw: str, forced: str | None = None) -> tuple[str, str | None]:
    """Split the model's output into text and language.

    Args:
        raw: the decoded output, with or without special tokens.
        forced: the language that the prompt named. The output then normally holds the text alone, but sometimes
            it names a language again.

    Returns:
        (text, language), with the text on one line; ("", None) if the model heard no speech. The language is
        None if the output names none.
    """
    prefix, marker, text = raw.partition(_MARKER)
    named = _LANGUAGE.fullmatch(_to_line(prefix)) if marker else None
    if named is not None:
        text, language = _to_line(text), (named[1] or named[2] or "").strip()
    else:
        # No marker, or words before it: keep every word, whatever its form.
        text, language = _to_line(raw.replace(_MARKER, " ")), ""
        if (_NO_TEXT_FORCED if forced else _NO_TEXT).fullmatch(text):
            return "", None
    if not text or language == "None":
        return "", None
    return text, forced or language or None


def _to_line(text: str) -> str:
    """Return the text without special tokens and control characters, with single spaces."""
    return " ".join(_CONTROL.sub(" ", _SPECIAL.sub("", text)).split())
