"""Syncs of folders that several threads share. Standard library only.

A sync of a folder covers every change that was made before it began. So a thread that finds one in progress waits for
it, and all threads that have waited meanwhile need only one more.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class _Syncs:
    """The syncs of one folder.

    Attributes:
        n_begun: how many have begun.
        n_done: the number of the last one that has succeeded.
        is_busy: one is in progress.
        n_users: threads that wait for one or perform it.
    """

    changed: threading.Condition = field(default_factory=threading.Condition)
    n_begun: int = 0
    n_done: int = 0
    is_busy: bool = False
    n_users: int = 0


_folders: Final[dict[tuple[int, int], _Syncs]] = {}
_guard: Final = threading.Lock()


def sync_shared(fd: int, sync: Callable[[int], None]) -> None:
    """Have an open folder synced after this call began, by this thread or by another.

    Args:
        fd: descriptor of the folder.
        sync: syncs it.

    Raises:
        OSError: what `sync` raises, if this thread performed it; if another did, this one tries again itself.
    """
    facts = os.fstat(fd)
    key = facts.st_dev, facts.st_ino
    with _guard:
        folder = _folders.setdefault(key, _Syncs())
        folder.n_users += 1
    try:
        _sync(folder, fd, sync)
    finally:
        with _guard:
            folder.n_users -= 1
            if not folder.n_users:
                del _folders[key]


def _sync(folder: _Syncs, fd: int, sync: Callable[[int], None]) -> None:
    with folder.changed:
        wanted = folder.n_begun + 1  # one in progress may have begun before our change
        folder.changed.wait_for(lambda: folder.n_done >= wanted or not folder.is_busy)
        if folder.n_done >= wanted:
            return
        folder.n_begun += 1
        number = folder.n_begun
        folder.is_busy = True
    is_done = False
    try:
        sync(fd)
        is_done = True
    finally:
        with folder.changed:
            folder.is_busy = False
            if is_done:
                folder.n_done = number
            folder.changed.notify_all()
