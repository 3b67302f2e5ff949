"""What the model writes, parsed: `language English<asr_text>the words`. Pure text, no model.

The parser of qwen-asr removes repeated words, and with them the sign that the model was looping. This one
keeps every word.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

from daemon.engine.protocol import TextToken

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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


class ParsedOutput(NamedTuple):
    """The model's output in parts.

    Attributes:
        text: on one line; "" if the model heard no speech.
        language: None if the output names none or the text is empty.
        start: where the text starts in the output.
    """

    text: str
    language: str | None
    start: int = 0


def parse_output(raw: str, forced: str | None = None) -> ParsedOutput:
    """Split the model's output into text and language.

    Args:
        raw: the decoded output, with or without special tokens.
        forced: the language that the prompt named. The output then normally holds the text alone, but sometimes
            it names a language again.
    """
    prefix, marker, text = raw.partition(_MARKER)
    named = _LANGUAGE.fullmatch(_to_line(prefix)) if marker else None
    if named is not None:
        text, language, start = _to_line(text), (named[1] or named[2] or "").strip(), len(prefix) + len(marker)
    else:
        # No marker, or words before it: keep every word, whatever its form.
        text, language, start = _to_line(raw.replace(_MARKER, " ")), "", 0
        if (_NO_TEXT_FORCED if forced else _NO_TEXT).fullmatch(text):
            return ParsedOutput("", None)
    if not text or language == "None":
        return ParsedOutput("", None)
    return ParsedOutput(text, forced or language or None, start)


def split_by_token(output: ParsedOutput, parts: Sequence[str], logprobs: Sequence[float]) -> tuple[TextToken, ...]:
    """Split the text into the parts that tokens wrote, with the confidence in each.

    Args:
        output: what `parse_output` returned for the joined parts.
        parts: what each token added to the raw output; "" for the first tokens of a character that takes several.
        logprobs: the log probability of each token.

    Returns:
        Tokens whose texts joined are the text; a space belongs to the word after it. Empty if the text cannot be
        assigned to tokens.
    """
    if len(parts) != len(logprobs):
        return ()
    raw, ends = "".join(parts), list(accumulate(map(len, parts)))
    tokens: list[TextToken] = []
    written_by = -1  # the token that wrote the last character
    token, has_space = 0, False
    for index, char in _readable(raw, output.start):
        if char.isspace():
            has_space = True
            continue
        while ends[token] <= index:
            token += 1
        added = " " + char if has_space and tokens else char
        has_space = False
        if token == written_by:
            tokens[-1] = TextToken(tokens[-1].text + added, tokens[-1].logprob)
        else:
            first = token
            while first > 0 and not parts[first - 1]:  # the other tokens of a character that takes several
                first -= 1
            tokens.append(TextToken(added, sum(logprobs[first : token + 1])))
            written_by = token
    return tuple(tokens) if "".join(token.text for token in tokens) == output.text else ()


def _readable(raw: str, start: int) -> Iterator[tuple[int, str]]:
    """Yield position and character of what `parse_output` keeps; a space for control characters and markers."""
    position = start
    for special in _SPECIAL.finditer(raw, start):
        yield from _with_positions(raw, position, special.start())
        if start == 0 and special[0] == _MARKER:
            yield special.start(), " "
        position = special.end()
    yield from _with_positions(raw, position, len(raw))


def _with_positions(raw: str, start: int, stop: int) -> Iterator[tuple[int, str]]:
    return zip(range(start, stop), _CONTROL.sub(" ", raw[start:stop]), strict=True)


def _to_line(text: str) -> str:
    """Return the text without special tokens and control characters, with single spaces."""
    return " ".join(_CONTROL.sub(" ", _SPECIAL.sub("", text)).split())
