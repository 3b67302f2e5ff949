"""The note next to claimed audio: everything needed to continue if the journal is lost."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from daemon.errors import ScribedError
from daemon.host.clock import now
from daemon.job import Job
from daemon.journal.records import FailedPlace, FileStamp, Reason, Reservation, Result, Roots, SecondLook, Stamps
from daemon.spool.names import hotwords_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from daemon.host.folders import Folder

NOTE_NAME: Final = ".claim.json"
_MODE: Final = 0o600
_MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class PlannedDelivery:
    """What is about to be delivered: its names, the sha256 of each document, facts for the history, the file stamps."""

    reservation: Reservation
    documents: Mapping[str, str]
    result: Result
    stamps: Stamps = field(default_factory=Stamps)

    def as_json(self) -> dict[str, object]:
        """Return what `_planned` reads."""
        return {
            "reservation": _plain(self.reservation),
            "documents": dict(self.documents),
            "result": _plain(self.result),
            "stamps": {kind: stamp and _plain(stamp) for kind, stamp in _plain(self.stamps).items()},
        }


@dataclass(frozen=True, slots=True)
class Note:
    """What is known of a claim without the journal.

    Attributes:
        job: the job, as it was claimed.
        roots: the shared folders it uses; None in a note of an earlier version.
        delivery: what is about to be delivered, if anything is.
        failure: why it is about to move to failed, if it is.
        failed_place: where it goes then.
        earlier: what was delivered of it before it grew.
    """

    job: Job
    roots: Roots | None = None
    delivery: PlannedDelivery | None = None
    failure: Reason | None = None
    failed_place: FailedPlace | None = None
    earlier: SecondLook | None = None


def write_note(claim: Folder, note: Note, *, is_first: bool = False) -> None:
    """Record where a claimed recording came from and, once known, where it goes.

    It is not synced: the journal is, and this note matters only where that is lost.

    Args:
        claim: the folder of the claim.
        note: what is known.
        is_first: nothing is in the folder yet, so that a note that a crash cuts short is no loss.
    """
    content: dict[str, Any] = {"path": note.job.path, "claimed_at": note.job.claimed_at}
    if note.roots is not None:
        content["roots"] = note.roots.as_text()
    if note.delivery is not None:
        content["outcome"] = note.delivery.as_json()
    if note.failure is not None and note.failed_place is not None:
        content["failure"] = _plain(note.failure) | {"place": _plain(note.failed_place)}
    if note.earlier is not None:
        content["earlier"] = {"n_again": note.earlier.n_again, "documents": dict(note.earlier.documents)}
    # Bytes of names that are not UTF-8 are kept: json writes them as escapes.
    text = json.dumps(content).encode()
    if is_first:
        claim.write_new(NOTE_NAME, text)
    else:
        claim.replace(NOTE_NAME, text, _MODE, note.job.job_id, is_durable=False)


def read_note(claim: Folder, job_id: str) -> Note | None:
    """Return what the note in a claim's folder says or, without a note, what its files say.

    Returns:
        The note, or None where nothing was claimed.
    """
    try:
        content = json.loads(claim.read(NOTE_NAME, _MAX_BYTES))
        job = Job(job_id, str(content["path"]), str(content["claimed_at"]))
        failure, place = _failure(content.get("failure"))
        roots, delivery = _roots(content.get("roots")), _planned(content.get("outcome"))
        return Note(job, roots, delivery, failure, place, _earlier(job, content.get("earlier")))
    except (OSError, ScribedError, ValueError, KeyError, TypeError):
        names = [name for name in claim.names() if not name.startswith(".")]
        names = [name for name in names if name not in {hotwords_name(other) for other in names}]
        return Note(Job(job_id, os.fspath(names[0]), now())) if names else None


def _plain(facts: Reservation | Result | Stamps | FileStamp | Reason | FailedPlace) -> dict[str, Any]:
    """Return the fields by name; `dataclasses.asdict` copies them deeply, which takes five times as long."""
    return {name: getattr(facts, name) for name in facts.__slots__}


def _roots(content: dict[str, str] | None) -> Roots | None:
    return None if content is None else Roots(**{name: Path(path) for name, path in content.items()})


def _failure(content: dict[str, Any] | None) -> tuple[Reason | None, FailedPlace | None]:
    if content is None:
        return None, None
    return Reason(content["what"], content["remedy"]), FailedPlace(**content["place"])


def _earlier(job: Job, content: dict[str, Any] | None) -> SecondLook | None:
    return None if content is None else SecondLook(job, 0, int(content["n_again"]), dict(content["documents"]))


def _planned(content: dict[str, Any] | None) -> PlannedDelivery | None:
    if content is None:
        return None
    known = content.get("stamps") or content.get("looks") or {}  # the word of an earlier version, or none
    stamps = Stamps(**{kind: FileStamp(**stamp) for kind, stamp in known.items() if stamp is not None})
    return PlannedDelivery(
        Reservation(**content["reservation"]), content["documents"], Result(**content["result"]), stamps
    )
