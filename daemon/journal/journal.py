"""The memory of jobs and of finished chunks, in SQLite.

The folders are the truth. Without this file history, progress and the count of attempts are lost,
and nothing else. File names are kept as bytes, since not every name is UTF-8.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from daemon.host.clock import now
from daemon.job import Job, JobState
from daemon.journal.database import explained_database, open_database
from daemon.journal.records import ChunkText, Kept, Look, Looks, Outcome, PutAway, Reservation, Result

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping
    from pathlib import Path

JOURNAL_NAME = "journal.sqlite3"
_UNSEEN = Looks()
_UNFINISHED = (JobState.CLAIMED, JobState.DELIVERING, JobState.DELIVERED)


class Journal:
    """All that is remembered; every write is durable when its method returns.

    Methods may be called from any thread.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = threading.RLock()
        self._path = folder / JOURNAL_NAME
        self._db = open_database(self._path)
        self._identity = self._identify()

    def close(self) -> None:
        """Close the file; its write-ahead log is folded in."""
        with self._lock:
            self._db.close()

    def is_standing(self) -> bool:
        """Whether the file that we write to is still the one by that name: somebody may have removed it."""
        return self._identify() == self._identity

    def _identify(self) -> tuple[int, int] | None:
        try:
            facts = self._path.stat()
        except OSError:
            return None
        return facts.st_dev, facts.st_ino

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, explained_database("written"):
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:  # SQLite ends the transaction itself when the disk is full
                    self._db.execute("ROLLBACK")

    def _select(self, query: str, *values: object) -> list[sqlite3.Row]:
        with self._lock, explained_database("read"):
            return self._db.execute(query, values).fetchall()

    # Jobs on their way

    def add(self, job: Job) -> None:
        """Remember a newly claimed job; it is no fault to do so twice."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO jobs (job_id, path, claimed_at, state) VALUES (?, ?, ?, ?)",
                (job.job_id, os.fsencode(job.path), job.claimed_at, job.state),
            )

    def find(self, job_id: str) -> Job | None:
        """Return a job, or None if it is not known."""
        rows = self._select("SELECT * FROM jobs WHERE job_id = ?", job_id)
        return _job(rows[0]) if rows else None

    def unfinished(self) -> tuple[Job, ...]:
        """Return the jobs that are neither done nor failed, oldest claim first."""
        # By the states they are in, not by those they are not in: only so the index is used.
        rows = self._select("SELECT * FROM jobs WHERE state IN (?, ?, ?) ORDER BY claimed_at, job_id", *_UNFINISHED)
        return tuple(_job(row) for row in rows)

    def forget_claim(self, job_id: str) -> None:
        """Erase a job whose claim came to nothing."""
        with self._transaction() as db:
            db.execute("DELETE FROM jobs WHERE job_id = ?", (job_id,))

    def begin(self, job_id: str) -> None:
        """Write down that work on a job begins; only `rest` takes that back."""
        self._set(job_id, is_in_flight=1)

    def rest(self, job_id: str) -> None:
        """Write down that no work on a job is under way, without charging anything."""
        self._set(job_id, is_in_flight=0)

    def charge(self, job_id: str) -> int:
        """Charge a failed attempt and return how many there are now."""
        with self._transaction() as db:
            db.execute("UPDATE jobs SET attempts = attempts + 1, is_in_flight = 0 WHERE job_id = ?", (job_id,))
        job = self.find(job_id)
        return job.attempts if job else 0

    def recover_in_flight(self) -> tuple[Job, ...]:
        """Settle what an unclean end left in flight, and return those jobs.

        Whoever was alone in flight is charged an attempt: nothing else can have ended the process
        but this recording or the world. Among several none can be blamed. All are suspects now and
        run one at a time until each has finished a chunk.
        """
        rows = self._select("SELECT * FROM jobs WHERE is_in_flight = 1")
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET is_in_flight = 0, is_suspect = 1, attempts = attempts + ? WHERE is_in_flight = 1",
                (1 if len(rows) == 1 else 0,),
            )
        return tuple(job for row in rows if (job := self.find(row["job_id"])))

    def cancel(self, job_id: str) -> None:
        """Ask whoever runs the job to give it back."""
        self._set(job_id, is_cancelled=1)

    def cancelled(self) -> tuple[str, ...]:
        """Return the ids of jobs that are to be given back and were not delivered before."""
        rows = self._select(
            "SELECT job_id FROM jobs WHERE is_cancelled = 1 AND state IN (?, ?)", JobState.CLAIMED, JobState.DELIVERING
        )
        return tuple(row["job_id"] for row in rows)

    # Finished chunks

    def remember_chunk(self, job_id: str, plan: str, span: tuple[int, int], said: ChunkText) -> None:
        """Keep the text of a chunk until delivery; the recording is harmless so far, its count is set back.

        Args:
            job_id: whose chunk.
            plan: tells audio, settings and model apart; only the same plan gets the text back.
            span: (start, stop) in samples at 16 kHz.
            said: the model's answer.
        """
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?)",
                (job_id, plan, *span, said.text, said.language, said.is_finished),
            )
            # With the chunk, in one step: a crash in between would leave a suspect with nothing more to show.
            db.execute("UPDATE jobs SET is_suspect = 0, attempts = 0 WHERE job_id = ?", (job_id,))

    def remembered_chunks(self, job_id: str, plan: str) -> Mapping[tuple[int, int], ChunkText]:
        """Return the remembered texts of a job's chunks by (start, stop), if made by the same plan."""
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
        looks: Looks = _UNSEEN,
    ) -> None:
        """Write down the names of the outcome, the sha256 of each document and what will be put away, ahead of all."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET state = ?, outbox_folder = ?, stem = ?, audio_name = ?,"
                " audio_s = ?, wall_s = ?, is_complete = ?,"
                " audio_bytes = ?, audio_mtime_ns = ?, hotwords_bytes = ?, hotwords_mtime_ns = ? WHERE job_id = ?",
                (
                    JobState.DELIVERING,
                    os.fsencode(reservation.folder),
                    os.fsencode(reservation.stem),
                    os.fsencode(reservation.audio_name),
                    result.audio_s,
                    result.wall_s,
                    result.is_complete,
                    *_look_columns("audio", looks.audio).values(),
                    *_look_columns("hotwords", looks.hotwords).values(),
                    job_id,
                ),
            )
            db.execute("DELETE FROM documents WHERE job_id = ?", (job_id,))
            db.executemany(
                "INSERT INTO documents VALUES (?, ?, ?)",
                [(job_id, os.fsencode(name), digest) for name, digest in documents.items()],
            )

    def reservation(self, job_id: str) -> Reservation | None:
        """Return the names reserved for a job, or None."""
        rows = self._select("SELECT outbox_folder, stem, audio_name FROM jobs WHERE job_id = ?", job_id)
        if not rows or rows[0]["stem"] is None:
            return None
        return Reservation(*(os.fsdecode(rows[0][key]) for key in ("outbox_folder", "stem", "audio_name")))

    def looks(self, job_id: str) -> Looks:
        """Return how a job's audio and hotwords looked before they were put away."""
        rows = self._select(
            "SELECT audio_bytes, audio_mtime_ns, hotwords_bytes, hotwords_mtime_ns FROM jobs WHERE job_id = ?", job_id
        )
        return Looks(_look(rows[0], "audio"), _look(rows[0], "hotwords")) if rows else Looks()

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
        """Return the sha256 of a job's documents by their name, in the order in which they are put down."""
        rows = self._select("SELECT name, sha256 FROM documents WHERE job_id = ? ORDER BY rowid", job_id)
        return {os.fsdecode(row["name"]): row["sha256"] for row in rows}

    def commit_delivery(self, job_id: str) -> None:
        """All documents stand: the commit. The texts of the chunks are erased with it."""
        with self._transaction() as db:
            db.execute("UPDATE jobs SET state = ?, is_in_flight = 0 WHERE job_id = ?", (JobState.DELIVERED, job_id))
            db.execute("DELETE FROM chunks WHERE job_id = ?", (job_id,))
            db.execute("DELETE FROM documents WHERE job_id = ?", (job_id,))
        self._wipe_log()

    def finish(self, job_id: str, audio: Kept | None = None, hotwords: Kept | None = None) -> None:
        """Audio and hotwords are in processed, under these names as far as they are known."""
        known: dict[str, object] = {"audio_name": os.fsencode(audio.name)} if audio is not None else {}
        self._set(
            job_id,
            state=JobState.DONE,
            finished_at=now(),
            is_in_flight=0,
            is_suspect=0,
            **known,
            **_look_columns("audio", audio.look if audio else None),
            **_kept_hotwords(hotwords),
        )

    def plan_failure(
        self,
        job_id: str,
        why: tuple[str, str],
        place: tuple[str, str],
        look: Look | None = None,
        hotwords: Kept | None = None,
    ) -> None:
        """Write down that a recording is about to be set aside.

        Args:
            job_id: whose recording.
            why: reason and remedy.
            place: folder within failed, and name.
            look: of the audio.
            hotwords: what will lie beside it.
        """
        folder, audio_name = map(os.fsencode, place)
        told = dict(zip(("reason", "remedy"), why, strict=True))
        kept = {**_look_columns("audio", look), **_kept_hotwords(hotwords)}
        self._set(job_id, **told, outbox_folder=folder, audio_name=audio_name, **kept)

    def planned_failure(self, job_id: str) -> tuple[str, str] | None:
        """Return (reason, remedy) of a job that was being set aside, or None."""
        rows = self._select("SELECT reason, remedy FROM jobs WHERE job_id = ? AND reason IS NOT NULL", job_id)
        return (rows[0]["reason"], rows[0]["remedy"]) if rows else None

    def fail(self, job_id: str) -> None:
        """The audio is in failed; whatever was transcribed of it is erased."""
        with self._transaction() as db:
            db.execute("DELETE FROM chunks WHERE job_id = ?", (job_id,))
            db.execute("DELETE FROM documents WHERE job_id = ?", (job_id,))
            db.execute(
                "UPDATE jobs SET state = ?, finished_at = ?, is_in_flight = 0, is_suspect = 0 WHERE job_id = ?",
                (JobState.FAILED, now(), job_id),
            )
        self._wipe_log()

    # The past

    def recent(self, limit: int) -> tuple[Outcome, ...]:
        """Return the jobs delivered last, latest first."""
        return self._outcomes("state = ? ORDER BY finished_at DESC LIMIT ?", JobState.DONE, limit)

    def failures(self, limit: int = 1000) -> tuple[Outcome, ...]:
        """Return the recordings that were set aside and are not known to have left, latest first."""
        return self._outcomes("state = ? ORDER BY finished_at DESC LIMIT ?", JobState.FAILED, limit)

    def count_failures(self) -> int:
        """Return how many recordings were moved to failed and are not known to have left."""
        rows = self._select("SELECT count(*) FROM jobs WHERE state = ?", JobState.FAILED)
        return int(rows[0][0])

    def put_away_before(self, state: JobState, when: str, limit: int) -> tuple[PutAway, ...]:
        """Return what is left of jobs that came to this end before a time (ISO 8601, UTC), oldest first."""
        rows = self._select(
            "SELECT * FROM jobs"
            " WHERE state = ? AND finished_at < ? AND audio_bytes IS NOT NULL ORDER BY finished_at LIMIT ?",
            state,
            when,
            limit,
        )
        return tuple(
            PutAway(row["job_id"], os.fsdecode(row["outbox_folder"] or b""), tuple(_kept_files(row))) for row in rows
        )

    def forget_audio(self, job_id: str) -> None:
        """There is nothing left of this job any more that could be deleted."""
        self._set(job_id, **_look_columns("audio", None), **_kept_hotwords(None))

    def done_since(self, when: str) -> int:
        """Return how many jobs were done since a time (ISO 8601, UTC)."""
        rows = self._select("SELECT count(*) FROM jobs WHERE state = ? AND finished_at >= ?", JobState.DONE, when)
        return int(rows[0][0])

    def named(self, name: str) -> tuple[Outcome, ...]:
        """Return past jobs whose recording or whose path within the inbox has this name."""
        path, tail = os.fsencode(name), b"/" + os.fsencode(name)
        return self._outcomes(
            "state IN (?, ?) AND (path = ? OR substr(path, ?) = ?)",
            JobState.DONE,
            JobState.FAILED,
            path,
            -len(tail),
            tail,
        )

    def forget(self, job_id: str) -> None:
        """Erase everything about a job, so that it cannot be read from the file any more."""
        with self._transaction() as db:
            db.execute("DELETE FROM jobs WHERE job_id = ?", (job_id,))
        self._wipe_log()

    def _outcomes(self, where: str, *values: object) -> tuple[Outcome, ...]:
        rows = self._select(f"SELECT * FROM jobs WHERE {where}", *values)  # noqa: S608, the text is our own constant
        return tuple(_outcome(row) for row in rows)

    def _set(self, job_id: str, **columns: object) -> None:
        assignments = ", ".join(f"{column} = ?" for column in columns)
        with self._transaction() as db:
            db.execute(
                f"UPDATE jobs SET {assignments} WHERE job_id = ?",  # noqa: S608, the columns are keywords in this file
                (*columns.values(), job_id),
            )

    def _wipe_log(self) -> None:
        """Empty the write-ahead log, which holds deleted text until then."""
        with self._lock, explained_database("written"):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _look_columns(kind: str, look: Look | None) -> dict[str, int | None]:
    n_bytes, mtime_ns = (look.n_bytes, look.mtime_ns) if look is not None else (None, None)
    return {f"{kind}_bytes": n_bytes, f"{kind}_mtime_ns": mtime_ns}


def _kept_hotwords(kept: Kept | None) -> dict[str, object]:
    name = os.fsencode(kept.name) if kept is not None else None
    return {"hotwords_name": name, **_look_columns("hotwords", kept.look if kept else None)}


def _look(row: sqlite3.Row, kind: str) -> Look | None:
    n_bytes = row[f"{kind}_bytes"]
    return None if n_bytes is None else Look(n_bytes, row[f"{kind}_mtime_ns"])


def _kept_files(row: sqlite3.Row) -> Iterator[Kept]:
    for kind in ("audio", "hotwords"):
        name, look = row[f"{kind}_name"], _look(row, kind)
        if name is not None and look is not None:
            yield Kept(os.fsdecode(name), look)


def _job(row: sqlite3.Row) -> Job:
    return Job(
        job_id=row["job_id"],
        path=os.fsdecode(row["path"]),
        claimed_at=row["claimed_at"],
        state=JobState(row["state"]),
        attempts=row["attempts"],
        is_suspect=bool(row["is_suspect"]),
    )


def _outcome(row: sqlite3.Row) -> Outcome:
    audio_path = None
    if row["audio_name"] is not None:
        audio_path = os.path.join(os.fsdecode(row["outbox_folder"] or b""), os.fsdecode(row["audio_name"]))  # noqa: PTH118, a name within a folder that is not known here
    return Outcome(
        job=_job(row),
        finished_at=row["finished_at"] or row["claimed_at"],
        reason=row["reason"],
        remedy=row["remedy"],
        audio_s=row["audio_s"],
        wall_s=row["wall_s"],
        audio_path=audio_path,
        is_complete=None if row["is_complete"] is None else bool(row["is_complete"]),
    )
