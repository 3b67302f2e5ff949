"""The report as one HTML page: no script, nothing loaded from elsewhere, every text escaped. Pure."""

from __future__ import annotations

import base64
import hashlib
from html import escape as escape_html
from itertools import groupby
from typing import TYPE_CHECKING, Final

from daemon.display import escape
from daemon.evaluation.bootstrap import LEVEL, N_RESAMPLES, SEED
from daemon.evaluation.normalization import NORMALIZATIONS
from daemon.evaluation.report import VERDICTS
from daemon.evaluation.scoring import BLOCK_WORDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from daemon.evaluation.bootstrap import Interval
    from daemon.evaluation.calibration import Fit
    from daemon.evaluation.report import Arm, Report
    from daemon.evaluation.scoring import Column, Score

_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 1rem/1.6 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { border-bottom: 1px solid #8886; padding: .3rem .8rem; text-align: right; vertical-align: top; }
th:first-child { text-align: left; overflow-wrap: anywhere; }
[scope=row] { font-weight: normal; }
.wide { overflow-x: auto; }
del { background: #d32f2f33; }
ins { background: #1976d233; }
.text { line-height: 2; overflow-wrap: anywhere; }
.seam { border-bottom: 2px dotted #888; }
"""
_LEGEND: Final = "Struck out: spoken, but not written. Underlined: written, but not spoken. "
_RATES: Final = (
    "WER: substituted, missed and added words for each word that was spoken. CER: the same for characters. "
    "Substituted: another word was written. Missed: nothing was written. Added: nothing was spoken."
)
_SEAM_NOTE: Final = "Dotted: within ten words of a place where two overlapping chunks were merged."


def render_page(report: Report) -> str:
    """Return the page; the policy in its head allows its own style and nothing else."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>Accuracy</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(_parts(report))
        + "\n</main>\n</body>\n</html>\n"
    )


def _parts(report: Report) -> Iterator[str]:
    yield "<h1>Accuracy</h1>"
    yield f"<p>{_e(NORMALIZATIONS[report.normalization])}</p>"
    yield _table(
        (
            "configuration",
            "recordings",
            "words",
            "WER",
            f"{LEVEL:.0%} interval",
            "CER",
            "substituted",
            "missed",
            "added",
        ),
        (_total_row(arm) for arm in report.arms),
    )
    units = "recordings" if len(report.arms[0].scores) > 1 else f"blocks of {BLOCK_WORDS} words"
    yield f"<p>{_RATES}</p>"
    yield f"<p>Intervals: bootstrap over {units}, {N_RESAMPLES} resamples, seed {SEED}.</p>"
    if len(report.arms) > 1:
        yield "<h2>Comparison</h2>"
        yield _table(
            ("change", "difference in WER", "interval", "verdict"), (_difference_row(arm) for arm in report.arms[1:])
        )
    if report.failures:
        yield "<h2>Not transcribed</h2>"
        yield _table(("recording", "reason"), report.failures)
    if report.confusions:
        yield "<h2>Most frequent errors</h2>"
        yield _table(
            ("spoken", "written", "times"), ((a or "(nothing)", b or "(nothing)", n) for a, b, n in report.confusions)
        )
    if report.hotwords:
        yield "<h2>Proposed hotwords</h2>"
        yield _table(("word", "missed", "spoken"), report.hotwords)
    yield from _confidence(report.calibration)
    for arm in report.arms:
        yield f"<h2>{_e(arm.name)}</h2>"
        yield f"<p>{_e(arm.model.name)} on {_e(arm.model.device)} as {_e(arm.model.dtype)}. {_LEGEND}{_SEAM_NOTE}</p>"
        for one in arm.scores:
            yield _aligned(one)


def _confidence(fit: Fit) -> Iterator[str]:
    yield "<h2>Confidence of words</h2>"
    yield f"<p>{_e(describe_fit(fit))}</p>"
    if fit.bins:
        head = ("words", "mean confidence", "right", *(() if fit.curve is None else ("calibrated confidence",)))
        yield _table(
            head,
            (
                (one.n_words, share(one.confidence), share(one.right))
                + (() if fit.curve is None else (share(fit.curve.at(one.confidence)),))
                for one in fit.bins
            ),
        )


def describe_fit(fit: Fit) -> str:
    """Return how far the confidence fits, and what a curve improves, in plain sentences."""
    if fit.error is None or fit.calibrated_error is None:
        return f"Not calibrated: {fit.reason}."
    what = (
        f"The model's confidence in {fit.n_words} words, {fit.n_wrong} of them wrong, is off by "
        f"{100 * fit.error:.1f} points on average"
    )
    if fit.curve is None:
        return f"{what}. Not calibrated: {fit.reason}."
    return (
        f"{what}; calibrated, by {100 * fit.calibrated_error:.1f} points with words that the curve was not fitted to."
    )


def _total_row(arm: Arm) -> tuple[object, ...]:
    total = arm.total
    errors = (total.substitutions, total.deletions, total.insertions)
    return arm.name, len(arm.scores), total.n_words, share(total.wer), bounds(arm.interval), share(total.cer), *errors


def _difference_row(arm: Arm) -> tuple[object, ...]:
    if arm.difference is None:
        return arm.name, "-", "-", VERDICTS["too few"]
    difference = arm.difference
    interval = f"{points(difference.interval.low)} to {points(difference.interval.high)}"
    return arm.name, points(difference.wer), f"{interval} ({100 * difference.level:.4g}%)", VERDICTS[difference.verdict]


def _aligned(one: Score) -> str:
    words = "".join(_run(list(run), kind) for kind, run in groupby(one.columns, key=_kind))
    interval = "" if one.interval is None else f" ({bounds(one.interval)})"
    figures = f"WER {share(one.counts.wer)}{interval}, CER {share(one.counts.cer)}"
    return f'<h3 dir="auto">{_e(one.name)}</h3>\n<p>{figures}</p>\n<p class="text" dir="auto">{words}</p>'


def _kind(column: Column) -> tuple[bool, bool]:
    return column.is_right, column.is_near_seam


def _run(columns: list[Column], kind: tuple[bool, bool]) -> str:
    """Return columns of one kind: right words as they are, else what was spoken and what was written instead."""
    is_right, is_near_seam = kind
    wanted, got = (
        _e(" ".join(word.shown for word in side if word))
        for side in ([column.wanted for column in columns], [column.got for column in columns])
    )
    text = (
        wanted
        if is_right
        else " ".join(f"<{tag}>{part}</{tag}>" for tag, part in (("del", wanted), ("ins", got)) if part)
    )
    return f'<span class="seam">{text}</span> ' if is_near_seam else f"{text} "


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table; the first cell of a row is its heading."""
    lines = ['<div class="wide"><table>', "<tr>" + "".join(f'<th scope="col">{_e(one)}</th>' for one in head) + "</tr>"]
    lines += [_row(*map(str, row)) for row in rows]
    return "\n".join([*lines, "</table></div>"])


def _row(first: str, *others: str) -> str:
    return (
        f'<tr><th scope="row" dir="auto">{_e(first)}</th>'
        + "".join(f'<td dir="auto">{_e(one)}</td>' for one in others)
        + "</tr>"
    )


def share(rate: float | None) -> str:
    """Return a rate in per cent, "-" where there is none."""
    return "-" if rate is None else f"{rate:.1%}"


def bounds(interval: Interval | None) -> str:
    """Return an interval in per cent, without the sign, "-" where there is none."""
    return "-" if interval is None else f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"


def points(difference: float) -> str:
    """Return a difference of rates in percentage points."""
    return f"{100 * difference:+.1f}"


def _e(text: str) -> str:
    return escape_html(escape(text))
