"""A plot of word errors as SVG: a panel for each kind of noise, a curve for each setting, bars for the intervals."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_COLUMNS: Final = 4
_WIDTH: Final = 190
_HEIGHT: Final = 130
_LEFT: Final = 44
_GAP: Final = 44
_TOP: Final = 56
_COLOURS: Final = ("#1565c0", "#e65100", "#2e7d32", "#6a1b9a")
_DASHES: Final = ("none", "6 3", "2 3", "8 3 2 3")  # so that colours are not all that differs
_SHIFT: Final = 3.0  # of the curves against one another, so that bars do not hide one another
_TICKS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Point:
    """A word error rate and its interval, 1 = 100 %, at a level of noise."""

    label: str
    rate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Panel:
    """One kind of noise: points from little to much for each setting."""

    title: str
    curves: dict[str, list[Point]]


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Write the plot."""
    n_rows = -(-len(panels) // _COLUMNS)
    width, height = _LEFT + _COLUMNS * (_WIDTH + _GAP), _TOP + n_rows * (_HEIGHT + 2 * _GAP) - _GAP
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        "<title>Word error over kinds and levels of noise, with and without each step of the cleaning</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        *_legend(list(panels[0].curves)),
    ]
    for index, panel in enumerate(panels):
        row, column = divmod(index, _COLUMNS)
        parts += _panel(panel, _LEFT + column * (_WIDTH + _GAP), _TOP + row * (_HEIGHT + 2 * _GAP))
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")


def _legend(names: Sequence[str]) -> Iterator[str]:
    for index, name in enumerate(names):
        x = _LEFT + index * 170
        yield f'<path d="M{x},20h28" {_stroke(index)}/><text x="{x + 34}" y="24">{escape(name)}</text>'


def _stroke(index: int) -> str:
    return f'stroke="{_COLOURS[index]}" stroke-width="2" stroke-dasharray="{_DASHES[index]}" fill="none"'


def _panel(panel: Panel, left: float, top: float) -> Iterator[str]:
    yield f'<text x="{left}" y="{top - 8}" font-weight="bold">{escape(panel.title)}</text>'
    for tick in _TICKS:
        y = top + _HEIGHT * (1 - tick)
        yield f'<path d="M{left},{y}h{_WIDTH}" stroke="#ddd"/>'
        yield f'<text x="{left - 4}" y="{y + 4}" text-anchor="end" fill="#555">{tick:.0%}</text>'
    points = next(iter(panel.curves.values()))
    step = _WIDTH / len(points)
    for at, point in enumerate(points):
        x = left + (at + 0.5) * step
        y = top + _HEIGHT + 14
        yield (
            f'<text x="{x - 12:.1f}" y="{y}" fill="#555" font-size="9" transform="rotate(20 {x - 12:.1f} {y})">'
            f"{escape(point.label)}</text>"
        )
    for index, curve in enumerate(panel.curves.values()):
        xs = [left + (at + 0.5) * step + (index - 1.5) * _SHIFT for at in range(len(curve))]
        line = " ".join(f"{x:.1f},{_y(top, point.rate)}" for x, point in zip(xs, curve, strict=True))
        yield f'<polyline points="{line}" {_stroke(index)}/>'
        for x, point in zip(xs, curve, strict=True):
            yield f'<path d="M{x:.1f},{_y(top, point.low)}V{_y(top, point.high)}" stroke="{_COLOURS[index]}"/>'
            yield f'<circle cx="{x:.1f}" cy="{_y(top, point.rate)}" r="2.4" fill="{_COLOURS[index]}"/>'


def _y(top: float, rate: float) -> str:
    return f"{top + _HEIGHT * (1 - min(1.0, rate)):.1f}"
