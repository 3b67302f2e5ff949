"""Speech to chunks: pure functions on sample positions at 16 kHz."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from daemon.decode import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NEW_CHUNK_PAUSE_S: Final = 2.0  # silence this long inside a chunk costs time, and makes models invent text
_MIN_CHUNK_S: Final = 1.0  # for less than about 0.5 s the model returns nothing
_MIN_SPLIT_S: Final = 2.0
_DEFAULT_OVERLAP_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Span:
    """The samples [start, stop)."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """One model input, in samples.

    Attributes:
        start: the model hears [start, stop).
        stop: see start.
        own_start: [own_start, own_stop) is the chunk's own part: every sample of speech lies in the
            own part of exactly one chunk.
        own_stop: see own_start.
        is_joined: there was no pause between it and its predecessor: they overlap, and their texts
            are to be merged.
    """

    start: int
    stop: int
    own_start: int
    own_stop: int
    is_joined: bool = False


def cut(speech: Sequence[Span], n_samples: int, max_chunk_s: float, overlap_s: float) -> tuple[Chunk, ...]:
    """Cut speech into chunks, at pauses wherever there are any.

    A chunk ends at a pause of 2 s or more. Where the limit comes first, it ends at the longest
    pause in the last third of the limit, else at the last pause. Speech without a pause that is
    longer than the limit is cut into equal parts, each overlapping the one before.

    Args:
        speech: in order, without overlaps.
        n_samples: length of the recording.
        max_chunk_s: no chunk is longer, in seconds.
        overlap_s: overlap where there is no pause, in seconds; at most a third of max_chunk_s is
            used, so that a chunk overlaps its neighbours only.

    Returns:
        chunks in order. Very short ones are widened to 1 s where there is audio around them that
        belongs to no other chunk.
    """
    limit = int(max_chunk_s * SAMPLE_RATE_HZ)
    overlap = min(int(overlap_s * SAMPLE_RATE_HZ), limit // 3)
    parts = [part for span in speech for part in _parts(span, limit, overlap)]
    chunks: list[Chunk] = []
    first = 0
    while first < len(parts):
        last = _last_of_chunk(parts, first, limit)
        chunks.append(replace(parts[first], stop=parts[last].stop, own_stop=parts[last].own_stop))
        first = last + 1
    return tuple(_widened(chunks, n_samples))


def split(chunk: Chunk, speech: Sequence[Span], overlap_s: float = _DEFAULT_OVERLAP_S) -> tuple[Chunk, ...]:
    """Split a chunk in two, at the longest pause near its middle.

    Args:
        chunk: the chunk.
        speech: of the whole recording, as passed to `cut`.
        overlap_s: overlap where there is no pause, in seconds; at most a quarter of its own part.

    Returns:
        two smaller chunks that share the own part, or () if it is under 2 s.
    """
    own_length = chunk.own_stop - chunk.own_start
    if own_length < _MIN_SPLIT_S * SAMPLE_RATE_HZ:
        return ()
    middle = (chunk.own_start + chunk.own_stop) // 2
    pauses = [
        Span(before.stop, after.start)
        for before, after in itertools.pairwise(speech)
        if abs(before.stop + after.start - 2 * middle) <= own_length // 2
    ]
    if pauses:
        pause = max(pauses, key=lambda pause: (pause.stop - pause.start, -abs(pause.start + pause.stop - 2 * middle)))
        left = replace(chunk, stop=pause.start, own_stop=pause.start)
        right = Chunk(pause.stop, chunk.stop, pause.stop, chunk.own_stop)
    else:
        half = min(int(overlap_s * SAMPLE_RATE_HZ), own_length // 4) // 2
        left = replace(chunk, stop=middle + half, own_stop=middle)
        right = Chunk(middle - half, chunk.stop, middle, chunk.own_stop, is_joined=True)
    return left, right


def _parts(span: Span, limit: int, overlap: int) -> Iterator[Chunk]:
    """Yield a span whole, or as equal overlapping parts where it is longer than the limit."""
    length = span.stop - span.start
    n_parts = 1 if length <= limit else -(-(length - overlap) // (limit - overlap))
    starts = [span.start + index * (length - overlap) // n_parts for index in range(n_parts)]
    own_starts = [span.start, *(start + overlap // 2 for start in starts[1:])]
    stops = [*(start + overlap for start in starts[1:]), span.stop]
    own_stops = [*own_starts[1:], span.stop]
    for index in range(n_parts):
        yield Chunk(starts[index], stops[index], own_starts[index], own_stops[index], is_joined=index > 0)


def _last_of_chunk(parts: Sequence[Chunk], first: int, limit: int) -> int:
    """Return the index of the last part that goes into one chunk with the first."""
    start = parts[first].start
    last = first
    for index in range(first + 1, len(parts)):
        pause = parts[index].start - parts[index - 1].stop
        if parts[index].is_joined or pause >= _NEW_CHUNK_PAUSE_S * SAMPLE_RATE_HZ:
            return last
        if parts[index].stop - start > limit:
            break
        last = index
    else:
        return last
    late = [index for index in range(first, last + 1) if 3 * (parts[index].stop - start) >= 2 * limit]
    return max(late, key=lambda index: (parts[index + 1].start - parts[index].stop, index), default=last)


def _widened(chunks: Sequence[Chunk], n_samples: int) -> Iterator[Chunk]:
    """Widen very short chunks by audio around them that no other chunk hears."""
    previous_stop = 0
    for index, chunk in enumerate(chunks):
        next_start = chunks[index + 1].start if index + 1 < len(chunks) else n_samples
        missing = max(0, int(_MIN_CHUNK_S * SAMPLE_RATE_HZ) - (chunk.stop - chunk.start))
        room_before = max(0, chunk.start - previous_stop)
        room_after = max(0, next_start - chunk.stop)
        after = min(room_after, max(missing - missing // 2, missing - room_before))
        before = min(room_before, missing - after)
        yield replace(chunk, start=chunk.start - before, stop=chunk.stop + after)
        previous_stop = chunk.stop + after
