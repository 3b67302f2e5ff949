"""Turns for threads that mostly wait: one of them works at a time. Standard library only.

Python runs one thread at a time in any case. Where several have work, each system call of one lets another in, and the
first has to wait to get back: two switches between cores for a call of a few microseconds, hundreds of times for each
recording. With turns, the others stay asleep until the thread whose turn it is has something to wait for itself.

A turn saves time and protects nothing: a thread that has waited a while for its turn goes on without it. From then on
no other waits for that turn, so that one long piece of work costs each of them one such while at most.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import TracebackType

# Much longer than the work between two waits, and short enough not to be noticed.
_PATIENCE_S: Final = 0.05


class Turns:
    """Gives turns to threads: each takes one with `taken`, and gives it up for a while within `waiting`.

    Args:
        patience_s: how long a thread waits for its turn before it goes on without it.

    Attributes:
        patience_s: as above.
    """

    def __init__(self, patience_s: float = _PATIENCE_S) -> None:
        self._lock = threading.Lock()
        self.patience_s = patience_s
        self._is_overdue = False  # a thread has waited too long for the present turn

    def taken(self) -> _TakenTurn:
        """Return a context in which this thread has its turn; inside another such context it changes nothing."""
        return _TakenTurn(self)

    def take(self) -> bool:
        """Wait for the turn, for a while; return whether this thread has it."""
        has_turn = self._lock.acquire(timeout=0.0 if self._is_overdue else self.patience_s)
        self._is_overdue = not has_turn
        return has_turn

    def give_up(self) -> None:
        """Let another thread have the turn."""
        self._is_overdue = False
        self._lock.release()


class _TakenTurn:
    """What `Turns.taken` returns. A class, because a generator would take several times as long."""

    __slots__ = ("_has_turn", "_is_inner", "_turns")

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._has_turn = False
        self._is_inner = False

    def __enter__(self) -> None:
        self._is_inner = _mine.turn is not None
        if not self._is_inner:
            self.resume()
            _mine.turn = self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_inner:
            _mine.turn = None
            self.pause()

    def resume(self) -> None:
        """Wait for the turn, for a while."""
        self._has_turn = self._turns.take()

    def pause(self) -> None:
        """Let another thread have it."""
        if self._has_turn:
            self._has_turn = False
            self._turns.give_up()


class _Mine(threading.local):
    """The turn of this thread, None while it has none."""

    turn: _TakenTurn | None = None


_mine: Final = _Mine()


class _Waiting:
    """What `waiting` returns."""

    __slots__ = ("_turn",)

    def __enter__(self) -> None:
        self._turn = _mine.turn
        if self._turn is not None:
            _mine.turn = None
            self._turn.pause()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._turn is not None:
            self._turn.resume()
            _mine.turn = self._turn


def waiting() -> _Waiting:
    """Return a context in which this thread waits for a disk or a process; it gives up its turn, if it has one."""
    return _Waiting()
