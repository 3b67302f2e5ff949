"""What the journal says of unfinished jobs, for programs that must not write to it."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Final

from daemon.job import JobState
from daemon.journal.rows import roots_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

JOURNAL_NAME: Final = "journal.sqlite3"
_BUSY_S: Final = 0.1
_UNFINISHED: Final = (JobState.CLAIMED, JobState.DELIVERING, JobState.DELIVERED)


def count_unfinished_by_inbox(state: Path) -> Mapping[Path, int]:
    """Return how many unfinished jobs each inbox has, without changing a byte of the state folder.

    Nothing is returned where the journal cannot be read: there is none, another user owns it, or it has another schema.

    Args:
        state: the state folder.
    """
    path = state / JOURNAL_NAME
    log = path.with_name(f"{path.name}-wal")
    # Without a write-ahead log no service has it open, and SQLite makes no files next to a read-only one.
    how = "mode=ro" if log.exists() and log.stat().st_size else "mode=ro&immutable=1"
    query = "SELECT roots FROM jobs WHERE state IN (?, ?, ?) AND roots IS NOT NULL"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, timeout=_BUSY_S)) as db:
            found = [roots_of(row[0]) for row in db.execute(query, _UNFINISHED)]
    except (sqlite3.Error, ValueError, TypeError):
        return {}
    return Counter(roots.inbox for roots in found if roots is not None)
