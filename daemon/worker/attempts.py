"""How often each job was tried, and when it may be tried again."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from daemon.config import Retry
    from daemon.job import Job
    from daemon.journal import Journal

# A lower bound, so that a disk that is full for hours is not tried ten times a second.
_MIN_BACKOFF_S: Final = 1.0
_MAX_DELAY_S: Final = 900.0  # or retry.backoff_s, if that is longer
_MAX_DOUBLINGS: Final = 30  # the bound above applies long before; more would overflow a float in time
# Crashes in a row, alone and before any chunk: more than a series of kills from outside, which prove nothing.
MAX_EARLY_CRASHES: Final = 10


class Attempts:
    """Counts and delays the attempts at each job. Any thread may call.

    Args:
        journal: keeps the attempt counters.
        retry: returns the section `retry` of the current configuration.
        monotonic: clock in seconds, injectable for tests.
    """

    def __init__(
        self, journal: Journal, retry: Callable[[], Retry], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._journal = journal
        self._retry = retry
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._due_s: dict[str, float] = {}
        self._n_backoffs: dict[str, int] = {}
        self._held_back: list[Job] = []

    def is_due(self, job_id: str) -> bool:
        """Whether a job is not delayed, or its delay is over."""
        with self._lock:
            return self._monotonic() >= self._due_s.get(job_id, 0.0)

    def is_backing_off(self) -> bool:
        """Whether any job is delayed by a problem that it did not cause."""
        with self._lock:
            return bool(self._n_backoffs)

    def charge(self, job_id: str) -> bool:
        """Charge a failed attempt and delay the next one; return whether this was the last.

        Raises:
            TransientError: the journal cannot be written.
        """
        n_attempts = self._journal.charge(job_id)
        if n_attempts >= self._retry().max_attempts:
            return True
        self._delay(job_id, n_attempts)
        return False

    def back_off(self, job_id: str) -> None:
        """Delay a job because of a problem that it did not cause, longer each time; no attempt is charged."""
        with self._lock:
            n_backoffs = self._n_backoffs[job_id] = self._n_backoffs.get(job_id, 0) + 1
        self._delay(job_id, n_backoffs, least_s=_MIN_BACKOFF_S)

    def forget(self, job_id: str) -> None:
        """Forget the delays of a job that ended."""
        with self._lock:
            self._n_backoffs.pop(job_id, None)
            self._due_s.pop(job_id, None)

    def has_used_up(self, job: Job) -> bool:
        """Whether a job has used up the crashes it is allowed."""
        return job.attempts >= self._retry().max_attempts or job.n_early_crashes >= MAX_EARLY_CRASHES

    def hold_back(self, jobs: Iterable[Job]) -> None:
        """Delay those that crashed the service, until `release_held_back` sets an end: others go first."""
        with self._lock:
            self._held_back = [job for job in jobs if job.attempts or job.n_early_crashes]
            self._due_s.update((job.job_id, math.inf) for job in self._held_back)

    def release_held_back(self) -> None:
        """Let the delays of `hold_back` end some time from now; called when the model, slow to load, is ready."""
        with self._lock:
            held_back, self._held_back = self._held_back, []
        for job in held_back:
            self._delay(job.job_id, job.attempts + job.n_early_crashes)

    def _delay(self, job_id: str, n_tries: int, least_s: float = 0.0) -> None:
        first_s = max(self._retry().backoff_s, least_s)
        delay_s = min(first_s * 2.0 ** min(n_tries - 1, _MAX_DOUBLINGS), max(_MAX_DELAY_S, first_s))
        with self._lock:
            self._due_s[job_id] = self._monotonic() + delay_s
