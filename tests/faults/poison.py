"""Which recordings are blamed when the process dies: poison among good ones, and kills from outside.

    python -m tests.faults.poison [--short]

Each life of the process is a fork of this one, which has imported everything ahead.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import signal
import sqlite3
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import soundfile
import yaml

from tests.conftest import SAMPLES
from tests.faults.decoders import forked_decoders
from tests.faults.promise import Drop, check_instant, lay_out, make_drops, run_once, texts_of
from tests.faults.runs import FINE, LIMIT_S, World, import_all, roomy, undisturbed
from tests.faults.steps import Answer, Step, run_steered, why_not

if TYPE_CHECKING:
    from collections.abc import Callable

N_POISON = 3
_MAX_LIVES = 60
_MAX_STEPS = 40
_CLIP_S = 2.5
_SEED = 5
_CRASHED = "The service crashed each time it processed this recording on its own."
# A kill, a crash, and what systemd's watchdog sends to a process that hangs.
_ENDS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)


@dataclass(frozen=True, slots=True)
class _Size:
    """How many recordings are good, and how many are in flight through how many kills from outside."""

    n_good: int = 20
    n_innocent: int = 10
    n_kills: int = 10
    backoff_s: float = 30.0  # the default: a recording that was alone lets others go first


@dataclass(slots=True)
class _Killer:
    """Ends the process at the n-th step, counted from when a recording of such a name is in flight.

    Attributes:
        is_poison: count only from when the engine has a chunk of it: a recording that is still being decoded, in
            another process, cannot crash this one.
    """

    root: Path
    name: str
    after: int = 1
    number: signal.Signals = signal.SIGKILL
    is_poison: bool = False
    n_steps: int = 0
    n_logged: int = -1  # what the log held before this life

    def decide(self, step: Step, process: int) -> Answer:
        if self.n_logged < 0:
            self.n_logged = len(self._log())
        if self.n_steps:
            self.n_steps += 1
        elif (
            step.verb == "write"
            and step.path.name.endswith("-wal")
            and b"engine.loaded" in self._log()[self.n_logged :]
        ):
            self.n_steps = int(self._is_in_flight())
        if not self.n_steps or self.n_steps < self.after:
            return Answer.GO_ON
        if self.number is signal.SIGKILL:
            return Answer.DIE
        if step.thread == process:  # it is the one that dies of the signal, and does no recording's work
            return Answer.GO_ON
        os.kill(process, self.number)
        return Answer.HOLD  # while the process writes why it dies, its threads would go on

    def _log(self) -> bytes:
        path = self.root / "log"
        return path.read_bytes() if path.exists() else b""

    def _is_in_flight(self) -> bool:
        """Look into the journal; not while it is opened or folded in, when SQLite would wait for the process."""
        path = self.root / "state" / "journal.sqlite3"
        try:
            db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0)
            try:
                query = "SELECT path FROM jobs WHERE is_in_flight = 1 AND has_reached_engine >= ?"
                rows = db.execute(query, (self.is_poison,)).fetchall()
            finally:
                db.close()
        except sqlite3.OperationalError:  # it is locked just now
            return False
        return any(os.fsdecode(row[0]).startswith(self.name) for row in rows)


def main() -> int:
    """Run both and print the outcome; 1 where a recording was blamed wrongly, or poison was not blamed."""
    parser = argparse.ArgumentParser(description="See which recordings are blamed when the process dies.")
    parser.add_argument("--short", action="store_true", help="fewer recordings, fewer kills")
    size = _Size(n_good=6, n_innocent=5, n_kills=3, backoff_s=4.0) if parser.parse_args().short else _Size()
    if reason := why_not():
        sys.stdout.write(f"It cannot run: {reason}.\n")
        return 1
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="scribed-poison-", dir=roomy()) as folder:
        base = Path(folder)
        undisturbed(World(base, make_drops(base), {}), base / "modules")
        import_all((base / "modules").read_text().splitlines())
        with forked_decoders(base):
            complaints = [*_poison(base / "poison", size), *_kills(base / "kills", size)]
    for complaint in complaints:
        sys.stdout.write(f"{complaint}\n")
    return int(bool(complaints))


def _poison(root: Path, size: _Size) -> list[str]:
    """Three recordings end the process whenever the engine has a chunk of them; the good ones are delivered."""
    names = [*(f"good-{n:02}.wav" for n in range(size.n_good)), *(f"poison-{n}.wav" for n in range(N_POISON))]
    drops = _drop(root, names, 1.0)
    n_lives = _live(root, lambda n_life: _Killer(root, "poison", number=_ENDS[n_life % len(_ENDS)], is_poison=True))
    failed = {path.name for path in (root / "failed").glob("*.wav")}
    reasons = [path.read_text() for path in (root / "failed").glob("*.error.txt")]
    sys.stdout.write(
        f"poison: {len(texts_of(root / 'outbox'))} delivered, {len(failed)} in failed with {len(reasons)} reasons,"
        f" in {n_lives} lives\n"
    )
    complaints = _complaints(root, drops, set(names[: size.n_good]))
    if failed != set(names[size.n_good :]) or not all(_CRASHED in reason for reason in reasons):
        complaints.append(f"in failed are {sorted(failed)}: {reasons}")
    return complaints if len(reasons) == N_POISON else [*complaints, f"{len(reasons)} reasons"]


def _kills(root: Path, size: _Size) -> list[str]:
    """Recordings are in flight, now these, now those, when the process is killed from outside."""
    names = [f"innocent-{n}.wav" for n in range(size.n_innocent)]
    drops = _drop(root, names, size.backoff_s)
    chance = random.Random(_SEED)  # noqa: S311  # it picks, and keeps no secret

    def kill(n_life: int) -> _Killer | None:
        return _Killer(root, "innocent", chance.randint(1, _MAX_STEPS)) if n_life < size.n_kills else None

    n_lives = _live(root, kill)
    sys.stdout.write(f"outside kills: {len(texts_of(root / 'outbox'))} delivered in {n_lives} lives\n")
    return _complaints(root, drops, set(names))


def _drop(root: Path, names: list[str], backoff_s: float) -> list[Drop]:
    """Drop clips that differ in their level, so that each is known by its bytes."""
    samples, rate_hz = soundfile.read(SAMPLES / "memo.wav", dtype="float32")
    clip = samples[: int(_CLIP_S * rate_hz)]
    root.mkdir()
    drops = []
    for index, name in enumerate(names):
        soundfile.write(root / "clip.wav", clip * (1 - index / 100), rate_hz, subtype="PCM_16")
        drops.append(Drop(name, (root / "clip.wav").read_bytes()))
    (root / "inbox" / "team").mkdir(parents=True)
    config = lay_out(root, drops)
    settings = yaml.safe_load(config.read_text())
    settings["retry"] = {"backoff_s": backoff_s}
    config.write_text(yaml.safe_dump(settings))
    return drops


def _live(root: Path, killer_of: Callable[[int], _Killer | None]) -> int:
    """Start again and again until a run ends by itself; return how many there were."""
    for n_life in range(_MAX_LIVES):
        killer = killer_of(n_life)
        decide = killer.decide if killer is not None else _go_on
        end = run_steered(functools.partial(run_once, root / "config.yaml", root / "log"), decide, LIMIT_S)
        if end.code in FINE:
            return n_life + 1
    return _MAX_LIVES


def _go_on(_: Step, __: int) -> Answer:
    return Answer.GO_ON


def _complaints(root: Path, drops: list[Drop], delivered: set[str]) -> list[str]:
    complaints = check_instant(root, drops).complaints
    if set(texts_of(root / "outbox")) != delivered:
        complaints.append(f"delivered are {sorted(texts_of(root / 'outbox'))}")
        complaints += [note.read_text() for note in (root / "failed").glob("*.error.txt")]
        complaints.append((root / "log").read_text())
    return complaints


if __name__ == "__main__":
    sys.exit(main())
