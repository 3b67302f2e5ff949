"""The model's confidence in each word of a segment, from that in each token of the chunks it comes from."""

from __future__ import annotations

import math
from dataclasses import replace
from difflib import SequenceMatcher
from itertools import accumulate
from typing import TYPE_CHECKING

from daemon.text import tokens_of
from daemon.transcript import Word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.engine import TextToken
    from daemon.evaluation import Curve
    from daemon.transcript import Segment


def score_words(text: str, tokens: Sequence[TextToken]) -> tuple[Word, ...]:
    """Return the words of a text with the probability that the model gave to each.

    Args:
        text: of a segment; where chunks overlap, some of its words may come from another chunk.
        tokens: of the chunk's response, and of the next one's if the two were merged.

    Returns:
        Every word in order; the confidence is None for a word that no token wrote. () without tokens.
    """
    if not tokens:
        return ()
    words = [word.strip() for word in tokens_of(text)]
    written = _word_probabilities(tokens)
    scores: list[float | None] = [None] * len(words)
    matcher = SequenceMatcher(a=[word for word, _ in written], b=words, autojunk=False)
    for block in matcher.get_matching_blocks():
        for offset in range(block.size):
            scores[block.b + offset] = written[block.a + offset][1]
    return tuple(Word(word, confidence=score) for word, score in zip(words, scores, strict=True))


def score_segment(words: Sequence[Word]) -> float | None:
    """Return the geometric mean of the confidence in the words; None if no word has one."""
    scores = [word.confidence for word in words if word.confidence is not None]
    if not scores:
        return None
    return math.exp(sum(math.log(max(score, math.ulp(0.0))) for score in scores) / len(scores))


def calibrate(segments: Sequence[Segment], curve: Curve) -> tuple[Segment, ...]:
    """Return the segments with the share of words that are right in place of the model's own confidence."""
    calibrated = []
    for segment in segments:
        words = tuple(
            word if word.confidence is None else replace(word, confidence=curve.at(word.confidence))
            for word in segment.words
        )
        calibrated.append(replace(segment, words=words, confidence=score_segment(words)))
    return tuple(calibrated)


def _word_probabilities(tokens: Sequence[TextToken]) -> list[tuple[str, float]]:
    """Return each word and the product of the probabilities of the tokens that wrote it."""
    words = tokens_of("".join(token.text for token in tokens))
    ends = list(accumulate(len(token.text) for token in tokens))
    probabilities, index, start = [], 0, 0
    for word in words:
        # A space alone belongs to no word; the token before may end with the one ahead of this word.
        start, stop = start + len(word) - len(word.lstrip()), start + len(word)
        while ends[index] <= start:
            index += 1
        last = index
        while ends[last] < stop:
            last += 1
        logprob = sum(token.logprob for token in tokens[index : last + 1])
        probabilities.append((word.strip(), math.exp(logprob)))
        start = stop
    return probabilities
