"""Intake: from the inbox to a running job, in steps that each turn of the loop repeats."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from daemon.errors import NoPermissionError, ScribedError, TransientError
from daemon.host import files
from daemon.inbox import Arriving, Scan
from daemon.service.cache_room import CacheRoom
from daemon.status.arrival_faults import report_scan
from daemon.status.hiding import names_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from daemon.config import Config, Settings
    from daemon.inbox import Arrival, Inbox
    from daemon.job import Fingerprint, Job
    from daemon.service.cache_room import Shortage
    from daemon.spool.claims import Claim
    from daemon.status import Fault
    from daemon.worker import InProgress, Resources, Worker

_ROOM: Final = "room"


@dataclass(slots=True)
class _Settling:
    """A claimed recording that changed after it had settled, waiting to be quiet again."""

    job: Job
    fingerprint: Fingerprint
    since_s: float


class Intake:
    """What arrives, and what is claimed and waits; used by the loop's thread alone.

    Args:
        settings: the current configuration.
        inbox: finds what has arrived.
        resources: folders and journal.
        worker: takes the jobs that can begin.
        monotonic: clock in seconds, injectable for tests.

    Attributes:
        scan: what the last scan of the inbox found.
    """

    def __init__(
        self,
        settings: Settings,
        inbox: Inbox,
        resources: Resources,
        worker: Worker,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scan = Scan()
        self._settings = settings
        self._inbox = inbox
        self._resources = resources
        self._faults = resources.faults
        self._worker = worker
        self._monotonic = monotonic
        self._settling: dict[str, _Settling] = {}
        self._claimed: set[str] = set()  # of what the last scan found settled
        self._refused: dict[str, Fingerprint] = {}  # what `unsupported: ignore` leaves where it is
        self._cache_room = CacheRoom(
            lambda: settings.current,
            lambda folder: worker.folder_settings.of(folder, settings.current),
            resources.spool,
            resources.front_end,
            self._find_undecoded,
        )
        self._waits_for_room = False  # and nothing in progress will free any

    @property
    def _config(self) -> Config:
        return self._settings.current

    # One turn

    def look(self) -> bool:
        """Scan the inbox; return False where a disk or share is missing and nothing can be done."""
        self.scan = Scan()
        self._claimed.clear()
        try:
            self._resources.spool.shared.check_mounts()
        except TransientError as error:
            self._faults.note("share", error.what, error.remedy)
            return False
        self._faults.clear("share")
        with suppress(NoPermissionError, TransientError):  # a claim reports what is wrong with it
            self._resources.spool.shared.make_claims()  # gets its name back where a member of the group renamed it
        try:
            self.scan = self._inbox.scan()
        except OSError as error:
            what = f"The inbox cannot be listed: {files.describe_error(error)}."
            remedy = "Check that its disk or share is mounted."
            self._faults.note("inbox", what, remedy, names=names_in(error, self._config.folders))
        except TransientError as error:
            self._faults.note("inbox", error.what, error.remedy)
        else:
            self._faults.clear("inbox")
            report_scan(self._faults, self.scan, self._config.logging.names)
        return True

    def take_in(self, admit: Callable[[Scan], Iterable[Arrival]] | None) -> None:
        """Start claimed recordings, and claim settled ones, or those of them that `admit` allows."""
        self._clear_notes()
        for job_id in self._resources.journal.cancelled():
            self._cancel(job_id)
        self._let_settle()
        is_free = self._start_claimed()
        settled = self.scan.settled if admit is None else admit(self.scan)
        if is_free:
            self._claim_all(settled)

    def _clear_notes(self) -> None:
        """Delete error notes that came back to the inbox with their recordings."""
        for path in self.scan.error_notes:
            self._resources.spool.remove_error_note(path)

    def _cancel(self, job_id: str) -> None:
        job = self._resources.journal.find(job_id)
        if job is not None:
            self._settling.pop(job_id, None)
            self._worker.cancel(job)

    def _let_settle(self) -> None:
        for job in self._worker.take_changed():
            self._settle_again(job)
        for settling in list(self._settling.values()):
            try:
                fingerprint = self._resources.spool.fingerprint(settling.job)
            except ScribedError:
                del self._settling[settling.job.job_id]  # gone: starting the job notices, and undoes the claim
                continue
            if fingerprint != settling.fingerprint:
                settling.fingerprint, settling.since_s = fingerprint, self._monotonic()
            elif self._monotonic() - settling.since_s >= self._config.watch.settle_s:
                del self._settling[settling.job.job_id]

    def _settle_again(self, job: Job) -> None:
        with suppress(ScribedError):  # gone: starting the job notices, and undoes the claim
            self._settling[job.job_id] = _Settling(job, self._resources.spool.fingerprint(job), self._monotonic())

    def _start_claimed(self) -> bool:
        """Start claimed jobs; return False where a suspect waits to be alone, so that nothing else begins before it."""
        for job in self._waiting_jobs(self._worker.job_ids()):
            if self._worker.attempts.is_due(job.job_id) and not self._start(job) and job.is_suspect:
                return False
        return True

    def _start(self, job: Job) -> bool:
        try:
            n_bytes = self._resources.spool.fingerprint(job).n_bytes
        except ScribedError:
            n_bytes = 0  # gone: starting the job notices, and undoes the claim
        return self._worker.start(job, n_bytes)

    def _waiting_jobs(self, running: frozenset[str]) -> list[Job]:
        """Return claimed jobs that neither run nor settle: suspects first, those that must run alone last of them."""
        busy = running | self._settling.keys() | self._resources.spool.held()
        return sorted(self._resources.journal.unfinished(busy), key=_rank)

    def _claim_all(self, settled: Iterable[Arrival]) -> None:
        """Claim as many recordings as there is room for; one that cannot be claimed does not stop the others."""
        chosen = self._choose(self.claimable(settled))
        fault: ScribedError | None = None
        if chosen:
            try:
                claimed = self._resources.spool.claim_all(chosen)
            except (NoPermissionError, TransientError) as error:
                fault = error
            else:
                fault = claimed.fault
                self._cache_room.note_claimed(claimed.claims)
                for claim in claimed.claims:
                    self._begin(claim)
        if fault is not None:
            names = tuple(f"/{arrival.path}" for arrival in chosen)
            self._faults.note("claim", fault.what, fault.remedy, names=names)
        else:
            self._faults.clear("claim")

    def _choose(self, settled: Sequence[Arrival]) -> list[Arrival]:
        """Return the recordings that there is room for, on the disk too."""
        chosen: list[Arrival] = []
        room = self._worker.room()
        if room.n <= 0:
            return chosen
        shortage: Shortage | None = None
        self._cache_room.begin(settled)
        for arrival in settled:
            n_bytes = arrival.fingerprint.n_bytes
            # There may be room for a shorter one.
            if self.is_refused(arrival) or not room.has(n_bytes):
                continue
            lacking = self._cache_room.take(arrival)
            if lacking is not None:
                shortage = shortage or lacking
                continue
            room.take(n_bytes)
            chosen.append(arrival)
            if room.n <= 0:
                break
        self._note_shortage(shortage)
        return chosen

    def _note_shortage(self, shortage: Shortage | None) -> None:
        """Note which recording waits for room for its audio, None for none."""
        self._waits_for_room = shortage is not None and self._worker.is_idle()
        if shortage is None:
            self._faults.clear(_ROOM)
        else:
            self._faults.note(_ROOM, shortage.what, shortage.remedy, names=(shortage.name,))

    def _find_undecoded(self, job_ids: Iterable[str]) -> frozenset[str]:
        """Return those of some jobs that are claimed and whose audio is not on the disk yet."""
        unfinished = {job.job_id for job in self._resources.journal.unfinished()}
        return (frozenset(job_ids) & unfinished) - self._worker.decoded()

    def _begin(self, claim: Claim) -> None:
        self._claimed.add(claim.arrival.path)
        self._worker.accept(claim.job)
        if claim.has_changed:
            self._settle_again(claim.job)
        else:
            self._worker.start(claim.job, claim.arrival.fingerprint.n_bytes)

    # Queries

    def claimable(self, settled: Iterable[Arrival]) -> list[Arrival]:
        """Return settled recordings that are not claimed yet, with no half-finished claim on the same path."""
        left = [arrival for arrival in settled if arrival.path not in self._claimed]
        broken_off = self._resources.spool.broken_off({arrival.path for arrival in left}) if left else frozenset()
        return [arrival for arrival in left if arrival.path not in broken_off] if broken_off else left

    def has_more(self) -> bool:
        """Whether the last scan found recordings that could be claimed and are not."""
        # The first are claimed first, so that looking from the end usually finds one at once.
        left = (one.path for one in reversed(self.scan.settled) if one.path not in self._claimed)
        return any(path not in self._refused for path in left)

    def is_refused(self, arrival: Arrival) -> bool:
        """Whether `unsupported: ignore` leaves this file in the inbox."""
        if self._config.watch.unsupported != "ignore":
            return False
        if self._refused.get(arrival.path) != arrival.fingerprint:
            try:
                with self._resources.spool.arrived(arrival.path) as file:
                    if self._resources.front_end.is_recording(file):
                        return False
            except (OSError, TransientError):  # gone
                return False
            self._refused[arrival.path] = arrival.fingerprint
        return True

    def soonest_s(self) -> float:
        """Return the seconds until a recording may have settled, infinity where none is arriving."""
        soonest_s = min((arriving.left_s for arriving in self.scan.arriving), default=math.inf)
        return min(soonest_s, self._config.watch.settle_s / 4) if self._settling else soonest_s

    def arriving(self) -> tuple[Arriving, ...]:
        """Return what has not settled."""
        settling = (
            Arriving(settling.job.path, settling.fingerprint.n_bytes, "changed while it was being claimed")
            for settling in self._settling.values()
        )
        return (*self.scan.arriving, *settling)

    def waiting(self, in_progress: InProgress) -> tuple[str, ...]:
        """Return the paths of what is claimed or has settled, and has not begun.

        Raises:
            TransientError: the journal cannot be read.
        """
        left_out = self._claimed | self._refused.keys()
        settled = (arrival.path for arrival in self.scan.settled if arrival.path not in left_out)
        return (*in_progress.waiting, *(job.path for job in self._waiting_jobs(in_progress.job_ids)), *settled)

    def has_claimed_work(self) -> bool:
        """Whether any claimed recording is unfinished."""
        return bool(self._resources.journal.unfinished()) or not self._worker.is_idle()

    def has_work(self) -> bool:
        """Whether a recording is ready for the model, or is arriving and will be.

        A delayed job or an unreadable file does not count: it may wait for a long time.

        Raises:
            TransientError: the journal cannot be read.
        """
        if not self._worker.is_idle() or self._settling:
            return True
        if any(math.isfinite(arriving.left_s) for arriving in self.scan.arriving):
            return True
        if any(not self.is_refused(arrival) for arrival in self.claimable(self.scan.settled)):
            return True
        waiting = self._waiting_jobs(self._worker.job_ids())
        return any(self._worker.attempts.is_due(job.job_id) for job in waiting)

    def claim_fault(self) -> Fault | None:
        """Return the fault that keeps recordings from being claimed, if there is one."""
        keys = ("share", "turn", "inbox", "claim", *((_ROOM,) if self._waits_for_room else ()))
        faults = map(self._faults.find, keys)
        return next((fault for fault in faults if fault is not None), None)


def _rank(job: Job) -> tuple[object, ...]:
    return not job.is_suspect, job.is_isolated, job.attempts, job.claimed_at, job.job_id
