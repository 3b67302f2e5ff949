"""Runs a program of the administrator: no shell, nothing inherited, a limit on its time, and nothing left behind."""

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
"""Where a program that is given by its name alone is looked for, and its own $PATH."""
_LOOK_S: Final = 0.1  # a stop is noticed within this time
_DEATH_S: Final = 1.0


class Ended(Enum):
    """Why a program ended: by itself, or killed because its time was over, or because it was to stop."""

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
    """Run a program and wait for it. When it ends, and when its time is over, its whole process group is killed.

    It has no descriptors but its standard streams, which lead nowhere, is in a session of its own, and begins in "/".

    Args:
        command: the program and its arguments.
        environment: all of its environment.
        timeout_s: how long it may take.
        stop: has it killed `grace_s` after this is set, or at once where `timeout_s` is over before.
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
        # It was not waited for yet: its number, which is that of its group, cannot belong to another process.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        _reap(process, stop)
    return ProgramEnd(how, process.returncode or 0)


def _wait(pid: int, ends_s: float, stop: threading.Event, grace_s: float) -> Ended:
    """Wait until a child has ended, without taking note of that, or until it has to be killed."""
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
    """Wait until a killed process is gone; one that hangs in the kernel, on a share for instance, holds no stop up."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_DEATH_S)
            return
        if stop.is_set():
            return
