"""The note beside claimed audio: all that is needed to go on where the journal is lost."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from daemon.host import files
from daemon.host.clock import now
from daemon.job import Job
from daemon.journal.records import Look, Looks, Reservation, Result
from daemon.spool.names import hotwords_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NOTE_NAME = ".claim.json"
_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was about to be delivered: its names, the sha256 of each document, the facts of the history, the looks."""

    reservation: Reservation
    documents: Mapping[str, str]
    result: Result
    looks: Looks = field(default_factory=Looks)


def write_note(folder: Path, job: Job, outcome: Outcome | None = None) -> None:
    """Write down durably where a claimed recording came from and, once that is known, what becomes of it."""
    note: dict[str, Any] = {"path": job.path, "claimed_at": job.claimed_at}
    if outcome is not None:
        note["outcome"] = asdict(outcome)
    # Bytes of names that are not UTF-8 are kept: json writes them as escapes.
    files.replace(folder / NOTE_NAME, json.dumps(note).encode(), _MODE)


def read_note(folder: Path) -> tuple[Job, Outcome | None] | None:
    """Return what the note in a claim's folder tells, or without a note what the files in it do.

    Returns:
        (job, what was about to be delivered if anything was), or None where nothing was claimed.
    """
    try:
        note = json.loads((folder / NOTE_NAME).read_bytes())
        return Job(folder.name, str(note["path"]), str(note["claimed_at"])), _outcome(note.get("outcome"))
    except (OSError, ValueError, KeyError, TypeError):
        names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        names = [name for name in names if name not in {hotwords_name(other) for other in names}]
        return (Job(folder.name, names[0], now()), None) if names else None


def _outcome(note: dict[str, Any] | None) -> Outcome | None:
    if note is None:
        return None
    known = note.get("looks", {})  # an earlier version wrote none
    looks = Looks(**{kind: Look(**look) for kind, look in known.items() if look is not None})
    return Outcome(Reservation(**note["reservation"]), note["documents"], Result(**note["result"]), looks)
