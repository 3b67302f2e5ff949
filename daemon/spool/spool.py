"""The spool: every change of a recording's place, from the inbox to its outcome."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING

from daemon.errors import NoPermissionError, ScribedError, TransientError
from daemon.host.folders import Folder, LinkInTheWayError
from daemon.spool.claims import Claims
from daemon.spool.context import Context, NoHook
from daemon.spool.delivery import Delivery
from daemon.spool.error_notes import remove_error_note
from daemon.spool.failures import Failures
from daemon.spool.private import PRIVATE_FOLDER
from daemon.spool.recovery import Recovery
from daemon.spool.retention import Retention
from daemon.spool.second_look import SecondLooks

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    from daemon.config import Output, RetentionSettings
    from daemon.host import files
    from daemon.inbox import Arrival
    from daemon.job import Fingerprint, Job
    from daemon.journal import Journal
    from daemon.journal.records import Reason, Reservation, Result
    from daemon.spool.claims import Claim, Claimed, OpenClaim
    from daemon.spool.context import DeliveryHook
    from daemon.spool.failures import Retried
    from daemon.spool.shared import SharedFolders


@lru_cache(maxsize=64)
def _path_between(start: Path, end: Path, folder: str) -> str:
    return os.path.relpath(end / folder, start / folder)


class Spool:
    """Claims, delivers, fails and retries recordings. Any thread may use it, but `claim` and `sweep` only one thread.

    Args:
        shared: the folders.
        journal: what is known of the jobs.
        output_of: returns the section `output` of the configuration that applies to a job, by its id.
        looks_again: whether recordings that may still grow are looked at once more a minute after their delivery.
        hook: what runs after each delivery, None for nothing.

    Methods raise NoPermissionError or TransientError for what can be tried again, unless they say otherwise; then
    nothing is half done that a second call would not complete.
    """

    def __init__(
        self,
        shared: SharedFolders,
        journal: Journal,
        output_of: Callable[[str], Output],
        *,
        looks_again: bool = True,
        hook: DeliveryHook | None = None,
    ) -> None:
        self.shared = shared
        self.journal = journal
        self._context = Context(shared, journal, output_of, hook or NoHook())
        self._looks = SecondLooks(self._context, is_active=looks_again)
        self._claims = Claims(self._context, self._looks)
        self._delivery = Delivery(self._context, self._looks)
        self._failures = Failures(self._context, self._delivery)
        self._retention = Retention(self._context)
        self._recovery = Recovery(self._context, self._claims, self._delivery, self._failures)

    # In

    def check_room(self) -> None:
        """Raise TransientError where a disk is too full to take on more work."""
        self._claims.check_room()

    def claim_all(self, arrivals: Iterable[Arrival]) -> Claimed:
        """Take recordings out of the inbox; one that cannot be taken does not stop the others."""
        return self._claims.claim_all(arrivals)

    def claim(self, arrival: Arrival) -> Claim | None:
        """Take one recording out of the inbox; None if it is gone."""
        claimed = self._claims.claim_all([arrival])
        if claimed.fault is not None:
            raise claimed.fault
        return next(iter(claimed.claims), None)

    def broken_off(self, paths: Container[str]) -> frozenset[str]:
        """Return those of the paths that must not be claimed yet: an earlier claim of each has to be undone first."""
        return self._claims.broken_off(paths)

    @contextmanager
    def arrived(self, path: str) -> Iterator[Path]:
        """Hold the folder of a file in the inbox open; yields a path to the file that no link can lead elsewhere.

        Raises:
            FileNotFoundError, NotADirectoryError, LinkInTheWayError: the folder is gone.
        """
        folder, _, name = path.rpartition("/")
        with Folder.open(self.shared.roots.inbox) as inbox, inbox.descend(folder) as opened:
            yield opened.proc_path / name

    def remove_error_note(self, path: str) -> None:
        """Remove a note that came back into the inbox with its recording, if it is one that we wrote."""
        folder, _, name = path.rpartition("/")
        with (
            suppress(OSError, LinkInTheWayError),  # its folder may be closed to us: the note stays
            Folder.open(self.shared.roots.inbox) as inbox,
            inbox.descend(folder) as opened,
        ):
            remove_error_note(opened, name)

    # Claimed

    def opened(self, job: Job) -> OpenClaim:
        """Hold a claimed recording's folder open before work begins, and make the claim durable."""
        return self._claims.opened(job)

    def take_up(self, job: Job) -> OpenClaim | None:
        """Complete what was begun of a job before; open its claim if it has to be transcribed, else return None."""
        if job.job_id in self._context.fresh:
            with suppress(NoPermissionError, TransientError):  # its recording may have been removed, as found below
                return self._claims.opened(job)
        return None if self._recovery.conclude(job) else self._claims.opened(job)

    def fingerprint(self, job: Job) -> Fingerprint:
        """Return the fingerprint of the claimed recording as it is now."""
        return self._claims.fingerprint(job)

    def held(self) -> frozenset[str]:
        """Return the ids of delivered jobs whose audio stays in its claim until the look a minute after delivery."""
        return self._looks.held()

    # Out

    def audio_folder(self, job: Job) -> str:
        """Return the folder to which the audio of a job will move, relative to that of its documents."""
        folder, roots = self._context.outcome_folder(job), self.shared.roots
        return _path_between(roots.outbox, roots.processed, folder)

    def explain_second_set(self, job: Job) -> str | None:
        """Return why the job's documents will not replace those of its earlier delivery, None where they will."""
        return self._looks.explain_second_set(job)

    def deliver(
        self, job: Job, documents: Mapping[str, files.Content], result: Result, heard: Fingerprint | None = None
    ) -> Reservation:
        """Publish documents (by format, in their order), commit, move the audio; return its names.

        Raises:
            ChangedError: the recording is no longer the one with the fingerprint `heard`; nothing was done.
        """
        return self._delivery.deliver(job, documents, result, heard)

    def set_aside(self, job: Job, reason: Reason) -> None:
        """Move a claimed recording to failed, with a note that says why."""
        self._failures.set_aside(job, reason)

    def cancel(self, job: Job) -> None:
        """Move a claimed recording to failed because its user asked for it, unless it is delivered already."""
        self._failures.cancel(job)

    def failed(self) -> tuple[str, ...]:
        """Return the paths within failed of the recordings that can be retried."""
        return self._failures.paths()

    def retry(self, name: str | None, *, is_path: bool = False) -> Retried:
        """Move failed recordings of this name, or path within failed, back into the inbox; None is all of them."""
        return self._failures.retry(name, is_path=is_path)

    # Upkeep

    def recover(self) -> tuple[Job, ...]:
        """Return every unfinished job, oldest claim first; to be called at the start, before anything is claimed."""
        return self._recovery.recover()

    def conclude(self, job: Job) -> bool:
        """Complete what an earlier run left of a job; False where it has to be transcribed."""
        return self._recovery.conclude(job)

    def sweep(self, retention: RetentionSettings, now: datetime | None = None) -> None:
        """Check recordings that may have grown, forget failures that were removed, delete old audio."""
        self._failures.sweep()
        self._retention.sweep(retention, now)
        self._looks.run(now)

    def sweep_failures(self) -> None:
        """Forget failures whose audio was taken out of failed, and remove the notes they left behind."""
        self._failures.sweep()

    def erase(self, name: str) -> int:
        """Erase what is known of past jobs whose recording has this name or path; return how many there were.

        Raises:
            ScribedError: one of them is not finished.
        """
        if any(name in {job.name, job.path} for job in self.journal.unfinished()):
            raise ScribedError(f"{name} is not finished.", "Cancel it first, or wait until it is done.")
        return self.journal.erase(name)

    def displaced(self) -> tuple[tuple[Job, Path], ...]:
        """Return (job, folder) of unfinished jobs in folders that the configuration no longer names."""
        current = self.shared.roots
        found = ((job, self._context.roots_of(job.job_id)) for job in self.journal.unfinished())
        return tuple((job, roots.inbox / PRIVATE_FOLDER) for job, roots in found if roots.inbox != current.inbox)
