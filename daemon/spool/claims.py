"""Claiming a recording: one rename out of the senders' sight."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from daemon.errors import JobError, NoPermissionError, ScribedError, TransientError
from daemon.host import files
from daemon.host.clock import now
from daemon.inbox import fingerprint_of
from daemon.job import Job
from daemon.spool.names import hotwords_name, new_job_id
from daemon.spool.notes import write_note

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.inbox import Arrival
    from daemon.job import Fingerprint
    from daemon.journal import Journal
    from daemon.spool.places import Places

# Room that must be free before anything is claimed: for decoded sound (64 kB a second; decoding
# itself backs off when more is needed), and for documents, journal and status.
_CACHE_BYTES = 256 << 20
_OTHER_BYTES = 16 << 20
_MAX_HOTWORDS_BYTES = 16 << 10
_PRIVATE_FOLDER = 0o700

log = structlog.get_logger()


class Claims:
    """Claims recordings and answers questions about claimed ones."""

    def __init__(self, places: Places, journal: Journal) -> None:
        self._places = places
        self._journal = journal

    def check_room(self) -> None:
        """Raise TransientError where a disk is too full to take on more work."""
        folders = self._places.folders
        needs = ((folders.cache, _CACHE_BYTES), *((f, _OTHER_BYTES) for f in (folders.outbox, folders.state)))
        for folder, n_bytes in needs:
            with files.explained("The free space cannot be told", folder):
                n_free = files.free_bytes(folder)
            if n_free < n_bytes:
                what = f"The disk of {folder} has only {n_free >> 20} MiB left, {n_bytes >> 20} MiB are needed."
                raise TransientError(what, "Free some space; recordings wait in the inbox until then.")

    def claim(self, arrival: Arrival) -> tuple[Job, bool] | None:
        """Take a recording out of the inbox.

        Returns:
            (job, whether it still is the file that had settled), or None if it is gone.

        Raises:
            NoPermissionError: it may not be moved.
            TransientError: it cannot be moved now.
        """
        self.check_room()
        job = Job(new_job_id(), arrival.path, now())
        inbox = self._places.folders.inbox
        with files.explained("The recording cannot be claimed", inbox / job.folder):
            try:
                with files.reached(inbox, job.folder) as folder:
                    _check_movable(folder / job.name, inbox / job.folder)
                    self._make_room(job)
                    _move_in(folder / job.name, self._places.audio(job))
            except (FileNotFoundError, NotADirectoryError, JobError):  # gone, or no longer a file
                undo_claim(job, self._places, self._journal)
                return None
            except (OSError, ScribedError):
                with suppress(OSError, ScribedError):  # if it cannot be undone now, the job's start does it
                    undo_claim(job, self._places, self._journal)
                raise
        is_same = self.fingerprint(job) == arrival.fingerprint
        log.info("job.claimed", job_id=job.job_id, path=job.path, has_changed=not is_same)
        return job, is_same

    def broken_off(self) -> frozenset[str]:
        """Return the paths of recordings whose claim has no audio yet, or no more.

        Until such a claim is undone nothing of that path may be claimed: its hotwords may lie there.

        Raises:
            TransientError: the journal cannot be read.
        """
        unfinished = self._journal.unfinished()
        return frozenset(job.path for job in unfinished if not os.path.lexists(self._places.audio(job)))

    def fingerprint(self, job: Job) -> Fingerprint:
        """Return what the claimed recording looks like now."""
        path = self._places.audio(job)
        with files.explained("The claimed recording cannot be found", path.parent):
            return fingerprint_of(path.lstat())

    def hotwords(self, job: Job) -> tuple[str, ...]:
        """Return the words that came beside the recording, one to a line."""
        path = self._places.claim(job.job_id) / hotwords_name(job.name)
        if not os.path.lexists(path):
            return ()
        try:
            with os.fdopen(files.open_regular(path), "rb") as stream:
                read = stream.read(_MAX_HOTWORDS_BYTES + 1)
        except (JobError, NoPermissionError) as error:  # the recording can do without
            log.warning("job.hotwords_refused", job_id=job.job_id, path=job.path, what=error.what)
            return ()
        if len(read) > _MAX_HOTWORDS_BYTES:
            read = read.rpartition(b"\n")[0]  # no word is cut in two
            log.warning("job.hotwords_cut", job_id=job.job_id, path=job.path, n_bytes=len(read))
        words = (word.strip() for word in read.decode("utf-8-sig", "replace").splitlines())
        return tuple(dict.fromkeys(word for word in words if word))

    def _make_room(self, job: Job) -> None:
        self._places.make_claims()
        folder = self._places.claim(job.job_id)
        folder.mkdir(mode=_PRIVATE_FOLDER)
        write_note(folder, job)
        files.sync_folder(self._places.claims)
        self._journal.add(job)


def undo_claim(job: Job, places: Places, journal: Journal) -> None:
    """Undo a claim whose audio never came, or was taken away by somebody; leave one that has its audio."""
    if os.path.lexists(places.audio(job)):
        return
    beside = places.claim(job.job_id) / hotwords_name(job.name)
    if os.path.lexists(beside):
        target = places.folders.inbox / job.folder / beside.name
        if not os.path.lexists(target) and target.parent.is_dir():
            files.move(beside, target)
        else:
            beside.unlink()
    places.remove_claim(job.job_id)
    journal.forget_claim(job.job_id)


def _check_movable(source: Path, folder: Path) -> None:
    """Raise before anything is written where a claim is sure to be refused, for it is tried again at every scan."""
    facts, above = source.lstat(), source.parent.stat()
    is_owner = os.geteuid() in {0, facts.st_uid, above.st_uid}
    if above.st_mode & stat.S_ISVTX and not is_owner:
        what = f"Recordings in {folder} cannot be taken: only their owners may move what lies there."
        raise NoPermissionError(what, f"Run chmod -t on {folder}.")
    if not os.access(source.parent, os.W_OK | os.X_OK):
        what = f"Recordings in {folder} cannot be taken: the folder may not be written."
        raise NoPermissionError(what, f"Give the service's user write permission on {folder}.")


def _move_in(source: Path, target: Path) -> None:
    """Move the hotwords beside a recording, then the recording itself, into the folder of its claim."""
    _move_hotwords(source.with_name(hotwords_name(source.name)), target.with_name(hotwords_name(target.name)))
    files.move(source, target, is_private=True)
    if not stat.S_ISREG(target.lstat().st_mode):  # put there after it was looked at
        with suppress(FileExistsError):
            files.move(target, source)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))


def _move_hotwords(source: Path, target: Path) -> None:
    try:
        if stat.S_ISREG(source.lstat().st_mode):
            files.move(source, target, is_private=True)
    except FileNotFoundError:
        return
    except (PermissionError, ScribedError) as error:  # the recording can do without; a full or failing disk passes
        log.warning("job.hotwords_refused", path=source.name, what=str(error))
