"""The record of jobs and of finished chunks, in SQLite.

The folders hold everything that matters: without this file only history, progress and attempt counters are lost.
File names are stored as bytes, since not every name is UTF-8.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from daemon.host.clock import now
from daemon.job import Job, JobState
from daemon.journal.database import erase_from, explained_database
from daemon.journal.hooks import MAX_HOOKS, HookJournal
from daemon.journal.looks import LookJournal
from daemon.journal.records import (
    ArchivedFile,
    ArchivedJob,
    ChunkText,
    FailedPlace,
    FileStamp,
    PastJob,
    Reason,
    Reservation,
    Result,
    Roots,
    Stamps,
)
from daemon.journal.rows import (
    JOB_COLUMNS,
    archived_files,
    hotwords_columns,
    job_of,
    past_job_of,
    roots_of,
    roots_text,
    stamp_columns,
    stamp_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping
    from pathlib import Path

_NO_STAMPS: Final = Stamps()
_UNFINISHED: Final = (JobState.CLAIMED, JobState.DELIVERING, JobState.DELIVERED)
# Of past jobs, by name or by path within the inbox.
_NAMED: Final = "state IN (?, ?) AND (path = ? OR substr(path, ?) = ?)"


class Journal(LookJournal, HookJournal):
    """The journal of one state folder; any thread may call.

    A write survives a crash of the process when its method returns, and a power cut as well unless the method says
    otherwise.

    Args:
        folder: the state folder.
        monotonic: clock in seconds, injectable for tests.

    Raises:
        NewerVersionError: a newer version of scribed wrote the journal.
        NoPermissionError, TransientError: it cannot be opened.
    """

    def __init__(self, folder: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(folder, monotonic)
        # Only the service adds to it, and asks about it for each recording.
        self._with_chunks = {row["job_id"] for row in self._select("SELECT DISTINCT job_id FROM chunks")}

    # Unfinished jobs

    def add(self, job: Job, roots: Roots | None = None) -> None:
        """Record a newly claimed job and its shared folders; recording it twice changes nothing."""
        self.add_all([job], roots)

    def add_all(self, jobs: Iterable[Job], roots: Roots | None = None, looks: Iterable[str] = ()) -> None:
        """Record newly claimed jobs.

        Args:
            jobs: the jobs.
            roots: the shared folders of all.
            looks: ids of those that need a second look after their delivery.
        """
        text = roots_text(roots)
        with self._transaction() as db:
            db.executemany(
                "INSERT OR IGNORE INTO jobs (job_id, path, claimed_at, state, roots) VALUES (?, ?, ?, ?, ?)",
                [(job.job_id, os.fsencode(job.path), job.claimed_at, job.state, text) for job in jobs],
            )
            expected = list(looks)
            db.executemany("INSERT OR REPLACE INTO looks (job_id) VALUES (?)", [(job_id,) for job_id in expected])
        self._with_look.update(expected)

    def roots(self, job_id: str) -> Roots | None:
        """Return the shared folders of a job, None where they were not recorded."""
        rows = self._select("SELECT roots FROM jobs WHERE job_id = ?", job_id)
        return roots_of(rows[0]["roots"]) if rows else None

    def set_roots(self, job_id: str, roots: Roots) -> None:
        """Record the shared folders that a job uses from now on."""
        self._set(job_id, roots=roots_text(roots))

    def find(self, job_id: str) -> Job | None:
        """Return a job, or None if it is unknown."""
        rows = self._select("SELECT * FROM jobs WHERE job_id = ?", job_id)
        return job_of(rows[0]) if rows else None

    def unfinished(self, besides: Container[str] = ()) -> tuple[Job, ...]:
        """Return the jobs that are neither done nor failed, besides those with these ids; oldest claim first."""
        # Selected by the states they are in: the index does not help with NOT IN.
        query = f"SELECT {JOB_COLUMNS} FROM jobs WHERE state IN (?, ?, ?) ORDER BY claimed_at, job_id"  # noqa: S608  # a constant
        return tuple(job_of(row) for row in self._select(query, *_UNFINISHED) if row["job_id"] not in besides)

    def forget_claim(self, job_id: str) -> None:
        """Erase a job whose claim was undone."""
        with self._transaction() as db:
            db.execute("DELETE FROM jobs WHERE job_id = ?", (job_id,))

    def begin(self, job_id: str) -> None:
        """Record that work on a job begins; after a crash, `recover_in_flight` finds it. A power cut may undo it."""
        self._note(job_id, is_in_flight=1, has_reached_engine=0)

    def reach_engine(self, job_id: str) -> None:
        """Record that the engine is about to get a chunk of this job: from now on it can crash the service."""
        self._set(job_id, has_reached_engine=1)

    def rest(self, job_id: str) -> None:
        """Record that work on a job has ended, without charging anything. A power cut may undo it."""
        self._note(job_id, is_in_flight=0)

    def charge(self, job_id: str) -> int:
        """Charge a failed attempt and return how many there are now."""
        with self._transaction() as db:
            db.execute("UPDATE jobs SET attempts = attempts + 1, is_in_flight = 0 WHERE job_id = ?", (job_id,))
        job = self.find(job_id)
        return job.attempts if job else 0

    def recover_in_flight(self) -> tuple[Job, ...]:
        """Settle what a crash left in flight, and return those jobs.

        A job is charged an attempt only with evidence: it was alone, and the engine had a chunk of it. Until then
        its recording was being decoded, in another process that cannot crash the service; such a crash is only
        counted. All are suspects now: none shares the engine with another recording until it has finished a chunk.
        One that was alone, or a suspect already, is isolated: until then it runs alone.
        """
        rows = self._select("SELECT job_id, has_reached_engine FROM jobs WHERE is_in_flight = 1")
        counts = ""
        if len(rows) == 1 and rows[0]["has_reached_engine"]:
            counts = ", attempts = attempts + 1, n_early_crashes = 0"
        elif len(rows) == 1:
            counts = ", n_early_crashes = n_early_crashes + 1"
        with self._transaction() as db:
            suspect = f"is_suspect = iif(is_suspect > 0, 2, {2 if len(rows) == 1 else 1})"
            db.execute(f"UPDATE jobs SET is_in_flight = 0, {suspect}{counts} WHERE is_in_flight = 1")  # noqa: S608  # constants
        return tuple(job for row in rows if (job := self.find(row["job_id"])))

    def cancel(self, job_id: str) -> None:
        """Ask for a job to be cancelled: by the service if it runs, else by the command that asks."""
        self._set(job_id, is_cancelled=1)

    def cancelled(self) -> tuple[str, ...]:
        """Return the ids of jobs that are to be cancelled and are not delivered yet."""
        rows = self._select(
            "SELECT job_id FROM jobs WHERE is_cancelled = 1 AND state IN (?, ?)", JobState.CLAIMED, JobState.DELIVERING
        )
        return tuple(row["job_id"] for row in rows)

    # Finished chunks

    def remember_chunk(self, job_id: str, plan: str, span: tuple[int, int], said: ChunkText) -> None:
        """Keep the text of a chunk until delivery, and reset the counters of its job: it has proved harmless so far.

        A power cut may undo it: then the chunk is transcribed again.

        Args:
            job_id: the job of the chunk.
            plan: digest of audio, settings and model; only the same plan gets the text back.
            span: (start, stop) in samples at 16 kHz.
            said: what the model wrote.
        """
        self._with_chunks.add(job_id)
        with self._transaction(is_durable=False) as db:
            db.execute(
                "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?)",
                (job_id, plan, *span, said.text, said.language, said.is_finished),
            )
            # In the same transaction: after a crash in between, the job would stay a suspect with no chunk left to do.
            reset = "UPDATE jobs SET is_suspect = 0, attempts = 0, n_early_crashes = 0 WHERE job_id = ?"
            db.execute(reset, (job_id,))

    def remembered_chunks(self, job_id: str, plan: str) -> Mapping[tuple[int, int], ChunkText]:
        """Return the texts of a job's finished chunks by (start, stop), where they were made with the same plan."""
        if job_id not in self._with_chunks:
            return {}
        rows = self._select("SELECT * FROM chunks WHERE job_id = ? AND plan = ?", job_id, plan)
        return {
            (row["start"], row["stop"]): ChunkText(row["text"], row["language"], bool(row["is_finished"]))
            for row in rows
        }

    def drop_chunks(self, job_id: str) -> None:
        """Erase the texts of a job's chunks."""
        with self._transaction() as db:
            db.execute("DELETE FROM chunks WHERE job_id = ?", (job_id,))
        self._wipe_log()

    # Delivery

    def reserve(
        self,
        job_id: str,
        reservation: Reservation,
        documents: Mapping[str, str],
        result: Result,
        stamps: Stamps = _NO_STAMPS,
    ) -> None:
        """Record, before anything is written, the outcome's names and the sha256 of each document.

        A power cut may undo it until `settle` is called.
        """
        with self._transaction(is_durable=False) as db:
            db.execute(
                "UPDATE jobs SET state = ?, outbox_folder = ?, stem = ?, audio_name = ?,"
                " audio_s = ?, wall_s = ?, is_complete = ?, sha256 = ?, duplicate_of = ?,"
                " audio_bytes = ?, audio_mtime_ns = ?, hotwords_bytes = ?, hotwords_mtime_ns = ? WHERE job_id = ?",
                (
                    JobState.DELIVERING,
                    os.fsencode(reservation.folder),
                    os.fsencode(reservation.stem),
                    os.fsencode(reservation.audio_name),
                    result.audio_s,
                    result.wall_s,
                    result.is_complete,
                    result.sha256,
                    result.duplicate_of,
                    *stamp_columns("audio", stamps.audio).values(),
                    *stamp_columns("hotwords", stamps.hotwords).values(),
                    job_id,
                ),
            )
            db.execute("DELETE FROM documents WHERE job_id = ?", (job_id,))
            db.executemany(
                "INSERT INTO documents VALUES (?, ?, ?)",
                [(job_id, os.fsencode(name), digest) for name, digest in documents.items()],
            )

    def find_first_with(self, sha256: str, job_id: str) -> str | None:
        """Return the id of the first job whose recording had this sha256, None if that is this job or unknown."""
        rows = self._select(
            "SELECT coalesce(duplicate_of, job_id) AS first FROM jobs WHERE sha256 = ? AND job_id != ? LIMIT 1",
            sha256,
            job_id,
        )
        return rows[0]["first"] if rows and rows[0]["first"] != job_id else None

    def reservation(self, job_id: str) -> Reservation | None:
        """Return the names reserved for a job, or None."""
        rows = self._select("SELECT outbox_folder, stem, audio_name FROM jobs WHERE job_id = ?", job_id)
        if not rows or rows[0]["stem"] is None:
            return None
        return Reservation(*(os.fsdecode(rows[0][key]) for key in ("outbox_folder", "stem", "audio_name")))

    def stamps(self, job_id: str) -> Stamps:
        """Return what a job's audio and hotwords looked like before they were moved."""
        rows = self._select(
            "SELECT audio_bytes, audio_mtime_ns, hotwords_bytes, hotwords_mtime_ns FROM jobs WHERE job_id = ?", job_id
        )
        return Stamps(stamp_of(rows[0], "audio"), stamp_of(rows[0], "hotwords")) if rows else Stamps()

    def reserved_by_others(self, job_id: str) -> tuple[Reservation, ...]:
        """Return the names that other unfinished jobs have reserved."""
        rows = self._select(
            "SELECT outbox_folder, stem, audio_name FROM jobs"
            " WHERE state IN (?, ?) AND job_id != ? AND stem IS NOT NULL",
            JobState.DELIVERING,
            JobState.DELIVERED,
            job_id,
        )
        return tuple(
            Reservation(*(os.fsdecode(row[key]) for key in ("outbox_folder", "stem", "audio_name"))) for row in rows
        )

    def documents(self, job_id: str) -> dict[str, str]:
        """Return the sha256 of a job's documents by name, in the order in which they are published."""
        rows = self._select("SELECT name, sha256 FROM documents WHERE job_id = ? ORDER BY rowid", job_id)
        return {os.fsdecode(row["name"]): row["sha256"] for row in rows}

    def commit_delivery(self, job_id: str, hook_document: Path | None = None) -> bool:
        """Record that all documents are in the outbox: the commit. The texts of the chunks are erased with it.

        Args:
            job_id: the job.
            hook_document: path of the JSON document, if a program is to run after this delivery.

        Returns:
            False where that program is not recorded: too many deliveries wait for it.
        """
        n_hooks = 1
        with self._transaction() as db:
            db.execute("UPDATE jobs SET state = ?, is_in_flight = 0 WHERE job_id = ?", (JobState.DELIVERED, job_id))
            n_texts = db.execute("DELETE FROM chunks WHERE job_id = ?", (job_id,)).rowcount
            db.execute("DELETE FROM documents WHERE job_id = ?", (job_id,))
            if hook_document is not None:
                n_hooks = db.execute(
                    "INSERT INTO hooks (job_id, document) SELECT ?, ? WHERE (SELECT count(*) FROM hooks) < ?",
                    (job_id, os.fsencode(hook_document), MAX_HOOKS),
                ).rowcount
        self._with_chunks.discard(job_id)
        if n_texts:
            self._wipe_log_soon()
        return n_hooks > 0

    def finish(self, job_id: str, audio: ArchivedFile | None = None, hotwords: ArchivedFile | None = None) -> None:
        """Record that audio and hotwords are in processed, under these names where they are known.

        A power cut may undo it: then the next start finds them there.
        """
        known: dict[str, object] = {"audio_name": os.fsencode(audio.name)} if audio is not None else {}
        self._note(
            job_id,
            state=JobState.DONE,
            finished_at=now(),
            is_in_flight=0,
            is_suspect=0,
            **known,
            **stamp_columns("audio", audio.stamp if audio else None),
            **hotwords_columns(hotwords),
        )

    def plan_failure(
        self,
        job_id: str,
        reason: Reason,
        place: FailedPlace,
        stamp: FileStamp | None = None,
        hotwords: ArchivedFile | None = None,
    ) -> None:
        """Record that a recording is about to move to failed.

        Args:
            job_id: the job of the recording.
            reason: why.
            place: where it goes.
            stamp: of the audio.
            hotwords: the hotwords file that moves with it.
        """
        self._set(
            job_id,
            reason=reason.what,
            remedy=reason.remedy,
            outbox_folder=os.fsencode(place.folder),
            audio_name=os.fsencode(place.name),
            **stamp_columns("audio", stamp),
            **hotwords_columns(hotwords),
        )

    def planned_failure(self, job_id: str) -> Reason | None:
        """Return why a job was being moved to failed, or None."""
        rows = self._select("SELECT reason, remedy FROM jobs WHERE job_id = ? AND reason IS NOT NULL", job_id)
        return Reason(rows[0]["reason"], rows[0]["remedy"] or "") if rows else None

    def fail(self, job_id: str) -> None:
        """Record that the audio is in failed, and erase what was transcribed of it."""
        with self._transaction() as db:
            n_texts = db.execute("DELETE FROM chunks WHERE job_id = ?", (job_id,)).rowcount
            db.execute("DELETE FROM documents WHERE job_id = ?", (job_id,))
            db.execute(
                "UPDATE jobs SET state = ?, finished_at = ?, is_in_flight = 0, is_suspect = 0 WHERE job_id = ?",
                (JobState.FAILED, now(), job_id),
            )
        self._with_chunks.discard(job_id)
        if n_texts:
            self._wipe_log_soon()

    # Past jobs

    def recent(self, limit: int) -> tuple[PastJob, ...]:
        """Return the jobs delivered last, the latest first."""
        return self._outcomes("state = ? ORDER BY finished_at DESC LIMIT ?", JobState.DONE, limit)

    def failures(self, limit: int = 1000) -> tuple[PastJob, ...]:
        """Return the recordings that moved to failed and are not known to have left it, the latest first."""
        return self._outcomes("state = ? ORDER BY finished_at DESC LIMIT ?", JobState.FAILED, limit)

    def count_failures(self) -> int:
        """Return how many recordings moved to failed and are not known to have left it."""
        return int(self._select("SELECT count(*) FROM jobs WHERE state = ?", JobState.FAILED)[0][0])

    def archived_before(self, state: JobState, when: str, limit: int) -> tuple[ArchivedJob, ...]:
        """Return what remains of jobs that ended in this state before a time (ISO 8601, UTC), the oldest first."""
        rows = self._select(
            "SELECT * FROM jobs"
            " WHERE state = ? AND finished_at < ? AND audio_bytes IS NOT NULL ORDER BY finished_at LIMIT ?",
            state,
            when,
            limit,
        )
        return tuple(
            ArchivedJob(
                row["job_id"],
                os.fsdecode(row["outbox_folder"] or b""),
                tuple(archived_files(row)),
                roots_of(row["roots"]),
            )
            for row in rows
        )

    def forget_audio(self, job_id: str) -> None:
        """Record that nothing of this job is left for retention to delete."""
        self._set(job_id, **stamp_columns("audio", None), **hotwords_columns(None))

    def done_since(self, when: str) -> int:
        """Return how many jobs were done since a time (ISO 8601, UTC)."""
        rows = self._select("SELECT count(*) FROM jobs WHERE state = ? AND finished_at >= ?", JobState.DONE, when)
        return int(rows[0][0])

    def named(self, name: str) -> tuple[PastJob, ...]:
        """Return past jobs whose recording, or whose path within the inbox, has this name."""
        return self._outcomes(_NAMED, *_name_values(name))

    def forget(self, job_id: str) -> None:
        """Erase everything about a job, so that it can no longer be read from the file."""
        with self._transaction() as db:
            db.execute("DELETE FROM jobs WHERE job_id = ?", (job_id,))
        self._wipe_log()

    def erase(self, name: str) -> int:
        """Erase all past jobs of this name, from what was kept of damaged journals too; return how many there were.

        Raises:
            TransientError: not everything could be erased; it can be tried again.
        """
        with self._transaction() as db:
            n_erased = db.execute(f"DELETE FROM jobs WHERE {_NAMED}", _name_values(name)).rowcount  # noqa: S608  # a constant
        self._wipe_log()
        with explained_database("written"):
            return n_erased + sum(erase_from(aside, name) for aside in self.find_put_aside())

    def _outcomes(self, where: str, *values: object) -> tuple[PastJob, ...]:
        rows = self._select(f"SELECT * FROM jobs WHERE {where}", *values)  # noqa: S608  # a constant of this file
        return tuple(past_job_of(row) for row in rows)


def _name_values(name: str) -> tuple[object, ...]:
    """Return the values for _NAMED."""
    tail = b"/" + os.fsencode(name)
    return JobState.DONE, JobState.FAILED, os.fsencode(name), -len(tail), tail
