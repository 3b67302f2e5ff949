"""What a microphone picks up of a voice that has its own: heard in two streams, written once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import accumulate, combinations, pairwise
from typing import TYPE_CHECKING, Final

from daemon.decode import SAMPLE_RATE_HZ
from daemon.pipeline.confidence import score_segment
from daemon.text import bare, tokens_of, weigh

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from daemon.decode import Waveform
    from daemon.transcript import Segment

_MIN_WORDS: Final = 3  # fewer are what people say by chance at the same time
# Without word timestamps the place of a word is estimated from the text before it, which is off by seconds.
_MAX_OFF_S: Final = 3.0
_MAX_OFF_KNOWN_S: Final = 0.5
# Between a talker's own microphone and the next one. Two who say the same at the same time are about equally loud.
_MIN_LOUDER: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Spoken:
    """The words of a segment: as they are compared, and when each is said; `is_exact` if that is known."""

    keys: list[str]
    times_s: list[tuple[float, float]]
    is_exact: bool


def keep_once(streams: Sequence[Sequence[Segment]], waveforms: Sequence[Waveform]) -> list[tuple[Segment, ...]]:
    """Return the segments of each stream without words that are heard louder, at the same time, in another.

    Args:
        streams: the segments of each stream, in order of time.
        waveforms: the audio of each.
    """
    dropped: dict[tuple[int, int], set[int]] = {}
    spoken = [[_locate(segment) for segment in segments] for segments in streams]
    for one, other in combinations(range(len(streams)), 2):
        for at, beside in _list_pairs(streams[one], streams[other]):
            for first, second, n_words in _find_common(spoken[one][at], spoken[other][beside]):
                runs = ((one, at, range(first, first + n_words)), (other, beside, range(second, second + n_words)))
                quiet = _find_quieter(runs, spoken, waveforms)
                if quiet is not None:
                    stream, index, words = runs[quiet]
                    dropped.setdefault((stream, index), set()).update(words)
    return [
        tuple(
            kept
            for index, segment in enumerate(segments)
            if (kept := _without(segment, dropped.get((stream, index), set()))) is not None
        )
        for stream, segments in enumerate(streams)
    ]


def _locate(segment: Segment) -> _Spoken:
    """Return the words of a segment with their times: the known ones, or estimated by their length."""
    tokens = tokens_of(segment.text)
    known = [
        (word.start_s, word.end_s) for word in segment.words if word.start_s is not None and word.end_s is not None
    ]
    keys = [bare(token) for token in tokens]
    if len(known) == len(tokens):
        return _Spoken(keys, known, is_exact=True)
    ends = list(accumulate((weigh(token) + 0.5 for token in tokens), initial=0.0))
    scale = (segment.end_s - segment.start_s) / ends[-1] if tokens else 0.0
    times = [segment.start_s + end * scale for end in ends]
    return _Spoken(keys, list(pairwise(times)), is_exact=False)


def _list_pairs(one: Sequence[Segment], other: Sequence[Segment]) -> Iterable[tuple[int, int]]:
    """Yield the indices of segments that may share words: they overlap, or nearly so."""
    first = 0
    for at, segment in enumerate(one):
        while first < len(other) and other[first].end_s < segment.start_s - _MAX_OFF_S:
            first += 1
        for beside in range(first, len(other)):
            if other[beside].start_s > segment.end_s + _MAX_OFF_S:
                break
            yield at, beside


def _find_common(one: _Spoken, other: _Spoken) -> Iterable[tuple[int, int, int]]:
    """Yield (first word in one, first word in the other, how many) of runs that both say at the same time."""
    limit_s = _MAX_OFF_KNOWN_S if one.is_exact and other.is_exact else _MAX_OFF_S
    for block in SequenceMatcher(a=one.keys, b=other.keys, autojunk=False).get_matching_blocks():
        if block.size < _MIN_WORDS:
            continue
        middle, last = block.size // 2, block.size - 1
        off_s = [abs(one.times_s[block.a + at][0] - other.times_s[block.b + at][0]) for at in (0, middle, last)]
        if sorted(off_s)[1] <= limit_s:
            yield block.a, block.b, block.size


def _find_quieter(
    runs: Sequence[tuple[int, int, range]], spoken: Sequence[Sequence[_Spoken]], waveforms: Sequence[Waveform]
) -> int | None:
    """Return which of two runs comes from the voice of the other: 0 or 1, or None where neither does."""
    ratios = []
    for stream, index, words in runs:
        times = spoken[stream][index].times_s
        bounds = round(times[words[0]][0] * SAMPLE_RATE_HZ), round(times[words[-1]][1] * SAMPLE_RATE_HZ)
        levels = [waveforms[each].level(*bounds) for each, _, _ in runs]
        ratios.append(levels[0] / max(levels[1], 1e-9))
    if min(ratios) >= _MIN_LOUDER:
        return 1
    return 0 if max(ratios) <= 1 / _MIN_LOUDER else None


def _without(segment: Segment, words: set[int]) -> Segment | None:
    """Return a segment without some of its words; None if nothing is left."""
    if not words:
        return segment
    tokens = tokens_of(segment.text)
    kept = [at for at in range(len(tokens)) if at not in words]
    if not any(bare(tokens[at]).isalnum() for at in kept):
        return None
    has_words = len(segment.words) == len(tokens)
    scores = tuple(segment.words[at] for at in kept) if has_words else ()
    times = _locate(segment).times_s
    return replace(
        segment,
        start_s=times[kept[0]][0] if kept[0] else segment.start_s,
        end_s=times[kept[-1]][1] if kept[-1] < len(tokens) - 1 else segment.end_s,
        text="".join(tokens[at] for at in kept).strip(),
        words=scores,
        confidence=score_segment(scores) if has_words else segment.confidence,
    )
