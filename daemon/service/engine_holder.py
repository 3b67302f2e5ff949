"""The engine, from loading to loss."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Final

import structlog

from daemon.errors import EngineUnavailableError, ScribedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.engine import Engine, LoadedEngine
    from daemon.errors import EngineLostError

    LoadEngine = Callable[[Callable[[str], None]], LoadedEngine]

# Slow disks included; what takes longer hangs.
_MAX_LOAD_S: Final = 1800.0

log = structlog.get_logger()


class EngineHolder:
    """Loads the engine on a thread of its own and keeps it; any thread may read it.

    Args:
        load: loads the engine; gets a function that takes a line on its progress.
        report: called from the loading thread with each such line.
        announce: called from the loading thread with the engine, before anything uses it.
        wake: called when loading has ended.
        monotonic: clock in seconds, injectable for tests.
    """

    def __init__(
        self,
        load: LoadEngine,
        report: Callable[[str], None],
        announce: Callable[[LoadedEngine], None],
        wake: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._report = report
        self._announce = announce
        self._wake = wake
        self._monotonic = monotonic
        self._engine: Engine | None = None
        self._loss: ScribedError | None = None
        self._loading: threading.Thread | None = None
        self._load_ends_s = math.inf

    @property
    def engine(self) -> Engine | None:
        """The loaded engine, None until there is one."""
        return self._engine

    @property
    def has_begun(self) -> bool:
        """Whether loading has begun."""
        return self._loading is not None

    def begin(self) -> None:
        """Load the engine on its own thread, so that arrivals are noticed meanwhile."""
        self._load_ends_s = self._monotonic() + _MAX_LOAD_S
        self._loading = threading.Thread(target=self._run, name="engine-loading", daemon=True)
        self._loading.start()

    def lose(self, error: EngineLostError) -> None:
        """Record that the engine is lost: only a new process can help."""
        self._loss = error

    def is_within_limit(self) -> bool:
        """Whether loading has not begun, or is still within its time limit."""
        return self._monotonic() < self._load_ends_s

    def find_loss(self) -> ScribedError | None:
        """Return why loading failed or the engine was lost; None while all is well."""
        # Read in this order: the engine is there before its loading thread has ended.
        has_ended = self._loading is not None and not self._loading.is_alive()
        if self._loss is None and self._engine is None and has_ended:  # by an unexpected error
            return EngineUnavailableError("Loading the model ended unexpectedly.", "See the log for the reason.")
        return self._loss

    def close(self) -> None:
        """Stop the engine within seconds, if there is one."""
        if self._engine is not None:
            self._engine.close()

    def _run(self) -> None:
        try:
            engine = self._load(self._report_logged)
        except ScribedError as error:
            self._loss = error
        else:
            self._announce(engine)
            self._engine = engine
        self._wake()

    def _report_logged(self, line: str) -> None:
        self._report(line)
        log.info("engine.loading", step=line)
