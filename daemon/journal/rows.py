"""Rows of the journal as plain values, and plain values as columns."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from daemon.job import Job, JobState
from daemon.journal.records import Kept, Look, Outcome

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator


def look_columns(kind: str, look: Look | None) -> dict[str, int | None]:
    """Return the columns that hold what a file looks like."""
    n_bytes, mtime_ns = (look.n_bytes, look.mtime_ns) if look is not None else (None, None)
    return {f"{kind}_bytes": n_bytes, f"{kind}_mtime_ns": mtime_ns}


def hotwords_columns(kept: Kept | None) -> dict[str, object]:
    """Return the columns that hold the hotwords file next to the audio."""
    name = os.fsencode(kept.name) if kept is not None else None
    return {"hotwords_name": name, **look_columns("hotwords", kept.look if kept else None)}


def look_of(row: sqlite3.Row, kind: str) -> Look | None:
    """Return what a file looked like, None where there is nothing to find again."""
    n_bytes = row[f"{kind}_bytes"]
    return None if n_bytes is None else Look(n_bytes, row[f"{kind}_mtime_ns"])


def kept_files(row: sqlite3.Row) -> Iterator[Kept]:
    """Yield the audio and the hotwords that a job left in processed or failed."""
    for kind in ("audio", "hotwords"):
        name, look = row[f"{kind}_name"], look_of(row, kind)
        if name is not None and look is not None:
            yield Kept(os.fsdecode(name), look)


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
    )


def outcome_of(row: sqlite3.Row) -> Outcome:
    """Return how the job of a row ended."""
    audio_path = None
    if row["audio_name"] is not None:
        audio_path = os.path.join(os.fsdecode(row["outbox_folder"] or b""), os.fsdecode(row["audio_name"]))  # noqa: PTH118 (within a folder that is not known here)
    return Outcome(
        job=job_of(row),
        finished_at=row["finished_at"] or row["claimed_at"],
        reason=row["reason"],
        remedy=row["remedy"],
        audio_s=row["audio_s"],
        wall_s=row["wall_s"],
        audio_path=audio_path,
        is_complete=None if row["is_complete"] is None else bool(row["is_complete"]),
    )
