"""The engine, from loading to unloading or loss."""

from __future__ import annotations

import math
import threading
import time
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from daemon.errors import EngineLostError, EngineUnavailableError, ScribedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.engine import Engine, LoadedEngine

    LoadEngine = Callable[[Callable[[str], None]], LoadedEngine]

# Slow disks included; what takes longer hangs.
_MAX_LOAD_S: Final = 1800.0
# Memory is returned within seconds, unless the device does not respond.
_MAX_UNLOAD_S: Final = 120.0
# Part of the ten seconds in which the service stops.
_CLOSE_S: Final = 5.0

log = structlog.get_logger()


class Phase(Enum):
    """Where the engine is.

    ABSENT: it was never loaded.
    LOADING: a thread is loading it, for the first time or again.
    LOADED: it can be used.
    UNLOADING: a thread is freeing its memory.
    UNLOADED: its memory was freed, or loading it again failed.
    """

    ABSENT = "absent"
    LOADING = "loading"
    LOADED = "loaded"
    UNLOADING = "unloading"
    UNLOADED = "unloaded"


class EngineHolder:
    """Loads and unloads the engine, each on a thread of its own, and keeps it; any thread may read it.

    Args:
        load: loads the engine; gets a function that takes a line on its progress.
        report: called from the loading thread with each such line.
        announce: called with the engine, before anything uses it, and with None once it is unloaded; from the thread
            that did it.
        wake: called when loading or unloading has ended.
        monotonic: clock in seconds, injectable for tests.
    """

    def __init__(
        self,
        load: LoadEngine,
        report: Callable[[str], None],
        announce: Callable[[LoadedEngine | None], None],
        wake: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._report = report
        self._announce = announce
        self._wake = wake
        self._monotonic = monotonic
        self._engine: LoadedEngine | None = None
        self._phase = Phase.ABSENT
        self._loss: ScribedError | None = None
        self._failure: ScribedError | None = None
        self._thread: threading.Thread | None = None
        self._ends_s = math.inf

    @property
    def engine(self) -> Engine | None:
        """The loaded engine, None while there is none."""
        return self._engine

    @property
    def phase(self) -> Phase:
        """Where the engine is."""
        return self._phase

    @property
    def has_begun(self) -> bool:
        """Whether loading has begun."""
        return self._phase is not Phase.ABSENT

    def count_late_builds(self) -> int:
        """Return how many functions were compiled or captured since the engine was loaded; 0 while there is none."""
        engine = self._engine
        return 0 if engine is None else engine.count_late_builds()

    def begin(self) -> None:
        """Load the engine on its own thread, so that arrivals are noticed meanwhile. A failure ends the service."""
        self._start(Phase.LOADING, self._load_first, _MAX_LOAD_S)

    def load_again(self) -> None:
        """Load the unloaded engine. A failure does not end the service; see `take_failure`."""
        try:
            self._start(Phase.LOADING, self._load_again, _MAX_LOAD_S)
        except RuntimeError as error:  # no memory for a thread
            self._failure = EngineUnavailableError(f"The model cannot be loaded: {error}.", "Free some memory.")
            self._end(Phase.UNLOADED)

    def unload(self) -> None:
        """Unload the engine and free its memory. It must not be in use, and cannot be used from now on."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        try:
            self._start(Phase.UNLOADING, partial(self._unload, engine), _MAX_UNLOAD_S)
        except RuntimeError:  # no memory for a thread: the engine stays, and is unloaded later
            self._engine, self._phase, self._ends_s = engine, Phase.LOADED, math.inf

    def take_failure(self) -> ScribedError | None:
        """Return, once, why the engine could not be loaded again."""
        failure, self._failure = self._failure, None
        return failure

    def lose(self, error: EngineLostError) -> None:
        """Record that the engine is lost: only a new process can help."""
        self._loss = error

    def is_within_limit(self) -> bool:
        """Whether no loading or unloading has exceeded its time limit."""
        return self._monotonic() < self._ends_s

    def find_loss(self) -> ScribedError | None:
        """Return why the first load failed, or the engine was lost; None while all is well."""
        # Read in this order: a thread that ends as it should changes the phase before.
        has_ended = self._thread is not None and not self._thread.is_alive()
        phase = self._phase
        if self._loss is None and has_ended and phase in {Phase.LOADING, Phase.UNLOADING}:  # by an unexpected error
            return EngineUnavailableError(
                f"{phase.value.capitalize()} the model ended unexpectedly.", "See the log for the reason."
            )
        return self._loss

    def close(self) -> None:
        """Stop the engine within seconds, if there is one."""
        if self._engine is not None:
            self._engine.close()
        elif self._thread is not None and self._phase is Phase.UNLOADING:
            self._thread.join(_CLOSE_S)

    def _start(self, phase: Phase, work: Callable[[], None], limit_s: float) -> None:
        self._phase = phase
        self._ends_s = self._monotonic() + limit_s
        self._thread = threading.Thread(target=work, name=f"engine-{phase.value}", daemon=True)
        self._thread.start()

    def _end(self, phase: Phase) -> None:
        self._phase = phase
        self._ends_s = math.inf
        self._wake()

    # On a thread of their own

    def _load_first(self) -> None:
        try:
            engine = self._load(self._report_logged)
        except ScribedError as error:
            self._loss = error
            self._wake()
        else:
            self._keep(engine)

    def _load_again(self) -> None:
        try:
            engine = self._load(self._report_logged)
        except EngineLostError as error:
            self._loss = error
        except ScribedError as error:
            # Without its frames: they may hold half of a model.
            self._failure = EngineUnavailableError(error.what, error.remedy)
        except Exception as error:
            log.exception("engine.load_failed")
            what = f"Loading the model failed unexpectedly ({type(error).__name__})."
            self._failure = EngineUnavailableError(what, "See the log for the reason.")
        else:
            self._keep(engine)
            return
        self._end(Phase.UNLOADED)

    def _keep(self, engine: LoadedEngine) -> None:
        self._announce(engine)
        self._engine = engine
        self._end(Phase.LOADED)

    def _unload(self, engine: LoadedEngine) -> None:
        try:
            engine.unload()
        except EngineLostError as error:
            self._loss = error
        else:
            log.info("engine.unloaded")
        self._announce(None)
        self._end(Phase.UNLOADED)

    def _report_logged(self, line: str) -> None:
        self._report(line)
        log.info("engine.loading", step=line)
