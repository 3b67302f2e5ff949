"""Locks that end with their holder. Standard library only."""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from daemon.errors import AlreadyRunningError
from daemon.host import files

if TYPE_CHECKING:
    from pathlib import Path

# A command may hold a lock for some milliseconds, to see that no service runs.
_LOCK_TRIES: Final = 5
_LOCK_PAUSE_S: Final = 0.02
_LOCK_MODE: Final = 0o600


class Lock:
    """A lock on a file, which the kernel drops when its holder dies.

    Any process that can open the file, even only to read it, can hold the lock. So only the owner can open the file,
    and it belongs in a folder that only the owner can enter.

    Args:
        path: the file.
        dir_fd: descriptor of its folder where that is open, so that nothing on the way is followed; used by `acquire`.
    """

    def __init__(self, path: Path, dir_fd: int | None = None) -> None:
        self.path = path
        self._dir_fd = dir_fd
        self._fd: int | None = None

    def acquire(self, holds: str) -> None:
        """Take the lock; `holds` names what it guards.

        Raises:
            AlreadyRunningError: another process holds it.
            NoPermissionError, TransientError: there can be no lock here.
        """
        with files.explained(f"The lock on {holds} cannot be taken", self.path.parent):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            path = self.path if self._dir_fd is None else self.path.name
            fd = os.open(path, flags, _LOCK_MODE, dir_fd=self._dir_fd)
            try:
                with suppress(PermissionError):  # of another user, on a share
                    os.fchmod(fd, _LOCK_MODE)
                is_ours = _try_lock(fd)
            except BaseException:
                os.close(fd)
                raise
        if not is_ours:
            os.close(fd)
            remedy = "Stop it first, or give this instance its own folders."
            raise AlreadyRunningError(f"Another scribed instance is already using {holds}.", remedy)
        self._fd = fd

    def release(self) -> None:
        """Give the lock back; releasing twice is harmless."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _try_lock(fd: int) -> bool:
    pause = threading.Event()
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pause.wait(_LOCK_PAUSE_S)
        else:
            return True
    return False
