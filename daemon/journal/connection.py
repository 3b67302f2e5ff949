"""The open file of the journal: transactions, queries, and permanent erasure."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from daemon.journal.database import explained_database, find_put_aside, open_database
from daemon.journal.displaced import JOURNAL_NAME

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path


class OpenJournal:
    """The journal's file, for any thread.

    Args:
        folder: the state folder.

    Raises:
        NewerVersionError: a newer version of scribed wrote the journal.
        NoPermissionError, TransientError: it cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = threading.RLock()
        self._path = folder / JOURNAL_NAME
        self._db = open_database(self._path)
        self._identity = self._identify()

    def close(self) -> None:
        """Close the file, merging its write-ahead log into it."""
        with self._lock:
            self._db.close()

    def is_in_place(self) -> bool:
        """Whether the open file is still the one in the state folder; it may have been deleted."""
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

    def find_put_aside(self) -> tuple[Path, ...]:
        """Return what was kept of earlier journals that were damaged, the oldest first."""
        return find_put_aside(self._path)

    def _set(self, job_id: str, **columns: object) -> None:
        assignments = ", ".join(f"{column} = ?" for column in columns)
        with self._transaction() as db:
            db.execute(
                f"UPDATE jobs SET {assignments} WHERE job_id = ?",  # noqa: S608  # keywords of this file
                (*columns.values(), job_id),
            )

    def _wipe_log(self) -> None:
        """Empty the write-ahead log, which still holds deleted text."""
        with self._lock, explained_database("written"):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
