"""From the inbox into work: look, let settle, claim, start. One turn of it after the other."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from daemon.errors import NoPermissionError, ScribedError, TransientError
from daemon.inbox import Arriving, Scan
from daemon.spool import is_error_note
from daemon.status.arrival_faults import report_scan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from daemon.config import Config
    from daemon.inbox import Arrival, Inbox
    from daemon.job import Fingerprint, Job
    from daemon.status import Fault
    from daemon.worker import Resources, Worker


@dataclass(slots=True)
class _Settling:
    """A claimed recording that changed after it had settled, waiting to be quiet once more."""

    job: Job
    fingerprint: Fingerprint
    since_s: float


class Intake:
    """What arrives, and what of it waits for work; used by the loop's thread alone.

    Args:
        config: the configuration.
        inbox: finds what has arrived.
        desk: where things lie and are noted.
        worker: takes what can begin.
        monotonic: seconds that only ever grow.

    Attributes:
        config: as above; a reload replaces it.
        scan: what the last look into the inbox found.
    """

    def __init__(
        self,
        config: Config,
        inbox: Inbox,
        resources: Resources,
        worker: Worker,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.scan = Scan()
        self._inbox = inbox
        self._resources = resources
        self._faults = resources.faults
        self._worker = worker
        self._monotonic = monotonic
        self._settling: dict[str, _Settling] = {}
        self._claimed: set[str] = set()  # of what the last scan found settled
        self._refused: dict[str, Fingerprint] = {}  # what `unsupported: ignore` leaves where it is

    # One turn

    def look(self) -> bool:
        """Look what has arrived; False where a disk or share of the folders is not there: nothing can be done."""
        self.scan = Scan()
        self._claimed.clear()
        try:
            self._resources.places.check_shares()
        except TransientError as error:
            self._faults.note("share", error.what, error.remedy)
            return False
        self._faults.clear("share")
        try:
            self.scan = self._inbox.scan()
        except OSError as error:
            self._faults.note("inbox", f"The inbox cannot be listed: {error.strerror}.", "Is its disk or share there?")
        else:
            self._faults.clear("inbox")
            report_scan(self._faults, self.scan, self.config.logging.names)
        return True

    def take_in(self, admit: Callable[[Scan], Iterable[Arrival]] | None) -> None:
        """Start what is claimed and claim what has settled, or what `admit` lets through of it."""
        self._clear_notes()
        for job_id in self._resources.journal.cancelled():
            self._cancel(job_id)
        self._let_settle()
        is_free = self._start_claimed()
        settled = self.scan.settled if admit is None else admit(self.scan)
        if is_free:
            self._claim_all(settled)

    def _clear_notes(self) -> None:
        """Remove from the inbox the error notes of recordings that were put back into it."""
        for path in self.scan.error_notes:
            note = self.config.folders.inbox / path
            if is_error_note(note):
                with suppress(OSError):  # it may lie in a folder that is closed to us; then it stays
                    note.unlink(missing_ok=True)

    def _cancel(self, job_id: str) -> None:
        if self._worker.cancel(job_id):
            return
        job = self._resources.journal.find(job_id)
        if job is not None:
            self._settling.pop(job_id, None)
            self._worker.give_back(job)

    def _let_settle(self) -> None:
        for job in self._worker.take_changed():
            self._settle_again(job)
        for settling in list(self._settling.values()):
            try:
                fingerprint = self._resources.claims.fingerprint(settling.job)
            except ScribedError:
                del self._settling[settling.job.job_id]  # gone: the start finds out and undoes the claim
                continue
            if fingerprint != settling.fingerprint:
                settling.fingerprint, settling.since_s = fingerprint, self._monotonic()
            elif self._monotonic() - settling.since_s >= self.config.watch.settle_s:
                del self._settling[settling.job.job_id]

    def _settle_again(self, job: Job) -> None:
        with suppress(ScribedError):  # gone: the start finds out and undoes the claim
            self._settling[job.job_id] = _Settling(job, self._resources.claims.fingerprint(job), self._monotonic())

    def _start_claimed(self) -> bool:
        """Start what has been claimed; False where a suspect waits to be alone: nothing else begins ahead of it."""
        for job in self._waiting_jobs():
            if self._worker.is_due(job) and not self._worker.start(job) and job.is_suspect:
                return False
        return True

    def _waiting_jobs(self) -> list[Job]:
        """Return claimed jobs that are neither in work nor settling, suspects ahead, the least charged first."""
        in_work = self._worker.job_ids()
        unfinished = self._resources.journal.unfinished()
        jobs = [job for job in unfinished if job.job_id not in in_work and job.job_id not in self._settling]
        return sorted(jobs, key=lambda job: (not job.is_suspect, job.attempts, job.claimed_at, job.job_id))

    def _claim_all(self, settled: Iterable[Arrival]) -> None:
        """Claim as many recordings as there is room for; one that cannot be claimed holds no other up."""
        fault: ScribedError | None = None
        for arrival in self.claimable(settled):
            if not self._worker.has_room():
                break
            try:
                self._claim(arrival)
            except (NoPermissionError, TransientError) as error:
                fault = fault or error
        if fault is not None:
            self._faults.note("claim", fault.what, fault.remedy)
        else:
            self._faults.clear("claim")

    def _claim(self, arrival: Arrival) -> None:
        if self.is_refused(arrival):
            return
        claim = self._resources.claims.claim(arrival)
        if claim is None:
            return
        self._claimed.add(arrival.path)
        job, is_same = claim
        if is_same:
            self._worker.start(job)
        else:
            self._settle_again(job)

    # What others ask

    def claimable(self, settled: Iterable[Arrival]) -> list[Arrival]:
        """Return those of the settled recordings that no claim stands in the way of which has to be undone first."""
        broken_off = self._resources.claims.broken_off()
        return [arrival for arrival in settled if arrival.path not in broken_off]

    def is_refused(self, arrival: Arrival) -> bool:
        """Whether `unsupported: ignore` leaves this file where it is."""
        if self.config.watch.unsupported != "ignore":
            return False
        if self._refused.get(arrival.path) != arrival.fingerprint:
            if self._resources.front_end.is_recording(self.config.folders.inbox / arrival.path):
                return False
            self._refused[arrival.path] = arrival.fingerprint
        return True

    def soonest_s(self) -> float:
        """Return in how many seconds a recording may have settled, infinity where none is arriving."""
        soonest_s = min((arriving.left_s for arriving in self.scan.arriving), default=math.inf)
        return min(soonest_s, self.config.watch.settle_s / 4) if self._settling else soonest_s

    def arriving(self) -> tuple[Arriving, ...]:
        """Return what has not settled."""
        settling = (
            Arriving(settling.job.path, settling.fingerprint.n_bytes, "changed while it was being claimed")
            for settling in self._settling.values()
        )
        return (*self.scan.arriving, *settling)

    def waiting(self) -> tuple[str, ...]:
        """Return the paths of what is claimed or has settled and is not in progress."""
        left_out = self._claimed | self._refused.keys()
        settled = (arrival.path for arrival in self.scan.settled if arrival.path not in left_out)
        return (*(job.path for job in self._waiting_jobs()), *settled)

    def has_claimed_work(self) -> bool:
        """Whether any claimed recording is not at its end."""
        return bool(self._resources.journal.unfinished()) or not self._worker.is_idle()

    def claim_fault(self) -> Fault | None:
        """Return what keeps recordings from being claimed, if anything does."""
        standing = map(self._faults.find, ("share", "turn", "inbox", "claim"))
        return next((fault for fault in standing if fault is not None), None)
