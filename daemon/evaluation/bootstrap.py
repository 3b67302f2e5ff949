"""What is chance: bootstrap intervals of error rates and of their differences.

Errors of one recording depend on one another, so whole recordings are drawn (M. Bisani and H. Ney, "Bootstrap estimates
for confidence intervals in ASR performance evaluation", ICASSP 2004). The percentile method, 10,000 resamples, and a
fixed seed: the same counts give the same interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

SEED: Final = 1
N_RESAMPLES: Final = 10_000
LEVEL: Final = 0.95
# With five recordings, a change that does nothing still points the same way in all of them once in sixteen times.
MIN_TO_DECIDE: Final = 6
_BATCH: Final = 500  # resamples at once, so that thousands of blocks take little memory


@dataclass(frozen=True, slots=True)
class Interval:
    """Lower and upper bound of a rate or a difference of rates, 1 = 100 %."""

    low: float
    high: float


def rate_interval(n_errors: Sequence[int], n_words: Sequence[int]) -> Interval | None:
    """Return the interval of the error rate over units that are drawn with replacement.

    Args:
        n_errors: of each unit (a recording, or a block of words).
        n_words: reference words of each unit, the same length.

    Returns:
        None where there are fewer than two units, or where no words were drawn.
    """
    counts = np.asarray([n_errors, n_words], np.float64)
    if counts.shape[1] < 2:  # noqa: PLR2004  # one unit alone has no spread
        return None
    rates = np.concatenate([_rates(drawn @ counts[0], drawn @ counts[1]) for drawn in _draw(counts.shape[1])])
    return _bounds(rates, LEVEL)


def difference_interval(
    n_errors: Sequence[int], other_errors: Sequence[int], n_words: Sequence[int], *, level: float
) -> Interval | None:
    """Return the interval of (other rate - rate) over recordings that are drawn in pairs."""
    counts = np.asarray([n_errors, other_errors, n_words], np.float64)
    if counts.shape[1] < 2:  # noqa: PLR2004  # one unit alone has no spread
        return None
    rates = [_rates(drawn @ (counts[1] - counts[0]), drawn @ counts[2]) for drawn in _draw(counts.shape[1])]
    return _bounds(np.concatenate(rates), level)


def _draw(n_units: int) -> Iterator[NDArray[np.float64]]:
    """Yield how often each unit is drawn in each resample, shape (_BATCH, n_units)."""
    generator = np.random.default_rng(SEED)
    for _ in range(N_RESAMPLES // _BATCH):
        yield generator.multinomial(n_units, np.full(n_units, 1 / n_units), size=_BATCH).astype(np.float64)


def _rates(n_errors: NDArray[np.float64], n_words: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rates of the resamples that have words."""
    has_words = n_words > 0
    return np.asarray(n_errors[has_words] / n_words[has_words], np.float64)


def _bounds(rates: NDArray[np.float64], level: float) -> Interval | None:
    if not len(rates):
        return None
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
