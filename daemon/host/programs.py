"""Runs a program of the administrator: no shell, nothing inherited, a timeout, and no processes left behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping, Sequence

PROGRAM_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
"""Where a program given by name is searched for; also the $PATH of the program."""
_LOOK_S: Final = 0.1  # a stop is noticed within this time
_DEATH_S: Final = 1.0


class Ended(Enum):
    """Why a program ended: by itself, killed after its timeout, or killed because the service stops."""

    ITSELF = "by itself"
    TIMEOUT = "timeout"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ProgramEnd:
    """How a program ended; `code` is its exit code, or the negative number of the signal that ended it."""

    how: Ended
    code: int


def run_program(
    command: Sequence[str], environment: Mapping[str, str], timeout_s: float, stop: threading.Event, grace_s: float
) -> ProgramEnd:
    """Run a program and wait for it. When it exits or times out, its whole process group is killed.

    Its standard streams are /dev/null and it inherits no other descriptors. It runs in a new session, in "/".

    Args:
        command: the program and its arguments.
        environment: its complete environment.
        timeout_s: how long it may take.
        stop: when set, the program is killed after `grace_s`, or after `timeout_s` if that is sooner.
        grace_s: see `stop`.

    Raises:
        OSError: it cannot be started.
    """
    process = subprocess.Popen(  # noqa: S603  # from the main configuration, which is root's
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd="/",
        start_new_session=True,
    )
    how = Ended.STOPPED
    try:
        how = _wait(process.pid, time.monotonic() + timeout_s, stop, grace_s)
    finally:
        # It was not reaped yet, so its PID, which is the ID of its group, cannot belong to another process.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        _reap(process, stop)
    return ProgramEnd(how, process.returncode or 0)


def _wait(pid: int, ends_s: float, stop: threading.Event, grace_s: float) -> Ended:
    """Wait until a child has ended, without reaping it, or until it has to be killed."""
    child = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(child, select.POLLIN)
        is_stopping = False
        how = Ended.TIMEOUT
        while (left_s := ends_s - time.monotonic()) > 0:
            if poll.poll(min(left_s, _LOOK_S) * 1000):
                return Ended.ITSELF
            if stop.is_set() and not is_stopping:
                is_stopping = True
                if (stop_ends_s := time.monotonic() + grace_s) < ends_s:
                    ends_s, how = stop_ends_s, Ended.STOPPED
        return how
    finally:
        os.close(child)


def _reap(process: subprocess.Popen[bytes], stop: threading.Event) -> None:
    """Wait until a killed process is gone; one that hangs in the kernel, such as on a share, does not delay a stop."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_DEATH_S)
            return
        if stop.is_set():
            return
