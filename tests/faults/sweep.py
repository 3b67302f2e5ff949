"""The kill sweep: `scribed once`, broken off or failed at every step that changes a disk, then run again.

    python -m tests.faults.sweep [--runs N --seed S] [--jobs N] [--apart FOLDER]

Each run has folders of its own and is a fork of this process, which has imported everything ahead.
It ends with a table: step, fault, runs, lost, doubled, partial; the last three have to be zero.
"""

from __future__ import annotations

import argparse
import errno
import functools
import importlib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.files import TEMPORARY_PREFIX, temporary_beside
from daemon.journal import JOURNAL_NAME
from daemon.status import STATUS_NAME
from tests.faults.promise import (
    Drop,
    Verdict,
    check_end,
    check_instant,
    lay_out,
    make_drops,
    run_once,
    texts_of,
)
from tests.faults.steps import Answer, End, Step, run_steered, why_not

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_LIMIT_S = 120.0
_MIN_FREE_BYTES = 2 << 30
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a mount point, not a file that is made with a known name
# What a run of later steps may have more than the first: the status is written by the clock.
_SPARE_STEPS = 6
# How a fault is put: once, and the next step works again, or lasting, until the process has ended.
FAULTS: dict[str, tuple[int, bool]] = {
    "EIO once": (errno.EIO, False),
    "ENOSPC once": (errno.ENOSPC, False),
    "EROFS once": (errno.EROFS, False),
    "EIO lasting": (errno.EIO, True),
    "ENOSPC lasting": (errno.ENOSPC, True),
    "EROFS lasting": (errno.EROFS, True),
}
KILL = "SIGKILL"
_FINE = {0, 1}  # 1: a recording was set aside, as it should be


@dataclass(frozen=True, slots=True)
class Case:
    """One run of the sweep: what happens at which step; steps count from 1."""

    fault: str
    at: int


@dataclass(slots=True)
class Outcome:
    """What became of a case: the step that was hit, None where there were not so many."""

    case: Case
    step: str | None = None
    verdict: Verdict = field(default_factory=Verdict)


@dataclass(frozen=True, slots=True)
class World:
    """What all runs share.

    Attributes:
        base: where folders of runs are made.
        drops: the recordings.
        texts: their words, of a run that nothing disturbed.
        apart: another file system, for outbox, processed and failed; None for one disk.
    """

    base: Path
    drops: list[Drop]
    texts: Mapping[str, str]
    apart: Path | None = None

    def folders(self, name: str) -> dict[str, Path]:
        if self.apart is None:
            return {}
        return {folder: self.apart / name / folder for folder in ("outbox", "processed", "failed")}


def main() -> int:
    """Run the sweep that was asked for and print its table."""
    options = _options()
    if reason := why_not():
        sys.stdout.write(f"The sweep cannot run: {reason}.\n")
        return 1
    os.environ["OMP_NUM_THREADS"] = "1"  # runs side by side share the cores better than the threads of each
    with tempfile.TemporaryDirectory(prefix="scribed-sweep-", dir=_roomy()) as folder:
        base = Path(folder)
        drops = make_drops(base)
        modules = base / "modules"
        world, steps = _undisturbed(World(base, drops, {}, options.apart), modules)
        _import_all(modules.read_text().splitlines())
        cases = list(_cases(steps))
        if options.runs:
            cases = random.Random(options.seed).sample(cases, min(options.runs, len(cases)))  # noqa: S311 - it picks, and keeps no secret
        outcomes = _run_all(world, cases, options.jobs)
    return report(outcomes)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Break scribed off at every step and see whether it keeps its promise."
    )
    parser.add_argument("--runs", type=int, default=0, help="only so many runs, chosen by the seed; 0 is all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side")
    parser.add_argument("--apart", type=Path, help="a folder on another disk for outbox, processed and failed")
    return parser.parse_args()


def _roomy() -> str | None:
    """Return a folder in memory where there is one with room, for its fsync costs nothing."""
    if _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free > _MIN_FREE_BYTES:
        return str(_SHARED_MEMORY)
    return None


def _import_all(names: Iterable[str]) -> None:
    """Import what a run has imported, so that later ones, which are forks of this process, find it there."""
    for name in names:
        with suppress(Exception):  # parts of packages that cannot be imported by themselves
            importlib.import_module(name)


def _undisturbed(world: World, modules: Path) -> tuple[World, list[Step]]:
    """Run without a fault; return the world with the words that came out, and the steps that were taken."""
    root = world.base / "undisturbed"
    folders = world.folders(root.name)
    config = lay_out(root, world.drops, folders)
    steps: list[Step] = []

    def note(step: Step, _: int) -> Answer:
        if is_counted(step, root, world.apart):
            steps.append(step)
        return Answer.GO_ON

    end = run_steered(functools.partial(run_once, config, root / "log", modules), note, _LIMIT_S)
    texts = texts_of(folders.get("outbox", root / "outbox"))
    verdict = check_end(root, world.drops, texts, folders)
    if end.code not in _FINE or verdict.complaints:
        sys.exit(
            f"Undisturbed it does not work: exit code {end.code}, {verdict.complaints}\n{(root / 'log').read_text()}"
        )
    return World(world.base, world.drops, texts, world.apart), steps


def is_counted(step: Step, root: Path, apart: Path | None = None) -> bool:
    """Whether a step changes one of the folders of an instance: not what does nothing, and not the cache."""
    tops = (root,) if apart is None else (root, apart)
    if not any(step.path.is_relative_to(top) for top in tops) or step.path.is_relative_to(root / "cache"):
        return False
    if step.path == root / "log":
        return False
    is_there = os.path.lexists(step.path)
    return is_there if step.verb in {"unlink", "rmdir"} else not (step.verb == "mkdir" and is_there)


def label(step: Step, folders: Mapping[str, Path]) -> str:
    """Return a step's row in the table: what is done, to what, and in which folder."""
    name, folder = next((n, f) for n, f in folders.items() if step.path.is_relative_to(f))
    path = step.path
    place = "claims" if path.is_relative_to(folder / ".scribed") else name
    if path.name.startswith(JOURNAL_NAME):
        what = f"the journal{path.name.removeprefix(JOURNAL_NAME)}"
        return f"{step.verb} {what}"
    if path in {folder / STATUS_NAME, temporary_beside(folder / STATUS_NAME)}:
        what = "STATUS.txt"
    elif path.name.startswith(TEMPORARY_PREFIX):
        what = "a temporary file"
    elif path.is_dir() or step.verb in {"mkdir", "rmdir"}:
        what = "a folder"
    elif path.name.startswith("."):
        what = "the note"
    elif path.name == "lock":
        what = "the lock"
    elif place in {"inbox", "claims", "processed", "failed"} and not path.name.endswith(".txt"):
        what = "audio"
    else:
        what = path.suffix.removeprefix(".") or path.name
    return f"{step.verb} {what} in {place}"


def _cases(steps: list[Step]) -> Iterator[Case]:
    """Yield every case: a kill before each step but plain writes, each fault at every step."""
    n_steps = len(steps) + _SPARE_STEPS
    n_durable = sum(step.verb != "write" for step in steps) + _SPARE_STEPS
    for at in range(1, n_durable + 1):
        yield Case(KILL, at)
    for fault in FAULTS:
        for at in range(1, n_steps + 1):
            yield Case(fault, at)


def _run_all(world: World, cases: list[Case], n_jobs: int) -> list[Outcome]:
    outcomes = []
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(n_jobs, mp_context=context) as pool:
        for done in as_completed([pool.submit(run_case, world, case) for case in cases]):
            outcome = done.result()
            outcomes.append(outcome)
            if outcome.verdict.complaints or len(outcomes) % 50 == 0:
                sys.stdout.write(
                    f"{len(outcomes)} of {len(cases)}  {outcome.case} {outcome.verdict.complaints or ''}\n"
                )
                sys.stdout.flush()
    return outcomes


def run_case(world: World, case: Case) -> Outcome:
    """Run once with the fault, look, run again without, and look whether all is done."""
    root = world.base / f"{case.fault.replace(' ', '-')}-{case.at}"
    folders = world.folders(root.name)
    config = lay_out(root, world.drops, folders)
    outcome = Outcome(case)
    steering = _Steering(case, root, world.folders(root.name), world.apart)
    try:
        end = run_steered(functools.partial(run_once, config, root / "log"), steering.decide, _LIMIT_S)
        outcome.step = steering.hit
        if steering.hit is not None:
            outcome.verdict.join(check_instant(root, world.drops, folders))
            _judge_end(outcome.verdict, end, root, is_killed=case.fault == KILL)
            again = run_steered(functools.partial(run_once, config, root / "log"), _go_on, _LIMIT_S)
            _judge_end(outcome.verdict, again, root, is_killed=False)
            if again.code not in _FINE:
                outcome.verdict.add("lost", f"the run after the fault ends with {again.code}")
            outcome.verdict.join(check_end(root, world.drops, dict(world.texts), folders))
    except Exception:  # noqa: BLE001 - one case that cannot be judged is told with the others
        outcome.verdict.add("partial", traceback.format_exc())
    if not outcome.verdict.complaints:
        for folder in {root, *(path.parent for path in folders.values())}:
            shutil.rmtree(folder)
    else:
        outcome.verdict.complaints.append((root / "log").read_text()[-3000:])
    return outcome


def _go_on(_: Step, __: int) -> Answer:
    return Answer.GO_ON


def _judge_end(verdict: Verdict, end: End, root: Path, *, is_killed: bool) -> None:
    if end.is_hung:
        verdict.add("partial", "it did not come to an end by itself")
    elif not is_killed and end.code < 0:
        verdict.add("partial", f"it was ended by signal {-end.code}")
    if "Traceback" in (root / "log").read_text():
        verdict.add("partial", "it showed a traceback")


@dataclass(slots=True)
class _Steering:
    """Counts the steps of a run and answers as the case says."""

    case: Case
    root: Path
    folders: dict[str, Path]
    apart: Path | None
    n_steps: int = 0
    hit: str | None = None

    def decide(self, step: Step, _: int) -> Answer | int:
        if not is_counted(step, self.root, self.apart) or (self.case.fault == KILL and step.verb == "write"):
            return Answer.GO_ON
        self.n_steps += 1
        code, is_lasting = FAULTS.get(self.case.fault, (0, False))
        if self.n_steps == self.case.at:
            names = ("inbox", "outbox", "processed", "failed", "state")
            self.hit = label(step, {name: self.root / name for name in names} | self.folders)
            return code or Answer.DIE
        return code if self.hit is not None and is_lasting else Answer.GO_ON


def report(outcomes: Iterable[Outcome]) -> int:
    """Print the table; 1 where the promise was broken, 0 where it held."""
    rows: dict[tuple[str, str], Verdict] = defaultdict(Verdict)
    n_runs: Counter[tuple[str, str]] = Counter()
    n_missed = 0
    for outcome in outcomes:
        if outcome.step is None:
            n_missed += 1
            continue
        rows[outcome.step, outcome.case.fault].join(outcome.verdict)
        n_runs[outcome.step, outcome.case.fault] += 1
    write_table(rows, n_runs)
    if n_missed:
        sys.stdout.write(f"{n_missed} runs came to their end in fewer steps, without a fault.\n")
    return int(any(verdict.complaints for verdict in rows.values()) or not rows)


def write_table(rows: Mapping[tuple[str, str], Verdict], n_runs: Mapping[tuple[str, str], int]) -> None:
    """Print step, fault, runs, lost, doubled, partial, and their sums."""
    line: Callable[..., str] = "{:<44}{:<18}{:>7}{:>7}{:>9}{:>9}\n".format
    sys.stdout.write(line("step", "fault", "runs", "lost", "doubled", "partial"))
    for (step, fault), verdict in sorted(rows.items()):
        sys.stdout.write(line(step, fault, n_runs[step, fault], verdict.lost, verdict.doubled, verdict.partial))
    sums = [sum(getattr(verdict, kind) for verdict in rows.values()) for kind in ("lost", "doubled", "partial")]
    sys.stdout.write(line("all", "", sum(n_runs.values()), *sums))


if __name__ == "__main__":
    sys.exit(main())
