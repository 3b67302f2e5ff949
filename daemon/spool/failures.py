"""Moving recordings to failed with a plain reason, and back into the inbox for another try."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from daemon.errors import JobError, NoPermissionError, ScribedError, TransientError
from daemon.host import files, moving
from daemon.host.folders import Folder, LinkInTheWayError
from daemon.host.turns import waiting
from daemon.job import JobState
from daemon.journal.records import ArchivedFile, FailedPlace, Reason
from daemon.spool.claims import remove_claim
from daemon.spool.delivery import free_hotwords_names, move_to_free_name, stamps_of
from daemon.spool.error_notes import error_note, read_error_note, remove_error_note
from daemon.spool.limits import find_too_long, place_in_failed
from daemon.spool.names import error_note_name, failure_names, hotwords_name
from daemon.spool.notes import Note, write_note
from daemon.spool.private import PRIVATE_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from daemon.job import Job
    from daemon.journal.records import PastJob
    from daemon.spool.context import Context
    from daemon.spool.delivery import Delivery

CANCELLED: Final = "cancelled"
_CANCELLED_REMEDY: Final = "It was cancelled on request; nothing is wrong with it."
_RETRY_TAG: Final = "retry"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Retried:
    """What a retry did: the new paths of recordings, and why others stayed in failed."""

    moved: tuple[Path, ...]
    problems: tuple[ScribedError, ...] = ()


class Failures:
    """The part of the spool that manages the folder failed."""

    def __init__(self, context: Context, delivery: Delivery) -> None:
        self._context = context
        self._delivery = delivery
        self._placing = threading.Lock()  # looking for a free name and taking it is one step
        self._disk = files.disk_of(context.shared.roots.failed)

    def set_aside(self, job: Job, reason: Reason) -> None:
        """Move a claimed recording to failed, with a note. May be called again after a crash.

        Raises:
            NoPermissionError, TransientError: it can be tried again.
        """
        self._delivery.roll_back(job)
        shared, roots = self._context.shared, self._context.roots_of(job.job_id)
        place = self._place(job)
        is_resumed = (
            job.job_id in self._context.resumed or self._context.journal.planned_failure(job.job_id) is not None
        )
        with (
            files.explained("The recording cannot be moved to failed", roots.failed),
            waiting(),  # a thread that waits for the lock must not keep the turn from the one that holds it
            self._placing,
            self._context.claims_of(job.job_id) as claims,
        ):
            with suppress(FileNotFoundError), claims.descend(job.job_id) as claim:
                if claim.exists(job.name):
                    with shared.outcome(roots.failed, place.folder, roots.inbox) as failed:
                        if is_resumed:
                            failed.sweep(job.job_id)
                        self._move_in(job, reason, place, claim, failed)
            remove_claim(claims, job.job_id)
        self._context.journal.fail(job.job_id)
        self._context.forget(job.job_id)

    def cancel(self, job: Job) -> None:
        """Move a recording to failed because its user asked for it, unless its transcript is delivered already."""
        known = self._context.journal.find(job.job_id)
        if known is None or known.state is not JobState.DELIVERED:
            self.set_aside(job, Reason(CANCELLED, _CANCELLED_REMEDY))

    def paths(self) -> tuple[str, ...]:
        """Return the paths within failed of the recordings that can be retried."""
        return tuple(path for _, path in self._audio())

    def retry(self, name: str | None, *, is_path: bool = False) -> Retried:
        """Move failed recordings back into the inbox.

        Args:
            name: of the recording, or its path within failed; None for all of them.
            is_path: whether `name` is a path only, so that "talk.wav" is not "court/talk.wav".
        """
        moved: list[Path] = []
        problems: list[ScribedError] = []
        for root, path in self._audio():
            if name is not None and name != path and (is_path or name != path.rpartition("/")[2]):
                continue
            try:
                moved.append(self._give_back(root, path))
            except (JobError, NoPermissionError, TransientError) as error:  # JobError: no file any more
                log.warning("retry.refused", path=path, what=error.what)
                problems.append(error)
            except FileNotFoundError:  # taken away meanwhile
                log.info("retry.gone", path=path)
        return Retried(tuple(moved), tuple(problems))

    def sweep(self) -> None:
        """Forget failures whose audio was taken out of failed, and remove the note it left behind."""
        current = self._context.shared.roots.failed
        if files.disk_of(current) != self._disk:  # the mount point of a missing share is empty: nothing was removed
            return
        for past in self._context.journal.failures():
            with suppress(OSError, TransientError, NoPermissionError):  # the next turn tries again
                self._sweep(past, current)

    def _sweep(self, past: PastJob, current: Path) -> None:
        if past.audio_path is None:
            return
        root = past.roots.failed if past.roots is not None else current
        folder, _, name = past.audio_path.rpartition("/")
        with Folder.open(root) as top:
            if root != current and not top.exists(PRIVATE_FOLDER):  # an earlier folder: is its disk there at all?
                return
            with suppress(FileNotFoundError, NotADirectoryError), top.descend(folder) as failed:
                if failed.exists(name):
                    return
                remove_error_note(failed, error_note_name(name), past.job.job_id)
        self._context.journal.forget(past.job.job_id)

    def _place(self, job: Job) -> FailedPlace:
        folder, failed = self._context.outcome_folder(job), self._context.roots_of(job.job_id).failed
        is_too_long = find_too_long(job.name, folder, self._context.roots_of(job.job_id)) is not None
        return place_in_failed(job.name, folder, failed) if is_too_long else FailedPlace(folder, job.name)

    def _move_in(self, job: Job, reason: Reason, place: FailedPlace, claim: Folder, failed: Folder) -> None:
        note = error_note(job, reason).encode()
        for name in failure_names(place.name):
            if _may_take(failed, name, claim, job):
                self._plan(job, reason, FailedPlace(place.folder, name), claim)
                with suppress(FileExistsError):  # the name was taken meanwhile: try the next
                    self._archive(job, claim, failed, name, note)
                    return

    def _plan(self, job: Job, reason: Reason, place: FailedPlace, claim: Folder) -> None:
        """Record the planned move, with everything that retention needs."""
        stamps = stamps_of(claim, job.name)
        stamp = stamps.hotwords or self._context.journal.stamps(job.job_id).hotwords  # moved before a crash
        hotwords = ArchivedFile(hotwords_name(place.name), stamp) if stamp is not None else None
        self._context.journal.plan_failure(job.job_id, reason, place, stamps.audio, hotwords)
        roots = self._context.roots_of(job.job_id)
        write_note(claim, Note(job, roots, failure=reason, failed_place=place))

    def _archive(self, job: Job, claim: Folder, failed: Folder, name: str, note: bytes) -> None:
        """Write the note, move the hotwords, then the audio: once it is gone, everything has been moved."""
        mode = self._context.output_of(job.job_id).mode_bits
        failed.replace(error_note_name(name), note, mode, job.job_id)
        try:
            move_to_free_name((claim, hotwords_name(job.name)), failed, free_hotwords_names(name), job.job_id)
            moving.resume_move((claim, job.name), (failed, name), job.job_id)
        except FileExistsError:
            failed.discard(error_note_name(name))
            raise

    def _audio(self) -> list[tuple[Path, str]]:
        """Return (root, path within it) of the failed recordings: those with a note, and those we remember."""
        current = self._context.shared.roots.failed
        found = set(self._remembered(current))
        with files.explained("The failed recordings cannot be listed", current), Folder.open(current) as root:
            for relative, folder in root.walk():
                names = set(folder.names())
                noted = (name for name in names if not name.startswith(".") and error_note_name(name) in names)
                audio = (name for name in noted if folder.is_file(name))
                found |= {(current, f"{relative}/{name}" if relative else name) for name in audio}
        return sorted(found)

    def _remembered(self, current: Path) -> Iterator[tuple[Path, str]]:
        for past in self._context.journal.failures():
            if past.audio_path is not None:
                root = past.roots.failed if past.roots is not None else current
                folder, _, name = past.audio_path.rpartition("/")
                try:
                    with Folder.open(root) as top, top.descend(folder) as failed:
                        if failed.exists(name):
                            yield root, past.audio_path
                except LinkInTheWayError:
                    yield root, past.audio_path  # moving it back reports the error
                except OSError:
                    continue

    def _give_back(self, root: Path, path: str) -> Path:
        """Move one recording with its hotwords back into the inbox and remove its note."""
        inbox = self._context.shared.roots.inbox
        relative, _, audio = path.rpartition("/")
        with files.explained("The recording cannot be moved back", inbox), ExitStack() as opened:
            failed_root = opened.enter_context(Folder.open(root))
            failed = opened.enter_context(failed_root.descend(relative))
            inbox_root = opened.enter_context(Folder.open(inbox))
            target = opened.enter_context(inbox_root.make(relative, failed_root))
            name = _move_back(failed, audio, target)
            hotwords = hotwords_name(audio)
            move_to_free_name((failed, hotwords), target, free_hotwords_names(name), _RETRY_TAG)
            remove_error_note(failed, error_note_name(audio))
        return inbox / relative / name


def _move_back(failed: Folder, audio: str, target: Folder) -> str:
    if os.fstat(failed.fd).st_dev != os.fstat(target.fd).st_dev:
        target.sweep(_RETRY_TAG)  # a partial copy from an interrupted retry
    for name in failure_names(audio):
        if target.exists(hotwords_name(name)):  # they would be used for this recording
            continue
        with suppress(FileExistsError):
            moving.move((failed, audio), (target, name), _RETRY_TAG)
            break
    return name


def _may_take(failed: Folder, name: str, claim: Folder, job: Job) -> bool:
    """Whether a name in failed is free, or was taken by this job before a crash."""
    note = error_note_name(name)
    if job.job_id in read_error_note(failed, note):
        return not failed.exists(name) or moving.is_copy((claim, job.name), (failed, name))
    return not any(map(failed.exists, (name, note, hotwords_name(name))))
