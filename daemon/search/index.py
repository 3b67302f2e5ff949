"""The file of the search index: the lines of transcripts, and FTS5 over their words (https://sqlite.org/fts5.html)."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from daemon.errors import TransientError
from daemon.host import files
from daemon.search.folding import fold, to_query

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from daemon.transcript import Transcript

INDEX_NAME: Final = "search.sqlite3"
_MODE: Final = 0o600
_BUSY_S: Final = 10.0
_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE folders (
    folder_id INTEGER PRIMARY KEY,
    outbox BLOB NOT NULL,
    path BLOB NOT NULL,                         -- within it
    UNIQUE (outbox, path)
);
CREATE TABLE documents (
    document_id INTEGER PRIMARY KEY,
    folder_id INTEGER NOT NULL REFERENCES folders,
    stem BLOB NOT NULL,
    endings TEXT NOT NULL,                      -- JSON, in the order in which they are shown to people
    job_id TEXT NOT NULL,
    delivered_at TEXT NOT NULL,                 -- as the journal has it, "" where another run has made this entry
    recording BLOB NOT NULL,                    -- where it was within the inbox
    UNIQUE (folder_id, stem)
);
CREATE INDEX documents_by_job ON documents (job_id);
CREATE TABLE lines (
    line_id INTEGER PRIMARY KEY,
    document_id INTEGER NOT NULL REFERENCES documents,
    start_s REAL NOT NULL,
    text TEXT NOT NULL
);
CREATE INDEX lines_by_document ON lines (document_id);
CREATE VIRTUAL TABLE words USING fts5 (folded, tokenize = "unicode61 remove_diacritics 2 categories 'L* N* Co Mn Mc'");
"""


@dataclass(frozen=True, slots=True)
class DocumentPlace:
    """Where the documents of a transcript are.

    Attributes:
        outbox: the folder of all transcripts.
        folder: within the outbox, "" for the outbox itself.
        stem: of the documents.
        endings: of the documents that there are.
    """

    outbox: Path
    folder: str
    stem: str
    endings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """A line that was found: where its transcript is, when it was said, in seconds, and its text."""

    place: DocumentPlace
    start_s: float
    text: str


class SearchIndex:
    """The search index of one state folder; any thread may call.

    Args:
        state: the state folder.
        is_made: whether the file is made where there is none.

    Raises:
        FileNotFoundError: there is none, and none is to be made.
        TransientError: it cannot be opened now.
        sqlite3.DatabaseError: it is damaged, or another version has written it.
    """

    def __init__(self, state: Path, *, is_made: bool) -> None:
        self._path = state / INDEX_NAME
        self._lock = threading.RLock()
        if is_made:
            with suppress(FileExistsError), files.explained("The search index cannot be created", state):
                os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE))
        elif not self._path.exists():
            raise FileNotFoundError(self._path)
        with _explained("opened"):
            self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=_BUSY_S)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def add(self, place: DocumentPlace, transcript: Transcript, delivered_at: str = "") -> None:
        """Keep the words of a transcript, in place of what was kept of the same documents."""
        lines = [(part.start_s, part.text) for part in transcript.segments if part.text]
        with self._transaction() as db:
            self._remove(self._ids_at(place))
            folder_id = self._folder_id(os.fsencode(place.outbox), os.fsencode(place.folder))
            added = db.execute(
                "INSERT INTO documents (folder_id, stem, endings, job_id, delivered_at, recording)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    folder_id,
                    os.fsencode(place.stem),
                    json.dumps(place.endings),
                    transcript.job_id,
                    delivered_at,
                    os.fsencode(transcript.source.path),
                ),
            )
            for start_s, text in lines:
                line = db.execute(
                    "INSERT INTO lines (document_id, start_s, text) VALUES (?, ?, ?)", (added.lastrowid, start_s, text)
                )
                db.execute("INSERT INTO words (rowid, folded) VALUES (?, ?)", (line.lastrowid, fold(text)))

    def find(self, words: Iterable[str], limit: int) -> list[Hit]:
        """Return the lines that contain all the words, the latest transcripts first.

        Args:
            words: see `to_query`.
            limit: how many lines at most.

        Raises:
            UsageError: a word has no letter or digit.
        """
        query = (
            "SELECT outbox, path, stem, endings, start_s, text FROM words"
            " JOIN lines ON line_id = words.rowid JOIN documents USING (document_id) JOIN folders USING (folder_id)"
            " WHERE words MATCH ? ORDER BY job_id DESC, document_id, start_s LIMIT ?"
        )
        with self._lock, _explained("read"):
            rows = self._db.execute(query, (to_query(words), limit)).fetchall()
        return [Hit(_place(*row[:4]), row[4], row[5]) for row in rows]

    def deliveries(self) -> set[tuple[str, str]]:
        """Return (job id, time of the delivery) of all transcripts."""
        with self._lock, _explained("read"):
            return {(row[0], row[1]) for row in self._db.execute("SELECT job_id, delivered_at FROM documents")}

    def has(self, place: DocumentPlace) -> bool:
        """Return whether there is a transcript at this place, with any endings."""
        with self._lock, _explained("read"):
            return bool(self._ids_at(place))

    def has_job(self, job_id: str) -> bool:
        """Return whether there is a transcript of this job."""
        with self._lock, _explained("read"):
            return self._db.execute("SELECT 1 FROM documents WHERE job_id = ?", (job_id,)).fetchone() is not None

    def folders(self) -> list[tuple[Path, str]]:
        """Return (outbox, folder within it) of all transcripts."""
        with self._lock, _explained("read"):
            rows = self._db.execute("SELECT outbox, path FROM folders").fetchall()
        return [(_path(outbox), os.fsdecode(path)) for outbox, path in rows]

    def places_in(self, outbox: Path, folder: str) -> list[DocumentPlace]:
        """Return where the documents of the transcripts in one folder are."""
        query = (
            "SELECT outbox, path, stem, endings FROM documents JOIN folders USING (folder_id)"
            " WHERE outbox = ? AND path = ?"
        )
        with self._lock, _explained("read"):
            rows = self._db.execute(query, (os.fsencode(outbox), os.fsencode(folder))).fetchall()
        return [_place(*row) for row in rows]

    def remove(self, places: Sequence[DocumentPlace]) -> None:
        """Erase these transcripts, so that their words can no longer be read from the file."""
        with self._transaction():
            for place in places:
                self._remove(self._ids_at(place))
        self._erase_removed()

    def forget(self, job_ids: Iterable[str], path: str) -> int:
        """Erase the transcripts of these jobs, and of recordings with this path or name; return how many there were."""
        tail = b"/" + os.fsencode(path)
        with self._transaction() as db:
            found = {
                row[0]
                for job_id in job_ids
                for row in db.execute("SELECT document_id FROM documents WHERE job_id = ?", (job_id,))
            }
            found |= {
                row[0]
                for row in db.execute(
                    "SELECT document_id FROM documents WHERE recording = ? OR substr(recording, ?) = ?",
                    (os.fsencode(path), -len(tail), tail),
                )
            }
            self._remove(found)
        self._erase_removed()
        return len(found)

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA secure_delete = ON")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
        elif version != _VERSION:
            raise sqlite3.DatabaseError(f"it has schema {version}, this version knows {_VERSION}")

    def _ids_at(self, place: DocumentPlace) -> list[int]:
        """Return the ids of what is kept of the documents at one place."""
        found = self._db.execute(
            "SELECT document_id FROM documents JOIN folders USING (folder_id)"
            " WHERE outbox = ? AND path = ? AND stem = ?",
            (os.fsencode(place.outbox), os.fsencode(place.folder), os.fsencode(place.stem)),
        )
        return [row[0] for row in found]

    def _folder_id(self, outbox: bytes, path: bytes) -> int:
        self._db.execute("INSERT OR IGNORE INTO folders (outbox, path) VALUES (?, ?)", (outbox, path))
        row = self._db.execute("SELECT folder_id FROM folders WHERE outbox = ? AND path = ?", (outbox, path)).fetchone()
        return int(row[0])

    def _remove(self, document_ids: Iterable[int]) -> None:
        for document_id in document_ids:
            lines = "(SELECT line_id FROM lines WHERE document_id = ?)"
            self._db.execute(f"DELETE FROM words WHERE rowid IN {lines}", (document_id,))  # noqa: S608  # a constant
            self._db.execute("DELETE FROM lines WHERE document_id = ?", (document_id,))
            self._db.execute("DELETE FROM documents WHERE document_id = ?", (document_id,))
        self._db.execute("DELETE FROM folders WHERE folder_id NOT IN (SELECT folder_id FROM documents)")

    def _erase_removed(self) -> None:
        """Write the index of words again: a removed word stays in FTS5's old segments until they are merged."""
        with self._transaction() as db:
            db.execute("INSERT INTO words (words) VALUES ('optimize')")
        with self._lock, _explained("written"):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _explained("written"):
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")


def discard(state: Path) -> bool:
    """Remove the index; return whether there was one."""
    names = [f"{INDEX_NAME}{ending}" for ending in ("", "-wal", "-shm")]
    found = [state / name for name in names if (state / name).exists()]
    for path in found:
        path.unlink(missing_ok=True)
    return bool(found)


@contextmanager
def _explained(verb: str) -> Iterator[None]:
    """Turn an error with an outside cause into one of ours; a damaged file is reported as it is."""
    try:
        yield
    except sqlite3.OperationalError as error:
        remedy = "Check the state folder: is its disk full, and can the service's user write there?"
        raise TransientError(f"The search index cannot be {verb}: {error}.", remedy) from error


def _place(outbox: bytes, folder: bytes, stem: bytes, endings: str) -> DocumentPlace:
    return DocumentPlace(_path(outbox), os.fsdecode(folder), os.fsdecode(stem), tuple(json.loads(endings)))


def _path(encoded: bytes) -> Path:
    return Path(os.fsdecode(encoded))
