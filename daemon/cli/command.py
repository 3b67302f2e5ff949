"""What the commands that work without the daemon share: a cache of their own, and a stop by signal."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.errors import StoppedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from daemon.config import Config


def with_usable_cache(config: Config) -> Config:
    """Return a configuration whose cache belongs to the caller.

    The service could not overwrite files that another user leaves in its cache.
    """
    with contextlib.suppress(OSError):
        if config.folders.cache.stat().st_uid == os.geteuid():
            return config
    folders = config.folders.model_copy(update={"cache": _own_cache()})
    return config.model_copy(update={"folders": folders})


def stop_on_signals() -> Callable[[], None]:
    """Return a function that raises StoppedError after Ctrl-C or SIGTERM."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        seen.append(number)

    signal.signal(signal.SIGINT, note)
    signal.signal(signal.SIGTERM, note)

    def raise_if_stopped() -> None:
        if seen:
            raise StoppedError("Interrupted.")

    return raise_if_stopped


def _own_cache() -> Path:
    """Return a folder that only the caller can write to, since compiled kernels in it are run."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "scribed"
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(cache, os.W_OK | os.X_OK) and cache.stat().st_uid == os.geteuid():
            return cache
    except (OSError, RuntimeError):  # the latter where the user has no home folder
        pass
    cache = Path(tempfile.mkdtemp(prefix="scribed-"))
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    return cache
