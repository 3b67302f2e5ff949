"""The search index while the service runs: new and corrected transcripts enter it, deleted ones leave it."""

from __future__ import annotations

import sqlite3
import threading
from typing import TYPE_CHECKING, Final

import structlog

from daemon import search
from daemon.errors import ScribedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.journal import Journal
    from daemon.journal.records import PastJob
    from daemon.spool import SharedFolders
    from daemon.status.faults import Faults

_FAULT: Final = "search"
_JOIN_S: Final = 2.0
# How many of the latest deliveries are looked at: more only where none of these is known yet.
_N_LATEST: Final = (50, 1000, 20_000)

log = structlog.get_logger()


class IndexKeeper:
    """Keeps the index on a thread of its own, so that no recording waits for it.

    It learns of deliveries from the journal, so that it also finds those that a crash cut off.

    Args:
        state: the state folder.
        shared: the folders; while a share of theirs is away, nothing in it counts as deleted.
        journal: knows what was delivered.
        faults: where it is noted that the index cannot be used.
        get_scan_s: returns how often to look, in seconds.
    """

    def __init__(
        self, state: Path, shared: SharedFolders, journal: Journal, faults: Faults, get_scan_s: Callable[[], float]
    ) -> None:
        self._state = state
        self._shared = shared
        self._journal = journal
        self._faults = faults
        self._get_scan_s = get_scan_s
        self._is_stopping = threading.Event()
        self._turning = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="search-index")
        self._index: search.SearchIndex | None = None
        self._upkeep: search.Upkeep | None = None
        self._known: set[tuple[str, str]] = set()  # job and time of its delivery

    def start(self) -> None:
        """Begin to keep the index."""
        self._thread.start()

    def close(self, *, is_once: bool = False) -> None:
        """Stop; with `is_once`, first index what this run has delivered."""
        if is_once:
            self.turn()
        self._is_stopping.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)
        if self._turning.acquire(timeout=_JOIN_S):
            self._shut()
            self._turning.release()

    def turn(self) -> None:
        """Index what was delivered or corrected, and forget what was deleted, since the last turn."""
        with self._turning:
            try:
                self._turn()
            except ScribedError as error:
                self._faults.note(_FAULT, error.what, error.remedy)
            except sqlite3.DatabaseError as error:
                self._replace(error)
            else:
                self._faults.clear(_FAULT)

    def _run(self) -> None:
        while not self._is_stopping.is_set():
            self.turn()
            self._is_stopping.wait(self._get_scan_s())

    def _turn(self) -> None:
        if self._index is None or self._upkeep is None:
            self._index = search.SearchIndex(self._state, is_made=True)
            self._upkeep = search.Upkeep(self._index)
            self._known = self._index.deliveries()
        if self._is_away():  # the loop says so
            return
        self._upkeep.forget_deleted(self._is_away)
        for past in self._list_new():
            if self._is_stopping.is_set():
                return
            self._index_one(self._index, past)
            self._known.add((past.job.job_id, past.finished_at))
        self._upkeep.add_corrected()

    def _is_away(self) -> bool:
        try:
            self._shared.check_mounts()
        except ScribedError:
            return True
        return False

    def _list_new(self) -> list[PastJob]:
        new: list[PastJob] = []
        for n_latest in _N_LATEST:
            latest = self._journal.recent(n_latest)
            new = [past for past in latest if (past.job.job_id, past.finished_at) not in self._known]
            if len(new) < n_latest:
                break
        return new[::-1]

    def _index_one(self, index: search.SearchIndex, past: PastJob) -> None:
        reservation = self._journal.reservation(past.job.job_id)
        if reservation is not None:
            outbox = past.roots.outbox if past.roots else self._shared.roots.outbox
            search.index_delivered(index, outbox, reservation.folder, reservation.stem, past.finished_at)

    def _replace(self, error: sqlite3.DatabaseError) -> None:
        """Make a new index in place of one that is damaged: its words are in the transcripts."""
        log.warning("search.index_damaged", error=str(error))
        self._shut()
        self._known.clear()
        try:
            search.discard(self._state)
        except OSError as failure:
            remedy = f"Delete {self._state / search.INDEX_NAME}; it is made again from the transcripts."
            self._faults.note(_FAULT, f"The search index is damaged and cannot be removed: {failure.strerror}.", remedy)

    def _shut(self) -> None:
        if self._index is not None:
            self._index.close()
        self._index, self._upkeep = None, None
