"""Segments cut where a pause of speech and the end of a sentence meet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final

from daemon.pipeline.confidence import score_segment
from daemon.text import is_tight, split_sentences, tokens_of, weigh

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from daemon.transcript import Segment, Word

# A shorter silence is within a sentence more often than after one.
_MIN_PAUSE_S: Final = 0.3
# Without word timestamps, the place of a sentence end is estimated from the text before it. The standard
# deviation of that estimate: of its ends, and of what the speed of speech adds for each second to the
# nearer end of the segment (that of a random walk which is fixed at both ends).
_EDGE_S: Final = 0.3
_WALK_S: Final = 0.35
_MAX_DEVIATIONS: Final = 1.5
_PAUSE_GAIN: Final = 2.0  # for each second of pause: a sentence ends at the longer one of two
_MAX_GAIN_S: Final = 1.5


def cut_at_pauses(segment: Segment, speech: Sequence[tuple[float, float]]) -> tuple[Segment, ...]:
    """Cut a segment at the pauses of speech where its sentences end.

    The times of the parts are those of the pauses. Which pause belongs to which sentence end is known from the
    word timestamps; without them it is chosen by the length of the text, and an end with no pause
    near it is not cut. A cut never changes a word or the spacing.

    Args:
        segment: whose time spans the speech.
        speech: (start, end) in seconds of each stretch of speech within the segment, in order.
    """
    ends = _sentence_ends(segment.text)
    pauses = [(stop, start) for (_, stop), (start, _) in pairwise(speech) if start - stop >= _MIN_PAUSE_S]
    if not ends or not pauses:
        return (segment,)
    total_s = sum(stop - start for start, stop in speech)
    guesses = [_guess(end, segment, speech, total_s) for end in ends]
    matches = _match(guesses, pauses)
    cuts = [(ends[at].n_tokens, pauses[pause]) for at, pause in matches]
    return tuple(_parts(segment, cuts))


@dataclass(frozen=True, slots=True)
class _End:
    """A sentence end within a text: the tokens before it, and how much of what is said, 0 to 1."""

    n_tokens: int
    share: float


@dataclass(frozen=True, slots=True)
class _Guess:
    """When a sentence ends, in seconds, and the standard deviation of that."""

    at_s: float
    deviation_s: float


def _sentence_ends(text: str) -> list[_End]:
    """Return the ends of all sentences but the last where a cut leaves the spacing as it is."""
    sentences = split_sentences(text)
    counts = accumulate(len(tokens_of(sentence)) for sentence in sentences)
    weights = list(accumulate(weigh(sentence) for sentence in sentences))
    return [
        _End(count, weight / (weights[-1] or 1.0))
        for (before, after), count, weight in zip(pairwise(sentences), counts, weights, strict=False)
        if after[0] == " " or is_tight(before, after)
    ]


def _guess(end: _End, segment: Segment, speech: Sequence[tuple[float, float]], total_s: float) -> _Guess:
    words = segment.words
    if end.n_tokens <= len(words) and (known_s := words[end.n_tokens - 1].end_s) is not None:
        return _Guess(known_s, _EDGE_S)
    said_s = end.share * total_s
    deviation_s = _EDGE_S + _WALK_S * (said_s * (total_s - said_s) / (total_s or 1.0)) ** 0.5
    left_s = said_s
    for start, stop in speech:
        if left_s <= stop - start:
            return _Guess(start + left_s, deviation_s)
        left_s -= stop - start
    return _Guess(speech[-1][1], deviation_s)


def _match(guesses: Sequence[_Guess], pauses: Sequence[tuple[float, float]]) -> list[tuple[int, int]]:
    """Return (sentence end, pause) pairs in order with the highest sum of gains (dynamic programming)."""
    best: list[list[float]] = [[0.0] * (len(pauses) + 1) for _ in range(len(guesses) + 1)]
    for row, guess in enumerate(guesses, 1):
        for column, pause in enumerate(pauses, 1):
            paired = best[row - 1][column - 1] + _gain(guess, pause)
            best[row][column] = max(best[row - 1][column], best[row][column - 1], paired)
    pairs, row, column = [], len(guesses), len(pauses)
    while row and column:
        if best[row][column] == best[row - 1][column]:
            row -= 1
        elif best[row][column] == best[row][column - 1]:
            column -= 1
        else:
            row, column = row - 1, column - 1
            pairs.append((row, column))
    return pairs[::-1]


def _gain(guess: _Guess, pause: tuple[float, float]) -> float:
    """Return how well a pause fits a sentence end; below 0 for one that is too far away."""
    off_s = max(pause[0] - guess.at_s, guess.at_s - pause[1], 0.0)
    if off_s > _MAX_DEVIATIONS * guess.deviation_s:
        return -1.0
    return (
        _PAUSE_GAIN * min(pause[1] - pause[0], _MAX_GAIN_S) + _MAX_DEVIATIONS - 0.5 * (off_s / guess.deviation_s) ** 2
    )


def _parts(segment: Segment, cuts: Sequence[tuple[int, tuple[float, float]]]) -> Iterator[Segment]:
    tokens = tokens_of(segment.text)
    firsts = [0, *(count for count, _ in cuts), len(tokens)]
    starts = [segment.start_s, *(start for _, (_, start) in cuts)]
    stops = [*(stop for _, (stop, _) in cuts), segment.end_s]
    for index, (first, last) in enumerate(pairwise(firsts)):
        words: tuple[Word, ...] = segment.words[first:last]
        yield replace(
            segment,
            start_s=starts[index],
            end_s=stops[index],
            text="".join(tokens[first:last]).strip(),
            # Words were merged at its start.
            flags=segment.flags if index == 0 else tuple(flag for flag in segment.flags if flag != "overlap"),
            words=words,
            confidence=score_segment(words),
        )
