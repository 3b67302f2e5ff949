"""What the model's confidence in a word is worth: a curve from confidence to the share of such words that are right.

Beta calibration (M. Kull, T. Silva Filho and P. Flach, "Beta calibration", AISTATS 2017) with a prior that leaves the
confidence as it is, so that few words move it little. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from daemon.evaluation.scoring import Score

MIN_WORDS: Final = 100
MIN_WRONG: Final = 5
_MAX_WRONG: Final = 0.5  # share; with more, texts and recordings rather do not belong together
_IDENTITY: Final = (1.0, 1.0, 0.0)
_NEAREST: Final = 1e-6  # to 0 and 1, where the logarithms end
_N_FOLDS: Final = 10
_MIN_FOLDS: Final = 5  # fewer recordings are divided into blocks of words
_N_BINS: Final = 10
_MAX_STEPS: Final = 100
_SMALLEST_STEP: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Curve:
    """p becomes 1 / (1 + exp(-(a ln p - b ln(1 - p) + c))); it never falls, since a and b are 0 or more."""

    a: float
    b: float
    c: float

    def at(self, confidence: float) -> float:
        """Return the share of the words with this confidence that are right, both 0 to 1."""
        return float(_predict(np.asarray((self.a, self.b, self.c)), _features(np.asarray([confidence])))[0])


@dataclass(frozen=True, slots=True)
class Bin:
    """Words of similar confidence: how many, the mean of their confidence, and the share that is right."""

    n_words: int
    confidence: float
    right: float


@dataclass(frozen=True, slots=True)
class Fit:
    """A curve and what it brings.

    Attributes:
        curve: fitted to all words; None where it is not to be used.
        reason: why there is none, a sentence; None where there is one.
        n_words: words of the transcripts with a confidence.
        n_wrong: those that the reference does not have at this place.
        n_recordings: that they come from.
        error: mean distance between the confidence and the share of right words, 0 to 1.
        calibrated_error: the same with the curve, each word by a curve that was fitted without its recording.
        bins: ten groups of equal size by confidence, the lowest first.
    """

    curve: Curve | None
    reason: str | None
    n_words: int
    n_wrong: int
    n_recordings: int
    error: float | None = None
    calibrated_error: float | None = None
    bins: tuple[Bin, ...] = ()


def fit_curve(scores: Sequence[Score]) -> Fit:
    """Fit the confidence of the words of some recordings to whether they are right.

    The curve is offered only if it also helps with words that it was not fitted to.
    """
    units = [
        [(column.confidence, column.is_right) for column in one.columns if column.confidence is not None]
        for one in scores
    ]
    units = [unit for unit in units if unit]
    pairs = np.asarray([pair for unit in units for pair in unit], np.float64).reshape(-1, 2)
    confidence, is_right = pairs[:, 0], pairs[:, 1]
    n_words, n_wrong = len(pairs), int((1 - is_right).sum())
    if n_words < MIN_WORDS or n_wrong < MIN_WRONG:
        few = f"{n_words} words, {n_wrong} of them wrong, are too few (at least {MIN_WORDS} and {MIN_WRONG})"
        return Fit(None, few, n_words, n_wrong, len(units))
    if n_wrong > _MAX_WRONG * n_words:
        many = f"{n_wrong} of {n_words} words are wrong, so a text may be incomplete or belong to another recording"
        return Fit(None, many, n_words, n_wrong, len(units))
    features = _features(confidence)
    folds = _folds([len(unit) for unit in units])
    unseen = np.empty(n_words)
    for fold in range(folds.max() + 1):
        held_out = folds == fold
        unseen[held_out] = _predict(_fit(features[~held_out], is_right[~held_out]), features[held_out])
    before, after = _loss(confidence, is_right), _loss(unseen, is_right)
    curve = Curve(*map(float, _fit(features, is_right)))
    return Fit(
        curve if after < before else None,
        None if after < before else "a curve does not help with words that it was not fitted to",
        n_words,
        n_wrong,
        len(units),
        _distance(_bins(confidence, is_right)),
        _distance(_bins(unseen, is_right)),
        _bins(confidence, is_right),
    )


def _folds(sizes: Sequence[int]) -> NDArray[np.int64]:
    """Return a number for each word; those with the same one are held out together: recordings, or blocks of words."""
    n_words = sum(sizes)
    if len(sizes) < _MIN_FOLDS:
        return np.arange(n_words) * _N_FOLDS // n_words
    return np.repeat(np.arange(len(sizes)) % _N_FOLDS, sizes)


def _features(confidence: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ln p, -ln(1 - p) and 1 for each confidence: shape (n_words, 3)."""
    p = np.clip(confidence, _NEAREST, 1 - _NEAREST)
    return np.stack((np.log(p), -np.log1p(-p), np.ones_like(p)), axis=1)


def _predict(weights: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * features @ weights), np.float64)


def _loss(p: NDArray[np.float64], is_right: NDArray[np.float64]) -> float:
    """Return the mean logarithmic loss."""
    p = np.clip(p, _NEAREST, 1 - _NEAREST)
    return float(-np.mean(is_right * np.log(p) + (1 - is_right) * np.log1p(-p)))


def _fit(features: NDArray[np.float64], is_right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a, b and c. A slope that would fall is 0."""
    used = np.array([True, True, True])
    while True:
        weights = _newton(features, is_right, used)
        falling = used & (weights < 0) & np.array([True, True, False])
        if not falling.any():
            return weights
        used[int(np.argmin(np.where(falling, weights, 0.0)))] = False


def _newton(
    features: NDArray[np.float64], is_right: NDArray[np.float64], used: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Minimize the loss plus a standard normal prior around the identity over the weights that are used."""
    identity = np.asarray(_IDENTITY)
    weights = np.where(used, identity, 0.0)
    x, prior = features[:, used], identity[used]

    def cost(some: NDArray[np.float64]) -> float:
        score = x @ some
        return float(np.sum(np.logaddexp(0.0, score) - is_right * score) + 0.5 * np.sum((some - prior) ** 2))

    now = weights[used]
    for _ in range(_MAX_STEPS):
        p = _predict(now, x)
        gradient = x.T @ (p - is_right) + now - prior
        curvature = (x.T * (p * (1 - p))) @ x + np.eye(len(now))
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while cost(now - size * step) > cost(now) and size > _SMALLEST_STEP:
            size /= 2
        now = now - size * step
        if np.abs(size * step).max() < _SMALLEST_STEP:
            break
    weights[used] = now
    return weights


def _bins(p: NDArray[np.float64], is_right: NDArray[np.float64]) -> tuple[Bin, ...]:
    order = np.argsort(p, kind="stable")
    return tuple(
        Bin(len(some), float(p[some].mean()), float(is_right[some].mean()))
        for some in np.array_split(order, _N_BINS)
        if len(some)
    )


def _distance(bins: Sequence[Bin]) -> float:
    n_words = sum(one.n_words for one in bins)
    return sum(one.n_words * abs(one.confidence - one.right) for one in bins) / n_words
