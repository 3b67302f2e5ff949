"""Claiming a recording: one rename into a folder that its senders cannot enter."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from daemon.errors import JobError, NoPermissionError, ScribedError, TransientError
from daemon.host import files
from daemon.host.clock import now
from daemon.host.folders import Folder, LinkInTheWayError
from daemon.inbox import fingerprint_of
from daemon.job import Job
from daemon.spool.limits import find_too_long
from daemon.spool.names import hotwords_name, new_job_id
from daemon.spool.notes import Note, write_note
from daemon.spool.private import open_private

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from daemon.inbox import Arrival
    from daemon.job import Fingerprint
    from daemon.spool.context import Context
    from daemon.spool.second_look import SecondLooks

# Room that must be free before anything is claimed: for decoded audio (64 kB a second; decoding
# itself backs off when more is needed), and for documents, journal and status.
_CACHE_BYTES: Final = 256 << 20
_OTHER_BYTES: Final = 16 << 20
_MAX_HOTWORDS_BYTES: Final = 16 << 10
_PRIVATE_FOLDER: Final = 0o700
# What is raised where a recording has left the inbox, or is no longer a file.
_GONE: Final = (FileNotFoundError, NotADirectoryError, JobError, LinkInTheWayError)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Claim:
    """A recording that was moved out of the inbox.

    Attributes:
        job: its job.
        has_changed: the file is not the one that settled; it must settle again.
    """

    job: Job
    has_changed: bool


class Claims:
    """The part of the spool that claims recordings and answers questions about claimed ones."""

    def __init__(self, context: Context, looks: SecondLooks) -> None:
        self._context = context
        self._looks = looks
        self._leftover: Job | None = None  # a claim that failed and could not be undone

    def check_room(self) -> None:
        """Raise TransientError where a disk is too full to take on more work."""
        folders = self._context.shared.folders
        needs = ((folders.cache, _CACHE_BYTES), *((f, _OTHER_BYTES) for f in (folders.outbox, folders.state)))
        for folder, n_bytes in needs:
            with files.explained("The free space is unknown", folder):
                n_free = files.free_bytes(folder)
            if n_free < n_bytes:
                what = f"The disk of {folder} has only {n_free >> 20} MiB left, {n_bytes >> 20} MiB are needed."
                raise TransientError(what, "Free some space; recordings wait in the inbox until then.")

    def claim(self, arrival: Arrival) -> Claim | None:
        """Take a recording out of the inbox.

        Returns:
            The claim, or None if the recording is gone.

        Raises:
            NoPermissionError: it cannot be moved by this user.
            TransientError: it cannot be moved now.
        """
        self.check_room()
        self._clear_leftover()
        job = Job(new_job_id(), arrival.path, now())
        root = self._context.shared.roots.inbox
        with files.explained("The recording cannot be claimed", root / job.folder):
            try:
                with Folder.open(root) as inbox, inbox.descend(job.folder) as source:
                    _check_movable(source, job.name)
                    self._take(inbox, source, job)
            except _GONE:
                self.undo(job)
                return None
            except (OSError, ScribedError):
                self._leftover = job
                with suppress(OSError, ScribedError):  # if it cannot be undone now, the next claim tries first
                    self._clear_leftover()
                raise
        if not arrival.close_seen:
            self._looks.expect(job)
        has_changed = self.fingerprint(job) != arrival.fingerprint
        log.info("job.claimed", job_id=job.job_id, path=job.path, has_changed=has_changed)
        return Claim(job, has_changed)

    def broken_off(self) -> frozenset[str]:
        """Return the paths of recordings whose claim has no audio, either not yet or no longer.

        Until such a claim is undone, nothing at that path may be claimed, because its hotwords may be in the claim.

        Raises:
            TransientError: the journal cannot be read.
        """
        return frozenset(job.path for job in self._context.journal.unfinished() if not self.has_audio(job))

    def exists(self, job: Job) -> bool:
        """Whether the folder of this claim exists, with or without the audio.

        Raises:
            NoPermissionError, TransientError: the folder of claims cannot be read.
        """
        inbox = self._context.roots_of(job.job_id).inbox
        with files.explained("The claimed recordings cannot be listed", inbox):
            self._context.shared.check_mounts()
            with self._context.claims_of(job.job_id) as claims:
                return claims.exists(job.job_id)

    def has_audio(self, job: Job) -> bool:
        """Whether the audio of a claim is in the claim's folder."""
        try:
            with self._context.claim_of(job) as claim:
                return claim.exists(job.name)
        except (OSError, ScribedError):
            return False

    def fingerprint(self, job: Job) -> Fingerprint:
        """Return the fingerprint of the claimed recording as it is now."""
        folder = self._context.roots_of(job.job_id).inbox
        with files.explained("The claimed recording cannot be found", folder), self._context.claim_of(job) as claim:
            return fingerprint_of(claim.lstat(job.name))

    @contextmanager
    def audio(self, job: Job) -> Iterator[Path]:
        """Hold the folder of a claim open; yields a path to its audio that no one can redirect meanwhile."""
        folder = self._context.roots_of(job.job_id).inbox
        with files.explained("The claimed recording cannot be found", folder):
            held = self._context.claim_of(job)
            claim = held.__enter__()
        try:
            yield claim.proc_path / job.name
        finally:
            held.__exit__(None, None, None)

    def hotwords(self, job: Job) -> tuple[str, ...]:
        """Return the hotwords of the recording, one per line in its file."""
        name = hotwords_name(job.name)
        try:
            with self._context.claim_of(job) as claim:
                if not claim.exists(name):
                    return ()
                read = claim.read(name, _MAX_HOTWORDS_BYTES + 1)
        except FileNotFoundError:
            return ()
        except (JobError, NoPermissionError) as error:  # the recording can do without
            log.warning("job.hotwords_refused", job_id=job.job_id, path=job.path, what=error.what)
            return ()
        if len(read) > _MAX_HOTWORDS_BYTES:
            read = read.rpartition(b"\n")[0]  # no word is split
            log.warning("job.hotwords_cut", job_id=job.job_id, path=job.path, n_bytes=len(read))
        words = (word.strip() for word in read.decode("utf-8-sig", "replace").splitlines())
        return tuple(dict.fromkeys(word for word in words if word))

    def undo(self, job: Job) -> None:
        """Undo a claim whose audio never arrived or was removed; keep one that has its audio."""
        with Folder.open(self._context.roots_of(job.job_id).inbox) as inbox, open_private(inbox) as claims:
            with suppress(FileNotFoundError), claims.descend(job.job_id) as claim:
                if claim.exists(job.name):
                    return
                _return_hotwords(claim, inbox, job)
            remove_claim(claims, job.job_id)
        self._context.journal.forget_claim(job.job_id)

    def _clear_leftover(self) -> None:
        """Undo a failed claim, so that at most one exists however often claiming fails."""
        if self._leftover is not None:
            with files.explained("A claim cannot be undone", self._context.shared.roots.inbox):
                self.undo(self._leftover)
            self._leftover = None

    def _take(self, inbox: Folder, source: Folder, job: Job) -> None:
        roots, journal = self._context.shared.roots, self._context.journal
        with open_private(inbox) as claims:
            claims.mkdir(job.job_id, _PRIVATE_FOLDER)
            with claims.descend(job.job_id) as claim:
                write_note(claim, Note(job, roots))
                claims.sync()
                journal.add(job, roots)
                _move_in(source, claim, job)
        too_long = find_too_long(job.name, self._context.outcome_folder(job), roots)
        if too_long is not None:
            journal.plan_failure(job.job_id, *too_long)


def remove_claim(claims: Folder, job_id: str) -> None:
    """Remove the emptied folder of a claim, with our own hidden notes in it.

    Raises:
        OSError: a file that is not ours is in it; then nothing is removed.
    """
    with suppress(FileNotFoundError), claims.descend(job_id) as claim:
        left = claim.names()
        if not all(name.startswith(".") for name in left):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(claim.path))
        for name in left:
            os.unlink(name, dir_fd=claim.fd)
        claims.rmdir(job_id)


def _check_movable(source: Folder, name: str) -> None:
    """Raise before anything is written if the claim is sure to be refused, because every scan tries it again."""
    facts, above = source.lstat(name), os.fstat(source.fd)
    is_owner = os.geteuid() in {0, facts.st_uid, above.st_uid}
    if above.st_mode & stat.S_ISVTX and not is_owner:
        what = f"Recordings in {source.path} cannot be claimed: only their owners can move them."
        raise NoPermissionError(what, f"Run chmod -t on {source.path}.")
    if not source.is_writable():
        what = f"Recordings in {source.path} cannot be claimed: the folder is not writable."
        raise NoPermissionError(what, f"Give the service's user write permission on {source.path}.")


def _move_in(source: Folder, claim: Folder, job: Job) -> None:
    """Move the hotwords of a recording, then the recording itself, into the folder of its claim."""
    _move_hotwords(source, claim, job)
    source.move(job.name, claim, job.name, job.job_id, is_private=True)
    if not claim.is_file(job.name):  # put there after it was looked at
        with suppress(FileExistsError):
            claim.move(job.name, source, job.name, job.job_id)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), job.name)


def _move_hotwords(source: Folder, claim: Folder, job: Job) -> None:
    name = hotwords_name(job.name)
    try:
        if source.is_file(name):
            source.move(name, claim, name, job.job_id, is_private=True)
            if not claim.is_file(name):  # replaced after it was looked at
                _return_hotwords_to(source, claim, name, job)
    except FileNotFoundError:
        return
    except (
        PermissionError,
        ScribedError,
    ) as error:  # the recording is transcribed without them; errors of a full or failing disk are raised
        log.warning("job.hotwords_refused", path=name, what=str(error))


def _return_hotwords_to(source: Folder, claim: Folder, name: str, job: Job) -> None:
    try:
        claim.move(name, source, name, job.job_id)
    except FileExistsError:
        claim.discard(name)


def _return_hotwords(claim: Folder, inbox: Folder, job: Job) -> None:
    """Move the hotwords of an undone claim back; delete them if the folder is gone or has newer ones."""
    name = hotwords_name(job.name)
    if not claim.exists(name):
        return
    try:
        with inbox.descend(job.folder) as target:
            claim.move(name, target, name, job.job_id)
    except (FileExistsError, *_GONE):
        claim.discard(name)
