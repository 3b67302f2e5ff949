"""A seeded part of the attacks; `make faults` runs all of them."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.faults.adversary import INSTANCE, KEY, LINK, Case, Planter, check_outside
from tests.faults.promise import Verdict
from tests.faults.steps import Step, why_not

if TYPE_CHECKING:
    from pathlib import Path

_SEED = 20261127
_UNSTEERED = pytest.mark.skipif(bool(why_not()), reason=why_not())


@_UNSTEERED
@pytest.mark.parametrize(("kind", "n_runs"), [(LINK, 16), (INSTANCE, 6), (KEY, 8)])
def test_no_attack_loses_or_doubles_a_recording_or_reaches_outside(kind: str, n_runs: int) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.faults.adversary",
        "--kind",
        kind,
        "--runs",
        str(n_runs),
        "--seed",
        str(_SEED),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=580, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    last = next(line for line in reversed(ended.stdout.splitlines()) if line.startswith("all "))
    assert int(last.split()[1]) > n_runs // 2
    assert last.split()[2:] == ["0"] * 4


def plant(root: Path) -> Planter:
    (root / "outbox" / "team").mkdir(parents=True)
    planter = Planter(Case(LINK, 1), root)
    planter.decide(Step("create", root / "outbox" / "team" / "talk.txt"), 0)
    assert planter.planted is not None
    return planter


def test_planter_replaces_the_path_of_a_step_with_a_link_to_the_outside(tmp_path: Path) -> None:
    planter = plant(tmp_path)
    assert planter.planted is not None
    assert planter.planted.is_symlink()
    assert planter.planted.resolve().is_relative_to(planter.outside)
    planter.undo()
    assert (tmp_path / "outbox" / "team").is_dir()
    assert not (tmp_path / "outbox" / "team").is_symlink()


@pytest.mark.parametrize("damage", ["write", "read"])
def test_check_detects_any_access_to_the_outside(tmp_path: Path, damage: str) -> None:
    planter = plant(tmp_path)
    before = planter.picture()
    clean = Verdict()
    check_outside(clean, planter, tmp_path, before)
    assert clean.complaints == []
    if damage == "write":
        (planter.outside / "new").touch()
    else:
        (tmp_path / "processed").mkdir()
        (tmp_path / "processed" / "copied.wav").write_bytes(planter.secret)
    verdict = Verdict()
    check_outside(verdict, planter, tmp_path, before)
    assert verdict.outside == 1
