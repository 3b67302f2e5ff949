"""Runs of `scribed once` below folders of their own, and the table that tells what became of them."""

from __future__ import annotations

import functools
import importlib
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.host.files import TEMPORARY_PREFIX
from daemon.journal import JOURNAL_NAME
from daemon.status import STATUS_NAME
from tests.faults.promise import HOOK_LOG, Drop, Verdict, check_end, check_hooks, lay_out, run_once, texts_of
from tests.faults.steps import Answer, Step, run_steered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

LIMIT_S = 600.0  # only to find out what hangs, however busy the machine
FINE = frozenset({0, 1})  # 1: a recording moved to failed, as it should
STOPPED = FINE | {130}  # by SIGTERM; it may have been done already
_MIN_FREE_BYTES = 2 << 30
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # a mount point, not a file that is made with a known name


@dataclass(frozen=True, slots=True)
class World:
    """What all runs share.

    Attributes:
        base: where folders of runs are made.
        drops: the recordings.
        texts: their words, of a run that nothing disturbed.
        apart: another file system, for outbox, processed and failed; None for one disk.
        has_hook: whether a program runs after each delivery.
    """

    base: Path
    drops: list[Drop]
    texts: Mapping[str, str]
    apart: Path | None = None
    has_hook: bool = False

    def folders(self, name: str) -> dict[str, Path]:
        if self.apart is None:
            return {}
        return {folder: self.apart / name / folder for folder in ("outbox", "processed", "failed")}


def roomy() -> str | None:
    """Return a folder in memory where there is one with room, for its fsync costs nothing."""
    if _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free > _MIN_FREE_BYTES:
        return str(_SHARED_MEMORY)
    return None


def import_all(names: Iterable[str]) -> None:
    """Import what a run has imported, so that later ones, which are forks of this process, find it there."""
    for name in names:
        with suppress(Exception):  # parts of packages that cannot be imported by themselves
            importlib.import_module(name)


def undisturbed(world: World, modules: Path) -> tuple[World, list[Step]]:
    """Run without a fault; return the world with the words that came out, and the steps that were taken."""
    root = world.base / "undisturbed"
    folders = world.folders(root.name)
    config = lay_out(root, world.drops, folders, has_hook=world.has_hook)
    steps: list[Step] = []

    def note(step: Step, _: int) -> Answer:
        if is_counted(step, root, world.apart):
            steps.append(step)
        return Answer.GO_ON

    end = run_steered(functools.partial(run_once, config, root / "log", modules), note, LIMIT_S)
    texts = texts_of(folders.get("outbox", root / "outbox"))
    verdict = check_end(root, world.drops, texts, folders)
    if world.has_hook:
        verdict.join(check_hooks(root, folders))
    if end.code not in FINE or verdict.complaints:
        sys.exit(
            f"Undisturbed it does not work: exit code {end.code}, {verdict.complaints}\n{(root / 'log').read_text()}"
        )
    return replace(world, texts=texts), steps


def is_counted(step: Step, root: Path, apart: Path | None = None) -> bool:
    """Whether a step changes one of the folders of an instance: not what does nothing, and not the cache."""
    tops = (root,) if apart is None else (root, apart)
    if not any(step.path.is_relative_to(top) for top in tops) or step.path.is_relative_to(root / "cache"):
        return False
    if step.path in {root / "log", root / HOOK_LOG}:
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
    if path == folder / STATUS_NAME or path.name.startswith(f"{TEMPORARY_PREFIX}status-"):
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


def write_table(rows: Mapping[tuple[str, str], Verdict], n_runs: Mapping[tuple[str, str], int]) -> None:
    """Print step, fault, runs, lost, doubled, partial, and their sums for each fault and for all."""
    line: Callable[..., str] = "{:<44}{:<18}{:>7}{:>7}{:>9}{:>9}{:>9}\n".format
    sys.stdout.write(line("step", "fault", "runs", "lost", "doubled", "partial", "outside"))
    for (step, fault), verdict in sorted(rows.items()):
        sys.stdout.write(line(step, fault, n_runs[step, fault], *_counts(verdict)))
    for wanted in (*sorted({fault for _, fault in rows}), ""):
        keys = [key for key in rows if wanted in {key[1], ""}]
        sums = [sum(column) for column in zip(*(_counts(rows[key]) for key in keys), strict=True)]
        sys.stdout.write(line("all" if not wanted else "every step", wanted, sum(n_runs[key] for key in keys), *sums))


def _counts(verdict: Verdict) -> tuple[int, int, int, int]:
    return verdict.lost, verdict.doubled, verdict.partial, verdict.outside
