"""The journal's queue of deliveries after which a program is still to run."""

from __future__ import annotations

import os
from typing import Final

from daemon.journal.connection import OpenJournal
from daemon.journal.records import DueHook
from daemon.journal.rows import job_of

# About 17 hours at six seconds each; a program that always hangs must not fill the disk.
MAX_HOOKS: Final = 10_000


class HookJournal(OpenJournal):
    """The part of the journal with the deliveries for which the hook has not run yet; `commit_delivery` adds them."""

    def next_hook(self) -> DueHook | None:
        """Return the delivery that has waited longest for the hook, None if none is waiting."""
        rows = self._select("SELECT * FROM hooks JOIN jobs USING (job_id) ORDER BY hook_id LIMIT 1")
        return DueHook(rows[0]["hook_id"], job_of(rows[0]), os.fsdecode(rows[0]["document"])) if rows else None

    def count_hooks(self) -> int:
        """Return the number of deliveries for which the hook has not run yet."""
        return int(self._select("SELECT count(*) FROM hooks")[0][0])

    def drop_hook(self, hook_id: int) -> None:
        """Record that the hook has run. A power cut may undo it: then it runs again."""
        with self._transaction(is_durable=False) as db:
            db.execute("DELETE FROM hooks WHERE hook_id = ?", (hook_id,))

    def drop_hooks(self) -> int:
        """Empty the queue without running the hook; return the number of deliveries."""
        if not self.count_hooks():
            return 0
        with self._transaction(is_durable=False) as db:
            return db.execute("DELETE FROM hooks").rowcount
