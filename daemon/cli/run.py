"""`scribed run` and `scribed once`."""

from __future__ import annotations

import faulthandler
import os
import signal
from typing import TYPE_CHECKING

from daemon import engine, logs
from daemon.cli import config_option
from daemon.errors import ExitCode
from daemon.host.privileges import become_owner, hide_memory, leave_no_core
from daemon.host.systemd import Notifier
from daemon.service import Service

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType


def run(option: Path | None, *, once: bool) -> int:
    """Run the service until it is stopped, or with `once` until the recordings in the inbox are done."""
    config, path = config_option.read(option)
    become_owner(config.folders.state)
    leave_no_core()
    hide_memory()
    faulthandler.enable()  # prints where it hung or crashed; the watchdog ends it with SIGABRT
    logs.configure(config.logging)
    service = Service(
        config,
        path,
        lambda report: engine.load(config.model, config.folders.cache, report),
        Notifier.from_environment(os.environ),
    )
    interrupted = _Interrupts(service)
    code = service.run(once=once)
    return ExitCode.INTERRUPTED if interrupted.is_interrupted else code


class _Interrupts:
    """Turns signals into requests to the service."""

    def __init__(self, service: Service) -> None:
        self.is_interrupted = False
        self._service = service
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGHUP, self._reload)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.is_interrupted = number == signal.SIGINT
        self._service.stop()

    def _reload(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._service.reload()
