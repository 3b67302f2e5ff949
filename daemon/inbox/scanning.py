"""Repeated scans: which recordings have settled, and what the others wait for.

The scan is authoritative. Events only trigger it, and report the one thing that a scan cannot see: whether a writer
still has a file open. Lost events cost time, never a recording.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import structlog

from daemon.host import mounts
from daemon.host.links import UntrustedLinkError
from daemon.inbox.events import InboxEvents
from daemon.inbox.settling import (
    Arrival,
    Arriving,
    Sighting,
    ends_in_hole,
    fingerprint_of,
    first_sighting,
    may_have_holes,
    needed_quiet,
    needed_while_open,
)
from daemon.inbox.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.config import Watch
    from daemon.inbox.events import WatchShortage
    from daemon.inbox.walk import FolderFault

_RESTART_S: Final = 10.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Scan:
    """What one scan of the inbox found.

    Attributes:
        settled: complete recordings, the one that was seen first ahead.
        arriving: files that are not complete yet.
        unreadable: paths of recordings and folders that our user may not read.
        faults: what could not be looked at for any other reason.
        error_notes: `.error.txt` files, which come back with a recording that is tried again.
        shortage: why some folder is not watched, None where all are or where events are not wanted.
    """

    settled: tuple[Arrival, ...] = ()
    arriving: tuple[Arriving, ...] = ()
    unreadable: tuple[str, ...] = ()
    faults: tuple[FolderFault, ...] = ()
    error_notes: tuple[str, ...] = ()
    shortage: WatchShortage | None = None


@dataclass(slots=True)
class _Turn:
    """What one scan knows and finds."""

    now_s: float
    epoch_s: float
    settle_s: float
    written: frozenset[str]
    closed: set[str]
    seen: dict[str, Sighting] = field(default_factory=dict)
    settled: list[Sighting] = field(default_factory=list)
    arriving: list[Arriving] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    compressing: dict[int, bool] = field(default_factory=dict)  # by device


class Inbox:
    """Watches one inbox. `scan` is called from one thread; events come from watchdog's.

    Args:
        root: the inbox.
        get_settings: returns the section `watch` of the current configuration.
        wake: called from any thread when it is worth scanning before the time is up.
        monotonic: clock, injectable for tests.
        wall_clock: seconds since 1970, injectable for tests.
        is_once: True for `scribed once`, which waits no longer than settle_s for a close that it cannot see.
    """

    def __init__(  # noqa: PLR0913  # a wake and two clocks besides what it watches
        self,
        root: Path,
        get_settings: Callable[[], Watch],
        wake: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        *,
        is_once: bool = False,
    ) -> None:
        self.root = root
        self._get_settings = get_settings
        self._is_once = is_once
        self._monotonic = monotonic
        self._wall_clock = wall_clock
        self._events = InboxEvents(root, wake)
        self._writers = self._events.writers
        self._sightings: dict[str, Sighting] = {}
        self._n_seen = 0
        self._next_start_s = 0.0
        self._is_polling_logged = False

    def stop(self) -> None:
        """End the event threads; the next scan would start them again."""
        self._events.stop()

    def has_events(self) -> bool:
        """Whether events of the folder that is now at our path still reach us."""
        return self._events.is_alive()

    def _wants_events(self) -> bool:
        """Whether to listen: on a share with `auto` no events come."""
        mode = self._get_settings().mode
        if mode != "auto":
            return mode == "events"
        try:
            is_silent = mounts.is_silent(self.root)
        except OSError as error:  # no /proc: then events are worth a try
            log.debug("inbox.mounts_unknown", error=str(error))
            return True
        if is_silent and not self._is_polling_logged:
            log.info("inbox.polled", reason="The inbox is on a network share, which sends no change events.")
        self._is_polling_logged = is_silent
        return not is_silent

    def _keep_listening(self, now_s: float) -> None:
        if self.has_events() or now_s < self._next_start_s:
            return
        self._next_start_s = now_s + _RESTART_S
        self._events.stop()
        if self._wants_events():
            self._events.start()
        else:
            self._events.forget_failure()

    def scan(self) -> Scan:
        """Look at every file once.

        Raises:
            OSError: the inbox itself cannot be listed.
            UntrustedLinkError: a link of another user leads to it.
        """
        now_s = self._monotonic()
        self._keep_listening(now_s)
        self._events.begin_scan()
        # Taken before the walk: files closed during it count at the next scan.
        closed = self._writers.take_closed()
        turn = _Turn(now_s, self._wall_clock(), self._get_settings().settle_s, self._writers.written(), closed)
        walk = Walk(self.root, self._get_settings(), self._sightings, self._events.watch)
        known, seen, settled, written = self._sightings, turn.seen, turn.settled, turn.written
        try:
            for path, facts, folder, name in walk.files():
                sight = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_blocks)
                sighting = known.get(path)
                if (  # the cheap, common case in a long queue
                    sighting is not None
                    and sighting.arrival is not None
                    and sighting.facts == sight
                    and sighting.readable_at_ns == facts.st_ctime_ns
                    and path not in written
                ):
                    seen[path] = sighting
                    settled.append(sighting)
                    continue
                if sighting is None or sighting.facts != sight:
                    sighting = self._see(turn, facts, sight, sighting)
                seen[path] = sighting
                self._judge(turn, sighting, path, facts, (folder, name))
        except (OSError, UntrustedLinkError):
            self._writers.give_back_closed(closed)
            raise
        self._keep_known_of(walk.faults, turn)
        self._sightings = turn.seen
        self._writers.keep_only(turn.seen)
        turn.settled.sort(key=attrgetter("first_seen"))
        return Scan(
            tuple(sighting.arrival for sighting in turn.settled if sighting.arrival is not None),
            tuple(turn.arriving),
            (*walk.unreadable, *turn.unreadable),
            tuple(walk.faults),
            tuple(walk.error_notes),
            self._events.shortage(),
        )

    def _judge(self, turn: _Turn, sighting: Sighting, path: str, facts: os.stat_result, place: tuple[int, str]) -> None:
        """Decide about one file, at this folder's descriptor and name: settled, arriving or unreadable."""
        folder, name = place
        if path in turn.written:
            sighting.close_seen, sighting.arrival = False, None
            needed_s, reason = needed_while_open(turn.settle_s)
        elif sighting.arrival is None:
            sighting.close_seen = sighting.close_seen or path in turn.closed
            if sighting.is_filling is None:
                sighting.is_filling = may_have_holes(facts) and self._is_filling(turn, path, facts, place)
            needed_s, reason = needed_quiet(facts, sighting, turn.settle_s, is_once=self._is_once)
        else:
            needed_s, reason = 0.0, ""
        left_s = sighting.quiet_since_s + needed_s - turn.now_s
        if left_s > 0:
            due_s = sighting.quiet_since_epoch_s + needed_s
            turn.arriving.append(Arriving(path, facts.st_size, reason, left_s, due_s))
        elif sighting.readable_at_ns != facts.st_ctime_ns and not os.access(name, os.R_OK, dir_fd=folder):
            turn.unreadable.append(path)
        else:
            sighting.readable_at_ns = facts.st_ctime_ns
            sighting.arrival = sighting.arrival or Arrival(path, fingerprint_of(facts), sighting.close_seen)
            turn.settled.append(sighting)

    def _see(self, turn: _Turn, facts: os.stat_result, sight: tuple[int, ...], known: Sighting | None) -> Sighting:
        if known is not None:
            return known.changed(sight, turn.now_s, turn.epoch_s)
        self._n_seen += 1
        return first_sighting(facts, sight, self._n_seen, turn.now_s, turn.epoch_s)

    def _is_filling(self, turn: _Turn, path: str, facts: os.stat_result, place: tuple[int, str]) -> bool:
        """Whether a file that takes less room than its size is still being filled, as far as we can see."""
        if facts.st_dev not in turn.compressing:
            turn.compressing[facts.st_dev] = mounts.compresses(self.root / path)
        if turn.compressing[facts.st_dev]:
            return False
        folder, name = place
        return ends_in_hole(name, folder, facts.st_size)

    def _keep_known_of(self, faults: list[FolderFault], turn: _Turn) -> None:
        """Keep what was known of files that could not be looked at now, so that no wait of theirs starts again."""
        for fault in faults:
            within = f"{fault.path}/"
            for path, sighting in self._sightings.items():
                if path not in turn.seen and (path == fault.path or path.startswith(within)):
                    turn.seen[path] = sighting
            self._writers.give_back_closed(
                {path for path in turn.closed if path == fault.path or path.startswith(within)}
            )
