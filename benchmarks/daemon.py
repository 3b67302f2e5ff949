"""What the daemon costs beside its work: start of commands, an idle inbox, a full one, a long recording.

    python benchmarks/service.py

Machines are shared: figures of one run belong together, and each stands beside a rival measured in the
same run. Nothing here passes or fails.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import numpy as np
import soundfile
import yaml

from daemon.config import Watch
from daemon.inbox import Inbox

_FOLDERS = ("inbox", "outbox", "processed", "failed", "state", "cache")
_N_FILES = 10_000
_IDLE_S = 30.0
_REPEATS = 5
_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure everything and print one table."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        config = make_instance(root)
        rows = [*measure_commands(config), *measure_scan(root), *measure_daemon(root, config)]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for what, figure, rival in rows:
        print(f"{what:<52}{figure:>16}   {rival}")


def make_instance(root: Path) -> Path:
    """Make folders and a configuration with the demo model; return the file."""
    for name in _FOLDERS:
        (root / name).mkdir()
    path = root / "config.yaml"
    folders = {name: str(root / name) for name in _FOLDERS}
    settings = {"folders": folders, "model": {"path": "demo", "device": "cpu"}, "watch": {"settle_s": 1}}
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


def measure_scan(root: Path) -> list[tuple[str, str, str]]:
    """Time one scan of an inbox of 10,000 files against `find -printf`."""
    folder = root / "many"
    folder.mkdir()
    for number in range(_N_FILES):
        (folder / f"{number:05}.wav").write_bytes(b"x")
    inbox = Inbox(folder, Watch(mode="poll"))
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
    return [(f"scan of {_N_FILES:,} files", f"{median(times_s) * 1000:.0f} ms", f"{ratio:.1f}x `find -printf`")]


def measure_daemon(root: Path, config: Path) -> list[tuple[str, str, str]]:
    """Watch a running daemon: idle, with a short recording, with a long one."""
    rows = []
    with (root / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "daemon", "run", "--config", str(config)], stderr=log)
    try:
        wait_for(lambda: state_of(root) == "ready")
        before = cpu_s(process.pid)
        threading.Event().wait(_IDLE_S)
        share = (cpu_s(process.pid) - before) / _IDLE_S
        rows.append(("idle daemon", f"{share:.2%} of a core", ""))
        peaks = []
        for minutes in (1, 10, 60):
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
    subprocess.run([sys.executable, "-c", code], check=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


if __name__ == "__main__":
    main()
