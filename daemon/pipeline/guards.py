"""Whether a text can be what was said: loops, texts too long or too short for their speech, echoed hotwords."""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.engine.protocol import ChunkResponse

# The original library folds away what stands there twenty times (qwen_asr/inference/utils.py). Fewer are
# what people say ("no, no, no") or how laughter is written.
_MIN_LOOP_TOKENS: Final = 20
_MAX_LOOP_UNIT: Final = 16
# Faster than this nobody repeats himself.
_MAX_REPEATS_PER_S: Final = 5.0
# Fast speech is about 8 syllables a second; an auctioneer says some 6 words. What is beyond is no speech.
_MAX_TOKENS_PER_S: Final = 12.0
_SPARE_TOKENS: Final = 8  # numbers written out, in a very short piece
# Slow dictation is about one word a second.
_MIN_TOKENS_PER_S: Final = 0.25
_MIN_LONG_SPEECH_S: Final = 8.0

# A word, or a letter of a script without spaces between words (Han, kana, Thai).
_UNSPACED: Final = "\u0e00-\u0e7f\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002ebef"
_TOKEN: Final = re.compile(f"[{_UNSPACED}]|[^\\W_{_UNSPACED}]+")


class Verdict(Enum):
    """What is to become of a text.

    GOOD: it can be what was said.
    DOUBTFUL: smaller pieces may tell more; where there are none, it stands.
    BAD: it is not what was said.
    """

    GOOD = "good"
    DOUBTFUL = "doubtful"
    BAD = "bad"


def judge(answer: ChunkResponse, speech_s: float, *, is_speech_sure: bool) -> Verdict:
    """Judge an answer by its end, its repetitions and its length.

    Args:
        answer: what the model wrote.
        speech_s: the most seconds of speech that the piece can hold.
        is_speech_sure: whether that much was found to be speech, so that little text is odd.
    """
    tokens = _TOKEN.findall(answer.text.casefold())
    if not answer.is_finished or len(tokens) > _SPARE_TOKENS + _MAX_TOKENS_PER_S * speech_s:
        return Verdict.BAD
    n_repeated = _count_repeated(tokens)
    if n_repeated >= _MIN_LOOP_TOKENS:
        return Verdict.DOUBTFUL if n_repeated <= _MAX_REPEATS_PER_S * speech_s else Verdict.BAD
    is_short = speech_s >= _MIN_LONG_SPEECH_S and len(tokens) < _MIN_TOKENS_PER_S * speech_s
    return Verdict.DOUBTFUL if is_short and is_speech_sure else Verdict.GOOD


def is_echo(text: str, hotwords: Sequence[str]) -> bool:
    """Whether a text holds nothing but hotwords, so that the model may have read them aloud to itself."""
    known = {token for hotword in hotwords for token in _TOKEN.findall(hotword.casefold())}
    tokens = _TOKEN.findall(text.casefold())
    return bool(tokens) and all(token in known for token in tokens)


def settle_echo(echoed: ChunkResponse, plain: ChunkResponse) -> ChunkResponse:
    """Return which of two answers to a piece stands: the one that may be an echo, or that without hotwords.

    The echo stands where about as much was said: then the hotwords have helped to spell it.
    """
    n_echoed, n_plain = (len(_TOKEN.findall(answer.text)) for answer in (echoed, plain))
    return echoed if 2 * n_plain >= n_echoed else plain


def _count_repeated(tokens: Sequence[str]) -> int:
    """Return the length of the longest stretch that is one word, or one group of words, over and over."""
    longest = 0
    for unit in range(1, min(_MAX_LOOP_UNIT, len(tokens) // 2) + 1):
        run = 0
        for before, after in zip(tokens, tokens[unit:], strict=False):
            run = run + 1 if before == after else 0
            # Twice the same is no loop.
            if run >= 2 * unit:
                longest = max(longest, run + unit)
    return longest
