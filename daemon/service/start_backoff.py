"""How many starts in a row came to nothing, and how long the next one waits before it loads the model.

systemd starts the service anew after a fixed time, whatever ended it. Loading libraries and gigabytes every
few seconds for a model or a GPU that is not there helps nobody, so a start that follows failed ones waits: longer
each time, never longer than five minutes, and no longer once model or driver have changed.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from daemon import checkpoint
from daemon.host import files, gpu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon.config import ModelSettings
    from daemon.errors import ScribedError

_NAME = "starts.json"
_MODE = 0o600
_FIRST_S, _MAX_S = 5.0, 300.0  # the first is the unit's RestartSec, which systemd has waited already
_MAX_DOUBLINGS = 10
# What held for so long was a good start: whatever came then is a trouble of its own.
_GOOD_S = 600.0
# A model that is being copied changes from look to look.
_LOOK_S = 2.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_UNEXPLAINED = "The service came to its end before the model was ready, {n} time(s) in a row."
_UNEXPLAINED_REMEDY = "The log says why: journalctl -u scribed -p warning."

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Failed:
    """What is remembered of starts that failed one after the other since the machine came up."""

    boot_id: str
    n: int
    what: str
    remedy: str
    signs: str  # of the model and the driver, as the last of them found them


class StartBackoff:
    """Counts in the state folder; writes nothing where nobody starts the service anew.

    Args:
        state: the state folder, locked for us.
        model: the section of the configuration; its folder is watched while a start waits.
        is_supervised: whether somebody starts the service anew when it fails.
        monotonic: seconds that only ever grow.
    """

    def __init__(
        self,
        state: Path,
        model: ModelSettings,
        *,
        is_supervised: bool,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = state / _NAME
        self._folder = checkpoint.find_folder(model.path)
        self._is_supervised = is_supervised
        self._monotonic = monotonic
        self._boot_id = _read_boot_id()
        self._failed = self._read()
        self._signs = ""
        self._next_look_s = -math.inf
        self._ready_s: float | None = None
        doublings = min(self._failed.n - 1, _MAX_DOUBLINGS)
        wait_s = min(_FIRST_S * 2**doublings, _MAX_S) - _FIRST_S if self._failed.n else 0.0
        self._due_s = monotonic() + wait_s
        self._due_at = datetime.now(UTC) + timedelta(seconds=wait_s)
        if wait_s:
            log.warning("service.start_delayed", wait_s=wait_s, n_failed=self._failed.n, what=self._failed.what)

    def reason(self) -> tuple[str, str]:
        """Return what kept the last start from success and its remedy, with the time of the next try."""
        again = f"The next try is at {self._due_at:%H:%M:%S} UTC, or as soon as the model's folder changes."
        return self._failed.what, f"{self._failed.remedy} {again}"

    def left_s(self) -> float:
        """Return in how many seconds `is_due` is to be asked again."""
        return max(0.0, min(self._due_s - self._monotonic(), _LOOK_S))

    def is_due(self) -> bool:
        """Whether the model may be loaded: nothing has failed, the wait is over, or what failed has changed."""
        now_s = self._monotonic()
        if now_s >= self._due_s:
            return True
        if now_s < self._next_look_s:
            return False
        self._next_look_s = now_s + _LOOK_S
        before, self._signs = self._signs, self._find_signs()
        return self._signs != self._failed.signs and self._signs == before

    def begin(self) -> None:
        """Count this start among the failed ones, until it is ready: a crash leaves no time for that."""
        self._signs = self._find_signs()
        n = self._failed.n + 1
        self._write(_Failed(self._boot_id, n, _UNEXPLAINED.format(n=n), _UNEXPLAINED_REMEDY, self._signs))

    def succeed(self) -> None:
        """Forget the failed ones: the model is ready."""
        self._ready_s = self._monotonic()
        self.forget()

    def fail(self, loss: ScribedError) -> None:
        """Count this start among the failed ones: the model could not be loaded, or was lost soon after."""
        was_good = self._ready_s is not None and self._monotonic() - self._ready_s >= _GOOD_S
        n = 1 if was_good else self._failed.n + 1
        self._write(_Failed(self._boot_id, n, loss.what, loss.remedy, self._signs))

    def forget(self) -> None:
        """Forget the failed ones: somebody stopped the service, and will expect the next start to try at once."""
        if self._is_supervised:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _read(self) -> _Failed:
        none = _Failed(self._boot_id, 0, "", "", "")
        if not self._is_supervised:
            return none
        try:
            failed = _Failed(**json.loads(self._path.read_bytes()))
        except (OSError, ValueError, TypeError):  # none yet, or a damaged file: no reason to wait
            return none
        is_whole = isinstance(failed.n, int) and failed.n > 0
        # Restarting the machine is how a driver is mended.
        return failed if is_whole and failed.boot_id == self._boot_id else none

    def _write(self, failed: _Failed) -> None:
        if self._is_supervised:
            with suppress(OSError):  # a full disk: then the next start does not wait
                files.replace(self._path, json.dumps(asdict(failed)).encode(), _MODE)

    def _find_signs(self) -> str:
        """Return what tells whether the model's files or the GPU's driver have changed."""
        return hashlib.sha256("\n".join(self._list_signs()).encode(errors="surrogateescape")).hexdigest()

    def _list_signs(self) -> Iterator[str]:
        for path in (self._folder, *_entries(self._folder)):
            with suppress(OSError):
                facts = path.stat()  # its change time tells of chmod and chown too
                yield f"{path} {facts.st_ino} {facts.st_size} {facts.st_ctime_ns}"
        yield from gpu.signs()


def _read_boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:  # a container that hides it
        return ""


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
