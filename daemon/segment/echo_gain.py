"""Echoes are lowered in what the model hears: between two sentences of a chunk it would write them down."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final

import numpy as np

from daemon.decode import SAMPLE_RATE_HZ
from daemon.segment.chunking import Span

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

_GAIN: Final = 0.01  # -40 dB
_FADE: Final = SAMPLE_RATE_HZ // 50  # 20 ms, inside the echo
_AROUND: Final = SAMPLE_RATE_HZ // 4  # an echo begins and ends more softly than speech is detected


def find_echoes(found: Sequence[Span], kept: Sequence[Span], n_samples: int) -> tuple[Span, ...]:
    """Return where there are echoes only: speech that is not kept, with 250 ms around it, without speech that is.

    Args:
        found: all speech that was detected, echoes included, in order and without overlaps.
        kept: the parts of it that are no echo.
        n_samples: length of the recording.

    Returns:
        spans in order, without overlaps.
    """
    echoes = _subtract(found, kept)
    wide = (Span(max(0, echo.start - _AROUND), min(n_samples, echo.stop + _AROUND)) for echo in echoes)
    return tuple(_subtract(_join(wide), kept))


def lower_echoes(samples: NDArray[np.float32], start: int, echoes: Sequence[Span]) -> None:
    """Lower echoes by 40 dB, in place.

    Args:
        samples: of a recording, shape (n_samples,).
        start: where they begin in it.
        echoes: spans of the recording, in order and without overlaps.
    """
    stop = start + len(samples)
    for echo in _touching(echoes, start, stop):
        first, last = max(echo.start, start), min(echo.stop, stop)
        at = np.arange(first, last)
        depth = np.minimum(np.minimum(at - echo.start, echo.stop - at) / _FADE, 1)
        samples[first - start : last - start] *= (1 - (1 - _GAIN) * depth).astype(np.float32)


def _subtract(spans: Sequence[Span], others: Sequence[Span]) -> Iterator[Span]:
    """Yield the parts of spans that lie in none of the others; both in order and without overlaps."""
    for span in spans:
        start = span.start
        for other in _touching(others, span.start, span.stop):
            if start < other.start:
                yield Span(start, other.start)
            start = other.stop
        if start < span.stop:
            yield Span(start, span.stop)


def _touching(spans: Sequence[Span], start: int, stop: int) -> Sequence[Span]:
    """Return the spans, of many in order, that have samples in [start, stop)."""
    first = bisect_right(spans, start, key=lambda span: span.stop)
    return spans[first : bisect_left(spans, stop, key=lambda span: span.start)]


def _join(spans: Iterator[Span]) -> list[Span]:
    """Return spans, in the order of their starts, with those that touch made one."""
    joined: list[Span] = []
    for span in spans:
        if joined and span.start <= joined[-1].stop:
            joined[-1] = Span(joined[-1].start, max(joined[-1].stop, span.stop))
        else:
            joined.append(span)
    return joined
