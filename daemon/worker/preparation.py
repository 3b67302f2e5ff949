"""The first stage: recordings are decoded as the cores allow, short ones ahead of long ones."""

from __future__ import annotations

import os
import threading
from bisect import insort
from typing import TYPE_CHECKING, Final

from daemon.worker.crew import Crew
from daemon.worker.runs import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.worker.runs import Run

# Who waits comes in the order of arrival, but ten seconds of speech (16 bits, 16 kHz) count like a second of waiting.
_BYTES_PER_WAIT_S: Final = 320_000.0
_MAX_HANDICAP_S: Final = 60.0


def count_decoders() -> int:
    """Return how many recordings are decoded at the same time: one for each core."""
    return len(os.sched_getaffinity(0))


class Preparation:
    """Decides which recordings are prepared now. Any thread may call.

    While all decoders have long recordings, a short one gets another decoder: its owner waits for it, and the others
    hardly notice.

    Args:
        prepare: prepares a recording, on a thread of this stage; it deals with every error.
        may_store: whether there is room on the disk for the audio of another long recording.
        n_decoders: how many recordings are prepared at the same time.
    """

    def __init__(self, prepare: Callable[[Run], None], may_store: Callable[[], bool], n_decoders: int) -> None:
        self._prepare = prepare
        self._may_store = may_store
        self._n_decoders = n_decoders
        self._crew = Crew(n_decoders + 1, "prepare")
        self._lock = threading.Lock()
        self._queue: list[Run] = []  # by rank, which never changes
        self._busy: set[Run] = set()

    @property
    def is_broken(self) -> bool:
        """Whether a thread met an error that it could not deal with."""
        return self._crew.is_broken

    def add(self, run: Run) -> None:
        """Queue a recording."""
        with self._lock:
            insort(self._queue, run, key=_rank)
        self.go_on()

    def withdraw(self, run: Run) -> bool:
        """Take a recording out of the queue; return False if it is not in it."""
        with self._lock:
            if run not in self._queue:
                return False
            self._queue.remove(run)
        return True

    def go_on(self) -> None:
        """Begin what can begin; to be called when room on the disk may have been freed."""
        while True:
            with self._lock:
                run = self._choose()
                if run is None:
                    return
                self._queue.remove(run)
                self._busy.add(run)
                run.stage = Stage.PREPARING
            self._crew.do(self._work, run)

    def close(self) -> None:
        """Let the threads end."""
        self._crew.close()

    def _choose(self) -> Run | None:
        """Return the recording that comes next, None if nothing can begin now."""
        n_free = self._n_decoders - len(self._busy)
        if not self._queue or n_free < 0:
            return None
        if n_free == 0 and not all(run.is_long for run in self._busy):
            return None
        first = self._queue[0]
        if not first.is_long or (n_free > 0 and self._may_store()):
            return first
        return next((run for run in self._queue if not run.is_long), None)

    def _work(self, run: Run) -> None:
        try:
            self._prepare(run)
        finally:
            with self._lock:
                self._busy.discard(run)
            self.go_on()


def _rank(run: Run) -> float:
    return run.since_s + min(run.n_bytes / _BYTES_PER_WAIT_S, _MAX_HANDICAP_S)
