"""The service: one running instance, from start to stop."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from daemon.config import Settings
from daemon.errors import ExitCode
from daemon.service.flags import Flags
from daemon.service.loop import Loop
from daemon.service.once import OnceRun
from daemon.service.parts import Surroundings, build
from daemon.service.reload import sha256_of
from daemon.service.start import Start
from daemon.spool import SharedFolders
from daemon.status import Snapshot
from daemon.status.faults import Faults
from daemon.status.hiding import conceal_names

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.config import Config
    from daemon.host.systemd import Notifier
    from daemon.service.engine_holder import LoadEngine


class Service:
    """One instance: its folders, its model, its loop.

    Args:
        config: the configuration.
        config_path: the file that a reload reads again, None for the defaults.
        load_engine: loads the model; called on a thread of its own with a function that takes a line on its progress.
        notifier: reports to systemd.
        flags: what signal handlers ask for; they may have been set already.
    """

    def __init__(
        self,
        config: Config,
        config_path: Path | None,
        load_engine: LoadEngine,
        notifier: Notifier,
        flags: Flags | None = None,
    ) -> None:
        settings = Settings(config, sha256_of(config_path))
        self.flags = flags or Flags()
        self._around = Surroundings(settings, config_path, load_engine, notifier, self.flags, time.monotonic)

    def run(self, *, once: bool = False) -> ExitCode:
        """Run until stopped; with `once`, until everything now in the inbox has been processed.

        Raises:
            AlreadyRunningError, NoPermissionError, NewerVersionError: it cannot start.
            TransientError: it cannot start now, and `once` does not wait.
            EngineUnavailableError, EngineLostError: there is no model, or no longer.
        """
        around, faults = self._around, Faults()
        config = around.settings.current
        conceal_names(faults, config, Snapshot(state="loading", updated_at=""))  # the first turn may find some
        shared = SharedFolders(config.folders)
        with ExitStack() as held:
            journal = Start(around, shared, faults).open(held, once=once)
            if journal is None:
                return ExitCode.INTERRUPTED if once else ExitCode.OK
            parts = build(around, shared, journal, faults, once=once)
            once_run = OnceRun(around.settings, parts.intake, parts.worker, around.monotonic) if once else None
            return Loop(around, parts, once_run).run()
