"""The soak: mixed recordings, random faults and restarts, and how much the daemon holds meanwhile.

    python -m tests.faults.soak [--recordings N] [--seed S] [--into FOLDER]

Memory, descriptors, threads, temporary files and the journal's size are looked at once a second; they
have to stay flat. It ends with a table and draws FOLDER/soak.svg.
"""

from __future__ import annotations

import argparse
import errno
import functools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from daemon.host.files import TEMPORARY_PREFIX
from daemon.journal import JOURNAL_NAME
from tests.conftest import SAMPLES
from tests.faults.promise import lay_out, make_drops, run_once, texts_of
from tests.faults.runs import World, import_all, roomy, undisturbed
from tests.faults.steps import Answer, Step, run_steered, why_not

if TYPE_CHECKING:
    from collections.abc import Iterator

_N_WAITING = 6  # so many recordings lie in the inbox at a time
_LIFE_S = 3600.0
_LOOK_S = 1.0
_ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS)
_FAULT_CHANCE = 1 / 400  # for each step
_LIVES = (0.2, 0.4, 0.6, 0.8)  # shares of the recordings after which it is ended, in turn by SIGKILL and SIGTERM
_MIN_LOOKS = 12
_WARM = 3  # the first looks of a life see the model being loaded
# How much more the last third of a life may hold than its second: what is not flat grows on.
_GROWTHS = {"memory MiB": 1.10, "descriptors": 1.25, "threads": 1.25}
_JOURNAL_BYTES_EACH, _JOURNAL_BYTES = 2000, 4 << 20
_WIDTH, _HEIGHT, _MARGIN = 900, 130, 40


@dataclass(frozen=True, slots=True)
class Look:
    """What was held at one moment."""

    life: int
    n_done: int
    held: dict[str, float]


@dataclass(slots=True)
class _Soak:
    """Drops recordings, disturbs the daemon, and looks at it, all between its steps."""

    root: Path
    sources: list[Path]
    n_recordings: int
    chance: random.Random
    life: int = 0
    n_dropped: int = 0
    next_look_s: float = 0.0
    is_ended: bool = False
    looks: list[Look] = field(default_factory=list)

    def decide(self, step: Step, process: int) -> Answer | int:
        if not step.path.is_relative_to(self.root):
            return Answer.GO_ON
        now_s = time.monotonic()
        if now_s >= self.next_look_s and not self.is_ended:
            self.next_look_s = now_s + _LOOK_S
            self._look(process)
            self.drop()
            self._end(process)
        if not self.is_ended and self.chance.random() < _FAULT_CHANCE:
            return self.chance.choice(_ERRORS)
        return Answer.GO_ON

    def n_done(self) -> int:
        ends = [*(self.root / "processed").rglob("*"), *(self.root / "failed").rglob("*")]
        return sum(path.is_file() and not path.name.endswith(".error.txt") for path in ends)

    def drop(self) -> None:
        inbox = self.root / "inbox"
        waiting = sum(path.is_file() for path in inbox.iterdir())
        for _ in range(min(_N_WAITING - waiting, self.n_recordings - self.n_dropped)):
            source = self.chance.choice(self.sources)
            name = f"{self.n_dropped:05}{source.suffix}"
            shutil.copyfile(source, inbox / f"{name}.part")
            (inbox / f"{name}.part").rename(inbox / name)
            self.n_dropped += 1

    def _end(self, process: int) -> None:
        n_done = self.n_done()
        ends = [round(share * self.n_recordings) for share in _LIVES]
        is_due = self.life < len(ends) and n_done >= ends[self.life]
        if is_due or n_done >= self.n_recordings:
            self.is_ended = True
            is_kill = is_due and self.life % 2 == 0
            os.kill(process, signal.SIGKILL if is_kill else signal.SIGTERM)

    def _look(self, process: int) -> None:
        with suppress(OSError, StopIteration):  # it has ended
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
            words = {line.split()[0]: line.split()[1] for line in lines if len(line.split()) > 1}
            journal = [path.stat().st_size for path in (self.root / "state").glob(f"{JOURNAL_NAME}*")]
            held = {
                "memory MiB": int(words["VmRSS:"]) / 1024,
                "descriptors": float(len(list(Path(f"/proc/{process}/fd").iterdir()))),
                "threads": float(words["Threads:"]),
                "temporary files": float(len(list(self.root.rglob(f"{TEMPORARY_PREFIX}*")))),
                "journal KiB": sum(journal) / 1024,
            }
            self.looks.append(Look(self.life, self.n_done(), held))


def main() -> int:
    """Run the soak and print its table; 1 where something was lost or grew."""
    parser = argparse.ArgumentParser(description="Hours of mixed recordings, random faults and restarts.")
    parser.add_argument("--recordings", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--into", type=Path, default=Path("build/soak"))
    options = parser.parse_args()
    if reason := why_not():
        sys.stdout.write(f"The soak cannot run: {reason}.\n")
        return 1
    os.environ["OMP_NUM_THREADS"] = "1"
    options.into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scribed-soak-", dir=roomy()) as folder:
        base = Path(folder)
        undisturbed(World(base, make_drops(base), {}), base / "modules")
        import_all((base / "modules").read_text().splitlines())
        chance = random.Random(options.seed)  # noqa: S311  # it disturbs, and keeps no secret
        soak = _Soak(base / "soak", _make_sources(base / "sources"), options.recordings, chance)
        (soak.root / "inbox" / "team").mkdir(parents=True)
        config = lay_out(soak.root, [])
        shutil.rmtree(soak.root / "inbox" / "team")
        complaints = _live(soak, config, options.into / "soak.log")
    _draw(soak.looks, options.into / "soak.svg")
    complaints += _report(soak.looks, options.recordings)
    for complaint in complaints:
        sys.stdout.write(f"{complaint}\n")
    sys.stdout.write(f"{options.recordings} recordings in {soak.life} lives; drawn in {options.into / 'soak.svg'}\n")
    return int(bool(complaints))


def _live(soak: _Soak, config: Path, log: Path) -> list[str]:
    """Let the daemon live as often as it takes; return what is wrong at the end."""
    complaints = []
    log.unlink(missing_ok=True)
    while soak.n_done() < soak.n_recordings:
        soak.drop()
        soak.is_ended = False
        end = run_steered(functools.partial(run_once, config, log, command="run"), soak.decide, _LIFE_S)
        if end.is_hung:
            return ["it did not come to an end by itself"]
        if not soak.is_ended and end.code not in {0, 73}:  # 73: it could not write at its start
            complaints.append(f"life {soak.life} ended with {end.code}")
        soak.life += 1
        if soak.life > 10 * len(_LIVES):
            return [*complaints, "it is never done"]
    return complaints + list(_wrong_ends(soak))


def _wrong_ends(soak: _Soak) -> Iterator[str]:
    ends = [path.name for name in ("processed", "failed") for path in (soak.root / name).iterdir()]
    audio = sorted(name for name in ends if not name.endswith(".error.txt"))
    dropped = [path.stem for path in (Path(name) for name in audio)]
    if dropped != [f"{number:05}" for number in range(soak.n_recordings)]:
        yield "not every recording is in exactly one place"
    delivered = {path.name for path in (soak.root / "processed").iterdir()}
    if set(texts_of(soak.root / "outbox")) != delivered:
        yield "not every delivered recording has its documents"
    left = list(soak.root.rglob(f"{TEMPORARY_PREFIX}*"))
    if left:
        yield f"{left} were left behind"


def _make_sources(folder: Path) -> list[Path]:
    """Make a mixture: short and longer speech in several formats, silence, and files that are not recordings."""
    folder.mkdir()
    samples, rate_hz = soundfile.read(SAMPLES / "memo.wav", dtype="int16")
    for n_seconds in (1, 3, 6):
        soundfile.write(folder / f"speech{n_seconds}.wav", samples[: n_seconds * rate_hz], rate_hz)
        soundfile.write(folder / f"speech{n_seconds}.flac", samples[: n_seconds * rate_hz], rate_hz)
    soundfile.write(folder / "silence.wav", np.zeros(4 * rate_hz, np.int16), rate_hz)
    for name in ("reminder.mp3", "voicemail.m4a"):
        shutil.copyfile(SAMPLES / name, folder / name)
    (folder / "words.mp3").write_bytes(b"these are words and no sound\n" * 50)
    (folder / "cut.ogg").write_bytes(b"OggS")
    return sorted(folder.iterdir())


def _report(looks: list[Look], n_recordings: int) -> list[str]:
    """Print how much was held, and return what did not stay flat."""
    if not looks:
        return ["nothing was looked at"]
    complaints = []
    sys.stdout.write(f"{'held':<18}{'first':>10}{'median':>10}{'highest':>10}{'last':>10}\n")
    for name in looks[0].held:
        values = [look.held[name] for look in looks]
        figures = (values[0], median(values), max(values), values[-1])
        sys.stdout.write(f"{name:<18}" + "".join(f"{figure:>10.1f}" for figure in figures) + "\n")
    for life in sorted({look.life for look in looks}):
        within = [look for look in looks if look.life == life][_WARM:]
        if len(within) < _MIN_LOOKS:
            continue
        third = len(within) // 3
        for name, growth in _GROWTHS.items():
            middle, last = (
                median(look.held[name] for look in part) for part in (within[third:-third], within[-third:])
            )
            if last > growth * middle:
                complaints.append(f"{name} grew from {middle:.1f} to {last:.1f} in life {life}")
    if looks[-1].held["journal KiB"] * 1024 > _JOURNAL_BYTES + n_recordings * _JOURNAL_BYTES_EACH:
        complaints.append("the journal is too large")
    return complaints


def _draw(looks: list[Look], path: Path) -> None:
    """Draw one curve for each thing that is held, over the recordings that are done."""
    names = list(looks[0].held) if looks else []
    end = max((look.n_done for look in looks), default=1) or 1
    parts = []
    for row, name in enumerate(names):
        top = max(look.held[name] for look in looks) or 1.0
        base = (row + 1) * (_HEIGHT + _MARGIN)
        parts.append(f'<text x="{_MARGIN}" y="{base - _HEIGHT - 8}">{name}, highest {top:.0f}</text>')
        parts.append(f'<path d="M{_MARGIN},{base}h{_WIDTH}" stroke="#999"/>')
        for life in sorted({look.life for look in looks}):
            points = " ".join(
                f"{_MARGIN + _WIDTH * look.n_done / end:.1f},{base - _HEIGHT * look.held[name] / top:.1f}"
                for look in looks
                if look.life == life
            )
            parts.append(f'<polyline points="{points}" fill="none" stroke="#15c"/>')
    height = (len(names) + 1) * (_HEIGHT + _MARGIN)
    parts.append(
        f'<text x="{_MARGIN}" y="{height - _HEIGHT}">recordings done, 0 to {end}; each line is one life</text>'
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH + 2 * _MARGIN}" height="{height}" font-size="13">'
    path.write_text("\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>", ""]))


if __name__ == "__main__":
    sys.exit(main())
