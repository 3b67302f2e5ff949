"""Change events of the inbox: which files are still being written, and which folders send no events.

The only user of watchdog, and of some of its inner parts: it has no public list of the folders it watches.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

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
from watchdog.observers.inotify import InotifyEmitter, InotifyObserver
from watchdog.observers.inotify_move_event_grouper import InotifyMoveEventGrouper

from daemon.inbox.names import CLAIM_FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from watchdog.observers.inotify import InotifyWatchGroup

_OVERFLOW_LOGGER: Final = "watchdog.observers.inotify_c"
_EMITTER_LOGGER: Final = "watchdog.observers.inotify"
_MOVE_WAIT_S: Final = 0.02
_STOP_WAIT_S: Final = 5.0
_UNWATCHED: Final = -1  # watchdog's watch descriptor of a folder that the kernel refused to watch
_PROC_SYS: Final = Path("/proc/sys")
_FEWEST_WATCHES: Final = 524_288
_FEWEST_INSTANCES: Final = 1024

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WatchShortage:
    """The kernel refuses to watch more folders.

    Attributes:
        n_folders: how many folders of the inbox are not watched; 0 where none is.
        sysctl: the limit that was reached, such as "fs.inotify.max_user_watches".
        limit: its value.
        wanted: a value that is enough.
    """

    n_folders: int
    sysctl: str
    limit: int
    wanted: int


def find_shortage(code: int | None, n_folders: int) -> WatchShortage | None:
    """Return which limit an error of inotify speaks of, None where it speaks of none.

    Each limit also exists per user namespace; the lower of the two applies.

    Args:
        code: the errno.
        n_folders: how many folders are not watched because of it.
    """
    limits = {
        errno.ENOSPC: ("fs.inotify.max_user_watches", "user.max_inotify_watches", _FEWEST_WATCHES),
        errno.EMFILE: ("fs.inotify.max_user_instances", "user.max_inotify_instances", _FEWEST_INSTANCES),
    }
    if code not in limits:
        return None
    *names, fewest = limits[code]
    limit, sysctl = min((_read_limit(name), name) for name in names)
    return WatchShortage(n_folders, sysctl, limit, max(fewest, 2 * limit))


def _read_limit(sysctl: str) -> int:
    try:
        return int((_PROC_SYS / sysctl.replace(".", "/")).read_text())
    except (OSError, ValueError):  # an old kernel, or /proc is hidden: then the other one is named
        return 2**31 - 1


class InboxEvents:
    """Listens for events of one inbox, as long as possible.

    Args:
        root: the inbox.
        wake: called from any thread when it is worth scanning before the time is up.
    """

    def __init__(self, root: Path, wake: Callable[[], None]) -> None:
        self.writers = Writers(root, wake)
        self._root = root
        self._root_bytes = os.fsencode(root)
        self._observer: InotifyObserver | None = None
        self._watched: tuple[int, int] | None = None
        self._start_error = ""
        self._start_code: int | None = None
        self._n_refused = 0
        self._is_full = False

    def start(self) -> None:
        """Start listening; if that fails, `is_alive` stays False and `shortage` may say why."""
        # A folder created while watchdog starts is added twice, by its walk and by its event, which is harmless.
        warnings.filterwarnings("ignore", message="Callback with id", category=RuntimeWarning)
        # A move out of the inbox, as in each delivery, delays all later events until it is clear that its target is not
        # in the inbox. The kernel reports both halves of a move at once, so a short wait is enough.
        InotifyMoveEventGrouper.delay = _MOVE_WAIT_S
        observer = None
        try:
            self._watched = self._identity()
            # Full events distinguish a file that was moved in from one that was created here.
            observer = InotifyObserver(generate_full_events=True)
            observer.schedule(self.writers, str(self._root), recursive=True, event_filter=_EVENTS)
            observer.start()
        except OSError as error:  # out of inotify watches or instances, or the inbox is gone for now
            if observer is not None:
                observer.stop()  # its reader runs from the moment it is made
            if str(error) != self._start_error:  # once, not at every try
                log.warning("inbox.events_unavailable", error=str(error))
            self._start_error, self._start_code = str(error), error.errno
            return
        logging.getLogger(_OVERFLOW_LOGGER).addFilter(self.writers.note_overflow)
        logging.getLogger(_EMITTER_LOGGER).addFilter(_is_no_late_event)
        self._start_error, self._start_code = "", None
        self._observer = observer

    def stop(self) -> None:
        """Stop the threads and forget what they reported."""
        if self._observer is not None:
            logging.getLogger(_OVERFLOW_LOGGER).removeFilter(self.writers.note_overflow)
            self._observer.stop()
            self._observer.join(_STOP_WAIT_S)
            self._observer = None
        self.writers.forget_all()

    def forget_failure(self) -> None:
        """Forget why listening failed: it is no longer needed."""
        self._start_error, self._start_code = "", None

    def is_alive(self) -> bool:
        """Whether events of the folder that is now at our path still reach us."""
        if self._observer is None or self.writers.has_lost_events():
            return False
        emitters = self._observer.emitters
        reader = self._observer._inotify_fd  # noqa: SLF001  # it has no public name; without it no event comes
        try:
            is_same = self._identity() == self._watched
        except OSError:
            return False
        return bool(emitters) and all(map(_is_alive, (self._observer, reader, *emitters))) and is_same

    def _identity(self) -> tuple[int, int]:
        facts = self._root.stat()
        return facts.st_dev, facts.st_ino

    # Which folders are watched

    def begin_scan(self) -> None:
        """Count the folders without a watch from here on."""
        self._n_refused = 0
        self._is_full = False

    def watch(self, folder: str) -> None:
        """Make sure that this folder is watched: watchdog silently skips those that the kernel refused.

        Args:
            folder: path within the inbox.
        """
        group = self._group()
        if group is None:
            return
        path = os.path.join(self._root_bytes, os.fsencode(folder)) if folder else self._root_bytes  # noqa: PTH118  # bytes
        if group._active_callbacks_by_path.get(path, _UNWATCHED) != _UNWATCHED:  # noqa: SLF001  # see the module's head
            return
        if not self._is_full:
            try:
                self._add_watch(group, path)
            except OSError as error:
                self._is_full = error.errno == errno.ENOSPC
        self._n_refused += self._is_full

    def _group(self) -> InotifyWatchGroup | None:
        emitters = self._observer.emitters if self._observer is not None else ()
        emitter = next(iter(emitters), None)
        return emitter._inotify if isinstance(emitter, InotifyEmitter) else None  # noqa: SLF001  # as above

    @staticmethod
    def _add_watch(group: InotifyWatchGroup, path: bytes) -> None:
        """Do what watchdog's `_add_callback` does, but raise the error."""
        with group._lock:  # noqa: SLF001  # as above
            number = group._inotify_fd.add_callback(path, group.event_mask, group, group._id)  # noqa: SLF001  # as above
            group._active_callbacks_by_path[path] = number  # noqa: SLF001  # as above
            group._active_callbacks_by_watch[number] = path  # noqa: SLF001  # as above

    def shortage(self) -> WatchShortage | None:
        """Return which limit keeps folders from being watched, as the last scan found it."""
        if self._observer is None:
            return find_shortage(self._start_code, 0)
        return find_shortage(errno.ENOSPC, self._n_refused) if self._n_refused else None


def _is_alive(thread: threading.Thread) -> bool:
    return thread.is_alive()


def _is_no_late_event(record: logging.LogRecord) -> bool:
    """Drop watchdog's record of an event that came while it was being stopped: it is logged as an error but is none."""
    return "thread is inactive" not in record.getMessage()


# Opening and reading are not among them: they would wake us whenever a file is read.
_EVENTS: Final[list[type[FileSystemEvent]]] = [
    FileCreatedEvent,
    FileModifiedEvent,
    FileClosedEvent,
    FileMovedEvent,
    DirCreatedEvent,
    DirMovedEvent,
]


class Writers(FileSystemEventHandler):
    """Remembers which files are being written to, and which were closed since the last scan.

    A hard link is made without a close, so that a file was made says nothing about it: only a write does.
    """

    def __init__(self, root: Path, wake: Callable[[], None]) -> None:
        self._root = os.fspath(root)
        self._wake = wake
        self._lock = threading.Lock()
        self._written: set[str] = set()
        self._closed: set[str] = set()
        self._fresh: set[str] = set()
        self._has_lost_events = False

    def written(self) -> frozenset[str]:
        """Return the files that were written to and not closed since."""
        with self._lock:
            return frozenset(self._written)

    def take_closed(self) -> set[str]:
        """Return the files that were closed or moved here since the last call."""
        with self._lock:
            closed, self._closed = self._closed, set()
        return closed

    def give_back_closed(self, closed: set[str]) -> None:
        """Keep these for the next call after all: their folder could not be scanned."""
        with self._lock:
            self._closed |= closed - self._written

    def has_lost_events(self) -> bool:
        """Whether the kernel dropped events since the start."""
        with self._lock:
            return self._has_lost_events

    def keep_only(self, paths: Container[str]) -> None:
        """Forget files that are gone; names that came since the previous scan are kept until the next."""
        with self._lock:
            self._written -= {name for name in self._written if name not in paths and name not in self._fresh}
            self._fresh.clear()

    def forget_all(self) -> None:
        """Forget everything: the events in between are lost."""
        with self._lock:
            self._written.clear()
            self._closed.clear()
            self._has_lost_events = False

    def note_overflow(self, record: logging.LogRecord) -> bool:
        """Read watchdog's log, the only place where it reports lost events.

        What was open may be closed. Events from before are still on their way to us, so nothing is
        forgotten here: the next scan starts watchdog again.
        """
        if "overflow" in record.getMessage():
            with self._lock:
                self._has_lost_events = True
            self._wake()
        return True

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Take one event; called from watchdog's thread."""
        path, target = self._relative(event.src_path), self._relative(event.dest_path)
        if path.startswith(CLAIM_FOLDER):
            return
        with self._lock:
            if isinstance(event, FileMovedEvent):
                self._note_move(path, target, is_with_folder=event.is_synthetic)
            elif isinstance(event, FileClosedEvent):
                self._written.discard(path)
                self._closed.add(path)
            elif isinstance(event, FileCreatedEvent) and event.is_synthetic:  # it came within a folder moved in
                self._closed.add(path)
            elif isinstance(event, FileModifiedEvent):
                self._written.add(path)
                self._closed.discard(path)
                self._fresh.add(path)
                return  # no need to scan before it is closed
        if not target.startswith(CLAIM_FOLDER):
            self._wake()

    def _note_move(self, path: str, target: str, *, is_with_folder: bool) -> None:
        """A file that is renamed is complete; one whose folder is renamed may still be written to."""
        was_written = path in self._written
        self._written -= {path, target}
        self._closed.discard(path)
        if is_with_folder and was_written:
            self._written.add(target)
            self._fresh.add(target)
        elif target:
            self._closed.add(target)

    def _relative(self, path: bytes | str) -> str:
        return os.fsdecode(path).removeprefix(self._root).lstrip("/")
