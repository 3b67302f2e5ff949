"""Finding one's way after a stop, a crash, or the loss of the journal."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import structlog

from daemon.host import files
from daemon.job import JobState
from daemon.spool.claims import undo_claim
from daemon.spool.delivery import roll_back
from daemon.spool.notes import read_note

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.job import Job
    from daemon.journal import Journal
    from daemon.spool.delivery import Delivery
    from daemon.spool.failures import Failures
    from daemon.spool.places import Places

log = structlog.get_logger()


def find_unfinished(places: Places, journal: Journal, delivery: Delivery) -> tuple[Job, ...]:
    """Return every job that is not at its end, oldest claim first.

    A claim which the journal does not know is entered from the note beside its audio.

    Raises:
        NoPermissionError, TransientError: it can be tried again.
    """
    known = {job.job_id: job for job in journal.unfinished()}
    with files.explained("The claimed recordings cannot be listed", places.claims):
        for folder in places.claims.iterdir():
            if folder.is_dir() and folder.name not in known and (job := _enter(folder, places, journal, delivery)):
                known[job.job_id] = job
    return tuple(sorted(known.values(), key=lambda job: (job.claimed_at, job.job_id)))


def _enter(folder: Path, places: Places, journal: Journal, delivery: Delivery) -> Job | None:
    """Enter a claim which the journal does not know as unfinished, from the note beside the audio."""
    noted = read_note(folder)
    if noted is None:
        places.remove_claim(folder.name)
        return None
    job, outcome = noted
    journal.forget_claim(job.job_id)  # a past outcome says nothing about audio that is here again
    journal.add(job)
    if outcome is not None:
        journal.reserve(job.job_id, outcome.reservation, outcome.documents, outcome.result, outcome.looks)
    elif found := delivery.find_delivered(job):
        journal.reserve(job.job_id, found.reservation, {}, found.result)
        journal.commit_delivery(job.job_id)
    log.warning("job.reentered", job_id=job.job_id, path=job.path)
    return journal.find(job.job_id)


def conclude(job: Job, places: Places, journal: Journal, delivery: Delivery, failures: Failures) -> bool:
    """Do what an earlier run left to do for a job; return False where it has to be transcribed.

    What was committed is only moved; what was put down but not committed is taken back; a claim
    that never happened is undone.

    Raises:
        NoPermissionError, TransientError: it can be tried again.
    """
    if job.state is JobState.DELIVERED or (job.state is JobState.DELIVERING and delivery.confirm(job)):
        delivery.finish(job)
        return True
    roll_back(job, places, journal)
    if (reason := journal.planned_failure(job.job_id)) is not None:
        failures.set_aside(job, *reason)
        return True
    if not os.path.lexists(places.audio(job)):
        places.check_shares()
        with files.explained("A claim cannot be undone", places.folders.inbox):
            undo_claim(job, places, journal)
        log.info("job.claim_undone", job_id=job.job_id, path=job.path)
        return True
    return False
