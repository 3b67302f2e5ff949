"""What all parts of the spool share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from daemon.host.folders import Folder
from daemon.spool.private import open_private

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from daemon.config import Output
    from daemon.job import Job
    from daemon.journal import Journal
    from daemon.journal.records import Reservation, Roots
    from daemon.spool.shared import SharedFolders


class DeliveryHook(Protocol):
    """The program that runs after each delivery; any thread may call."""

    def is_set(self) -> bool:
        """Whether there is one."""
        ...

    def add(self, job: Job) -> None:
        """Report that the journal has one more delivery for it."""
        ...

    def leave_out(self, job: Job, reason: str) -> None:
        """Report that it will not run for a delivery, and why."""
        ...


class NoHook:
    """No program runs after a delivery."""

    def is_set(self) -> bool:
        """Return False."""
        return False

    def add(self, job: Job) -> None:
        """Do nothing."""

    def leave_out(self, job: Job, reason: str) -> None:
        """Do nothing."""


@dataclass(slots=True)
class Context:
    """Folders, journal and settings.

    Attributes:
        shared: the folders.
        journal: what is known of the jobs.
        output_of: returns the section `output` of the configuration that applies to a job.
        hook: what runs after each delivery.
        resumed: ids of the jobs that an earlier run left: temporary files of theirs may be anywhere.
        own: ids of the jobs that this run has claimed.
        fresh: ids of those of them that are to be transcribed and have not been attempted yet.
        begun: ids of the jobs on which this run has begun work: their recordings were in their claims.
        reserved: ids of those of them that have reserved names for their documents.
    """

    shared: SharedFolders
    journal: Journal
    output_of: Callable[[str], Output]
    hook: DeliveryHook = field(default_factory=NoHook)
    resumed: set[str] = field(default_factory=set)
    own: set[str] = field(default_factory=set)
    fresh: set[str] = field(default_factory=set)
    begun: set[str] = field(default_factory=set)
    reserved: set[str] = field(default_factory=set)
    _roots: dict[str, Roots] = field(default_factory=dict)

    def roots_of(self, job_id: str) -> Roots:
        """Return the shared folders that a job uses: those of its claim, however the configuration changed since."""
        if job_id in self.own:
            return self._roots.get(job_id) or self.shared.roots
        return self.journal.roots(job_id) or self.shared.roots

    def set_roots(self, job_id: str, roots: Roots) -> None:
        """Have a job use other shared folders from now on."""
        self.journal.set_roots(job_id, roots)
        if job_id in self.own:
            self._roots[job_id] = roots

    def forget(self, job_id: str) -> None:
        """Forget what is kept of a job that has ended."""
        self.own.discard(job_id)
        self.fresh.discard(job_id)
        self.begun.discard(job_id)
        self.reserved.discard(job_id)
        self._roots.pop(job_id, None)

    def outcome_folder(self, job: Job) -> str:
        """Return the folder within outbox, processed and failed where a job's outcome goes."""
        return job.folder if self.output_of(job.job_id).mirror_folders else ""

    def commit(self, job: Job, reservation: Reservation, names: Iterable[str]) -> None:
        """Commit a delivery, and record in the same step that the hook is to run for it.

        Args:
            job: the job.
            reservation: its names.
            names: of its documents.
        """
        if not self.hook.is_set():
            self.journal.commit_delivery(job.job_id)
            return
        name = next((name for name in names if name.endswith(".json")), None)
        folder = self.roots_of(job.job_id).outbox / reservation.folder
        if not self.journal.commit_delivery(job.job_id, None if name is None else folder / name):
            self.hook.leave_out(job, "too many deliveries wait for it")
        elif name is None:
            self.hook.leave_out(job, "output.formats of its folder does not include json")
        else:
            self.hook.add(job)

    def claims_of(self, job_id: str) -> Folder:
        """Open the folder of claims in which a job is."""
        with Folder.open(self.roots_of(job_id).inbox) as inbox:
            return open_private(inbox)

    def claim_of(self, job: Job) -> Folder:
        """Open the folder of a claimed recording.

        Raises:
            FileNotFoundError: there is none.
        """
        with self.claims_of(job.job_id) as claims:
            return claims.descend(job.job_id)
