"""How long the next attempt to load the model waits after one that failed.

Loading libraries and gigabytes every few seconds is pointless while the model or the GPU is missing, so attempts wait:
longer each time, at most five minutes, and only until the model or the driver has changed.
"""

from __future__ import annotations

import hashlib
import math
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from daemon import checkpoint
from daemon.host import gpu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.config import ModelSettings

# The first wait between two attempts; the same as the unit's RestartSec.
FIRST_WAIT_S: Final = 5.0
_MAX_WAIT_S: Final = 300.0
_MAX_DOUBLINGS: Final = 10
# A model that is still being copied changes between two checks.
_LOOK_S: Final = 2.0


def wait_after(n_failed: int) -> float:
    """Return the seconds between the last of several failed attempts in a row and the next one."""
    doublings = min(n_failed - 1, _MAX_DOUBLINGS)
    return min(FIRST_WAIT_S * 2**doublings, _MAX_WAIT_S) if n_failed else 0.0


class LoadDelay:
    """Says when to try again. An attempt is due at once until `begin` is called.

    Args:
        model: the section of the configuration; its folder is watched while an attempt waits.
        monotonic: clock in seconds, injectable for tests.
    """

    def __init__(self, model: ModelSettings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._folder = checkpoint.find_folder(model.path)
        self._monotonic = monotonic
        self._due_s = -math.inf
        self._due_at = datetime.now(UTC)
        self._failed_signs = ""
        self._signs = ""
        self._next_look_s = -math.inf

    def begin(self, wait_s: float, signs: str) -> None:
        """Begin to wait.

        Args:
            wait_s: for how long.
            signs: what `find_signs` returned before the attempt that failed.
        """
        self._due_s = self._monotonic() + wait_s
        self._due_at = datetime.now(UTC) + timedelta(seconds=wait_s)
        self._failed_signs, self._signs = signs, ""
        self._next_look_s = -math.inf

    def say_when(self) -> str:
        """Return when the next attempt is, as a sentence."""
        return f"The next attempt is at {self._due_at:%H:%M:%S} UTC, or as soon as the model's folder changes."

    def left_s(self) -> float:
        """Return the seconds until `is_due` is worth calling again."""
        return max(0.0, min(self._due_s - self._monotonic(), _LOOK_S))

    def is_due(self) -> bool:
        """Whether to try again: the wait is over, or the model or the driver has changed."""
        now_s = self._monotonic()
        if now_s >= self._due_s:
            return True
        if now_s < self._next_look_s:
            return False
        self._next_look_s = now_s + _LOOK_S
        before, self._signs = self._signs, self.find_signs()
        return self._signs != self._failed_signs and self._signs == before

    def find_signs(self) -> str:
        """Return a digest that changes with the model's files and the GPU's driver."""
        return hashlib.sha256("\n".join(self._list_signs()).encode(errors="surrogateescape")).hexdigest()

    def _list_signs(self) -> Iterator[str]:
        for path in (self._folder, *_entries(self._folder)):
            with suppress(OSError):
                facts = path.stat()  # the change time includes chmod and chown
                yield f"{path} {facts.st_ino} {facts.st_size} {facts.st_ctime_ns}"
        yield from gpu.signs()


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
