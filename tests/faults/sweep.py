"""The kill sweep: `scribed once`, killed, stopped or failed at every step that changes a disk, then run again.

    python -m tests.faults.sweep [--fault NAME] [--runs N --seed S] [--jobs N] [--apart FOLDER]

Each run has folders of its own and is a fork of this process, which has imported everything ahead, and
so are its decoders. It ends with a table: step, fault, runs, lost, doubled, partial; the last three have to be zero.
"""

from __future__ import annotations

import argparse
import errno
import functools
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.decoders import forked_decoders
from tests.faults.promise import (
    Verdict,
    attempts_of,
    check_end,
    check_hooks,
    check_instant,
    lay_out,
    make_drops,
    places_of,
    run_once,
)
from tests.faults.runs import (
    FINE,
    LIMIT_S,
    STOPPED,
    World,
    import_all,
    is_counted,
    label,
    roomy,
    undisturbed,
    write_table,
)
from tests.faults.steps import Answer, End, Step, run_steered, why_not

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
KILL, STOP = "SIGKILL", "SIGTERM"


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


def main() -> int:
    """Run the sweep that was asked for and print its table."""
    options = _options()
    if reason := why_not():
        sys.stdout.write(f"The sweep cannot run: {reason}.\n")
        return 1
    os.environ["OMP_NUM_THREADS"] = "1"  # runs side by side share the cores better than the threads of each
    with tempfile.TemporaryDirectory(prefix="scribed-sweep-", dir=roomy()) as folder:
        base = Path(folder)
        drops = make_drops(base)
        modules = base / "modules"
        world, steps = undisturbed(World(base, drops, {}, options.apart, has_hook=True), modules)
        import_all(modules.read_text().splitlines())
        cases = [case for case in _cases(steps) if options.fault in {None, case.fault}]
        if options.runs:
            cases = random.Random(options.seed).sample(cases, min(options.runs, len(cases)))  # noqa: S311  # it picks, and keeps no secret
        with forked_decoders(base):
            outcomes = _run_all(world, cases, options.jobs)
    return report(outcomes)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Break scribed off at every step and see whether it keeps its promise."
    )
    parser.add_argument("--fault", choices=(KILL, STOP, *FAULTS), help="only this one")
    parser.add_argument("--runs", type=int, default=0, help="only so many runs, chosen by the seed; 0 is all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side")
    parser.add_argument("--apart", type=Path, help="a folder on another disk for outbox, processed and failed")
    return parser.parse_args()


def _cases(steps: list[Step]) -> Iterator[Case]:
    """Yield every case: a kill and a stop before each step but plain writes, each fault at every step."""
    n_steps = len(steps) + _SPARE_STEPS
    n_durable = sum(step.verb != "write" for step in steps) + _SPARE_STEPS
    for fault in (KILL, STOP):
        for at in range(1, n_durable + 1):
            yield Case(fault, at)
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
    config = lay_out(root, world.drops, folders, has_hook=world.has_hook)
    outcome = Outcome(case)
    steering = _Steering(case, root, world.folders(root.name), world.apart)
    try:
        end = run_steered(functools.partial(run_once, config, root / "log"), steering.decide, LIMIT_S)
        outcome.step = steering.hit
        if steering.hit is not None:
            outcome.verdict.join(check_instant(root, world.drops, folders))
            _judge_end(outcome.verdict, end, root, is_killed=case.fault == KILL)
            if case.fault == STOP and end.code not in STOPPED:
                outcome.verdict.add("partial", f"stopped, it ends with {end.code}")
            again = run_steered(functools.partial(run_once, config, root / "log"), _go_on, LIMIT_S)
            _judge_end(outcome.verdict, again, root, is_killed=False)
            if again.code not in FINE:
                outcome.verdict.add("lost", f"the run after the fault ends with {again.code}")
            outcome.verdict.join(check_end(root, world.drops, dict(world.texts), folders))
            outcome.verdict.join(check_hooks(root, folders))
            if case.fault == STOP and set(attempts_of(places_of(root, folders)["outbox"])) != {1}:
                outcome.verdict.add("partial", "an orderly stop was charged as an attempt")
    except Exception:  # noqa: BLE001  # a case that cannot be judged is reported with the others
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
        is_signal = self.case.fault in {KILL, STOP}
        if not is_counted(step, self.root, self.apart) or (is_signal and step.verb == "write"):
            return Answer.GO_ON
        self.n_steps += 1
        code, is_lasting = FAULTS.get(self.case.fault, (0, False))
        if self.n_steps == self.case.at:
            self.hit = label(step, places_of(self.root, self.folders))
            return code or (Answer.STOP if self.case.fault == STOP else Answer.DIE)
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


if __name__ == "__main__":
    sys.exit(main())
