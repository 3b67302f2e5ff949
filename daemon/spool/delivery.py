"""Putting the documents down, then the audio: nothing overwritten, nothing half, nothing twice.

The order is the promise. Names are reserved, together with the sha256 of what will stand there, in the
journal and, lest it be lost, in the note beside the claimed audio; each document is written and
synced under a hidden name and then published, JSON last; the journal commits; then the audio moves.
After a crash, what stands tells how far it came.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from itertools import count, islice
from typing import TYPE_CHECKING

from daemon.documents import RESERVED_ENDINGS
from daemon.errors import ScribedError
from daemon.host import files
from daemon.journal.records import Kept, Look, Looks, Reservation, Result
from daemon.spool.names import hotwords_name, numbered_stem, outcome_names
from daemon.spool.notes import Outcome, write_note

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from daemon.job import Job
    from daemon.journal import Journal
    from daemon.spool.places import Places


# Transcripts of one name that are looked through for a job's id; lost memories are rare, and so are namesakes.
_MAX_LOOKED_AT = 100
_MAX_JSON_BYTES = 64 << 20


class Delivery:
    """Delivers transcripts and moves their audio to processed.

    Args:
        places: where everything lies.
        journal: remembers reservations and commits.
        mode: permission bits of the documents; a reload may change them.
    """

    def __init__(self, places: Places, journal: Journal, mode: int) -> None:
        self._places = places
        self._journal = journal
        self.mode = mode
        self._reserving = threading.Lock()  # looking for a free stem and reserving it is one step

    def deliver(
        self, job: Job, documents: Mapping[str, bytes], audio_s: float, wall_s: float, *, is_complete: bool
    ) -> Reservation:
        """Put down documents (by format, in their order), commit, move the audio; return its names.

        Raises:
            NoPermissionError, TransientError: it can be tried again; nothing is half done that a
                second call would not set right.
        """
        result = Result(audio_s, wall_s, is_complete)
        roll_back(job, self._places, self._journal)  # what an earlier call may have left
        with files.explained("The transcript cannot be delivered", self._places.folders.outbox):
            while True:
                reservation = self._reserve(job, documents, result)
                try:
                    self._put_down(reservation, documents)
                except FileExistsError:  # somebody took the name between the look and the publishing
                    roll_back(job, self._places, self._journal)
                    continue
                break
        self._journal.commit_delivery(job.job_id)
        self.finish(job)
        return reservation

    def finish(self, job: Job) -> None:
        """After the commit: move the audio (and its hotwords) to processed."""
        reservation = self._journal.reservation(job.job_id)
        if reservation is None:
            raise LookupError(f"{job.job_id} was committed without a reservation")
        claimed = self._places.audio(job)
        with files.explained("The recording cannot be moved to processed", self._places.folders.processed):
            self._places.mirror(self._places.folders.processed, reservation.folder)
            target = self._places.processed(reservation)
            looks = self._journal.looks(job.job_id)
            # Hotwords ahead of the audio, whose absence says that all has been moved.
            hotwords = _put_away(
                claimed.with_name(hotwords_name(claimed.name)), hotwords_beside(target), looks.hotwords
            )
            names = (target.with_name(name) for _, name in outcome_names(target.name))
            audio = _put_away(claimed, names, looks.audio)
            self._places.remove_claim(job.job_id)
        self._journal.finish(job.job_id, audio, hotwords)

    def confirm(self, job: Job) -> bool:
        """Commit a delivery that a crash kept from it, if it was whole; whether it was.

        The last document is put down when all others stand, so it alone is looked for: the others
        may have been fetched by now.
        """
        folder, documents = _reserved(job, self._places, self._journal)
        if not documents or not _has_sha256(folder / list(documents)[-1], documents[list(documents)[-1]]):
            return False
        with files.explained("The delivery cannot be concluded", folder):
            _remove_temporaries(folder, documents)
        self._journal.commit_delivery(job.job_id)
        return True

    def find_delivered(self, job: Job) -> Outcome | None:
        """Look for a standing JSON with the job's id: the proof of delivery where the note is lost as well."""
        folder = self._places.outcome_folder(job)
        for stem, audio_name in islice(outcome_names(job.name), _MAX_LOOKED_AT):
            result = _result_in(self._places.folders.outbox / folder / f"{stem}.json", job.job_id)
            if result is not None:
                return Outcome(Reservation(folder, stem, audio_name), {}, result)
        return None

    def _reserve(self, job: Job, documents: Mapping[str, bytes], result: Result) -> Reservation:
        folder = self._places.outcome_folder(job)
        outbox = self._places.mirror(self._places.folders.outbox, folder)
        processed = self._places.folders.processed / folder
        with self._reserving:
            others = self._journal.reserved_by_others(job.job_id)
            stems = {other.stem for other in others if other.folder == folder}
            audio_names = {other.audio_name for other in others if other.folder == folder}
            for stem, audio_name in outcome_names(job.name):
                taken = (outbox / f"{stem}.{ending}" for ending in RESERVED_ENDINGS)
                is_free = stem not in stems and audio_name not in audio_names
                if is_free and not any(map(os.path.lexists, (*taken, processed / audio_name))):
                    break
            reservation = Reservation(folder, stem, audio_name)
            digests = {f"{stem}.{ending}": hashlib.sha256(text).hexdigest() for ending, text in documents.items()}
            looks = looks_of(self._places.audio(job))
            self._journal.reserve(job.job_id, reservation, digests, result, looks)
        write_note(self._places.claim(job.job_id), job, Outcome(reservation, digests, result, looks))
        return reservation

    def _put_down(self, reservation: Reservation, documents: Mapping[str, bytes]) -> None:
        folder = self._places.folders.outbox / reservation.folder
        targets = {folder / f"{reservation.stem}.{ending}": text for ending, text in documents.items()}
        written = [(files.write_temporary(target, text, self.mode), target) for target, text in targets.items()]
        for temporary, target in written:
            files.publish(temporary, target)


def roll_back(job: Job, places: Places, journal: Journal) -> None:
    """Remove what was put down for a job that was not committed: its own bytes, nobody else's.

    Raises:
        NoPermissionError, TransientError: it can be tried again.
    """
    folder, documents = _reserved(job, places, journal)
    with files.explained("Half a delivery cannot be taken back", folder):
        _remove_temporaries(folder, documents)
        for name, digest in documents.items():
            if _has_sha256(folder / name, digest):
                (folder / name).unlink()
                files.sync_folder(folder)


def _reserved(job: Job, places: Places, journal: Journal) -> tuple[Path, dict[str, str]]:
    """Return the folder and the documents (sha256 by name) of a delivery that was not committed."""
    reservation = journal.reservation(job.job_id)
    return places.folders.outbox / (reservation.folder if reservation else ""), journal.documents(job.job_id)


def hotwords_beside(audio: Path) -> Iterator[Path]:
    """Yield paths for the hotwords of audio that is put away, the plainest first, without end."""
    name = hotwords_name(audio.name)
    yield audio.with_name(name)
    for number in count(2):
        yield audio.with_name(numbered_stem(name, number, 0))


def move_to_free_name(source: Path, targets: Iterable[Path]) -> Path | None:
    """Move a file to the first of these paths that is free and return it; None if it was moved before."""
    if not os.path.lexists(source):
        return None
    for target in targets:
        try:
            files.resume_move(source, target)
        except FileExistsError:
            continue
        return target
    return None


def look_of(path: Path) -> Look | None:
    """Return what a file that is put away is known by, None where it is gone."""
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return None
    return Look(facts.st_size, facts.st_mtime_ns)


def looks_of(audio: Path) -> Looks:
    """Return what a claimed recording and its hotwords are known by."""
    return Looks(look_of(audio), look_of(audio.with_name(hotwords_name(audio.name))))


def _put_away(source: Path, targets: Iterator[Path], planned: Look | None) -> Kept | None:
    """Move a file to the first free path and return how it is kept; what a crash has moved is known by its look."""
    look = look_of(source)
    moved = move_to_free_name(source, targets)
    if moved is None and planned is not None:
        look = planned
        moved = next((path for path in islice(targets, _MAX_LOOKED_AT) if planned.is_like(look_of(path))), None)
    return None if moved is None or look is None else Kept(moved.name, look)


def _remove_temporaries(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        files.temporary_beside(folder / name).unlink(missing_ok=True)


def _has_sha256(path: Path, digest: str) -> bool:
    return path.is_file() and not path.is_symlink() and files.sha256_of(path) == digest


def _result_in(path: Path, job_id: str) -> Result | None:
    """Return what a JSON document tells for the history, or None if it is not this job's."""
    try:
        with os.fdopen(files.open_regular(path), "rb") as stream:
            document = json.loads(stream.read(_MAX_JSON_BYTES))
        if document["job_id"] != job_id:
            return None
        return Result(document["audio"]["duration_s"], document["processing"]["wall_s"], document["complete"])
    except (ScribedError, OSError, ValueError, KeyError, TypeError):
        return None
