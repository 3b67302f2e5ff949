"""The journal's record of second looks: at recordings that may have grown after their delivery."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from daemon.job import JobState
from daemon.journal.connection import OpenJournal
from daemon.journal.records import SecondLook
from daemon.journal.rows import job_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


class LookJournal(OpenJournal):
    """The part of the journal that knows which recordings are looked at again.

    Args:
        folder: the state folder.
        monotonic: clock in seconds, injectable for tests.
    """

    def __init__(self, folder: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(folder, monotonic)
        # Only the service adds looks, and few jobs have one: each delivery asks several times.
        self._with_look = {row["job_id"] for row in self._select("SELECT job_id FROM looks")}

    def expect_look(self, job_id: str, n_again: int = 0) -> None:
        """Record that a job needs a second look after its delivery."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO looks (job_id, n_again) VALUES (?, ?)", (job_id, n_again))
        self._with_look.add(job_id)

    def schedule_look(self, job_id: str, n_bytes: int, documents: Mapping[str, str], due_at: str) -> None:
        """Record when the second look is due, and what it compares; nothing where the job needs none.

        It becomes durable with the commit of the delivery, which follows.

        Args:
            job_id: the job.
            n_bytes: length of the recording that was transcribed.
            documents: sha256 of the delivered documents by name.
            due_at: ISO 8601, UTC.
        """
        with self._transaction(is_durable=False) as db:
            db.execute(
                "UPDATE looks SET n_bytes = ?, documents = ?, due_at = ? WHERE job_id = ?",
                (n_bytes, json.dumps(dict(documents)), due_at, job_id),
            )

    def find_look(self, job_id: str) -> SecondLook | None:
        """Return the second look of a job, None where it needs none."""
        if job_id not in self._with_look:
            return None
        return next(iter(self._looks("looks.job_id = ?", job_id)), None)

    def due_looks(self, when: str) -> tuple[SecondLook, ...]:
        """Return the second looks that were due before a time (ISO 8601, UTC)."""
        return self._looks("due_at <= ? ORDER BY due_at", when)

    def held(self) -> frozenset[str]:
        """Return the ids of delivered jobs whose audio stays in its claim until the second look."""
        rows = self._select(
            "SELECT job_id FROM looks JOIN jobs USING (job_id) WHERE due_at IS NOT NULL AND state = ?",
            JobState.DELIVERED,
        )
        return frozenset(row["job_id"] for row in rows)

    def drop_look(self, job_id: str) -> None:
        """Record that a job no longer needs a second look."""
        with self._transaction() as db:
            db.execute("DELETE FROM looks WHERE job_id = ?", (job_id,))
        self._with_look.discard(job_id)

    def reopen(self, job_id: str) -> None:
        """Record that a delivered recording is in its claim again, to be transcribed once more."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET state = ?, stem = NULL, audio_name = NULL, finished_at = NULL, audio_bytes = NULL,"
                " audio_mtime_ns = NULL, hotwords_name = NULL, hotwords_bytes = NULL, hotwords_mtime_ns = NULL"
                " WHERE job_id = ?",
                (JobState.CLAIMED, job_id),
            )
            db.execute("UPDATE looks SET due_at = NULL, n_again = n_again + 1 WHERE job_id = ?", (job_id,))

    def _looks(self, where: str, *values: object) -> tuple[SecondLook, ...]:
        rows = self._select(f"SELECT * FROM looks JOIN jobs USING (job_id) WHERE {where}", *values)  # noqa: S608  # a constant of this file
        return tuple(
            SecondLook(job_of(row), row["n_bytes"] or 0, row["n_again"], json.loads(row["documents"] or "{}"))
            for row in rows
        )
