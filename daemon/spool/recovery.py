"""Recovery after a stop, a crash, the loss of the journal, or a change of the configured folders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from daemon.errors import NoPermissionError, ScribedError, TransientError
from daemon.host import files
from daemon.host.clock import now
from daemon.host.folders import Folder
from daemon.job import JobState
from daemon.journal.records import FailedPlace
from daemon.spool.claims import remove_claim
from daemon.spool.notes import read_note
from daemon.spool.private import PRIVATE_FOLDER, gather, open_private

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.job import Job
    from daemon.spool.claims import Claims
    from daemon.spool.context import Context
    from daemon.spool.delivery import Delivery
    from daemon.spool.failures import Failures

_MOVED_REMEDY: Final = "Make {folder} available and writable for the service until the recording has left it."

log = structlog.get_logger()


class Recovery:
    """The part of the spool that completes the unfinished jobs of an earlier run."""

    def __init__(self, context: Context, claims: Claims, delivery: Delivery, failures: Failures) -> None:
        self._context = context
        self._claims = claims
        self._delivery = delivery
        self._failures = failures

    def recover(self) -> tuple[Job, ...]:
        """Return every unfinished job, oldest claim first.

        A claim that the journal does not know is added from the note next to its audio.

        Raises:
            NoPermissionError, TransientError: it can be tried again.
        """
        known = {job.job_id: job for job in self._context.journal.unfinished()}
        inbox = self._context.shared.roots.inbox
        with (
            files.explained("The claimed recordings cannot be listed", inbox / PRIVATE_FOLDER),
            Folder.open(inbox) as root,
            open_private(root) as claims,
        ):
            gather(root, claims)
            for name in claims.names():
                if name not in known and claims.is_folder(name) and (job := self._enter(claims, name)):
                    known[job.job_id] = job
        self._context.resumed |= known.keys()
        return tuple(sorted(known.values(), key=lambda job: (job.claimed_at, job.job_id)))

    def conclude(self, job: Job) -> bool:
        """Complete a job of an earlier run as far as possible; return False if it must be transcribed.

        A committed delivery is only moved; what was published but not committed is removed; a claim
        that was never completed is undone.

        Raises:
            NoPermissionError, TransientError: it can be tried again.
        """
        self._context.fresh.discard(job.job_id)
        self._context.begun.discard(job.job_id)  # its recording may have been removed since
        self._check_reachable(job)
        if job.state is JobState.DELIVERED or (job.state is JobState.DELIVERING and self._delivery.confirm(job)):
            self._delivery.finish(job, is_resumed=True)
            return True
        if job.state is JobState.DELIVERING and not self._claims.exists(job):
            self._conclude_elsewhere(job)
            return True
        self._delivery.roll_back(job)
        if (reason := self._context.journal.planned_failure(job.job_id)) is not None:
            self._failures.set_aside(job, reason)
            return True
        if not self._claims.has_audio(job):
            self._context.shared.check_mounts()
            with files.explained("A claim cannot be undone", self._context.roots_of(job.job_id).inbox):
                self._claims.undo(job)
            log.info("job.claim_undone", job_id=job.job_id, path=job.path)
            return True
        return False

    def _conclude_elsewhere(self, job: Job) -> None:
        """Record a job whose claim is gone: while another state folder was configured, it was completed from its note.

        Its documents may have the very bytes that were planned here, and are not removed.
        """
        journal = self._context.journal
        if (found := self._delivery.find_delivered(job)) is None:  # users may have removed them by now
            journal.forget_claim(job.job_id)
        else:
            journal.reserve(job.job_id, found.reservation, {}, found.result)
            journal.commit_delivery(job.job_id)
            self._delivery.finish(job, is_resumed=True)
        log.info("job.concluded_elsewhere", job_id=job.job_id, path=job.path, was_found=found is not None)

    def _enter(self, claims: Folder, job_id: str) -> Job | None:
        """Add a claim that the journal does not know as unfinished, from the note next to the audio."""
        journal = self._context.journal
        with claims.descend(job_id) as claim:
            note = read_note(claim, job_id)
            is_empty = all(name.startswith(".") for name in claim.names())
        past = journal.find(job_id)
        # All was done, and a power cut undid the removal of what was left; or it was about to be transcribed again.
        is_over = is_empty and past is not None and past.state in {JobState.DONE, JobState.FAILED}
        if note is None or is_over:
            remove_claim(claims, job_id)
            return None
        job = note.job
        journal.forget_claim(job_id)  # a past outcome says nothing about audio that is here again
        journal.add(job, note.roots or self._context.shared.roots)
        if note.failure is not None:
            journal.plan_failure(job_id, note.failure, note.failed_place or FailedPlace("", job.name))
        elif note.earlier is not None:  # it grew after its delivery, and was about to be transcribed again
            journal.expect_look(job_id, note.earlier.n_again + 1)
            journal.schedule_look(job_id, 0, note.earlier.documents, now())
        elif (planned := note.delivery) is not None:
            journal.reserve(job_id, planned.reservation, planned.documents, planned.result, planned.stamps)
        elif found := self._delivery.find_delivered(job):
            journal.reserve(job_id, found.reservation, {}, found.result)
            self._context.commit(job, found.reservation, [f"{found.reservation.stem}.json"])
        log.warning("job.reentered", job_id=job_id, path=job.path)
        return journal.find(job_id)

    def _check_reachable(self, job: Job) -> None:
        """Check the folders that a job has used and the configuration no longer names.

        Raises:
            TransientError: one cannot be used; the message says which, and what is in it.
        """
        roots, current = self._context.roots_of(job.job_id), self._context.shared.roots
        if roots.inbox != current.inbox:
            _check_usable(roots.inbox, f"It is in {roots.inbox / PRIVATE_FOLDER / job.job_id}", "inbox")
        if job.state is JobState.DELIVERING and roots.outbox != current.outbox:
            _check_usable(roots.outbox, f"Documents of it were put into {roots.outbox}", "outbox")
        if job.state is JobState.DELIVERED and roots.processed != current.processed:
            _check_usable(roots.processed, f"It was being moved to {roots.processed}", "processed folder")
        if roots.failed != current.failed and self._context.journal.planned_failure(job.job_id) is not None:
            _check_usable(roots.failed, f"It was being moved to {roots.failed}", "failed folder")


def _check_usable(root: Path, where: str, name: str) -> None:
    what = f"{where}, the {name} of an earlier configuration"
    remedy = _MOVED_REMEDY.format(folder=root)
    try:
        with Folder.open(root) as folder:
            if not folder.exists(PRIVATE_FOLDER):
                raise TransientError(f"{what}, which is empty or not mounted now.", remedy)
            if not folder.is_writable():
                raise TransientError(f"{what}, which is no longer writable for the service.", remedy)
            with open_private(folder):
                pass
    except (OSError, NoPermissionError) as error:
        why = error.strerror if isinstance(error, OSError) else error.what
        raise TransientError(f"{what}, which cannot be used now: {why}.", remedy) from error
    except ScribedError:
        raise
