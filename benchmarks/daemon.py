"""What the daemon costs apart from transcribing: start of commands, an idle inbox, a full one, a long recording.

    python benchmarks/daemon.py [--short] [commands | scan | own | journal | daemon ...]

Machines are shared: figures of one run belong together, and each is compared with a rival measured in the
same run. Nothing here passes or fails.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import soundfile
import structlog
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))  # ahead of this folder, whose daemon.py is not the package

from daemon.config import Folders, Output, Watch
from daemon.host.clock import now
from daemon.inbox import Arrival, Inbox, fingerprint_of
from daemon.job import Job, JobState
from daemon.journal import JOURNAL_NAME, Journal
from daemon.journal.records import ChunkText, Result
from daemon.spool import SharedFolders, Spool

_FOLDERS: Final = ("inbox", "outbox", "processed", "failed", "state", "cache")
_N_FILES: Final = 100_000
_N_JOBS: Final = 10_000
_GROUP: Final = 32  # recordings that are claimed together
_N_PAST: Final = 1_000_000
_N_ARRIVALS: Final = 20
_IDLE_S: Final = 30.0
_SHORT: Final = 100  # how many times less `--short` does: it shows that everything runs, its figures mean nothing
_REPEATS: Final = 5
_SETTLE_S: Final = 1.0
_LONG_AGO: Final = 1_700_000_000  # UTC, seconds
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure everything and print one table."""
    parser = argparse.ArgumentParser(description="What the daemon costs apart from transcribing.")
    parser.add_argument("--short", action="store_true", help="only see that it runs")
    parser.add_argument("parts", nargs="*", help="commands, scan, own, journal, daemon; without one, all")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    options = parser.parse_args()
    share = _SHORT if options.short else 1
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        config = make_instance(root)
        parts = {
            "commands": lambda: measure_commands(config),
            "scan": lambda: measure_scan(root, _N_FILES // share),
            "own": lambda: measure_own_time(root / "own", _N_JOBS // share),
            "journal": lambda: measure_journal(root / "past", _N_PAST // share),
            "daemon": lambda: measure_daemon(root, config, share),
        }
        if unknown := set(options.parts) - parts.keys():
            parser.error(f"there is no part {', '.join(sorted(unknown))}")
        rows = [row for name in options.parts or parts for row in parts[name]()]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for what, figure, rival in rows:
        print(f"{what:<52}{figure:>16}   {rival}")


def make_instance(root: Path) -> Path:
    """Make folders and a configuration with the demo model; return the file."""
    for name in _FOLDERS:
        (root / name).mkdir()
    path = root / "config.yaml"
    folders = {name: str(root / name) for name in _FOLDERS}
    settings = {"folders": folders, "model": {"path": "demo", "device": "cpu"}, "watch": {"settle_s": _SETTLE_S}}
    path.write_text(yaml.safe_dump(settings))
    return path


def measure_commands(config: Path) -> list[tuple[str, str, str]]:
    """Time `--help`, `status` and `check` against an interpreter that does nothing."""
    bare_s = time_command(["-c", "pass"])
    rows = []
    for words in (["--help"], ["status"], ["check"]):
        option = [] if words == ["--help"] else ["--config", str(config)]
        took_s = time_command(["-m", "daemon", *words, *option])
        rows.append((f"scribed {words[0]}", f"{took_s:.2f} s", f"{took_s / bare_s:.1f}x `python -c pass`"))
    return rows


def time_command(words: list[str]) -> float:
    """Return the median wall time of a Python command in seconds."""
    times_s = []
    for _ in range(_REPEATS):
        begun_s = time.perf_counter()
        subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        times_s.append(time.perf_counter() - begun_s)
    return median(times_s)


def measure_scan(root: Path, n_files: int) -> list[tuple[str, str, str]]:
    """Time one scan of an inbox full of waiting files against `find -printf`."""
    folder = root / "many"
    folder.mkdir()
    for number in range(n_files):
        path = folder / f"{number:05}.wav"
        path.write_bytes(b"x")
        os.utime(path, (_LONG_AGO, _LONG_AGO))  # else the quiet time is longer, as no close can be seen
    inbox = Inbox(folder, lambda: Watch(mode="poll", settle_s=_SETTLE_S))
    inbox.scan()
    threading.Event().wait(_SETTLE_S)
    if len(inbox.scan().settled) != n_files:
        sys.exit("not all files have settled")
    times_s, rival_s = [], []
    for _ in range(_REPEATS):
        begun_s = time.perf_counter()
        inbox.scan()
        times_s.append(time.perf_counter() - begun_s)
        begun_s = time.perf_counter()
        subprocess.run(["find", folder, "-printf", "%i %s %T@ %b\n"], stdout=subprocess.DEVNULL, check=True)
        rival_s.append(time.perf_counter() - begun_s)
    shutil.rmtree(folder)
    ratio = median(times_s) / median(rival_s)
    return [(f"scan of {n_files:,} waiting files", f"{median(times_s) * 1000:.0f} ms", f"{ratio:.1f}x `find -printf`")]


def measure_own_time(root: Path, n_jobs: int) -> list[tuple[str, str, str]]:
    """Time claim and delivery of ten-second recordings, without decoding and model, against plain copies.

    They are claimed in groups, as in a backlog, and delivered one after the other on one thread.
    """
    folders = Folders(**{name: root / name for name in _FOLDERS})
    shared = SharedFolders(folders)
    root.mkdir()
    shared.prepare()
    journal = Journal(folders.state)
    spool = Spool(shared, journal, lambda _: Output())
    content = bytes(10 * 16_000 * 2)
    documents = {"txt": b"words\n" * 40, "json": b'{"text": "words"}' * 40}
    took_s, cpu_s, copies_s = 0.0, 0.0, []
    for first in range(0, n_jobs, _GROUP):
        arrivals = []
        for number in range(first, min(first + _GROUP, n_jobs)):
            path = folders.inbox / f"{number:05}.wav"
            path.write_bytes(content)
            arrivals.append(Arrival(path.name, fingerprint_of(path.lstat())))
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        claimed = spool.claim_all(arrivals).claims
        if len(claimed) != len(arrivals):
            sys.exit("a recording was gone before it was claimed")
        for claim in claimed:
            process_without_sound(spool, journal, claim.job, documents)
        took_s, cpu_s = took_s + time.perf_counter() - begun_s, cpu_s + time.process_time() - begun_cpu_s
        for _ in arrivals:
            begun_s = time.perf_counter()
            with (root / "copy").open("wb") as stream:
                stream.write(b"words\n" * 40)
                stream.flush()
                os.fsync(stream.fileno())
            copies_s.append(time.perf_counter() - begun_s)
    journal.close()
    what = f"own time of each of {n_jobs:,} recordings"
    rival = (
        f"{took_s / sum(copies_s):.0f}x one synced write of a text; {1000 * cpu_s / n_jobs:.1f} ms of processor time"
    )
    return [(what, f"{1000 * took_s / n_jobs:.1f} ms", rival)]


def process_without_sound(spool: Spool, journal: Journal, job: Job, documents: dict[str, bytes]) -> None:
    """Do all that the service does with a claimed recording, but for decoding and the model."""
    claim = spool.take_up(job)
    if claim is None:
        sys.exit("a recording was gone before it was transcribed")
    with claim:
        journal.begin(job.job_id)
    journal.reach_engine(job.job_id)
    journal.remember_chunk(job.job_id, "plan", (0, 160_000), ChunkText("words", "English", is_finished=True))
    spool.explain_second_set(job)
    spool.deliver(job, documents, Result(10.0, 1.0, is_complete=True), claim.fingerprint)


def measure_journal(root: Path, n_past: int) -> list[tuple[str, str, str]]:
    """Time what the status asks of a journal that remembers very many jobs, half of them of today."""
    root.mkdir()
    journal = Journal(root)
    journal.close()
    db = sqlite3.connect(root / JOURNAL_NAME)
    states = (JobState.DONE, JobState.DONE, JobState.DONE, JobState.FAILED)
    with db:
        db.executemany(
            "INSERT INTO jobs (job_id, path, claimed_at, state, finished_at, audio_name) VALUES (?, ?, ?, ?, ?, ?)",
            (
                (f"{n:08}", b"talk.wav", now(), states[n % 4], now() if n % 2 else "2020-01-01T00:00:00Z", b"talk.wav")
                for n in range(n_past)
            ),
        )
    db.close()
    times_s = []
    for _ in range(_REPEATS):
        journal = Journal(root)
        begun_s = time.perf_counter()
        journal.unfinished(), journal.recent(20), journal.failures(), journal.done_since("2021-01-01T00:00:00Z")
        times_s.append(time.perf_counter() - begun_s)
        journal.close()
    begun_s = time.perf_counter()
    Journal(root).close()
    opened_s = time.perf_counter() - begun_s
    shutil.rmtree(root)
    return [(f"status from a journal of {n_past:,} jobs", f"{median(times_s):.3f} s", f"opening it: {opened_s:.1f} s")]


def measure_arrivals(root: Path, n_arrivals: int) -> list[tuple[str, str, str]]:
    """Time how long after settling a recording is claimed: it was renamed in, so it settles from then on."""
    late_s = []
    source = Path(__file__).parent.parent / "daemon" / "demo" / "recordings" / "memo.wav"
    for number in range(n_arrivals):
        name = f"arrival-{number}.wav"
        shutil.copyfile(source, root / "inbox" / f"{name}.part")
        dropped_s = time.time()
        (root / "inbox" / f"{name}.part").rename(root / "inbox" / name)
        wait_for(lambda name=name: (root / "processed" / name).exists())
        line = next(line for line in (root / "log").read_text().splitlines() if "job.claimed" in line and name in line)
        late_s.append(datetime.fromisoformat(line.split()[0]).timestamp() - dropped_s - _SETTLE_S)
    highest = f"highest of {n_arrivals}: {max(late_s):.2f} s"
    return [("from settled to claimed, median", f"{median(late_s):.2f} s", highest)]


def measure_daemon(root: Path, config: Path, share: int) -> list[tuple[str, str, str]]:
    """Watch a running daemon: idle, with arrivals, with a short recording, with a long one."""
    rows = []
    with (root / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "daemon", "run", "--config", str(config)], stderr=log)
    try:
        wait_for(lambda: state_of(root) == "ready")
        before = cpu_s(process.pid)
        threading.Event().wait(_IDLE_S)
        used = (cpu_s(process.pid) - before) / _IDLE_S
        rows.append(("idle daemon", f"{used:.2%} of a core", ""))
        rows += measure_arrivals(root, max(1, _N_ARRIVALS // share))
        peaks = []
        for minutes in (1, 10, 60, 240)[: 1 if share > 1 else None]:
            drop(root, f"{minutes}.wav", minutes)
            wait_for(lambda name=f"{minutes}.wav": (root / "processed" / name).exists())
            peaks.append(peak_mib(process.pid))
            speed = json.loads((root / "outbox" / f"{minutes}.json").read_text())["processing"]["rtfx"]
            growth = f"{peaks[-1] - peaks[0]:+.0f} MiB since the first; {speed:.0f}x real time"
            rows.append((f"peak memory after {minutes} min of sound", f"{peaks[-1]:.0f} MiB", growth))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    torch_mib = resource_of("import torch, transformers")
    rows.append(("importing torch and transformers alone", f"{torch_mib:.0f} MiB", ""))
    return rows


def drop(root: Path, name: str, minutes: int) -> None:
    """Write a recording of the sample meeting over and over, and drop it."""
    sample = Path(__file__).parent.parent / "daemon" / "demo" / "recordings" / "meeting.flac"
    samples, rate = soundfile.read(sample, dtype="int16")
    n_samples = minutes * 60 * rate
    path = root / "inbox" / f"{name}.part"
    soundfile.write(path, np.resize(samples, n_samples), rate, format="WAV")
    path.rename(root / "inbox" / name)


def wait_for(is_true: object, timeout_s: float = 3000.0) -> None:
    """Wait until something holds."""
    never = threading.Event()
    end_s = time.monotonic() + timeout_s
    while not is_true():  # type: ignore[operator]  # a callable; the lambdas above carry defaults
        if time.monotonic() > end_s:
            sys.exit("the daemon did not do it in time")
        never.wait(0.2)


def state_of(root: Path) -> str | None:
    """Return the state that the daemon shows."""
    try:
        state: str = json.loads((root / "state" / "status.json").read_text())["state"]
    except (FileNotFoundError, ValueError):
        return None
    return state


def cpu_s(pid: int) -> float:
    """Return the processor time a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def peak_mib(pid: int) -> float:
    """Return the largest resident set a process ever had, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def resource_of(code: str) -> float:
    """Return the peak memory of a Python program in MiB."""
    code += "; import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout) / 1024


if __name__ == "__main__":
    main()
