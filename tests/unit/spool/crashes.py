"""A process that dies before any step which changes a disk."""

from __future__ import annotations

import functools
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from daemon.host import files

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator

    from tests.unit.spool.world import (
        World,
    )


class Crash(BaseException):
    """The process is gone: nothing of it runs any more, not even its clearing up."""


class Crasher:
    """Ends the process before the n-th step that changes something on a disk.

    Args:
        at: which step; 0 for none.
        at_commit: before the journal's commit of a delivery instead.
    """

    def __init__(self, at: int = 0, *, at_commit: bool = False) -> None:
        self._at = at
        self._at_commit = at_commit
        self._n_steps = 0
        self.is_dead = False

    def step(self) -> None:
        self._n_steps += 1
        self.is_dead = self.is_dead or self._n_steps == self._at
        if self.is_dead:
            raise Crash

    def _before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*arguments: object, **named: object) -> Any:  # noqa: ANN401  # whatever the function returns
            self.step()
            return function(*arguments, **named)

        return wrapped

    @contextmanager
    def armed(self, world: World) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("fsync", "rename", "unlink", "link", "mkdir", "rmdir", "fchmod", "utime", "chmod"):
                patch.setattr(os, name, self._before(getattr(os, name)))
            is_new, opened = os.O_CREAT | os.O_EXCL, os.open
            patch.setattr(os, "open", lambda *a, **k: (self._before(opened) if a[1] & is_new else opened)(*a, **k))
            libc = files._libc
            patch.setattr(files, "_libc", type("Libc", (), {"renameat2": staticmethod(self._before(libc.renameat2))}))
            patch.setattr(world.journal, "_db", _Connection(world.journal._db, self))
            if self._at_commit:
                patch.setattr(world.journal, "commit_delivery", self._die)
            yield

    def _die(self, *_: object) -> None:
        self.is_dead = True
        raise Crash


class _Connection:
    """A connection whose commits are steps."""

    def __init__(self, db: sqlite3.Connection, crasher: Crasher) -> None:
        self._db = db
        self._crasher = crasher

    def execute(self, query: str, *values: Any) -> sqlite3.Cursor:  # noqa: ANN401  # as sqlite3 takes them
        if query.startswith(("COMMIT", "PRAGMA")) or self._crasher.is_dead:
            self._crasher.step()
        return self._db.execute(query, *values)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # as sqlite3 has them
        return getattr(self._db, name)


def crash_in(world: World, code: Callable[[], object], at: int = 0, *, at_commit: bool = False) -> bool:
    """Run code until it crashes; whether it did."""
    crasher = Crasher(at, at_commit=at_commit)
    with crasher.armed(world):
        try:
            code()
        except Crash:
            return True
    return False
