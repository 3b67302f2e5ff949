"""The note `NAME.error.txt` next to a recording in failed: what was wrong, in plain words."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from daemon.display import escape
from daemon.errors import ScribedError
from daemon.host.clock import now
from daemon.inbox import ERROR_SUFFIX

if TYPE_CHECKING:
    from daemon.host.folders import Folder
    from daemon.job import Job
    from daemon.journal.records import Reason

_BEGINNING: Final = "scribed could not transcribe "
_MAX_BYTES: Final = 64 << 10


def error_note(job: Job, reason: Reason) -> str:
    """Return the text of the note for a recording that moves to failed."""
    lines = [
        f'{_BEGINNING}"{escape(job.name)}".',
        "",
        f"What was wrong: {reason.what}",
        *([f"What to do: {reason.remedy}"] if reason.remedy else []),
        "",
        "To try again, move the recording back into the inbox; this note may stay here or move with it.",
        f"Job {job.job_id}, {now()}.",
    ]
    return "\n".join(lines) + "\n"


def is_error_note(folder: Folder, name: str) -> bool:
    """Whether a file is a note that we wrote."""
    return bool(read_error_note(folder, name))


def remove_error_note(folder: Folder, name: str, job_id: str = "") -> None:
    """Remove a note that we wrote, for this job if one is named; leave any other file."""
    if (text := read_error_note(folder, name)) and job_id in text:
        folder.discard(name)


def read_error_note(folder: Folder, name: str) -> str:
    """Return the text of a note that we wrote, "" for any other file."""
    if not name.endswith(ERROR_SUFFIX):
        return ""
    text = b""
    with suppress(OSError, ScribedError):  # gone, or not a file that we could have written
        text = folder.read(name, _MAX_BYTES + 1)
    is_ours = text.startswith(_BEGINNING.encode()) and len(text) <= _MAX_BYTES
    return text.decode("utf-8", "replace") if is_ours else ""
