"""What others do while `scribed once` runs: plant links, start a second instance, change the configuration.

    python -m tests.faults.adversary [--kind NAME] [--runs N --seed S] [--jobs N]

link      before each system call that names a path below a shared folder, a group member puts a symbolic link in the
          place of the file or of a folder above it; nothing outside the shared folders may be read, written or removed
instance  at each step that changes a disk, a second instance with one folder in common is started; it is refused
key       after a kill at each such step, the next run has one folder key changed, the run after it the old one again

Each run has folders of its own. It ends with a table: step, kind, runs, lost, doubled, partial, outside; the last four
have to be zero.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import stat
import sys
import tempfile
import traceback
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from daemon.errors import ExitCode
from tests.faults.decoders import forked_decoders
from tests.faults.promise import FOLDERS, Verdict, documents_in, files_in, lay_out, make_drops, places_of, run_once
from tests.faults.runs import FINE, LIMIT_S, World, import_all, is_counted, label, roomy, undisturbed, write_table
from tests.faults.steps import Answer, Step, run_steered, why_not

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

LINK, INSTANCE, KEY = "link", "instance", "key"
SHARED: Final = ("inbox", "outbox", "processed", "failed")
# A run that meets a link waits with a fault, and `once` then ends as where a folder cannot be written.
_MET_A_LINK: Final = FINE | {ExitCode.CANNOT_WRITE, ExitCode.NO_PERMISSION}


@dataclass(frozen=True, slots=True)
class Case:
    """One run: what is done at which step; steps count from 1."""

    kind: str
    at: int


@dataclass(slots=True)
class Outcome:
    """What became of a case: the step at which it was done, None where there were fewer."""

    case: Case
    step: str | None = None
    verdict: Verdict = field(default_factory=Verdict)


def main() -> int:
    """Run what was asked for and print the table."""
    options = _options()
    if reason := why_not():
        sys.stdout.write(f"Nothing can be run: {reason}.\n")
        return 1
    os.environ["OMP_NUM_THREADS"] = "1"  # runs side by side share the cores better than the threads of each
    with tempfile.TemporaryDirectory(prefix="scribed-adversary-", dir=roomy()) as folder:
        base = Path(folder)
        modules = base / "modules"
        world, steps = undisturbed(World(base, make_drops(base), {}), modules)
        import_all(modules.read_text().splitlines())
        with forked_decoders(base):
            cases = [case for case in _cases(world, steps) if options.kind in {None, case.kind}]
            if options.runs:
                cases = random.Random(options.seed).sample(cases, min(options.runs, len(cases)))  # noqa: S311  # it picks, and keeps no secret
            outcomes = _run_all(world, cases, options.jobs)
    return report(outcomes)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Attack and misconfigure scribed at every step.")
    parser.add_argument("--kind", choices=(LINK, INSTANCE, KEY), help="only this one")
    parser.add_argument("--runs", type=int, default=0, help="only so many runs, chosen by the seed; 0 is all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side")
    return parser.parse_args()


def _cases(world: World, steps: list[Step]) -> Iterator[Case]:
    """Yield a case for every step of an undisturbed run, and for links every look at a path too."""
    n_durable = sum(step.verb != "write" for step in steps)
    for at in range(1, n_durable + 1):
        yield Case(INSTANCE, at)
        yield Case(KEY, at)
    counting = Planter(Case(LINK, 0), world.base / "counted")
    config = lay_out(counting.root, world.drops)
    run_steered(functools.partial(run_once, config, counting.root / "log"), counting.decide, LIMIT_S, sees_looks=True)
    for at in range(1, counting.n_steps + 1):
        yield Case(LINK, at)


def _run_all(world: World, cases: list[Case], n_jobs: int) -> list[Outcome]:
    outcomes = []
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(n_jobs, mp_context=context) as pool:
        for done in as_completed([pool.submit(run_case, world, case) for case in cases]):
            outcome = done.result()
            outcomes.append(outcome)
            if outcome.verdict.complaints or len(outcomes) % 50 == 0:
                complaints = "\n".join(outcome.verdict.complaints)
                sys.stdout.write(f"{len(outcomes)} of {len(cases)}  {outcome.case} {complaints}\n")
                sys.stdout.flush()
    return outcomes


def run_case(world: World, case: Case) -> Outcome:
    """Run one case below a folder of its own."""
    outcome = Outcome(case)
    root = world.base / f"{case.kind}-{case.at}"
    try:
        {LINK: _run_link, INSTANCE: _run_instance, KEY: _run_key}[case.kind](world, case, root, outcome)
        if "Traceback" in (root / "log").read_text():
            outcome.verdict.add("partial", "it showed a traceback")
    except Exception:  # noqa: BLE001  # one case that cannot be judged is reported with the others
        outcome.verdict.add("partial", traceback.format_exc())
    if outcome.verdict.complaints:
        outcome.verdict.complaints.append((root / "log").read_text()[-3000:])
    else:
        shutil.rmtree(root)
    return outcome


# Links


@dataclass(slots=True)
class Planter:
    """Puts a link in the place of what the step at `case.at` names, or of a folder above it."""

    case: Case
    root: Path
    n_steps: int = 0
    hit: str | None = None
    planted: Path | None = None
    moved: Path | None = None
    secret: bytes = b"what the service's user may read, and group members may not\n"

    @property
    def outside(self) -> Path:
        """Where the links lead: a folder that group members cannot enter, and the service can."""
        return self.root / "outside"

    def picture(self) -> dict[str, str]:
        """Return every path outside with its mode and the digest of its content."""
        picture = {}
        for path in sorted(self.outside.rglob("*")):
            facts = path.lstat()
            content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(facts.st_mode) else ""
            picture[str(path.relative_to(self.outside))] = f"{facts.st_mode:o} {content}"
        return picture

    def decide(self, step: Step, _: int) -> Answer:
        """Count the step, and plant the link at the one chosen."""
        shared = next((top for name in SHARED if step.path.is_relative_to(top := self.root / name)), None)
        if shared is None or self.hit is not None:
            return Answer.GO_ON
        parts = step.path.relative_to(shared).parts
        if not parts or parts[0] == ".scribed":  # private folders, which no group member can enter
            return Answer.GO_ON
        self.n_steps += 1
        if self.n_steps == self.case.at:
            self.hit = label(step, places_of(self.root))
            self._plant(shared, parts)
        return Answer.GO_ON

    def _plant(self, shared: Path, parts: tuple[str, ...]) -> None:
        depth = 1 + self.case.at % len(parts)
        target = shared.joinpath(*parts[:depth])
        victim = self.outside.joinpath("victim", *parts[depth:])
        victim.parent.mkdir(parents=True, exist_ok=True)
        if depth < len(parts) or self.case.at % 3:  # else the link dangles
            victim.write_bytes(self.secret)
        if os.path.lexists(target):
            self.moved = self.root / "moved"
            target.rename(self.moved)
        (target.parent if target.parent.is_dir() else shared).mkdir(exist_ok=True)
        if target.parent.is_dir():
            target.symlink_to(self.outside / "victim" if depth < len(parts) else victim)
            self.planted = target

    @property
    def took_a_document(self) -> bool:
        """Whether a file was taken out of the outbox, which its members may do at any time."""
        return self.moved is not None and self.planted is not None and self.planted.is_relative_to(self.root / "outbox")

    def undo(self) -> None:
        """Take the link away and put back what was in its place."""
        if self.planted is not None and self.planted.is_symlink():
            self.planted.unlink()
        if self.moved is not None and self.planted is not None:
            _merge(self.moved, self.planted)


def _merge(source: Path, target: Path) -> None:
    """Put a file or a folder back where it was, next to what is there now."""
    if source.is_dir() and target.is_dir():
        for path in list(source.iterdir()):
            _merge(path, target / path.name)
        source.rmdir()
    elif not os.path.lexists(target):
        source.rename(target)
    else:
        source.rename(target.with_name(f"back-{target.name}"))


def _run_link(world: World, case: Case, root: Path, outcome: Outcome) -> None:
    config = lay_out(root, world.drops)
    planter = Planter(case, root)
    run = functools.partial(run_once, config, root / "log")
    before: dict[str, str] | None = None

    def decide(step: Step, process: int) -> Answer:
        nonlocal before
        answer = planter.decide(step, process)
        if planter.hit is not None and before is None:
            before = planter.picture()
        return answer

    end = run_steered(run, decide, LIMIT_S, sees_looks=True)
    outcome.step = planter.hit
    if before is None:
        return
    if end.is_hung or end.code not in _MET_A_LINK:
        outcome.verdict.add("partial", f"with the link in place, it ends with {end.code}")
    check_outside(outcome.verdict, planter, root, before)
    planter.undo()
    again = run_steered(run, _go_on, LIMIT_S)
    if again.code not in FINE:
        outcome.verdict.add("lost", f"the run after the link was removed ends with {again.code}")
    check_outside(outcome.verdict, planter, root, before)
    _check_each_once(outcome.verdict, world, [places_of(root)], has_documents=not planter.took_a_document)


def check_outside(verdict: Verdict, planter: Planter, root: Path, before: Mapping[str, str]) -> None:
    """Check that nothing outside was changed, and that nothing of it is now in a shared folder."""
    if (after := planter.picture()) != before:
        verdict.add("outside", f"outside the shared folders, {before} became {after}")
    for name in SHARED:
        for path in files_in(root / name):
            if planter.secret in path.read_bytes():
                verdict.add("outside", f"{path} holds what was outside")


# A second instance


def _run_instance(world: World, case: Case, root: Path, outcome: Outcome) -> None:
    config = lay_out(root, world.drops)
    shared = (*SHARED, "state")[case.at % (len(SHARED) + 1)]
    rival = root / "rival"
    rival_config = lay_out(rival, [], {shared: root / shared}, hotwords=False)
    n_steps, has_claimed = 0, False

    def decide(step: Step, _: int) -> Answer:
        nonlocal n_steps, has_claimed
        if outcome.step is not None or step.verb == "write" or not is_counted(step, root):
            return Answer.GO_ON
        n_steps += 1
        has_claimed |= step.path.name == ".claim.json" or ".scribed" in step.path.parts[:-2]
        if n_steps == case.at:
            outcome.step = label(step, places_of(root))
            end = run_steered(functools.partial(run_once, rival_config, root / "log"), _go_on, LIMIT_S)
            allowed = {int(ExitCode.ALREADY_RUNNING)} if has_claimed else {int(ExitCode.ALREADY_RUNNING), *FINE}
            if end.code not in allowed:
                outcome.verdict.add("partial", f"a second instance with the same {shared} ends with {end.code}")
        return Answer.GO_ON

    end = run_steered(functools.partial(run_once, config, root / "log"), decide, LIMIT_S)
    if outcome.step is None:
        return
    if end.code not in FINE:
        outcome.verdict.add("lost", f"with a second instance started, it ends with {end.code}")
    # Before the first one has its locks, the second may take what is in a common inbox, and deliver it.
    _check_each_once(outcome.verdict, world, [places_of(root), places_of(rival, {shared: root / shared})])


# A changed folder


def _run_key(world: World, case: Case, root: Path, outcome: Outcome) -> None:
    config = lay_out(root, world.drops)
    run = functools.partial(run_once, config, root / "log")
    n_steps = 0

    def decide(step: Step, _: int) -> Answer:
        nonlocal n_steps
        if step.verb == "write" or not is_counted(step, root):
            return Answer.GO_ON
        n_steps += 1
        if n_steps == case.at:
            outcome.step = label(step, places_of(root))
            return Answer.DIE
        return Answer.GO_ON

    run_steered(run, decide, LIMIT_S)
    if outcome.step is None:
        return
    key = FOLDERS[case.at % len(FOLDERS)]
    old, new = places_of(root), places_of(root) | {key: root / f"new-{key}"}
    settings = yaml.safe_load(config.read_text())
    changed = root / "changed.yaml"
    new[key].mkdir()
    changed.write_text(yaml.safe_dump(settings | {"folders": {name: str(path) for name, path in new.items()}}))
    end = run_steered(functools.partial(run_once, changed, root / "log"), _go_on, LIMIT_S)
    if end.is_hung or end.code not in _MET_A_LINK:
        outcome.verdict.add("lost", f"with folders.{key} changed, it ends with {end.code}")
    _check_faults_name_claims(outcome.verdict, key, old, new)
    again = run_steered(run, _go_on, LIMIT_S)
    if again.code not in FINE:
        outcome.verdict.add("lost", f"with folders.{key} changed back, it ends with {again.code}")
    _check_each_once(outcome.verdict, world, [old, new])


def _check_faults_name_claims(verdict: Verdict, key: str, old: Mapping[str, Path], new: Mapping[str, Path]) -> None:
    """Check that a recording left claimed in the old place is named by a fault that people can read."""
    left = [path for path in (old["inbox"] / ".scribed").glob("*/*") if path.suffix in {".wav", ".mp3"}]
    if not left:
        return
    snapshot = json.loads((new["state"] / "status.json").read_text())
    shown = " ".join(fault["what"] for fault in snapshot["faults"]) + (new["outbox"] / "STATUS.txt").read_text()
    for path in left:
        if str(path.parent) not in shown and str(old["inbox"]) not in shown:
            verdict.add("lost", f"with folders.{key} changed, no fault names {path}")


# What holds in the end


def _go_on(_: Step, __: int) -> Answer:
    return Answer.GO_ON


def _check_each_once(
    verdict: Verdict, world: World, worlds: Iterable[Mapping[str, Path]], *, has_documents: bool = True
) -> None:
    """Check that each recording is in exactly one place and has one whole set of documents, under whatever name."""
    sets = list(worlds)
    roots = {name: {places[name] for places in sets} for name in FOLDERS}
    audio = Counter(
        hashlib.sha256(path.read_bytes()).hexdigest()
        for name in ("inbox", "processed", "failed")
        for top in roots[name]
        for path in files_in(top)
    )
    documents = [(path, document) for top in roots["outbox"] for path, document in documents_in(top)]
    for drop in world.drops:
        n_copies = audio[drop.sha256]
        if n_copies != 1:
            verdict.add("lost" if not n_copies else "doubled", f"{drop.path} is in {n_copies} places")
        ours = [(path, document) for path, document in documents if document["source"]["sha256"] == drop.sha256]
        n_wanted = 1 if drop.end == "processed" else 0
        if has_documents and len(ours) != n_wanted:
            verdict.add("lost" if len(ours) < n_wanted else "doubled", f"{drop.path} has {len(ours)} JSON documents")
        for path, document in ours if has_documents else ():
            text = path.with_suffix(".txt")
            if not text.is_file() or text.read_text().split() != document["text"].split():
                verdict.add("partial", f"{text} is missing or disagrees with its JSON")


def report(outcomes: Iterable[Outcome]) -> int:
    """Print the table; 1 where something was broken, 0 where all held."""
    rows: dict[tuple[str, str], Verdict] = defaultdict(Verdict)
    n_runs: Counter[tuple[str, str]] = Counter()
    for outcome in outcomes:
        if outcome.step is not None:
            rows[outcome.step, outcome.case.kind].join(outcome.verdict)
            n_runs[outcome.step, outcome.case.kind] += 1
    write_table(rows, n_runs)
    return int(any(verdict.complaints for verdict in rows.values()) or not rows)


if __name__ == "__main__":
    sys.exit(main())
