"""The journal's file: its tables, its older versions, and what happens when it is damaged."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final

import structlog

from daemon.errors import NewerVersionError, TransientError
from daemon.host import files
from daemon.host.clock import file_stamp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

_BUSY_MS: Final = 10_000
_MODE: Final = 0o600
_DAMAGED: Final = ".damaged-"
LOG_SUFFIX: Final = "-wal"
_BLOCK: Final = 1 << 20
_PRIMARY_CODE: Final = 0xFF  # the rest of an extended error code says more: https://sqlite.org/rescode.html
# A full or failing disk, or another process that holds the file too long; other kinds are bugs of ours.
_OUTSIDE: Final = (sqlite3.OperationalError, sqlite3.DatabaseError)
_SCHEMA: Final = """
CREATE TABLE jobs (
    job_id TEXT PRIMARY KEY,
    path BLOB NOT NULL,                         -- within the inbox
    claimed_at TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    is_suspect INTEGER NOT NULL DEFAULT 0,      -- 2: isolated
    is_in_flight INTEGER NOT NULL DEFAULT 0,    -- written before work begins, so that it survives a crash
    is_cancelled INTEGER NOT NULL DEFAULT 0,
    outbox_folder BLOB,                         -- the reservation: folder within outbox and processed,
    stem BLOB,                                  -- stem of the documents,
    audio_name BLOB,                            -- name of the audio in processed or failed
    reason TEXT,                                -- why it moved to failed, and what to do
    remedy TEXT,
    finished_at TEXT,
    audio_s REAL,
    wall_s REAL,
    is_complete INTEGER
) STRICT;
CREATE INDEX jobs_by_state ON jobs (state, finished_at);
CREATE TABLE chunks (
    job_id TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    plan TEXT NOT NULL,                         -- digest of the audio, settings and model it was made with
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
# Version 2 records what the kept audio looks like, so that retention deletes nothing else in its place. Both
# columns are NULL where there is no audio to delete.
_TO_VERSION_2: Final = """
ALTER TABLE jobs ADD COLUMN audio_bytes INTEGER;
ALTER TABLE jobs ADD COLUMN audio_mtime_ns INTEGER;
CREATE INDEX jobs_with_audio ON jobs (state, finished_at) WHERE audio_bytes IS NOT NULL;
"""

# Version 3 does the same for the hotwords file next to it.
_TO_VERSION_3: Final = """
ALTER TABLE jobs ADD COLUMN hotwords_name BLOB;
ALTER TABLE jobs ADD COLUMN hotwords_bytes INTEGER;
ALTER TABLE jobs ADD COLUMN hotwords_mtime_ns INTEGER;
"""
# Version 4 counts a crash against a recording only where one of its chunks had reached the engine.
_TO_VERSION_4: Final = """
ALTER TABLE jobs ADD COLUMN has_reached_engine INTEGER NOT NULL DEFAULT 0;  -- in this run of the work
ALTER TABLE jobs ADD COLUMN n_early_crashes INTEGER NOT NULL DEFAULT 0;     -- alone, in a row, before any chunk
"""
# Version 5 knows the shared folders of each job: the configuration may change them before it is finished.
_TO_VERSION_5: Final = """
ALTER TABLE jobs ADD COLUMN roots TEXT;
"""
# Version 6 knows which recordings may grow after their delivery, and what was delivered of them.
_TO_VERSION_6: Final = """
CREATE TABLE looks (
    job_id TEXT PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
    n_again INTEGER NOT NULL DEFAULT 0,         -- how often it was transcribed again
    due_at TEXT,                                -- NULL until it is delivered
    n_bytes INTEGER,                            -- of the recording, as it was transcribed
    documents TEXT                              -- JSON: sha256 by name
) STRICT;
"""
# Version 7 records for which deliveries the program of `hooks.delivered` has not run yet. AUTOINCREMENT never reuses a
# number, so that removing a finished run cannot remove another one.
_TO_VERSION_7: Final = """
CREATE TABLE hooks (
    hook_id INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    document BLOB NOT NULL                      -- path of the JSON document
) STRICT;
CREATE INDEX hooks_by_job ON hooks (job_id);
"""
# Version 8 knows recordings with the same content. Both columns are NULL until the transcript is to be delivered.
_TO_VERSION_8: Final = """
ALTER TABLE jobs ADD COLUMN sha256 TEXT;        -- of the recording
ALTER TABLE jobs ADD COLUMN duplicate_of TEXT;  -- the first job with it, which may have left the history
CREATE INDEX jobs_by_sha256 ON jobs (sha256) WHERE sha256 IS NOT NULL;
"""
_STEPS: Final = (
    _SCHEMA, _TO_VERSION_2, _TO_VERSION_3, _TO_VERSION_4, _TO_VERSION_5, _TO_VERSION_6, _TO_VERSION_7, _TO_VERSION_8
)  # fmt: skip

log = structlog.get_logger()


class explained_database:  # noqa: N801  # used like a function
    """Turn an SQLite error with an outside cause into one of ours.

    A generator would take several times as long, and each recording uses a dozen of these.

    Args:
        verb: completes "The journal cannot be ...".

    Raises:
        TransientError: the disk is full or failing, or another process holds the file too long.
    """

    __slots__ = ("_verb",)

    def __init__(self, verb: str) -> None:
        self._verb = verb

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise our error in place of SQLite's."""
        if isinstance(error, sqlite3.DatabaseError) and type(error) in _OUTSIDE:
            remedy = "Check the state folder: is its disk full, and can the service's user write there?"
            raise TransientError(f"The journal cannot be {self._verb}: {error}.", remedy) from error


def open_database(path: Path) -> tuple[sqlite3.Connection, int | None]:
    """Open the journal, creating it where there is none; a damaged one is put aside first.

    Returns:
        The connection, and a descriptor of the write-ahead log, which the caller syncs after a commit because SQLite
        does not. It is None where the file system has no shared memory for such a log: there SQLite syncs.

    Raises:
        NewerVersionError: a newer version of scribed wrote it; the file is left as it is.
        NoPermissionError, TransientError: it cannot be opened.
    """
    with explained_database("opened"):
        _create(path)
        try:
            _refuse_newer(path)
            db = _connect(path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:  # not a database any more; the folders hold what counts
            aside = _put_aside(path)
            log.warning("journal.damaged", kept_as=str(aside), error=str(error))
            _create(path)
            db = _connect(path)
        try:
            return db, _open_log(db, path)
        except BaseException:
            db.close()
            raise


def find_put_aside(path: Path) -> tuple[Path, ...]:
    """Return what was kept of earlier damaged journals, the oldest first."""
    return tuple(sorted(found for found in path.parent.glob(f"{path.name}{_DAMAGED}*") if found.is_file()))


def _create(path: Path) -> None:
    """Create an empty file if there is none.

    File names and unfinished text are for the service alone. SQLite gives the files it makes next to this one the
    same mode, so the mode has to be right before the first of them is made.
    """
    with suppress(FileExistsError), files.explained("The journal cannot be created", path.parent):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE))


def _refuse_newer(path: Path) -> None:
    """Raise NewerVersionError for a journal with a schema that this version does not know; write nothing."""
    version = _read_version(path)
    if version > len(_STEPS):
        what = (
            f"The journal {path} was written by a newer version of scribed:"
            f" it has schema {version}, and this version knows schemas up to {len(_STEPS)}."
        )
        remedy = (
            "Install that version again. To go back permanently, stop the service and move the file away:"
            " only history, progress and attempt counters are lost."
        )
        raise NewerVersionError(what, remedy)


def _read_version(path: Path) -> int:
    # immutable would not see a version that is still in the write-ahead log.
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_MS / 1000)) as db:
            return _version_of(db)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & _PRIMARY_CODE != sqlite3.SQLITE_READONLY:
            raise
    # A crash interrupted the transaction that creates the tables, which precedes the write-ahead log. SQLite has to
    # roll it back before anyone can read.
    with closing(sqlite3.connect(path, timeout=_BUSY_MS / 1000)) as db:
        return _version_of(db)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_BUSY_MS / 1000)
    try:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = ON")
        db.execute("PRAGMA foreign_keys = ON")
        _upgrade(db)
        _check(db)
    except BaseException:
        db.close()
        raise
    return db


def _open_log(db: sqlite3.Connection, path: Path) -> int | None:
    """Open the write-ahead log for us to sync, and stop SQLite from syncing it at each commit.

    SQLite still syncs what its consistency needs: the log before it is merged into the database, and that after it
    (https://sqlite.org/pragma.html#pragma_synchronous). POSIX locks are not affected: SQLite has none on this file.
    """
    if db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        return None
    with files.explained("The journal cannot be opened", path.parent):
        fd = os.open(path.with_name(path.name + LOG_SUFFIX), os.O_RDWR | os.O_CLOEXEC)
        try:
            files.sync_folder(path.parent)  # so that the log has a durable name
        except BaseException:
            os.close(fd)
            raise
    db.execute("PRAGMA synchronous = NORMAL")
    return fd


def _check(db: sqlite3.Connection) -> None:
    """Raise DatabaseError for a damaged file: damage found later would stop every job at every start."""
    state = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if state != "ok":
        raise sqlite3.DatabaseError(state)


def _upgrade(db: sqlite3.Connection) -> None:
    """Bring the tables to this version's schema, making them in a new journal."""
    version = _version_of(db)
    if version < len(_STEPS):
        steps = " ".join(_STEPS[version:])
        db.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {len(_STEPS)}; COMMIT;")


def _version_of(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _put_aside(path: Path) -> Path:
    """Keep what can be read of a damaged journal's jobs under another name, and erase the damaged file.

    Texts of chunks may be in any page of the damaged file, so none of its bytes are kept: otherwise `cancel` and
    `forget` would erase them from one file and leave them in another.
    """
    aside = path.with_name(f"{path.name}{_DAMAGED}{file_stamp()}")
    _create(aside)
    with closing(sqlite3.connect(aside, isolation_level=None)) as kept:
        kept.execute("PRAGMA journal_mode = MEMORY")
        _upgrade(kept)
        known = {row[1] for row in kept.execute("PRAGMA table_info(jobs)")}
        kept.execute("BEGIN")
        for row in _readable_jobs(path):
            columns = [column for column in row.keys() if column in known]  # noqa: SIM118  # a Row iterates over values
            marks = ", ".join("?" * len(columns))
            insert = f"INSERT OR IGNORE INTO jobs ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608  # known columns
            with suppress(sqlite3.IntegrityError):  # a damaged value
                kept.execute(insert, [row[column] for column in columns])
        kept.execute("COMMIT")
    for ending in ("", LOG_SUFFIX, "-shm"):
        _erase(path.with_name(path.name + ending))
    files.sync_folder(path.parent)
    return aside


def _readable_jobs(path: Path) -> Iterator[sqlite3.Row]:
    """Yield the jobs on both sides of the damage, some of them twice."""
    for order in ("ASC", "DESC"):
        with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(path, timeout=_BUSY_MS / 1000)) as db:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA query_only = ON")
            yield from db.execute(f"SELECT * FROM jobs ORDER BY rowid {order}")  # noqa: S608  # one of two words


def _erase(path: Path) -> None:
    """Overwrite a file, as secure_delete does with deleted rows, and remove it."""
    with suppress(FileNotFoundError):
        with path.open("r+b") as stream:
            left = path.stat().st_size
            while left > 0:
                left -= stream.write(bytes(min(left, _BLOCK)))
            stream.flush()
            os.fsync(stream.fileno())
        path.unlink()


def erase_from(aside: Path, name: str) -> int:
    """Erase a name from what was kept of a damaged journal, unfinished jobs included; return how many there were."""
    path, tail = os.fsencode(name), b"/" + os.fsencode(name)
    with closing(sqlite3.connect(aside, isolation_level=None)) as db:
        try:
            db.execute("PRAGMA secure_delete = ON")
            if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").fetchone() is None:  # never completed
                return 0
            return db.execute(
                "DELETE FROM jobs WHERE path = ? OR substr(path, ?) = ?", (path, -len(tail), tail)
            ).rowcount
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:
                raise
            return 0  # kept by an earlier version as it was, and not a database
