"""A scribed of its own for a test: folders, configuration, and the real command as a process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FOLDERS = ("inbox", "outbox", "processed", "failed", "state", "cache")
_LOOK_S = 0.05
_WAIT_S = 600.0  # only to find out what hangs, however busy the machine


def wait_until(is_true: Callable[[], object], what: str, timeout_s: float = _WAIT_S) -> None:
    """Look again and again until something holds; fail the test when it never does."""
    never = threading.Event()
    end_s = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < end_s, f"waited {timeout_s:.0f} s in vain: {what}"
        never.wait(_LOOK_S)


def environment() -> dict[str, str]:
    """Return ours, with one thread for torch: the tiny model gains nothing by more, and loses much on busy cores."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@dataclass(slots=True)
class Instance:
    """Folders and configuration of one scribed below `root`."""

    root: Path
    settings: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        for name in FOLDERS:
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self.configure(self.settings)

    def configure(self, settings: dict[str, Any]) -> None:
        """Rewrite the configuration: a short settle time, the demo model, and the test's own settings."""
        base: dict[str, Any] = {
            "folders": {name: str(self.root / name) for name in FOLDERS},
            "watch": {"settle_s": 1, "scan_s": 0.5},
            "model": {"path": "demo", "device": "cpu"},
            "retry": {"backoff_s": 0},
        }
        for section, keys in settings.items():
            base[section] = {**base.get(section, {}), **keys}
        self.config.write_text(yaml.safe_dump(base))

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def log(self) -> str:
        path = self.root / "log"
        return path.read_text() if path.exists() else ""

    def folder(self, name: str) -> Path:
        return self.root / name

    def names(self, folder: str) -> list[str]:
        """Return every file below a folder, relative to it; without claims, locks and STATUS.txt."""
        found = [path for path in (self.root / folder).rglob("*") if path.is_file()]
        paths = [str(path.relative_to(self.root / folder)) for path in found]
        return sorted(path for path in paths if not path.startswith(".scribed/") and path != "STATUS.txt")

    def claimed(self) -> list[Path]:
        """Return the recordings that are claimed and not yet delivered."""
        return [path for path in (self.root / "inbox/.scribed").glob("*/*") if not path.name.startswith(".")]

    def run(self, *words: str, timeout_s: float = _WAIT_S) -> subprocess.CompletedProcess[str]:
        """Run a command and wait for it."""
        command = self.command(*words)
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False, env=environment()
        )

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "daemon", *words, "--config", str(self.config)]

    def start(self) -> None:
        """Start the daemon and wait until its model is loaded."""
        with (self.root / "log").open("ab") as stream:
            self.process = subprocess.Popen(self.command("run"), stdout=stream, stderr=stream, env=environment())
        wait_until(lambda: self.is_ready() or not self.is_running(), "the daemon is ready")
        assert self.is_running(), self.log

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def is_ready(self) -> bool:
        return bool(self.is_running() and self.status().get("state") in {"ready", "idle"})

    def status(self) -> dict[str, Any]:
        try:
            status: dict[str, Any] = json.loads((self.root / "state/status.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        # An earlier daemon's status is not believed.
        is_own = self.process is None or status.get("process", {}).get("pid") == self.process.pid
        return status if is_own else {}

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 30.0) -> int:
        """Send a signal and return the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def drop(self, source: Path, name: str | None = None) -> None:
        """Drop a recording the careful way: under a temporary name, then renamed."""
        target = self.root / "inbox" / (name or source.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        arriving = target.with_name(f"{target.name}.part")
        shutil.copyfile(source, arriving)
        arriving.rename(target)

    def document(self, stem: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.root / "outbox" / f"{stem}.json").read_text())
        return document
