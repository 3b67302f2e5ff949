"""Deleting archived audio after the configured number of days."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import structlog

from daemon.host import files
from daemon.host.folders import Folder, LinkInTheWayError
from daemon.job import JobState
from daemon.spool.delivery import stamp_of

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.config import RetentionSettings
    from daemon.journal.records import ArchivedFile, ArchivedJob
    from daemon.spool.context import Context

_MAX_AT_ONCE: Final = 100  # so that ten thousand deletions on the first night do not block the loop

log = structlog.get_logger()


class Retention:
    """The part of the spool that deletes audio, with its hotwords, some days after the outcome the journal recorded.

    What the journal does not know is never deleted, and neither is a file whose stamp has changed since: it may be
    another one.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def sweep(self, settings: RetentionSettings, now: datetime | None = None) -> None:
        """Delete what is due, some of it at each call.

        Args:
            settings: the section `retention` of the configuration.
            now: the time in UTC; None reads the clock.

        Raises:
            NoPermissionError, TransientError: it can be tried again.
        """
        shared, now = self._context.shared, now or datetime.now(UTC)
        shared.check_mounts()  # on a missing share, everything seems to be gone
        for root, state, n_days in (
            (shared.roots.processed, JobState.DONE, settings.processed_days),
            (shared.roots.failed, JobState.FAILED, settings.failed_days),
        ):
            if n_days:
                with files.explained("Old recordings cannot be deleted", root):
                    self._sweep(state, now - timedelta(days=n_days))

    def _sweep(self, state: JobState, before: datetime) -> None:
        when = before.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        journal, current = self._context.journal, self._context.shared.roots
        for left in journal.archived_before(state, when, _MAX_AT_ONCE):
            roots = left.roots or current
            root = roots.processed if state is JobState.DONE else roots.failed
            for file in left.files:
                event = "retention.deleted" if _delete(root, left, file) else "retention.not_there"
                log.info(event, job_id=left.job_id, folder=root.name)
            journal.forget_audio(left.job_id)


def _delete(root: Path, left: ArchivedJob, file: ArchivedFile) -> bool:
    """Delete a file if it is the very one that was archived, without following a link."""
    if "/" in file.name:  # not our record: leave the file alone
        return False
    try:
        with Folder.open(root) as top, top.descend(left.folder) as folder:
            if not stat.S_ISREG(folder.lstat(file.name).st_mode) or not file.stamp.matches(stamp_of(folder, file.name)):
                return False
            folder.unlink(file.name)
    except (FileNotFoundError, NotADirectoryError, LinkInTheWayError):  # moved on, or a link is in its place
        return False
    return True
