"""From a folder full of files to the paths of recordings that have fully arrived.

The scan is the truth. Events only wake it up, and tell of one thing a scan cannot see: that a writer
still has a file open. Lost events cost time, never a recording. The only user of watchdog.
"""

from __future__ import annotations

import logging
import math
import os
import stat
import threading
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from operator import attrgetter
from typing import TYPE_CHECKING

import structlog
from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.inotify import InotifyObserver
from watchdog.observers.inotify_move_event_grouper import InotifyMoveEventGrouper

from daemon.host import mounts
from daemon.job import Fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.config import Watch

CLAIM_FOLDER = ".scribed"
HOTWORDS_SUFFIX = ".hotwords.txt"
ERROR_SUFFIX = ".error.txt"
FOLDER_SETTINGS_NAME = "scribed.yaml"
# What editors, browsers, transfer and sync programs call a file that is not whole, and what
# desktops strew about. Compared without case.
# A scan asks for each of a hundred thousand names: so they are compared in a twentieth of fnmatch's time.
_TEMPORARY_STARTS = (".", "~")
_TEMPORARY_ENDS = (
    "~", ".part", ".partial", ".filepart", ".crdownload", ".download", ".tmp", ".temp", ".!sync",
)  # fmt: skip
_TEMPORARY_PART = ".octransferid"
_FOREIGN_NAMES = frozenset({"thumbs.db", "desktop.ini", "@eadir", "__macosx"})
_HOLES_QUIET_S = 300.0  # a file with holes is being filled by someone who reserved its size
_LINKED_QUIET_S = 60.0  # a second link is how some programs commit: link, then unlink
_BLOCK_BYTES = 512  # the unit of st_blocks, whatever the filesystem's own
_OVERFLOW_LOGGER = "watchdog.observers.inotify_c"
_EMITTER_LOGGER = "watchdog.observers.inotify"
_MOVE_WAIT_S = 0.02
_STOP_WAIT_S = 5.0
_RESTART_S = 10.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Arrival:
    """A recording that is whole: its path within the inbox, and what it looked like."""

    path: str
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True)
class Arriving:
    """A file that is not whole yet, why that is thought, and in how many seconds it may be, if nothing happens."""

    path: str
    n_bytes: int
    reason: str
    left_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Scan:
    """What one look at the inbox found.

    Attributes:
        settled: whole recordings, the one that was seen first ahead.
        unreadable: paths of recordings and folders that our user may not read.
        error_notes: `.error.txt` files, which come back with a recording that is tried again.
    """

    settled: tuple[Arrival, ...] = ()
    arriving: tuple[Arriving, ...] = ()
    unreadable: tuple[str, ...] = ()
    error_notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Sighting:
    """One file as it was at the last scan; what follows from that is kept, for a queue is looked at often."""

    facts: tuple[int, ...]
    first_seen: int
    quiet_since_s: float
    arrival: Arrival | None = None
    readable_at_ns: int = -1  # the time of the last change of rights at which it could be read


def is_temporary(name: str) -> bool:
    """Whether a file or folder of this name is never taken."""
    folded = name.casefold()
    return (
        folded.startswith(_TEMPORARY_STARTS)
        or folded.endswith(_TEMPORARY_ENDS)
        or folded in _FOREIGN_NAMES
        or _TEMPORARY_PART in folded
    )


def is_companion(name: str) -> bool:
    """Whether a file of this name belongs to recordings without being one."""
    return name == FOLDER_SETTINGS_NAME or name.endswith((HOTWORDS_SUFFIX, ERROR_SUFFIX))


def fingerprint_of(facts: os.stat_result) -> Fingerprint:
    """Return what tells this version of a file from another."""
    return Fingerprint(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)


class Inbox:
    """Watches one inbox. `scan` is called from one thread; events come from watchdog's.

    Args:
        root: the inbox.
        settings: the section `watch` of the configuration.
        wake: called from any thread when it is worth scanning before the time is up.
        monotonic: seconds that only ever grow.
    """

    def __init__(
        self,
        root: Path,
        settings: Watch,
        wake: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.root = root
        self.settings = settings
        self._wake = wake
        self._monotonic = monotonic
        self._sightings: dict[str, _Sighting] = {}
        self._n_seen = 0
        self._writers = _Writers(root, wake)
        self._observer: InotifyObserver | None = None
        self._watched: tuple[int, int] | None = None
        self._next_start_s = 0.0
        self._events_fault = ""
        self._is_silence_told = False

    def _start_events(self) -> None:
        # A folder made while watchdog begins is added twice, by its walk and by its event, to no harm.
        warnings.filterwarnings("ignore", message="Callback with id", category=RuntimeWarning)
        # A move out of the inbox, as each delivery makes one, holds up all later events until it is clear that it leads
        # nowhere else within. The kernel tells both halves of a move at once, so that is soon.
        InotifyMoveEventGrouper.delay = _MOVE_WAIT_S
        observer = None
        try:
            self._watched = self._identity()
            # Full events tell a file that was moved in from one that was made here.
            observer = InotifyObserver(generate_full_events=True)
            observer.schedule(self._writers, str(self.root), recursive=True, event_filter=_EVENTS)
            observer.start()
        except OSError as error:  # out of inotify watches or instances, or the inbox is gone for now
            if observer is not None:
                observer.stop()  # its reader runs from its making on
            if str(error) != self._events_fault:  # once, not at every try
                log.warning("inbox.events_unavailable", error=str(error), remedy="Raise fs.inotify.max_user_watches.")
            self._events_fault = str(error)
            return
        logging.getLogger(_OVERFLOW_LOGGER).addFilter(self._writers.note_overflow)
        logging.getLogger(_EMITTER_LOGGER).addFilter(_is_no_late_event)
        self._events_fault = ""
        self._observer = observer

    def stop(self) -> None:
        """End the event threads; the next scan would start them again."""
        if self._observer is not None:
            logging.getLogger(_OVERFLOW_LOGGER).removeFilter(self._writers.note_overflow)
            self._observer.stop()
            self._observer.join(_STOP_WAIT_S)
            self._observer = None
        self._writers.forget_all()

    def has_events(self) -> bool:
        """Whether events of the folder that now stands at our path still reach us."""
        if self._observer is None or self._writers.has_lost_events():
            return False
        emitters = self._observer.emitters
        reader = self._observer._inotify_fd  # noqa: SLF001 - it has no public name; without it nothing is heard any more
        try:
            is_same = self._identity() == self._watched
        except OSError:
            return False
        return bool(emitters) and all(map(_is_alive, (self._observer, reader, *emitters))) and is_same

    def _identity(self) -> tuple[int, int]:
        facts = self.root.stat()
        return facts.st_dev, facts.st_ino

    def _wants_events(self) -> bool:
        """Whether to listen: on a share with `auto` there is nothing to hear."""
        if self.settings.mode != "auto":
            return self.settings.mode == "events"
        try:
            is_silent = mounts.is_silent(self.root)
        except OSError as error:  # no /proc: then events are worth a try
            log.debug("inbox.mounts_unknown", error=str(error))
            return True
        if is_silent and not self._is_silence_told:
            log.info("inbox.polled", reason="It lies on a share, which tells of no changes.")
        self._is_silence_told = is_silent
        return not is_silent

    def scan(self) -> Scan:
        """Look at every file once.

        Raises:
            OSError: the inbox itself cannot be listed.
        """
        now_s = self._monotonic()
        if not self.has_events() and now_s >= self._next_start_s:
            self._next_start_s = now_s + _RESTART_S
            self.stop()
            if self._wants_events():
                self._start_events()
        seen: dict[str, _Sighting] = {}
        settled: list[_Sighting] = []
        arriving: list[Arriving] = []
        unreadable: list[str] = []
        notes: list[str] = []
        written, created = self._writers.snapshot()
        settle_s, root = self.settings.settle_s, os.fspath(self.root)
        for path, facts, last in self._recordings(notes, unreadable):
            sight = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_blocks)
            sighting = last if last is not None and last.facts == sight else self._see(sight, last, now_s)
            seen[path] = sighting
            reason, left_s = "", 0.0
            if path in written:
                reason, left_s = "still being written", math.inf
            elif facts.st_size == 0 and path in created:
                reason, left_s = "still empty", math.inf
            elif sighting.arrival is None:
                reason, left_s = _why_not_quiet(facts, now_s - sighting.quiet_since_s, settle_s)
            if reason:
                arriving.append(Arriving(path, facts.st_size, reason, left_s))
            elif sighting.readable_at_ns != facts.st_ctime_ns and not os.access(f"{root}/{path}", os.R_OK):
                unreadable.append(path)
            else:
                sighting.readable_at_ns = facts.st_ctime_ns
                sighting.arrival = sighting.arrival or Arrival(path, fingerprint_of(facts))
                settled.append(sighting)
        self._sightings = seen
        self._writers.keep_only(seen)
        settled.sort(key=attrgetter("first_seen"))
        arrivals = tuple(sighting.arrival for sighting in settled if sighting.arrival is not None)
        return Scan(arrivals, tuple(arriving), tuple(unreadable), tuple(notes))

    def _see(self, sight: tuple[int, ...], known: _Sighting | None, now_s: float) -> _Sighting:
        if known is not None:
            return _Sighting(sight, known.first_seen, now_s)
        self._n_seen += 1
        return _Sighting(sight, self._n_seen, now_s)

    def _recordings(
        self, notes: list[str], unreadable: list[str]
    ) -> Iterator[tuple[str, os.stat_result, _Sighting | None]]:
        """Yield path within the inbox, facts and last sighting of every file that may be a recording."""
        folders, ignore = [""], self.settings.ignore
        while folders:
            folder = folders.pop()
            with self._opened(folder, unreadable) as (descriptor, names):
                for name in names:
                    path = f"{folder}/{name}" if folder else name
                    sighting = self._sightings.get(path)  # what has one bears the name of a recording
                    if sighting is None and is_temporary(name):
                        continue
                    if ignore and any(fnmatchcase(path, glob) for glob in ignore):
                        continue
                    try:
                        facts = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                    except OSError:  # gone since the listing
                        continue
                    if stat.S_ISREG(facts.st_mode):
                        if sighting is not None or not is_companion(name):
                            yield path, facts, sighting
                        elif name.endswith(ERROR_SUFFIX):
                            notes.append(path)
                    elif stat.S_ISDIR(facts.st_mode) and self.settings.recursive:
                        folders.append(path)

    @contextmanager
    def _opened(self, folder: str, unreadable: list[str]) -> Iterator[tuple[int, list[str]]]:
        """Open a folder and list it; os.scandir would keep what it learns of every file until all are seen."""
        path = self.root / folder
        descriptor, names = -1, []
        try:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                names = os.listdir(descriptor)  # noqa: PTH208 - paths know no descriptors
            except OSError:
                if not folder:
                    raise
            if folder and not os.access(path, os.R_OK | os.X_OK) and path.exists():
                unreadable.append(folder)
            yield descriptor, names
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _why_not_quiet(facts: os.stat_result, quiet_s: float, settle_s: float) -> tuple[str, float]:
    """Return ("", 0) for a file that has been quiet for long enough, else what it is and for how many seconds yet."""
    needed_s, reason = settle_s, "arrived a moment ago"
    if facts.st_blocks * _BLOCK_BYTES < facts.st_size:
        needed_s, reason = max(needed_s, _HOLES_QUIET_S), "has room reserved that is not filled yet"
    elif facts.st_nlink > 1:
        needed_s, reason = max(needed_s, _LINKED_QUIET_S), "has a second name"
    return ("", 0.0) if quiet_s >= needed_s else (reason, needed_s - quiet_s)


def _is_alive(thread: threading.Thread) -> bool:
    return thread.is_alive()


def _is_no_late_event(record: logging.LogRecord) -> bool:
    """Drop watchdog's word that an event came while it was being stopped: it says "error", and there is none."""
    return "thread is inactive" not in record.getMessage()


# Opening and reading are not among them: they would wake us for every look somebody takes.
_EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileModifiedEvent,
    FileClosedEvent,
    FileMovedEvent,
    DirCreatedEvent,
    DirMovedEvent,
]


class _Writers(FileSystemEventHandler):
    """Remembers which files have been made or written to and not closed since, as far as events tell.

    A hard link, too, is made without a close event, so that a file was made asks for nothing once
    something is in it: only a write does.
    """

    def __init__(self, root: Path, wake: Callable[[], None]) -> None:
        self._root = os.fspath(root)
        self._wake = wake
        self._lock = threading.Lock()
        self._written: set[str] = set()
        self._created: set[str] = set()
        self._fresh: set[str] = set()
        self._has_lost_events = False

    def snapshot(self) -> tuple[frozenset[str], frozenset[str]]:
        """Return the files that are being written, and those that were made here and not closed since."""
        with self._lock:
            return frozenset(self._written), frozenset(self._created)

    def has_lost_events(self) -> bool:
        with self._lock:
            return self._has_lost_events

    def keep_only(self, paths: dict[str, _Sighting]) -> None:
        """Drop what is gone; names that came since the scan before are kept until the next."""
        with self._lock:
            for names in (self._written, self._created):
                names -= {name for name in names if name not in paths and name not in self._fresh}
            self._fresh.clear()

    def forget_all(self) -> None:
        with self._lock:
            self._written.clear()
            self._created.clear()
            self._has_lost_events = False

    def note_overflow(self, record: logging.LogRecord) -> bool:
        """Read watchdog's log: it tells of lost events nowhere else.

        What was open may be closed. Events from before are still on their way to us, so nothing is
        forgotten here: the next scan begins to watch anew.
        """
        if "overflow" in record.getMessage():
            with self._lock:
                self._has_lost_events = True
            self._wake()
        return True

    def on_any_event(self, event: FileSystemEvent) -> None:
        path, target = self._relative(event.src_path), self._relative(event.dest_path)
        if path.startswith(CLAIM_FOLDER):
            return
        with self._lock:
            if isinstance(event, FileMovedEvent):
                for names in (self._written, self._created):
                    names -= {path, target}
            elif isinstance(event, FileClosedEvent):
                self._written.discard(path)
                self._created.discard(path)
            elif isinstance(event, FileCreatedEvent) and not event.is_synthetic:  # one that was moved in is whole
                self._created.add(path)
                self._fresh.add(path)
            elif isinstance(event, FileModifiedEvent):
                self._written.add(path)
                self._fresh.add(path)
                return  # no need to look before it is closed
        if not target.startswith(CLAIM_FOLDER):
            self._wake()

    def _relative(self, path: bytes | str) -> str:
        return os.fsdecode(path).removeprefix(self._root).lstrip("/")
