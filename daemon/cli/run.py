"""`scribed run` and `scribed once`.

Signals are noted from the first moment, so whatever is slow to import is imported after that.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from daemon.errors import ExitCode
from daemon.service.flags import Flags

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType


def run(option: Path | None, *, once: bool) -> int:
    """Run the service until it is stopped, or with `once` until the recordings in the inbox are done."""
    signals = _Signals()
    code = _run(option, signals.flags, once=once)
    return ExitCode.INTERRUPTED if signals.is_interrupted else code


class _Signals:
    """Turns signals into requests to the service."""

    def __init__(self) -> None:
        self.flags = Flags()
        self.is_interrupted = False
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGHUP, self._reload)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.is_interrupted = number == signal.SIGINT
        self.flags.stop()

    def _reload(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.flags.reload()


def _run(option: Path | None, flags: Flags, *, once: bool) -> ExitCode:
    import faulthandler
    import os

    from daemon import engine, logs
    from daemon.cli import config_option
    from daemon.host.privileges import become_owner, hide_memory, leave_no_core
    from daemon.host.systemd import Notifier
    from daemon.service.service import Service
    from daemon.status.hiding import shared_folders

    config, path = config_option.read(option)
    become_owner(config.folders.state)
    leave_no_core()
    hide_memory()
    faulthandler.enable()  # prints where it hung or crashed; the watchdog ends it with SIGABRT
    logs.configure(config.logging, shared=shared_folders(config.folders))
    notifier = Notifier.from_environment(os.environ)
    service = Service(
        config, path, lambda report: engine.load(config.model, config.folders.cache, report), notifier, flags
    )
    return service.run(once=once)
