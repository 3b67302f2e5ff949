"""The files that show the status, each written even if others fail."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from daemon.errors import TransientError
from daemon.host import own_files
from daemon.host.clock import now
from daemon.status.heartbeat import BEAT_S, sign_of_life
from daemon.status.hiding import shared_folders, without_names
from daemon.status.reading import is_running
from daemon.status.render import render_status_txt
from daemon.status.snapshot import SNAPSHOT_NAME, STATUS_NAME, Snapshot, as_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from pathlib import Path

    from daemon.config import Config
    from daemon.status.faults import Faults

_SNAPSHOT_MODE: Final = 0o640


class Target:
    """One status file; if it cannot be written, that is noted as a fault, which the other files show.

    Args:
        faults: where to note it.
        what: the beginning of the fault, such as "STATUS.txt".
    """

    def __init__(self, faults: Faults, what: str) -> None:
        self._faults = faults
        self._what = what
        self._shown: Hashable = None

    def show(self, content: Hashable, path: Path, write: Callable[[], None]) -> None:
        """Write unless this content is what the file already holds; what failed is tried again the next time."""
        if content == self._shown:
            return
        self._shown = None
        try:
            write()
        except (OSError, TransientError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
            what = f"{self._what} cannot be written: {reason}."
            remedy = f"Check the disk, the permissions and what is at {path}."
            self._faults.note(f"status: {self._what}", what, remedy)
        else:
            self._shown = content
            self._faults.clear(f"status: {self._what}")


class StatusFiles:
    """status.json and STATUS.txt; used by one thread.

    Args:
        faults: where to note that one cannot be written.
        monotonic: clock, injectable for tests.
    """

    def __init__(self, faults: Faults, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._faults = faults
        self._monotonic = monotonic
        self._json = Target(faults, "status.json")
        self._text = Target(faults, "STATUS.txt")
        self._content: dict[str, Any] | None = None
        self._state: Path | None = None
        self._next_beat_s = -math.inf
        self._has_swept = False

    def show(self, config: Config, snapshot: Snapshot) -> None:
        """Write both where they differ from this snapshot; a second time where the first found a new fault."""
        if not self._has_swept:
            self._has_swept = True
            for path in (config.folders.state / SNAPSHOT_NAME, config.folders.outbox / STATUS_NAME):
                own_files.remove_leftovers(path, shared_folders(config.folders))
        self._write(config, snapshot)
        faults = self._faults.standing()
        if faults != snapshot.faults:
            self._write(config, replace(snapshot, faults=faults))

    def _write(self, config: Config, snapshot: Snapshot) -> None:
        written = replace(snapshot, updated_at=now())
        self._state = config.folders.state
        path = self._state / SNAPSHOT_NAME
        self._json.show(snapshot, path, lambda: self._write_json(path, as_dict(written)))
        if config.output.status_file != "off":
            text_path = config.folders.outbox / STATUS_NAME
            at = datetime.now().astimezone()
            # With the day: what was done "today" was done yesterday after midnight.
            key = (snapshot, config.output.status_file, config.logging.names, at.date())
            self._text.show(key, text_path, lambda: _write_text(config, text_path, written, at))

    def beat(self) -> None:
        """Renew the heartbeat in status.json, every ten seconds at most."""
        if self._content is None or self._state is None or self._monotonic() < self._next_beat_s:
            return
        path, content = self._state / SNAPSHOT_NAME, self._content
        self._json.show(object(), path, lambda: self._write_json(path, content))

    def _write_json(self, path: Path, content: dict[str, Any]) -> None:
        self._content = content
        self._next_beat_s = self._monotonic() + BEAT_S
        text = json.dumps(content | sign_of_life(), ensure_ascii=False, indent=2) + "\n"
        own_files.overwrite(path, text.encode(), _SNAPSHOT_MODE)


def _write_text(config: Config, path: Path, snapshot: Snapshot, at: datetime) -> None:
    is_full = config.output.status_file == "full"
    if not is_full:
        snapshot = without_names(snapshot, config)
    text = render_status_txt(snapshot, shows_names=is_full, names=config.logging.names, now=at)
    own_files.overwrite(path, text.encode(), config.output.mode_bits)


def show_waiting(files: StatusFiles, config: Config, faults: Faults) -> None:
    """Show that the service waits for a folder; nothing is written over the status of another one that runs."""
    if not _is_of_another(config.folders.state):
        files.show(config, Snapshot(state="waiting", updated_at="", faults=faults.standing()))
        files.beat()


def _is_of_another(state: Path) -> bool:
    try:
        pid = json.loads((state / SNAPSHOT_NAME).read_bytes())["process"]["pid"]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return bool(pid != sign_of_life()["process"]["pid"]) and is_running(state)
