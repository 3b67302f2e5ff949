"""A second look, a minute after delivery, at recordings whose writer was not seen to close them.

A recording that grew after its delivery is transcribed again, at most twice. Its documents are replaced if their bytes
are still those that were delivered; otherwise the new ones get the next free stem. On one disk the audio moves to
processed at once, where its writer's open file goes with it. Across disks a copy would be cut off from the writer, so
the audio stays in its claim until the look.
"""

from __future__ import annotations

import stat
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import structlog

from daemon.display import escape
from daemon.errors import NoPermissionError, ScribedError, TransientError
from daemon.host import files, moving
from daemon.host.folders import Folder, LinkInTheWayError
from daemon.job import JobState
from daemon.spool.names import hotwords_name
from daemon.spool.notes import Note, write_note

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from daemon.job import Job
    from daemon.journal.records import SecondLook
    from daemon.spool.context import Context

LOOK_AFTER_S: Final = 60.0
MAX_AGAIN: Final = 2
_PRIVATE_FOLDER: Final = 0o700
_SECOND_SET: Final = (
    "The recording grew after its first transcript was delivered, which has been edited since: it is kept as {names},"
    " and this is the transcript of the whole recording."
)

log = structlog.get_logger()


class SecondLooks:
    """The part of the spool that looks at delivered recordings once more.

    Args:
        context: what all parts share.
        is_active: False for a run that does not wait for anything (`scribed once`): it expects and holds nothing.
    """

    def __init__(self, context: Context, *, is_active: bool) -> None:
        self._context = context
        self._is_active = is_active

    def choose(self, jobs: Iterable[tuple[str, bool]]) -> list[str]:
        """Return the ids of the jobs that need a second look.

        Args:
            jobs: the id of each, and whether its recording's writer was seen to close it: if not, it may still grow.
        """
        return [job_id for job_id, close_seen in jobs if self._is_active and not close_seen]

    def schedule(self, job: Job, n_bytes: int, documents: Mapping[str, str]) -> None:
        """Set the time of the look; to be called just before the delivery is committed.

        Args:
            job: the job.
            n_bytes: length of the recording that was transcribed.
            documents: sha256 of its documents by name.
        """
        look = self._context.journal.find_look(job.job_id)
        if look is None:
            return
        if not self._is_active or look.n_again >= MAX_AGAIN:
            self._context.journal.drop_look(job.job_id)
            return
        due = datetime.now(UTC) + timedelta(seconds=LOOK_AFTER_S)
        self._context.journal.schedule_look(job.job_id, n_bytes, documents, _iso(due))

    def holds(self, job: Job) -> bool:
        """Whether a delivered recording stays in its claim until the look: it goes to another disk."""
        has_look = self._is_active and self._context.journal.find_look(job.job_id) is not None
        return has_look and self._goes_to_another_disk(job.job_id)

    def held(self) -> frozenset[str]:
        """Return the ids of delivered jobs that wait for the look in their claim."""
        waiting = self._context.journal.held() if self._is_active else frozenset()
        return frozenset(job_id for job_id in waiting if self._goes_to_another_disk(job_id))

    def _goes_to_another_disk(self, job_id: str) -> bool:
        roots = self._context.roots_of(job_id)
        return files.disk_of(roots.inbox) != files.disk_of(roots.processed)

    def withdraw(self, job: Job, outbox: Folder) -> None:
        """Remove the documents of an earlier delivery of this job, the JSON first, unless one of them was changed."""
        present, is_changed = self._earlier_documents(job, outbox)
        if is_changed:
            log.warning("job.documents_kept", job_id=job.job_id, path=job.path, reason="They were changed since.")
            return
        for name in sorted(present, key=lambda name: not name.endswith(".json")):
            outbox.unlink(name)

    def explain_second_set(self, job: Job) -> str | None:
        """Return why a job will have two sets of documents: those of an earlier delivery were changed since.

        Raises:
            NoPermissionError, TransientError: it can be tried again.
        """
        if self._context.journal.find_look(job.job_id) is None:
            return None
        root = self._context.shared.roots.outbox
        with files.explained("The earlier transcript cannot be compared", root):
            try:
                with Folder.open(root) as top, top.descend(self._context.outcome_folder(job)) as outbox:
                    present, is_changed = self._earlier_documents(job, outbox)
            except (FileNotFoundError, NotADirectoryError):  # made, or refused, when it is delivered
                return None
        return _SECOND_SET.format(names=", ".join(map(escape, present))) if is_changed else None

    def _earlier_documents(self, job: Job, outbox: Folder) -> tuple[tuple[str, ...], bool]:
        """Return the names of an earlier delivery's documents that are still there, and whether one was changed."""
        look = self._context.journal.find_look(job.job_id)
        documents = {} if look is None else look.documents
        present = tuple(name for name in documents if outbox.exists(name))
        return present, not all(outbox.has_sha256(name, documents[name]) for name in present)

    def run(self, now: datetime | None = None) -> None:
        """Do the looks that are due; recordings that grew are claimed again.

        Raises:
            NoPermissionError, TransientError: it can be tried again.
        """
        if not self._is_active:
            return
        problem: ScribedError | None = None
        for look in self._context.journal.due_looks(_iso(now or datetime.now(UTC))):
            try:
                self._run(look)
            except (NoPermissionError, TransientError) as error:  # the others are still checked
                problem = problem or error
        if problem is not None:
            raise problem

    def _run(self, look: SecondLook) -> None:
        roots = self._context.roots_of(look.job.job_id)
        with files.explained("A delivered recording cannot be looked at again", roots.processed):
            if look.job.state is JobState.DONE:
                self._look_at_processed(look)
            elif look.job.state is JobState.DELIVERED and self.holds(look.job):  # else it is just being moved
                self._look_at_claim(look)

    def _look_at_claim(self, look: SecondLook) -> None:
        facts = None
        with suppress(FileNotFoundError), self._context.claim_of(look.job) as claim:
            facts = claim.find(look.job.name)
        self._judge(look, None if facts is None else facts.st_size)

    def _look_at_processed(self, look: SecondLook) -> None:
        job, journal = look.job, self._context.journal
        reservation, roots = journal.reservation(job.job_id), self._context.roots_of(job.job_id)
        if reservation is None:
            journal.drop_look(job.job_id)
            return
        try:
            with Folder.open(roots.processed) as root, root.descend(reservation.folder) as processed:
                facts = processed.find(reservation.audio_name)
                if facts is not None and not stat.S_ISREG(facts.st_mode):  # a member has put something else there
                    facts = None
                if facts is not None and facts.st_size > look.n_bytes:
                    self._claim_again(look, processed, reservation.audio_name)
        except (FileNotFoundError, NotADirectoryError, LinkInTheWayError):  # taken away, or a link is in its place
            facts = None
        self._judge(look, None if facts is None else facts.st_size)

    def _judge(self, look: SecondLook, n_bytes: int | None) -> None:
        job, journal = look.job, self._context.journal
        if n_bytes is None or n_bytes <= look.n_bytes:
            journal.drop_look(job.job_id)
            return
        log.warning("job.grew_after_delivery", job_id=job.job_id, path=job.path, n_bytes=n_bytes, was=look.n_bytes)
        journal.reopen(job.job_id)

    def _claim_again(self, look: SecondLook, processed: Folder, audio_name: str) -> None:
        """Move the audio and its hotwords back into a claim; after a crash within, the claim is recovered."""
        job = look.job
        with self._context.claims_of(job.job_id) as claims:
            with suppress(FileExistsError):  # begun before a crash
                claims.mkdir(job.job_id, _PRIVATE_FOLDER)
            with claims.descend(job.job_id) as claim:
                write_note(claim, Note(job, self._context.roots_of(job.job_id), earlier=look))
                claims.sync()
                hotwords = hotwords_name(audio_name)
                if processed.is_file(hotwords):
                    moving.move((processed, hotwords), (claim, hotwords_name(job.name)), job.job_id, is_private=True)
                moving.move((processed, audio_name), (claim, job.name), job.job_id, is_private=True)


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
