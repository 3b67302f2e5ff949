"""One run of `scribed once`: only recordings that are in the inbox when it begins."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from daemon.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.config import Settings
    from daemon.inbox import Arrival, Scan
    from daemon.service.intake import Intake
    from daemon.worker import Worker

log = structlog.get_logger()


class OnceRun:
    """Decides what belongs to the run, and when it is over.

    Args:
        settings: the current configuration.
        intake: what arrives.
        worker: what runs.
        monotonic: clock in seconds, injectable for tests.
    """

    def __init__(
        self, settings: Settings, intake: Intake, worker: Worker, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._watch = settings.current.watch
        self._intake = intake
        self._worker = worker
        self._monotonic = monotonic
        self._expected: set[str] | None = None
        self._ends_s = 0.0
        self._left: dict[str, str] = {}
        self._is_over = False

    def admit(self, scan: Scan) -> list[Arrival]:
        """Return the settled recordings of this run, and determine whether it is over."""
        intake, worker = self._intake, self._worker
        now_s = self._monotonic()
        if self._expected is None:
            self._expected = {a.path for a in scan.settled} | {a.path for a in scan.arriving}
            self._ends_s = now_s + self._watch.settle_s + 2 * self._watch.scan_s
        ready = [a for a in intake.claimable(scan.settled) if a.path in self._expected]
        arriving = {a.path: a.reason for a in scan.arriving if a.path in self._expected}
        if now_s >= self._ends_s:
            self._left = arriving
        is_waiting_for_more = bool(arriving) and now_s < self._ends_s
        # In this order: a job that ends in between may make more claimable.
        has_no_work = worker.is_idle() and (not intake.has_claimed_work() or worker.attempts.is_backing_off())
        self._is_over = has_no_work and not is_waiting_for_more and self._has_nothing_to_claim(scan)
        return ready

    def _has_nothing_to_claim(self, scan: Scan) -> bool:
        expected = (a for a in self._intake.claimable(scan.settled) if self._expected and a.path in self._expected)
        return self._intake.claim_fault() is not None or all(map(self._intake.is_refused, expected))

    def give_up(self) -> None:
        """Start nothing more: the run ends when recordings in progress are done."""
        self._is_over = self._worker.is_idle()

    def is_over(self) -> bool:
        """Whether everything of this run is done, has failed, or cannot be done now."""
        return self._is_over

    def exit_code(self) -> ExitCode:
        """Log what was left in the inbox and return how the run ended."""
        for path, reason in sorted(self._left.items()):
            log.warning("once.left_in_inbox", path=path, reason=reason)
        worker = self._worker
        log.info("once.finished", n_delivered=worker.n_delivered, n_failed=worker.n_failed, n_left=len(self._left))
        if self._intake.claim_fault() is not None or worker.attempts.is_backing_off():
            return ExitCode.CANNOT_WRITE
        return ExitCode.SOME_FAILED if worker.n_failed else ExitCode.OK
