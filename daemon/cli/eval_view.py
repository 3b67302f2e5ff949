"""The report of `scribed eval` as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from daemon.display import escape
from daemon.evaluation import LEVEL, N_RESAMPLES, NORMALIZATIONS, SEED
from daemon.evaluation.page import bounds, describe_fit, points, share
from daemon.evaluation.report import VERDICTS
from daemon.evaluation.scoring import BLOCK_WORDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from daemon.evaluation import Arm, Report

_N_CONFUSIONS: Final = 10
_FEW: Final = 10


def show(report: Report) -> None:
    """Print the report to standard output."""
    console = Console(highlight=False, soft_wrap=True)
    for arm in report.arms:
        model = arm.model
        console.print(Text(escape(f"{arm.name} ({model.name} on {model.device} as {model.dtype})")))
        console.print(_recordings(arm))
    _print_seams(console, report.arms[0])
    if len(report.arms) > 1:
        console.print(_comparison(report))
    confusions = [(a or "(nothing)", b or "(nothing)", str(n)) for a, b, n in report.confusions[:_N_CONFUSIONS]]
    if confusions:
        console.print(_table(("spoken", "written", "times"), confusions))
    if report.hotwords:
        console.print("Proposed for transcribe.hotwords, because they were missed repeatedly:")
        shown = ", ".join(f"{escape(word)} ({n} of {n_all})" for word, n, n_all in report.hotwords)
        console.print(Text(shown))
    console.print(Text(describe_fit(report.calibration)))
    console.print(Text(NORMALIZATIONS[report.normalization]))
    n_recordings = len(report.arms[0].scores)
    units = "recordings" if n_recordings > 1 else f"blocks of {BLOCK_WORDS} words"
    what = f"Intervals: {LEVEL:.0%}, bootstrap over {units}, {N_RESAMPLES} resamples, seed {SEED}."
    few = " With fewer than ten recordings they are rough." if n_recordings < _FEW else ""
    console.print(Text(what + few))


def _recordings(arm: Arm) -> Table:
    figures = [(one.name, one.counts, one.interval) for one in arm.scores]
    rows = [
        (
            name,
            str(counts.n_words),
            share(counts.wer),
            bounds(interval),
            share(counts.cer),
            *map(str, (counts.substitutions, counts.deletions, counts.insertions)),
        )
        for name, counts, interval in [*figures, ("all", arm.total, arm.interval)]
    ]
    return _table(
        ("recording", "words", "WER", f"{LEVEL:.0%} interval", "CER", "subst.", "missed", "added"), rows, has_total=True
    )


def _comparison(report: Report) -> Table:
    rows = []
    for arm in report.arms[1:]:
        difference = arm.difference
        if difference is None:
            rows.append((arm.name, "-", "-", VERDICTS["too few"]))
            continue
        interval = f"{points(difference.interval.low)} to {points(difference.interval.high)}"
        rows.append((arm.name, points(difference.wer), interval, VERDICTS[difference.verdict]))
    level = 1 - (1 - LEVEL) / (len(report.arms) - 1)
    return _table(("change", "WER", f"{100 * level:.4g}% interval", "verdict"), rows, folded=3)


def _print_seams(console: Console, arm: Arm) -> None:
    """Say how often errors fall near seams, compared with the rest."""
    total = arm.total
    if not total.n_seams:
        return
    elsewhere = total.n_words - total.n_seam_words
    near = share(total.n_seam_errors / total.n_seam_words if total.n_seam_words else None)
    rest = share((total.n_errors - total.n_seam_errors) / elsewhere if elsewhere else None)
    what = f"Within ten words of the {total.n_seams} merges of overlapping chunks: WER {near}; elsewhere {rest}."
    console.print(Text(what))


def _table(head: Iterable[str], rows: Iterable[tuple[str, ...]], *, folded: int = 0, has_total: bool = False) -> Table:
    """Return a table; where the terminal is narrow, the column `folded` takes several lines."""
    table = Table(box=box.SIMPLE, show_edge=False)
    for index, title in enumerate(head):
        is_text = index in (0, folded)
        table.add_column(title, justify="left" if is_text else "right", overflow="fold", no_wrap=index != folded)
    cells = [tuple(Text(escape(cell)) for cell in row) for row in rows]
    for index, row in enumerate(cells):
        if has_total and index == len(cells) - 1:
            table.add_section()
        table.add_row(*row)
    return table
