"""Deleting audio that was kept for as long as the configuration asks."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog

from daemon.host import files
from daemon.job import JobState
from daemon.spool.delivery import look_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.config import RetentionSettings
    from daemon.journal import Journal
    from daemon.journal.records import Kept
    from daemon.spool.places import Places

_MAX_AT_ONCE = 100  # so that a first night of ten thousand deletions holds nothing else up

log = structlog.get_logger()


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Retention:
    """Deletes audio, with its hotwords, from processed and failed some days after the outcome the journal has recorded.

    What the journal does not know is never deleted, and neither is a file which no longer looks as it
    did when it was put away: it may be somebody else's.

    Args:
        places: where everything lies.
        journal: knows what was put away, when, and what it looked like.
        clock: the time in UTC.
    """

    def __init__(self, places: Places, journal: Journal, clock: Callable[[], datetime] = _utc_now) -> None:
        self._places = places
        self._journal = journal
        self._clock = clock

    def sweep(self, settings: RetentionSettings) -> None:
        """Delete what is due, some of it at each call.

        Raises:
            NoPermissionError, TransientError: it can be tried again.
        """
        self._places.check_shares()  # on a share that is not there everything looks as if it were gone
        folders = self._places.folders
        for root, state, n_days in (
            (folders.processed, JobState.DONE, settings.processed_days),
            (folders.failed, JobState.FAILED, settings.failed_days),
        ):
            if n_days:
                with files.explained("Old recordings cannot be deleted", root):
                    self._sweep(root, state, self._clock() - timedelta(days=n_days))

    def _sweep(self, root: Path, state: JobState, before: datetime) -> None:
        when = before.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        for left in self._journal.put_away_before(state, when, _MAX_AT_ONCE):
            for kept in left.files:
                event = "retention.deleted" if _delete(root, left.folder, kept) else "retention.not_there"
                log.info(event, job_id=left.job_id, folder=root.name)
            self._journal.forget_audio(left.job_id)


def _delete(root: Path, folder: str, kept: Kept) -> bool:
    """Delete a file if it is the very one that was put away, without following a link."""
    if ".." in folder.split("/") or "/" in kept.name:  # no record of ours; then hands off
        return False
    try:
        with files.reached(root, folder) as reached:
            path = reached / kept.name
            if not stat.S_ISREG(path.lstat().st_mode) or not kept.look.is_like(look_of(path)):
                return False
            path.unlink()
            files.sync_folder(reached)
    except (FileNotFoundError, NotADirectoryError):  # moved on, or a link stands in place of the folder
        return False
    return True
