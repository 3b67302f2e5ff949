"""The back-off between starts that fail: how many failed in a row, and how long the next one waits before loading.

systemd restarts the service after a fixed delay, whatever ended it; a start that follows failed ones adds to that.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from daemon.host import files
from daemon.service.load_delay import FIRST_WAIT_S, LoadDelay, wait_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.config import ModelSettings
    from daemon.errors import ScribedError

_NAME: Final = "starts.json"
_MODE: Final = 0o600
# A service that ran this long had started well; its later end is another problem.
_GOOD_S: Final = 600.0
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_UNEXPLAINED: Final = "The service ended before the model was ready, {n} time(s) in a row."
_UNEXPLAINED_REMEDY: Final = "See the log for the reason: journalctl -u scribed -p warning."

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Failed:
    """What is recorded about starts that failed in a row since the machine booted."""

    boot_id: str
    n: int
    what: str
    remedy: str
    signs: str  # digest of the model and the driver as the last of these starts found them


class StartBackoff:
    """Counts failed starts in the state folder; writes nothing where nothing restarts the service.

    Args:
        state: the state folder, locked by this process.
        model: the section of the configuration; its folder is watched while a start waits.
        is_supervised: whether the service is restarted when it fails.
        monotonic: clock in seconds, injectable for tests.
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
        self._is_supervised = is_supervised
        self._monotonic = monotonic
        self._boot_id = _read_boot_id()
        self._failed = self._read()
        self._delay = LoadDelay(model, monotonic)
        self._signs = ""
        self._ready_s: float | None = None
        wait_s = max(0.0, wait_after(self._failed.n) - FIRST_WAIT_S)  # as RestartSec, systemd has waited that already
        self._delay.begin(wait_s, self._failed.signs)
        if wait_s:
            log.warning("service.start_delayed", wait_s=wait_s, n_failed=self._failed.n, what=self._failed.what)

    def reason(self) -> tuple[str, str]:
        """Return why the last start failed, and its remedy with the time of the next attempt."""
        return self._failed.what, f"{self._failed.remedy} {self._delay.say_when()}"

    def left_s(self) -> float:
        """Return the seconds until `is_due` is worth calling again."""
        return self._delay.left_s()

    def is_due(self) -> bool:
        """Whether to load the model: no start has failed, the wait is over, or the model or driver has changed."""
        return self._delay.is_due()

    def begin(self) -> None:
        """Count this start as failed until it is ready: a crash leaves no time to count it later."""
        self._signs = self._delay.find_signs()
        n = self._failed.n + 1
        self._write(_Failed(self._boot_id, n, _UNEXPLAINED.format(n=n), _UNEXPLAINED_REMEDY, self._signs))

    def succeed(self) -> None:
        """Forget failed starts: the model is ready."""
        self._ready_s = self._monotonic()
        self.forget()

    def fail(self, loss: ScribedError) -> None:
        """Count this start as failed: the model could not be loaded, or was lost soon after."""
        was_good = self._ready_s is not None and self._monotonic() - self._ready_s >= _GOOD_S
        n = 1 if was_good else self._failed.n + 1
        self._write(_Failed(self._boot_id, n, loss.what, loss.remedy, self._signs))

    def forget(self) -> None:
        """Forget failed starts: the service was stopped on purpose, and the next start should load at once."""
        if self._is_supervised:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _read(self) -> _Failed:
        none = _Failed(self._boot_id, 0, "", "", "")
        if not self._is_supervised:
            return none
        try:
            failed = _Failed(**json.loads(self._path.read_bytes()))
        except (OSError, ValueError, TypeError):  # none, or a damaged file: no reason to wait
            return none
        is_valid = isinstance(failed.n, int) and failed.n > 0
        # A reboot is how a driver is fixed.
        return failed if is_valid and failed.boot_id == self._boot_id else none

    def _write(self, failed: _Failed) -> None:
        if self._is_supervised:
            with suppress(OSError):  # a full disk: the next start does not wait
                files.replace(self._path, json.dumps(asdict(failed)).encode(), _MODE)


def _read_boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:  # a container that hides it
        return ""
