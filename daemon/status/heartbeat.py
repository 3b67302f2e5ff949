"""How others know that the daemon is alive: a heartbeat in status.json, not a lock that others could hold.

The heartbeat names the process and carries two times: the time of day for people, and the time since the machine
started, which no clock step changes. A reader on the same machine also sees whether the process is alive.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from daemon.host.clock import now

BEAT_S: Final = 10.0
# Several heartbeats may be late: the disk hangs, or the first import of a library keeps Python busy.
_MAX_SILENCE_S: Final = 60.0
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE: Final = Path("/proc/self/ns/pid")
_START_TIME_FIELD: Final = 19  # in /proc/PID/stat, counted from behind the name


@dataclass(frozen=True, slots=True)
class Life:
    """What a heartbeat says now.

    Attributes:
        is_alive: whether the daemon that gave it runs.
        silent_s: how many seconds ago it was given.
    """

    is_alive: bool
    silent_s: float

    @property
    def is_late(self) -> bool:
        """Whether the daemon is alive but has not reported for too long."""
        return self.is_alive and self.silent_s > _MAX_SILENCE_S


def sign_of_life() -> dict[str, Any]:
    """Return what this process adds to status.json."""
    process = {
        "pid": os.getpid(),
        "started": _start_time_of(os.getpid()),
        "pid_namespace": _pid_namespace(),
        "boot_id": _boot_id(),
        "boottime_s": round(time.clock_gettime(time.CLOCK_BOOTTIME), 3),
    }
    return {"alive_at": now(), "process": process}


def judge(status: dict[str, Any]) -> Life:
    """Return whether the daemon that wrote this status still runs; damaged fields count as no."""
    process = status.get("process")
    process = process if isinstance(process, dict) else {}
    try:
        if process.get("boot_id") == _boot_id() != "":
            silent_s = time.clock_gettime(time.CLOCK_BOOTTIME) - float(process["boottime_s"])
            if process.get("pid_namespace") == _pid_namespace() != 0:
                return Life(_is_running(int(process["pid"]), process.get("started")), silent_s)
        else:  # another machine that shares the folder, or this one before it was restarted
            given = datetime.fromisoformat(str(status["alive_at"]))
            silent_s = (datetime.now(UTC) - given).total_seconds()
    except (KeyError, ValueError, TypeError):
        return Life(is_alive=False, silent_s=0.0)
    return Life(abs(silent_s) <= _MAX_SILENCE_S, silent_s)


def _is_running(pid: int, started: object) -> bool:
    """Whether a process of this number exists; one that started at another time is another program."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    found = _start_time_of(pid)
    return not (found and started) or found == started


def _start_time_of(pid: int) -> int:
    """Return when a process started, in clock ticks since the machine did; 0 where /proc does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return int(fields[_START_TIME_FIELD])
    except (OSError, ValueError, IndexError):
        return 0


@cache
def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:  # a container that hides it
        return ""


@cache
def _pid_namespace() -> int:
    try:
        return _PID_NAMESPACE.stat().st_ino
    except OSError:
        return 0
