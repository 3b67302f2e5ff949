"""The power cut: an ext4 image on a loop device, copied unsynced at every step and mounted again.

    python -m tests.faults.powercut [--every N]      # as root

A copy holds what had reached the disk by then, and no more: what only lay in memory is gone, as it is
when the power fails. ext4 is mounted with the least it promises (data=writeback, noauto_da_alloc). In
each copy everything that scribed had called done must stand, and after a start all must be done.
A control in which nothing is synced has to lose something; else this would see nothing.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.decoders import forked_decoders
from tests.faults.promise import Drop, Verdict, check_end, check_instant, lay_out, make_drops, places_of, run_once
from tests.faults.runs import FINE, LIMIT_S, World, import_all, is_counted, label, roomy, undisturbed, write_table
from tests.faults.steps import Answer, Step, run_steered, why_not

if TYPE_CHECKING:
    from collections.abc import Iterator

_IMAGE_BYTES = 64 << 20
# No commit by the clock: what reaches the disk does so because it was asked for.
_OPTIONS = "loop,commit=300,data=writeback,noauto_da_alloc"
_CALLED_DONE = re.compile(r"job\.(?:delivered|failed) job_id=\S+ path=(\S+)")
_CUT = "power cut"
_LOOK_S, _LOOKS = 0.002, 1000
_never = threading.Event()


@dataclass(frozen=True, slots=True)
class Cut:
    """The disk as it was before one step, and the recordings that scribed had called done by then."""

    image: Path
    step: str
    done: frozenset[str]


@dataclass(slots=True)
class _Photographer:
    """Copies the image at every n-th step; the control leaves out every sync."""

    root: Path
    image: Path
    log: Path
    every: int
    is_control: bool
    cuts: list[Cut] = field(default_factory=list)
    n_steps: int = 0

    def decide(self, step: Step, process: int) -> Answer:
        if step.verb == "write" or not is_counted(step, self.root):
            return Answer.GO_ON
        self.n_steps += 1
        if self.n_steps % self.every == 0:
            _wait_for_the_disk(process)
            self.take(label(step, places_of(self.root)))
        return Answer.PRETEND if step.verb == "sync" and self.is_control else Answer.GO_ON

    def take(self, step: str) -> None:
        copy = self.image.with_name(f"{self.image.name}-{self.n_steps}")
        subprocess.run(["cp", "--sparse=always", self.image, copy], check=True)
        text = self.log.read_text() if self.log.exists() else ""
        self.cuts.append(Cut(copy, step, frozenset(_CALLED_DONE.findall(text))))


def main() -> int:
    """Run everything and print the table; 1 where the promise was broken, or where nothing can be said."""
    parser = argparse.ArgumentParser(description="Cut the power at every step and look at the disk.")
    parser.add_argument("--every", type=int, default=1, help="only every n-th step")
    every = parser.parse_args().every
    if reason := why_not() or why_no_disk():
        sys.stdout.write(f"The power cut was NOT tried: {reason}.\n")
        return 1
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="scribed-power-", dir=roomy()) as folder:
        base = Path(folder)
        modules = base / "modules"
        world, _ = undisturbed(World(base, make_drops(base), {}), modules)
        import_all(modules.read_text().splitlines())
        rows: dict[tuple[str, str], Verdict] = defaultdict(Verdict)
        n_runs: Counter[tuple[str, str]] = Counter()
        with forked_decoders(base):
            for cut, verdict in _try(world, every, is_control=False):
                rows[cut.step, _CUT].join(verdict)
                n_runs[cut.step, _CUT] += 1
                if verdict.complaints:
                    sys.stdout.write(f"{cut.step}: {verdict.complaints}\n")
            control = [verdict for _, verdict in _try(world, every, is_control=True)]
    write_table(rows, n_runs)
    n_seen = sum(bool(verdict.complaints) for verdict in control)
    remark = "as it has to" if n_seen else "BUT IT HAS TO: this test sees nothing"
    sys.stdout.write(f"Control with fsync off: {n_seen} of {len(control)} cuts lose something, {remark}.\n")
    return int(not n_seen or any(verdict.complaints for verdict in rows.values()))


def why_no_disk() -> str:
    """Return why no image can be mounted here, "" where one can."""
    if os.geteuid() != 0:
        return "only root can mount a disk image"
    if shutil.which("mkfs.ext4") is None:
        return "mkfs.ext4 is not installed"
    with tempfile.TemporaryDirectory() as folder:
        try:
            image = _make_image(Path(folder) / "image")
            with _mounted(image, Path(folder)):
                return ""
        except subprocess.CalledProcessError as error:
            return f"a disk image cannot be mounted here: {error.stderr.decode().strip()}"


def _try(world: World, every: int, *, is_control: bool) -> Iterator[tuple[Cut, Verdict]]:
    """Run once, copying the disk at each step, then look at every copy."""
    base = world.base / "disk"
    shutil.rmtree(base, ignore_errors=True)
    root = base / "mount"
    root.mkdir(parents=True)
    image, log = _make_image(base / "image"), base / "log"
    folders = {"cache": base / "cache"}  # decoded sound needs more room, and nothing of it is to last
    camera = _Photographer(root, image, log, every, is_control)
    with _mounted(image, root):
        config = lay_out(root, world.drops, folders)
        subprocess.run(["sync", "--file-system", root], check=True)
        end = run_steered(functools.partial(run_once, config, log), camera.decide, LIMIT_S)
        camera.n_steps += 1
        camera.take("after the last step")
    if end.code not in FINE:
        sys.exit(f"It did not run through: exit code {end.code}\n{log.read_text()}")
    for cut in camera.cuts:
        with _mounted(cut.image, root):
            verdict = _check_done(root, world.drops, cut.done)
            if not is_control:
                _go_on(verdict, world, root, folders)
        cut.image.unlink()
        yield cut, verdict


def _check_done(root: Path, drops: list[Drop], done: frozenset[str]) -> Verdict:
    """What was called done, and so may have been read and relied on, stands on the disk."""
    verdict = check_instant(root, drops)
    for drop in drops:
        if drop.path not in done:
            continue
        stem = (root / "outbox" / drop.path).with_suffix("")
        wanted = [root / drop.end / drop.path]
        wanted += [stem.with_suffix(".json")] if drop.end == "processed" else [Path(f"{wanted[0]}.error.txt")]
        for path in wanted:
            if not path.exists() or not path.stat().st_size:
                verdict.add("lost", f"{path} was called done and is not on the disk")
    return verdict


def _go_on(verdict: Verdict, world: World, root: Path, folders: dict[str, Path]) -> None:
    """Start again on what the cut has left, and look whether all gets done."""
    log = world.base / "log"
    log.unlink(missing_ok=True)
    end = run_steered(functools.partial(run_once, root / "config.yaml", log), lambda *_: Answer.GO_ON, LIMIT_S)
    if end.code not in FINE or "Traceback" in log.read_text():
        verdict.add("lost", f"the start after the cut ends with {end.code}: {log.read_text()[-2000:]}")
    verdict.join(check_end(root, world.drops, dict(world.texts), folders))


def _make_image(path: Path) -> Path:
    with path.open("wb") as stream:
        stream.truncate(_IMAGE_BYTES)
    options = ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]
    subprocess.run(["mkfs.ext4", *options, path], check=True, capture_output=True)
    return path


@contextmanager
def _mounted(image: Path, target: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", _OPTIONS, image, target], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", target], check=True)


def _wait_for_the_disk(process: int) -> None:
    """Wait until no thread is within a sync, so that the copy is of one instant: all other steps wait for us."""
    for _ in range(_LOOKS):
        if not any(state == "D" for state in _thread_states(process)):
            return
        _never.wait(_LOOK_S)


def _thread_states(process: int) -> list[str]:
    states = []
    for path in Path(f"/proc/{process}/task").glob("*/stat"):
        with suppress(OSError):  # it has ended
            states.append(path.read_text().rpartition(")")[2].split()[0])
    return states


if __name__ == "__main__":
    sys.exit(main())
