"""The tables of docs/accuracy.md in their short forms, with bounds; the demo model, held-out voices of espeak-ng."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from benchmarks import noise, pipeline_cost
from benchmarks.noise_plot import Panel, Point, draw
from daemon.evaluation import score
from daemon.transcript import Segment
from tests.integration.instance import environment

ROOT = Path(__file__).parents[2]

PAGE = (
    "before\n<!-- noise -->\nold\n<!-- end of noise -->\n<!-- calls -->\n<!-- end of calls -->\n"
    "<!-- pipeline cost -->\n<!-- end of pipeline cost -->\nafter\n"
)


def table_of(script: str, docs: Path) -> list[list[str]]:
    """Run a benchmark's short form as a user does; return the cells of the table that it writes."""
    (docs / "accuracy.md").write_text(PAGE)
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--short", "--docs", str(docs)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert ended.returncode == 0, ended.stderr
    page = (docs / "accuracy.md").read_text()
    assert page.startswith("before\n<!-- noise -->\n")
    assert page.endswith("<!-- end of pipeline cost -->\nafter\n")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return rows[1:]


def first_number(cell: str) -> float:
    return float(cell.strip("* ").split()[0])


def test_noise_costs_no_more_words_than_before(tmp_path: Path) -> None:
    rows = table_of("noise.py", tmp_path)
    quietest = rows.pop()  # the far speaker at -60 dBFS
    worst = {"clean": 2.0, "hum, 50 Hz": 12.0, "rumble": 5.0, "office": 12.0, "far speaker": 15.0}
    assert [row[0] for row in rows] == list(worst)
    assert {row[0]: row[2] for row in rows if first_number(row[2]) > worst[row[0]]} == {}
    added = {row[0]: [first_number(cell) for cell in row[3:]] for row in rows}
    assert added["rumble"][0] > 1.0  # without the high-pass filter
    assert first_number(quietest[4]) > 1.0, quietest  # without normalization
    plot = ET.parse(tmp_path / "images" / "noise.svg")  # noqa: S314  # our own file
    assert len(plot.findall(".//{*}polyline")) == 4 * 4


def test_pipeline_costs_no_words(tmp_path: Path) -> None:
    single, *others = table_of("pipeline_cost.py", tmp_path)
    assert first_number(single[2]) < 2.0
    assert len(others) == 6
    # So few words move the difference by a point either way; the page has the figures of many.
    limits = [1.0, 1.0, 2.0, 2.0, 2.0, 1.0]
    assert [row[:4] for row, limit in zip(others, limits, strict=True) if first_number(row[3]) > limit] == []
    assert [row[5] for row in (single, *others[:2])] == ["0", "0", "0"]
    assert int(others[2][5]) > 3


def test_calls_are_split_and_cost_no_words_and_nothing_else_is_split(tmp_path: Path) -> None:
    rows = table_of("calls.py", tmp_path)
    (_, n_made, n_split), *others = [row for row in rows if len(row) == 3]
    assert int(n_split) >= int(n_made) - 1
    assert [(name, n_split) for name, _, n_split in others if n_split != "0"] == []
    assert len(others) == 7
    sides = [row for row in rows if row[0] in {"1", "2"}]
    assert len(sides) == 2
    # One word in a hundred moves a figure by a point; the page has the figures of many. With an echo some words
    # of the other side are heard below one's own.
    assert [row for row in sides if first_number(row[4]) > 2.0 or first_number(row[6]) > 5.0] == []


def test_errors_count_within_the_utterance_where_they_are() -> None:
    reference, heard = "one two three four five six", "one two too three for six seven"
    scores = [score("a", reference, [Segment(0.0, 1.0, heard)], "standard")]
    assert pipeline_cost.count_errors(scores, [2, 2, 2]) == [1, 1, 2]
    apart = [score(part, part, [Segment(0.0, 1.0, part.upper() + " x")], "standard") for part in ("a b", "c d")]
    assert pipeline_cost.count_errors(apart, [2, 2]) == [1, 1]


@pytest.mark.parametrize("condition", noise.CONDITIONS, ids=lambda one: f"{one.kind} {one.level}")
def test_each_noise_is_as_loud_as_its_level_says(condition: noise.Condition) -> None:
    rng = np.random.default_rng(1)
    speech = np.concatenate((np.zeros(8_000), 0.1 * rng.standard_normal(32_000), np.zeros(8_000))).astype(np.float32)
    spoiled = condition.spoil(speech, rng)
    assert spoiled.shape == speech.shape
    assert spoiled.dtype == np.float32
    if condition.level.endswith(" dB"):
        snr_db = 20 * np.log10(0.1 / np.sqrt(np.mean((spoiled - speech) ** 2)))
        assert snr_db == pytest.approx(float(condition.level.split()[0]), abs=0.5)
    elif condition.kind == "far speaker":
        peak_dbfs = 20 * np.log10(np.abs(spoiled[8_000:40_000]).max())
        assert peak_dbfs == pytest.approx(float(condition.level.split()[0]), abs=2.5)


def test_levels_of_each_noise_get_worse() -> None:
    kinds = {one.kind for one in noise.CONDITIONS}
    for kind in kinds - {"clean", "telephone band", "clipping", "far speaker"}:
        levels = [float(one.level.split()[0]) for one in noise.CONDITIONS if one.kind == kind]
        assert all(before > after for before, after in pairwise(levels))


def test_plot_shows_a_curve_with_bars_for_each_setting(tmp_path: Path) -> None:
    points = [Point("clean", 0.0, 0.0, 0.01), Point("<loud>", 1.4, 1.0, 1.9)]
    draw([Panel("hum & buzz", {"default": points, "other": points})] * 5, tmp_path / "images" / "plot.svg")
    root = ET.parse(tmp_path / "images" / "plot.svg").getroot()  # noqa: S314  # our own file
    assert len(root.findall("{*}polyline")) == 10
    assert len(root.findall("{*}circle")) == 20
    assert "hum & buzz" in [text.text for text in root.findall("{*}text")]
