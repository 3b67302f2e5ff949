"""Setting recordings aside with a plain reason, and giving them back."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from daemon.display import escape
from daemon.errors import ScribedError, TransientError
from daemon.host import files
from daemon.host.clock import now
from daemon.inbox import ERROR_SUFFIX
from daemon.job import JobState
from daemon.journal.records import Kept
from daemon.spool.delivery import hotwords_beside, looks_of, move_to_free_name, roll_back
from daemon.spool.names import error_note_name, failure_names, hotwords_name

if TYPE_CHECKING:
    from daemon.job import Job
    from daemon.journal import Journal
    from daemon.spool.places import Places

CANCELLED = "cancelled"
_CANCELLED_REMEDY = "It was given back because somebody asked for it; nothing is wrong with it."
_NOTE_BEGINS = "scribed could not transcribe "
_MAX_NOTE_BYTES = 64 << 10

log = structlog.get_logger()


class Failures:
    """The folder `failed`.

    Args:
        places: where everything lies.
        journal: remembers reasons.
        mode: permission bits of the error notes, those of the documents; a reload may change them.
    """

    def __init__(self, places: Places, journal: Journal, mode: int) -> None:
        self._places = places
        self._journal = journal
        self.mode = mode
        self._placing = threading.Lock()  # looking for a free name and taking it is one step
        self._disk = files.disk_of(places.folders.failed)

    def set_aside(self, job: Job, reason: str, remedy: str) -> None:
        """Move a claimed recording to failed, its reason beside it. May be called again after a crash.

        Raises:
            NoPermissionError, TransientError: it can be tried again.
        """
        claimed = self._places.audio(job)
        failed, folder_name = self._places.folders.failed, self._places.outcome_folder(job)
        roll_back(job, self._places, self._journal)
        with files.explained("The recording cannot be set aside", failed), self._placing:
            if os.path.lexists(claimed):
                folder = self._places.mirror(failed, folder_name)
                for name in failure_names(job.name):
                    if _may_take(folder / name, claimed, job):
                        self._plan(job, (reason, remedy), (folder_name, name))
                        with suppress(FileExistsError):  # somebody took the name since: on to the next
                            self._put_away(claimed, folder / name, _error_note(job, reason, remedy))
                            break
            self._places.remove_claim(job.job_id)
        self._journal.fail(job.job_id)

    def cancel(self, job: Job) -> None:
        """Set a recording aside because somebody asked for it, unless its transcript is delivered already."""
        known = self._journal.find(job.job_id)
        if known is None or known.state is not JobState.DELIVERED:
            self.set_aside(job, CANCELLED, _CANCELLED_REMEDY)

    def retry(self, name: str) -> tuple[Path, ...]:
        """Move failed recordings of this name, or path within failed, back; return where they lie now."""
        root = self._places.folders.failed
        found = [path for path in self._audio() if name in {path.name, str(path.relative_to(root))}]
        return tuple(self._give_back(path) for path in found)

    def retry_all(self) -> tuple[Path, ...]:
        """Move all failed recordings back into the inbox; return where they lie now."""
        return tuple(self._give_back(path) for path in self._audio())

    def sweep(self) -> None:
        """Forget failures whose audio was taken out of failed, and remove the note it left behind."""
        failed = self._places.folders.failed
        if files.disk_of(failed) != self._disk:  # a share that is not there is empty: nothing was taken out
            return
        for outcome in self._journal.failures():
            if outcome.audio_path is not None and not os.path.lexists(failed / outcome.audio_path):
                with suppress(OSError, TransientError):  # then it is done at the next turn
                    remove_note(error_note_of(failed / outcome.audio_path), outcome.job.job_id)
                    self._journal.forget(outcome.job.job_id)

    def _plan(self, job: Job, why: tuple[str, str], place: tuple[str, str]) -> None:
        """Write down what is to be done, with all that retention has to know of what is put away."""
        looks = looks_of(self._places.audio(job))
        look = looks.hotwords or self._journal.looks(job.job_id).hotwords  # moved before a crash
        hotwords = Kept(hotwords_name(place[1]), look) if look is not None else None
        self._journal.plan_failure(job.job_id, why, place, looks.audio, hotwords)

    def _put_away(self, claimed: Path, target: Path, note: str) -> None:
        """Put the note down, move the hotwords, then the audio, whose absence says that all has been moved."""
        files.replace(error_note_of(target), note.encode(), self.mode)
        try:
            move_to_free_name(claimed.with_name(hotwords_name(claimed.name)), hotwords_beside(target))
            files.resume_move(claimed, target)
        except FileExistsError:
            error_note_of(target).unlink(missing_ok=True)
            raise

    def _audio(self) -> list[Path]:
        """Return the recordings in failed: those with a note beside them, and those we remember."""
        failed = self._places.folders.failed
        remembered = (failed / past.audio_path for past in self._journal.failures() if past.audio_path is not None)
        found = {path for path in remembered if os.path.lexists(path)}
        for root, _, names in os.walk(failed):
            have = set(names)
            found |= {Path(root, name) for name in names if error_note_name(name) in have}
        return sorted(found)

    def _give_back(self, audio: Path) -> Path:
        failed, inbox = self._places.folders.failed, self._places.folders.inbox
        folder = str(audio.parent.relative_to(failed))
        with files.explained("The recording cannot be moved back", inbox):
            inbox = files.make_folders(inbox, "" if folder == "." else folder, model=failed)
            for name in failure_names(audio.name):
                if os.path.lexists(inbox / hotwords_name(name)):  # they would be taken for this one's
                    continue
                with suppress(FileExistsError):
                    files.move(audio, inbox / name)
                    break
            move_to_free_name(audio.with_name(hotwords_name(audio.name)), hotwords_beside(inbox / name))
            remove_note(error_note_of(audio))
        return inbox / name


def error_note_of(audio: Path) -> Path:
    """Return the path of the reason beside audio that was set aside."""
    return audio.with_name(error_note_name(audio.name))


def _may_take(target: Path, claimed: Path, job: Job) -> bool:
    """Whether a name in failed is free, or was taken for this very job before a crash."""
    note = error_note_of(target)
    if job.job_id in _read_note(note):
        return not os.path.lexists(target) or files.is_copy(claimed, target)
    beside = target.with_name(hotwords_name(target.name))
    return not any(map(os.path.lexists, (target, note, beside)))


def is_error_note(path: Path) -> bool:
    """Whether a file is a reason that we wrote."""
    return bool(_read_note(path))


def remove_note(path: Path, job_id: str = "") -> None:
    """Remove a reason that we wrote, for this job if one is named; leave anything else."""
    if (text := _read_note(path)) and job_id in text:
        path.unlink(missing_ok=True)


def _read_note(path: Path) -> str:
    """Return the text of a reason that we wrote, "" for any other file."""
    if not path.name.endswith(ERROR_SUFFIX):
        return ""
    try:
        with os.fdopen(files.open_regular(path), "rb") as stream:
            text = stream.read(_MAX_NOTE_BYTES + 1)
    except (OSError, ScribedError):  # gone, or no file that we could have written
        return ""
    is_ours = text.startswith(_NOTE_BEGINS.encode()) and len(text) <= _MAX_NOTE_BYTES
    return text.decode("utf-8", "replace") if is_ours else ""


def _error_note(job: Job, reason: str, remedy: str) -> str:
    lines = [
        f'{_NOTE_BEGINS}"{escape(job.name)}".',
        "",
        f"What was wrong: {reason}",
        *([f"What to do: {remedy}"] if remedy else []),
        "",
        "To have it tried again, move the recording back into the inbox; this note may stay or come along.",
        f"Job {job.job_id}, {now()}.",
    ]
    return "\n".join(lines) + "\n"
