"""Checks on the model's text: loops, text too long or too short for its speech, echoed hotwords."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from daemon.text import words_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.engine.protocol import ChunkResponse

# The original library folds what repeats twenty times (qwen_asr/inference/utils.py). Fewer repeats are
# what people say ("no, no, no"), or how laughter is written.
_MIN_LOOP_TOKENS: Final = 20
_MAX_LOOP_UNIT: Final = 16
# People do not repeat a word faster than this.
_MAX_REPEATS_PER_S: Final = 5.0
# Fast speech is about 8 syllables a second; an auctioneer says about 6 words. More is not speech.
_MAX_TOKENS_PER_S: Final = 12.0
_SPARE_TOKENS: Final = 8  # numbers written out, in a very short chunk
# Slow dictation is about one word a second.
_MIN_TOKENS_PER_S: Final = 0.25
_MIN_LONG_SPEECH_S: Final = 8.0


class Verdict(Enum):
    """How far a text can be trusted.

    GOOD: it can be what was said.
    DOUBTFUL: split the chunk to learn more; if it cannot be split, use the text.
    BAD: it is not what was said.
    """

    GOOD = "good"
    DOUBTFUL = "doubtful"
    BAD = "bad"


def judge(response: ChunkResponse, speech_s: float, *, is_speech_sure: bool) -> Verdict:
    """Judge a response by its end, its repetitions and its length.

    Args:
        response: what the model wrote.
        speech_s: the most seconds of speech that the chunk can hold.
        is_speech_sure: whether a model found that much speech, so that little text is suspicious.
    """
    tokens = words_of(response.text)
    if not response.is_finished or len(tokens) > _SPARE_TOKENS + _MAX_TOKENS_PER_S * speech_s:
        return Verdict.BAD
    n_repeated = _count_repeated(tokens)
    if n_repeated >= _MIN_LOOP_TOKENS:
        return Verdict.DOUBTFUL if n_repeated <= _MAX_REPEATS_PER_S * speech_s else Verdict.BAD
    is_short = speech_s >= _MIN_LONG_SPEECH_S and len(tokens) < _MIN_TOKENS_PER_S * speech_s
    return Verdict.DOUBTFUL if is_short and is_speech_sure else Verdict.GOOD


def is_echo(text: str, hotwords: Sequence[str]) -> bool:
    """Return whether a text is nothing but hotwords, so that the model may have copied its prompt."""
    known = {token for hotword in hotwords for token in words_of(hotword)}
    tokens = words_of(text)
    return bool(tokens) and all(token in known for token in tokens)


def choose_response(echoed: ChunkResponse, plain: ChunkResponse) -> ChunkResponse:
    """Return one of two responses for a chunk: the one that may be an echo, or the one without hotwords.

    It is the former where both are about as long: then the hotwords helped to spell what was said.
    """
    n_echoed, n_plain = (len(words_of(response.text)) for response in (echoed, plain))
    return echoed if 2 * n_plain >= n_echoed else plain


def _count_repeated(tokens: Sequence[str]) -> int:
    """Return the length of the longest stretch that is one word, or one group of words, over and over."""
    longest = 0
    for unit in range(1, min(_MAX_LOOP_UNIT, len(tokens) // 2) + 1):
        run = 0
        for before, after in zip(tokens, tokens[unit:], strict=False):
            run = run + 1 if before == after else 0
            # The same word twice is not a loop.
            if run >= 2 * unit:
                longest = max(longest, run + unit)
    return longest
