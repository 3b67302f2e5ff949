"""Claiming a recording: one rename into a folder that its senders cannot enter."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Final

import structlog

from daemon.errors import JobError, NoPermissionError, ScribedError, TransientError
from daemon.host import files, moving
from daemon.host.clock import now
from daemon.host.folders import Folder, LinkInTheWayError
from daemon.host.turns import waiting
from daemon.inbox import fingerprint_of
from daemon.job import Job
from daemon.spool import limits
from daemon.spool.names import hotwords_name, new_job_id
from daemon.spool.notes import Note, write_note
from daemon.spool.private import open_private

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

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
        arrival: what it was in the inbox.
        has_changed: the file is not the one that settled; it must settle again.
    """

    job: Job
    arrival: Arrival
    has_changed: bool


@dataclass(frozen=True, slots=True)
class OpenClaim:
    """A claim that is opened before work on it begins; leaving the context closes it.

    Attributes:
        folder: of the claim.
        audio: a path to the recording that no one can redirect while the claim is open.
        fingerprint: of the recording as it is now.
        hotwords: the words that came with it.
    """

    folder: Folder
    audio: Path
    fingerprint: Fingerprint
    hotwords: tuple[str, ...]

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the folder."""
        self.folder.close()


@dataclass(slots=True)
class Claimed:
    """What came of claiming several recordings.

    Attributes:
        claims: of those that were moved.
        fault: why others were not; None if they were only gone.
    """

    claims: list[Claim] = field(default_factory=list)
    fault: ScribedError | None = None


class Claims:
    """The part of the spool that claims recordings and answers questions about claimed ones."""

    def __init__(self, context: Context, looks: SecondLooks) -> None:
        self._context = context
        self._looks = looks
        self._leftovers: list[Job] = []  # claims that failed and could not be undone

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

    def claim_all(self, arrivals: Iterable[Arrival]) -> Claimed:
        """Take recordings out of the inbox, with a few syncs for all of them.

        Notes and journal come first: whatever a crash leaves, each recording is in the inbox, or in a claim that is
        known. Before work on a job begins, `opened` makes its claim safe from a power cut as well.

        Raises:
            NoPermissionError, TransientError: none can be taken now.
        """
        self.check_room()
        self._clear_leftovers()
        root, claimed = self._context.shared.roots.inbox, Claimed()
        with ExitStack() as held, files.explained("No recording can be claimed", root):
            inbox = held.enter_context(Folder.open(root))
            sources: dict[str, Folder] = {}
            begun: list[tuple[Arrival, Job]] = []
            for arrival in arrivals:
                job = Job(new_job_id(), arrival.path, now())
                with self._noting_fault(job, claimed, has_begun=False):
                    if job.folder not in sources:
                        sources[job.folder] = held.enter_context(inbox.descend(job.folder))
                    _check_movable(sources[job.folder], job.name)
                    begun.append((arrival, job))
            if not begun:
                return claimed
            claims = held.enter_context(open_private(inbox))
            self._record(claims, begun)
            name_bytes = cache(limits.name_bytes)  # asks each disk once for all of them
            for arrival, job in begun:
                with self._noting_fault(job, claimed, has_begun=True), claims.descend(job.job_id) as claim:
                    _move_in(sources[job.folder], claim, job)
                    has_changed = fingerprint_of(claim.lstat(job.name)) != arrival.fingerprint
                    claimed.claims.append(Claim(job, arrival, has_changed))
                    self._context.own.add(job.job_id)
                    if not self._plan_failure_if_too_long(job, name_bytes):
                        self._context.fresh.add(job.job_id)
            for folder in {one.job.folder for one in claimed.claims}:
                sources[folder].sync()
        for one in claimed.claims:
            log.info("job.claimed", job_id=one.job.job_id, path=one.job.path, has_changed=one.has_changed)
        return claimed

    @contextmanager
    def _noting_fault(self, job: Job, claimed: Claimed, *, has_begun: bool) -> Iterator[None]:
        """Undo the claim of one recording, if it has begun, where it fails; that it is gone is not a fault."""
        try:
            with files.explained(
                "The recording cannot be claimed", _within(self._context.shared.roots.inbox, job.folder)
            ):
                try:
                    yield
                except _GONE:
                    if has_begun:
                        self._drop(job)
        except (OSError, ScribedError) as error:
            if has_begun:
                self._drop(job)
            if not isinstance(error, ScribedError):
                raise
            claimed.fault = claimed.fault or error

    def _record(self, claims: Folder, begun: Sequence[tuple[Arrival, Job]]) -> None:
        """Make the folders of claims, with their notes, and add the jobs to the journal."""
        roots, jobs = self._context.shared.roots, [job for _, job in begun]
        try:
            for job in jobs:
                claims.mkdir(job.job_id, _PRIVATE_FOLDER)
                with claims.descend(job.job_id) as claim:
                    write_note(claim, Note(job, roots), is_first=True)
            claims.sync()
            looks = self._looks.choose((job.job_id, arrival.close_seen) for arrival, job in begun)
            self._context.journal.add_all(jobs, roots, looks)
        except (OSError, ScribedError):
            for job in jobs:
                self._drop(job)
            raise

    def _plan_failure_if_too_long(self, job: Job, name_bytes: Callable[[Path], int]) -> bool:
        roots = self._context.shared.roots
        too_long = limits.find_too_long(job.name, self._context.outcome_folder(job), roots, name_bytes)
        if too_long is not None:
            self._context.journal.plan_failure(job.job_id, *too_long)
        return too_long is not None

    def opened(self, job: Job) -> OpenClaim:
        """Hold a claim open to read from it; from then on no power cut puts the recording back into the inbox."""
        self._context.fresh.discard(job.job_id)
        folder = self._context.roots_of(job.job_id).inbox
        with ExitStack() as on_error:
            with files.explained("The claimed recording cannot be found", folder):
                claim = on_error.enter_context(self._context.claim_of(job))
                with waiting():
                    files.sync_descriptor(claim.fd)  # no other thread changes it, so there is no sync to share
                fingerprint = fingerprint_of(claim.lstat(job.name))
            self._context.begun.add(job.job_id)
            found = OpenClaim(claim, claim.proc_path / job.name, fingerprint, _read_hotwords(claim, job))
            on_error.pop_all()
        return found

    def broken_off(self, paths: Container[str]) -> frozenset[str]:
        """Return those of the paths of recordings whose claim has no audio, either not yet or no longer.

        Until such a claim is undone, nothing at that path may be claimed, because its hotwords may be in the claim.

        Raises:
            TransientError: the journal cannot be read.
        """
        doubtful = (job for job in self._context.journal.unfinished(self._context.begun) if job.path in paths)
        return frozenset(job.path for job in doubtful if not self.has_audio(job))

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

    def undo(self, job: Job) -> None:
        """Undo a claim whose audio never arrived or was removed; keep one that has its audio."""
        with Folder.open(self._context.roots_of(job.job_id).inbox) as inbox, open_private(inbox) as claims:
            with suppress(FileNotFoundError), claims.descend(job.job_id) as claim:
                if claim.exists(job.name):
                    return
                _return_hotwords(claim, inbox, job)
            remove_claim(claims, job.job_id)
        self._context.journal.forget_claim(job.job_id)
        self._context.forget(job.job_id)

    def _drop(self, job: Job) -> None:
        """Undo a failed claim; if that cannot be done now, the next claim tries first, so that they never add up."""
        try:
            self.undo(job)
        except (OSError, ScribedError):
            self._leftovers.append(job)

    def _clear_leftovers(self) -> None:
        while self._leftovers:
            with files.explained("A claim cannot be undone", self._context.shared.roots.inbox):
                self.undo(self._leftovers[-1])
            self._leftovers.pop()


def remove_claim(claims: Folder, job_id: str, *, is_durable: bool = True) -> None:
    """Remove the emptied folder of a claim, with our own hidden notes in it.

    Args:
        claims: the folder of claims.
        job_id: whose claim.
        is_durable: whether to sync the folder of claims.

    Raises:
        OSError: a file that is not ours is in it; then nothing is removed.
    """
    with suppress(FileNotFoundError), claims.descend(job_id) as claim:
        left = claim.names()
        if not all(name.startswith(".") for name in left):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(claim.path))
        for name in left:
            os.unlink(name, dir_fd=claim.fd)
        claims.rmdir(job_id, is_durable=is_durable)


def _within(root: Path, folder: str) -> Path:
    return root / folder if folder else root


def _read_hotwords(claim: Folder, job: Job) -> tuple[str, ...]:
    name = hotwords_name(job.name)
    try:
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
    moving.move_unsynced((source, job.name), (claim, job.name), job.job_id, is_private=True)
    if not claim.is_file(job.name):  # put there after it was looked at
        with suppress(FileExistsError):
            moving.move((claim, job.name), (source, job.name), job.job_id)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), job.name)


def _move_hotwords(source: Folder, claim: Folder, job: Job) -> None:
    name = hotwords_name(job.name)
    try:
        if source.is_file(name):
            moving.move_unsynced((source, name), (claim, name), job.job_id, is_private=True)
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
        moving.move((claim, name), (source, name), job.job_id)
    except FileExistsError:
        claim.discard(name)


def _return_hotwords(claim: Folder, inbox: Folder, job: Job) -> None:
    """Move the hotwords of an undone claim back; delete them if the folder is gone or has newer ones."""
    name = hotwords_name(job.name)
    if not claim.exists(name):
        return
    try:
        with inbox.descend(job.folder) as target:
            moving.move((claim, name), (target, name), job.job_id)
    except (FileExistsError, *_GONE):
        claim.discard(name)
