"""Rows of the journal as plain values, and plain values as columns."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from daemon.job import Job, JobState
from daemon.journal.records import ArchivedFile, FileStamp, PastJob, Roots

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator


JOB_COLUMNS: Final = "job_id, path, claimed_at, state, attempts, is_suspect, n_early_crashes"
"""What `job_of` reads."""


def stamp_columns(kind: str, stamp: FileStamp | None) -> dict[str, int | None]:
    """Return the columns that hold what a file stamps like."""
    n_bytes, mtime_ns = (stamp.n_bytes, stamp.mtime_ns) if stamp is not None else (None, None)
    return {f"{kind}_bytes": n_bytes, f"{kind}_mtime_ns": mtime_ns}


def hotwords_columns(kept: ArchivedFile | None) -> dict[str, object]:
    """Return the columns that hold the hotwords file next to the audio."""
    name = os.fsencode(kept.name) if kept is not None else None
    return {"hotwords_name": name, **stamp_columns("hotwords", kept.stamp if kept else None)}


def stamp_of(row: sqlite3.Row, kind: str) -> FileStamp | None:
    """Return what a file looked like, None where there is nothing to find again."""
    n_bytes = row[f"{kind}_bytes"]
    return None if n_bytes is None else FileStamp(n_bytes, row[f"{kind}_mtime_ns"])


def archived_files(row: sqlite3.Row) -> Iterator[ArchivedFile]:
    """Yield the audio and the hotwords that a job left in processed or failed."""
    for kind in ("audio", "hotwords"):
        name, stamp = row[f"{kind}_name"], stamp_of(row, kind)
        if name is not None and stamp is not None:
            yield ArchivedFile(os.fsdecode(name), stamp)


def roots_text(roots: Roots | None) -> str | None:
    """Return the shared folders of a job as JSON; bytes of names that are not UTF-8 are kept as escapes."""
    return None if roots is None else json.dumps(roots.as_text())


def roots_of(text: str | None) -> Roots | None:
    """Return the shared folders of a job, None where an earlier version did not record them."""
    return None if text is None else Roots(**{name: Path(path) for name, path in json.loads(text).items()})


def job_of(row: sqlite3.Row) -> Job:
    """Return the job of a row."""
    return Job(
        job_id=row["job_id"],
        path=os.fsdecode(row["path"]),
        claimed_at=row["claimed_at"],
        state=JobState(row["state"]),
        attempts=row["attempts"],
        is_suspect=bool(row["is_suspect"]),
        n_early_crashes=row["n_early_crashes"],
        is_isolated=row["is_suspect"] > 1,
    )


def past_job_of(row: sqlite3.Row) -> PastJob:
    """Return how the job of a row ended."""
    audio_path = None
    if row["audio_name"] is not None:
        audio_path = os.path.join(os.fsdecode(row["outbox_folder"] or b""), os.fsdecode(row["audio_name"]))  # noqa: PTH118  # within a folder that is not known here
    return PastJob(
        job=job_of(row),
        finished_at=row["finished_at"] or row["claimed_at"],
        reason=row["reason"],
        remedy=row["remedy"],
        audio_s=row["audio_s"],
        wall_s=row["wall_s"],
        audio_path=audio_path,
        is_complete=None if row["is_complete"] is None else bool(row["is_complete"]),
        roots=roots_of(row["roots"]),
    )
