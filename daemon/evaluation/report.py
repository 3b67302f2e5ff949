"""The result of an evaluation: figures of each arm, comparisons, and where the errors are. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from daemon.evaluation.bootstrap import (
    LEVEL,
    MIN_TO_DECIDE,
    N_RESAMPLES,
    SEED,
    Interval,
    difference_interval,
    rate_interval,
)
from daemon.evaluation.calibration import Fit, fit_curve
from daemon.evaluation.hotwords import propose_hotwords
from daemon.evaluation.normalization import NORMALIZATIONS
from daemon.evaluation.scoring import add, count_confusions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from daemon.evaluation.scoring import Counts, Score
    from daemon.transcript import ModelIdentity

SCHEMA: Final = "scribed.eval/1"
_MAX_LISTED: Final = 20
_DIGITS: Final = 4

VERDICTS: Final = {
    "better": "better; more than chance",
    "worse": "worse; more than chance",
    "chance": "the difference may be chance",
    "too few": f"too few recordings to decide (at least {MIN_TO_DECIDE})",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """An arm against the first one: its WER minus that of the first arm, in all recordings together.

    Attributes:
        level: of the interval; above 0.95 where several arms are compared, so that all hold together (Bonferroni).
        verdict: a key of VERDICTS.
    """

    wer: float
    interval: Interval
    level: float
    verdict: str


@dataclass(frozen=True, slots=True)
class Arm:
    """All recordings under one configuration.

    Attributes:
        name: "as configured", or the change such as "preprocess.highpass_hz=0".
        total: sums over the recordings.
        interval: of the WER, over recordings; over blocks of words where there is only one.
        difference: to the first arm; None for that one itself.
    """

    name: str
    model: ModelIdentity
    scores: tuple[Score, ...]
    total: Counts
    interval: Interval | None
    difference: Difference | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is shown.

    Attributes:
        normalization: a key of NORMALIZATIONS.
        arms: the first is the configuration as it is.
        confusions: (word of the reference, word of the transcript, times) of the first arm, most frequent first.
        hotwords: proposals: (word, times missed, times spoken).
        calibration: of the confidence in the words of the first arm.
        failures: (recording, reason) of those that are in no figure.
    """

    normalization: str
    arms: tuple[Arm, ...]
    confusions: tuple[tuple[str, str, int], ...]
    hotwords: tuple[tuple[str, int, int], ...]
    calibration: Fit
    failures: tuple[tuple[str, str], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the report in the schema `scribed.eval/1`; rates are shares, 1 = 100 %."""
        return {
            "schema": SCHEMA,
            "normalization": {"name": self.normalization, "description": NORMALIZATIONS[self.normalization]},
            "bootstrap": {"resamples": N_RESAMPLES, "seed": SEED, "level": LEVEL},
            "arms": [_arm(arm) for arm in self.arms],
            "confusions": [
                {"reference": wanted or None, "transcript": got or None, "n": n} for wanted, got, n in self.confusions
            ],
            "hotwords": [{"word": word, "n_missed": n, "n_spoken": n_all} for word, n, n_all in self.hotwords],
            "calibration": _calibration(self.calibration),
            "failed": [{"name": name, "reason": reason} for name, reason in self.failures],
        }


def make_report(
    arms: Sequence[tuple[str, ModelIdentity, Sequence[Score]]],
    failures: Mapping[str, str],
    normalization: str,
    hotwords: Sequence[str],
) -> Report:
    """Sum up, compare and list.

    Args:
        arms: (name, model, scores) of each; all have the same recordings in the same order.
        failures: reason by the name of the recording.
        normalization: a key of NORMALIZATIONS.
        hotwords: those of the configuration.
    """
    first = arms[0][2]
    level = 1 - (1 - LEVEL) / max(1, len(arms) - 1)
    confusions = sorted(count_confusions(first).items(), key=lambda item: (-item[1], item[0]))
    return Report(
        normalization,
        tuple(
            _sum_up(name, model, scores, compare(first, scores, level) if at else None)
            for at, (name, model, scores) in enumerate(arms)
        ),
        tuple((wanted, got, n) for (wanted, got), n in confusions[:_MAX_LISTED]),
        tuple(propose_hotwords(first, hotwords)),
        fit_curve(first),
        tuple(failures.items()),
    )


def compare(first: Sequence[Score], other: Sequence[Score], level: float) -> Difference | None:
    """Compare two arms over the same recordings, None where that says nothing: one recording, or no words."""
    errors, other_errors = ([one.counts.n_errors for one in scores] for scores in (first, other))
    words = [one.counts.n_words for one in first]
    interval = difference_interval(errors, other_errors, words, level=level)
    if interval is None or not sum(words):
        return None
    if len(words) < MIN_TO_DECIDE:
        verdict = "too few"
    elif interval.high < 0:
        verdict = "better"
    else:
        verdict = "worse" if interval.low > 0 else "chance"
    return Difference((sum(other_errors) - sum(errors)) / sum(words), interval, level, verdict)


def _sum_up(name: str, model: ModelIdentity, scores: Sequence[Score], difference: Difference | None) -> Arm:
    counts = [one.counts for one in scores]
    interval = rate_interval([one.n_errors for one in counts], [one.n_words for one in counts])
    if len(scores) == 1:
        interval = scores[0].interval
    return Arm(name, model, tuple(scores), add(counts), interval, difference)


def _arm(arm: Arm) -> dict[str, Any]:
    difference = arm.difference
    return {
        "name": arm.name,
        "model": asdict(arm.model),
        "total": _figures(arm.total, arm.interval),
        "difference": None
        if difference is None
        else {
            "wer": _round(difference.wer),
            **_interval(difference.interval),
            "level": difference.level,
            "verdict": difference.verdict,
        },
        "recordings": [{"name": one.name, **_figures(one.counts, one.interval)} for one in arm.scores],
    }


def _calibration(fit: Fit) -> dict[str, Any]:
    return {
        "reason": fit.reason,
        "curve": None if fit.curve is None else asdict(fit.curve),
        "n_words": fit.n_words,
        "n_wrong": fit.n_wrong,
        "n_recordings": fit.n_recordings,
        "error": _round(fit.error),
        "calibrated_error": _round(fit.calibrated_error),
        "bins": [
            {"n_words": one.n_words, "confidence": _round(one.confidence), "right": _round(one.right)}
            for one in fit.bins
        ],
    }


def _figures(counts: Counts, interval: Interval | None) -> dict[str, Any]:
    return {"wer": _round(counts.wer), **_interval(interval), "cer": _round(counts.cer), **asdict(counts)}


def _interval(interval: Interval | None) -> dict[str, float | None]:
    return {"low": _round(interval.low if interval else None), "high": _round(interval.high if interval else None)}


def _round(rate: float | None) -> float | None:
    return None if rate is None else round(rate, _DIGITS)
