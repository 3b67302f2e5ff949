"""A selection of the sweep, and that the check sees what it looks for; `make faults` runs all of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults.promise import HOOK_LOG, Drop, check_end, check_hooks, lay_out, make_drops
from tests.faults.runs import roomy
from tests.faults.steps import Answer, Step, run_steered, why_not

if TYPE_CHECKING:
    from collections.abc import Callable

_N_RUNS = 16
_SEED = 5
_UNSTEERED = pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can be")


def sweep(n_runs: int, *words: str) -> None:
    command = [sys.executable, "-m", "tests.faults.sweep", "--runs", str(n_runs), "--seed", str(_SEED), *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    last = next(line for line in reversed(ended.stdout.splitlines()) if line.startswith("all "))
    assert int(last.split()[1]) > n_runs // 2
    assert last.split()[2:] == ["0"] * 4


@_UNSTEERED
def test_kill_at_any_step_loses_and_doubles_nothing() -> None:
    sweep(_N_RUNS)


@_UNSTEERED
def test_stop_at_any_step_loses_and_doubles_nothing() -> None:
    sweep(_N_RUNS // 2, "--fault", "SIGTERM")


@_UNSTEERED
def test_kill_at_any_step_between_two_disks_loses_and_doubles_nothing(tmp_path: Path) -> None:
    memory = Path(roomy() or "/")
    if memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is only one file system here with room for it")
    sweep(_N_RUNS // 2, "--apart", str(tmp_path))


@_UNSTEERED
def test_every_step_is_reported_and_can_be_controlled(tmp_path: Path) -> None:
    seen: list[Step] = []

    def decide(step: Step, _: int) -> Answer | int:
        if not step.path.is_relative_to(tmp_path):
            return Answer.GO_ON
        seen.append(step)
        if step.verb == "rename":
            return Answer.PRETEND
        return 28 if step.verb == "mkdir" else Answer.GO_ON

    def program() -> int:
        with (tmp_path / "one").open("wb") as stream:
            stream.write(b"x")
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(tmp_path / "one", tmp_path / "two")  # noqa: PTH104  # the call itself is looked at
        try:
            (tmp_path / "folder").mkdir()
        except OSError as error:
            return error.errno or 0
        return 0

    assert run_steered(program, decide, 20.0).code == 28
    assert [step.verb for step in seen] == ["create", "write", "sync", "rename", "mkdir"]
    assert (seen[3].source, seen[3].path) == (tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "one").exists()
    assert not (tmp_path / "two").exists()


@_UNSTEERED
def test_killed_step_dies_and_hanging_step_is_reported(tmp_path: Path) -> None:
    def make() -> int:
        (tmp_path / "one").mkdir()
        return 0

    assert run_steered(make, lambda *_: Answer.DIE, 20.0).code == -9
    assert not (tmp_path / "one").exists()

    def hang() -> int:
        read, _ = os.pipe()
        return len(os.read(read, 1))

    assert run_steered(hang, lambda *_: Answer.GO_ON, 0.2).is_hung


def finish(root: Path, drops: list[Drop]) -> None:
    """Put everything where a whole run puts it."""
    lay_out(root, drops)
    for drop in drops:
        source, target = root / "inbox" / drop.path, root / drop.end / drop.path
        target.parent.mkdir(exist_ok=True)
        source.rename(target)
        if drop.end == "failed":
            target.with_name(f"{target.name}.error.txt").write_text("why")
            continue
        stem = (root / "outbox" / drop.path).with_suffix("")
        stem.parent.mkdir(exist_ok=True)
        stem.with_suffix(".txt").write_text("words\n")
        facts = {"text": "words", "source": {"path": drop.path, "sha256": drop.sha256}}
        stem.with_suffix(".json").write_text(json.dumps(facts))
    hotwords = "team/memo.hotwords.txt"
    (root / "inbox" / hotwords).rename(root / "processed" / hotwords)


BREAKS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "audio gone": ("lost", lambda root: (root / "processed/memo.wav").unlink()),
    "documents gone": ("lost", lambda root: (root / "outbox/memo.json").unlink()),
    "reason gone": ("lost", lambda root: (root / "failed/words.mp3.error.txt").unlink()),
    "hotwords gone": ("lost", lambda root: (root / "processed/team/memo.hotwords.txt").unlink()),
    "audio twice": ("doubled", lambda root: shutil.copy(root / "processed/memo.wav", root / "inbox/again.wav")),
    "documents twice": ("doubled", lambda root: shutil.copytree(root / "outbox/team", root / "outbox/more")),
    "half a set": ("partial", lambda root: (root / "outbox/memo.txt").unlink()),
    "half a file": ("partial", lambda root: (root / "outbox/memo.json").write_text('{"text": ')),
    "other words": ("partial", lambda root: (root / "outbox/memo.txt").write_text("wor")),
    "a left over": ("partial", lambda root: (root / "outbox/.scribed-0.tmp").touch()),
    "a left claim": ("partial", lambda root: (root / "inbox/.scribed/1").mkdir(parents=True)),
}


def test_check_detects_a_delivery_without_its_hook(tmp_path: Path) -> None:
    drops = make_drops(tmp_path)
    finish(tmp_path, drops)
    documents = [tmp_path / "outbox" / name for name in ("memo.json", "team/memo.json")]
    (tmp_path / HOOK_LOG).write_text("".join(f"{path}\n" for path in documents))
    assert check_hooks(tmp_path).complaints == []
    (tmp_path / HOOK_LOG).write_text(f"{documents[0]}\n")
    assert check_hooks(tmp_path).lost == 1
    (tmp_path / HOOK_LOG).unlink()
    assert check_hooks(tmp_path).lost == 2


@pytest.mark.parametrize("what", BREAKS)
def test_check_detects_every_kind_of_loss_and_duplication(tmp_path: Path, what: str) -> None:
    drops = make_drops(tmp_path)
    finish(tmp_path, drops)
    assert check_end(tmp_path, drops).complaints == []
    kind, damage = BREAKS[what]
    damage(tmp_path)
    assert getattr(check_end(tmp_path, drops), kind) > 0
