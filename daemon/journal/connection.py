"""The open file of the journal: transactions, queries, and permanent erasure."""

from __future__ import annotations

import math
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from daemon.host import files
from daemon.host.turns import waiting
from daemon.journal.database import explained_database, find_put_aside, open_database
from daemon.journal.displaced import JOURNAL_NAME

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

# Emptying the log takes several syncs: too many for each of hundreds of deliveries in a second.
_WIPE_EVERY_S: Final = 1.0


class OpenJournal:
    """The journal's file, for any thread.

    A transaction is written to SQLite's write-ahead log, so that it survives a crash of the process, and then synced,
    so that it survives a power cut too. Threads that commit at the same time share a sync.

    Args:
        folder: the state folder.
        monotonic: clock in seconds, injectable for tests.

    Raises:
        NewerVersionError: a newer version of scribed wrote the journal.
        NoPermissionError, TransientError: it cannot be opened.
    """

    def __init__(self, folder: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.RLock()
        self._monotonic = monotonic
        self._path = folder / JOURNAL_NAME
        self._db, self._log = open_database(self._path)
        self._identity = self._identify()
        self._syncing = threading.Lock()
        self._n_written = 0  # transactions
        self._n_synced = 0
        self._wiped_s = -math.inf
        self._holds_deleted = self._log is not None and os.fstat(self._log).st_size > 0  # left by a crash

    def close(self) -> None:
        """Close the file, merging its write-ahead log into it."""
        with self._syncing, self._lock:
            self._db.close()
            if self._log is not None:
                os.close(self._log)
                self._log = None

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
    def _transaction(self, *, is_durable: bool = True) -> Iterator[sqlite3.Connection]:
        """Commit what is executed within, all or nothing.

        Args:
            is_durable: whether to wait until a power cut can no longer undo it. Otherwise that holds from the next
                transaction on that waits, for SQLite keeps their order; a crash of the process undoes it in no case.
        """
        with self._lock, explained_database("written"):
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:  # SQLite ends the transaction itself when the disk is full
                    self._db.execute("ROLLBACK")
            self._n_written += 1
            n_written = self._n_written
        if is_durable:
            self._sync(n_written)

    def settle(self) -> None:
        """Wait until no power cut can undo what was written so far.

        Raises:
            NoPermissionError, TransientError: it cannot be synced.
        """
        self._sync(self._n_written)

    def _sync(self, n_written: int) -> None:
        """Wait until so many transactions are durable; what others have committed meanwhile is synced with them."""
        with waiting(), self._syncing:
            if self._n_synced >= n_written or self._log is None:
                return
            n_now = self._n_written
            with files.explained("The journal cannot be written", self._path.parent):
                os.fsync(self._log)
            self._n_synced = n_now

    def _select(self, query: str, *values: object) -> list[sqlite3.Row]:
        with self._lock, explained_database("read"):
            return self._db.execute(query, values).fetchall()

    def find_put_aside(self) -> tuple[Path, ...]:
        """Return what was kept of earlier journals that were damaged, the oldest first."""
        return find_put_aside(self._path)

    def _set(self, job_id: str, **columns: object) -> None:
        """Set columns of a job, durably."""
        self._update(job_id, columns, is_durable=True)

    def _note(self, job_id: str, **columns: object) -> None:
        """Set columns of a job; a power cut may undo it."""
        self._update(job_id, columns, is_durable=False)

    def _update(self, job_id: str, columns: Mapping[str, object], *, is_durable: bool) -> None:
        assignments = ", ".join(f"{column} = ?" for column in columns)
        with self._lock, explained_database("written"):
            # One statement is a transaction by itself. Threads wait for each other at every call into SQLite.
            self._db.execute(
                f"UPDATE jobs SET {assignments} WHERE job_id = ?",  # noqa: S608  # keywords of this package
                (*columns.values(), job_id),
            )
            self._n_written += 1
            n_written = self._n_written
        if is_durable:
            self._sync(n_written)

    def tidy(self) -> None:
        """Empty the log where it still holds deleted text, once a second at most; to be called every few seconds.

        Raises:
            TransientError: it cannot be written; it can be tried again.
        """
        if self._should_wipe():
            with waiting(), self._lock:  # in this order: a thread that waits for the lock has no turn
                if self._should_wipe():  # no other thread has done it meanwhile
                    self._wipe_log()

    def _should_wipe(self) -> bool:
        return self._holds_deleted and self._monotonic() >= self._wiped_s + _WIPE_EVERY_S

    def _wipe_log_soon(self) -> None:
        """Empty the log, which still holds deleted text: now, or within a second of the last time by `tidy`."""
        self._holds_deleted = True
        self.tidy()

    def _wipe_log(self) -> None:
        """Empty the write-ahead log, which still holds deleted text."""
        with waiting(), self._lock, explained_database("written"):
            is_busy, *_ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._wiped_s = self._monotonic()
            self._holds_deleted = bool(is_busy)
