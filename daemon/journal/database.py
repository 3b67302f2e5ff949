"""The file of the journal: its tables, older versions of them, and what is done when it is damaged."""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from daemon.errors import TransientError
from daemon.host.files import explained

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BUSY_MS = 10_000
# Disk full, disk broken, or another process holds it too long; the other kinds are faults of ours.
_OUTSIDE = (sqlite3.OperationalError, sqlite3.DatabaseError)
_SCHEMA = """
CREATE TABLE jobs (
    job_id TEXT PRIMARY KEY,
    path BLOB NOT NULL,                         -- within the inbox
    claimed_at TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    is_suspect INTEGER NOT NULL DEFAULT 0,
    is_in_flight INTEGER NOT NULL DEFAULT 0,    -- written before the work: what survives a crash
    is_cancelled INTEGER NOT NULL DEFAULT 0,
    outbox_folder BLOB,                         -- the reservation: folder within outbox and processed,
    stem BLOB,                                  -- stem of the documents,
    audio_name BLOB,                            -- name of the audio in processed or failed
    reason TEXT,                                -- why it is set aside, and what to do
    remedy TEXT,
    finished_at TEXT,
    audio_s REAL,
    wall_s REAL,
    is_complete INTEGER
) STRICT;
CREATE INDEX jobs_by_state ON jobs (state, finished_at);
CREATE TABLE chunks (
    job_id TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    plan TEXT NOT NULL,                         -- audio, settings and model it is true for
    start INTEGER NOT NULL,                     -- samples at 16 kHz
    stop INTEGER NOT NULL,
    text TEXT NOT NULL,
    language TEXT,
    is_finished INTEGER NOT NULL,
    PRIMARY KEY (job_id, start, stop)
) STRICT;
CREATE TABLE documents (
    job_id TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    name BLOB NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (job_id, name)
) STRICT;
"""
# Version 2 knows the put-away audio again, so that nothing else is ever deleted in its place; both are
# NULL where there is none to delete.
_TO_VERSION_2 = """
ALTER TABLE jobs ADD COLUMN audio_bytes INTEGER;
ALTER TABLE jobs ADD COLUMN audio_mtime_ns INTEGER;
CREATE INDEX jobs_with_audio ON jobs (state, finished_at) WHERE audio_bytes IS NOT NULL;
"""

# Version 3 knows the hotwords that lie beside it too.
_TO_VERSION_3 = """
ALTER TABLE jobs ADD COLUMN hotwords_name BLOB;
ALTER TABLE jobs ADD COLUMN hotwords_bytes INTEGER;
ALTER TABLE jobs ADD COLUMN hotwords_mtime_ns INTEGER;
"""
_STEPS = (_SCHEMA, _TO_VERSION_2, _TO_VERSION_3)

log = structlog.get_logger()


@contextmanager
def explained_database(verb: str) -> Iterator[None]:
    """Turn an error of SQLite that has its cause outside into one of ours.

    Raises:
        TransientError: the disk is full or broken, or another process holds the file too long.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        if type(error) not in _OUTSIDE:
            raise
        remedy = "Look at the state folder: is its disk full, and may the service's user write there?"
        raise TransientError(f"The journal cannot be {verb}: {error}.", remedy) from error


def open_database(path: Path) -> sqlite3.Connection:
    """Open the journal's file, making it where there is none; one that cannot be used is set aside.

    Raises:
        NoPermissionError, TransientError: it cannot be opened.
    """
    with explained_database("opened"):
        try:
            return _connect(path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            # Not a database any more, or not one of ours. The folders are the truth, so begin anew
            # and keep the pieces.
            aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}")
            path.rename(aside)
            for ending in ("-wal", "-shm"):
                path.with_name(path.name + ending).unlink(missing_ok=True)
            log.warning("journal.damaged_set_aside", kept_as=str(aside), error=str(error))
            return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    # Names of recordings and unfinished text are for the service alone. SQLite gives the files it
    # makes beside this one the same mode, so it has to be right before the first of them is made.
    with suppress(FileExistsError), explained("The journal cannot be made", path.parent):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_BUSY_MS / 1000)
    try:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = ON")
        db.execute("PRAGMA foreign_keys = ON")
        _check(db)
    except BaseException:
        db.close()
        raise
    return db


def _check(db: sqlite3.Connection) -> None:
    """Make the tables of a new journal; raise DatabaseError for one that cannot be used."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version < len(_STEPS):
        steps = " ".join(_STEPS[version:])
        db.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {len(_STEPS)}; COMMIT;")
    elif version != len(_STEPS):
        raise sqlite3.DatabaseError(f"it is of version {version}, and this scribed knows version {len(_STEPS)}")
    # Damage that comes to light later would stop every job at every start.
    state = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if state != "ok":
        raise sqlite3.DatabaseError(state)
