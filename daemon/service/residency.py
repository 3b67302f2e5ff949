"""Keeps the model in memory, and unloads it after `model.idle_unload_min` minutes without work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from daemon.errors import NoPermissionError, TransientError
from daemon.service.engine_holder import Phase
from daemon.service.load_delay import wait_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.errors import ScribedError
    from daemon.service.engine_holder import EngineHolder
    from daemon.service.load_delay import LoadDelay
    from daemon.status.faults import Faults
    from daemon.status.publisher import StatusPublisher

_FAULT: Final = "engine"
_STATES: Final = {Phase.LOADED: "ready", Phase.UNLOADING: "ready", Phase.UNLOADED: "idle"}

log = structlog.get_logger()


@dataclass(slots=True)
class Residency:
    """Unloads the model when nothing needs it, and loads it again; used by the loop's thread alone.

    Attributes:
        holder: has the engine.
        is_needed: whether a recording needs the model, or will soon.
        publisher: shows how loading goes.
        faults: shows why the model cannot be loaded again.
        delay: between attempts to load it again.
        idle_s: after how many seconds without work to unload it; infinite for never.
        monotonic: clock in seconds, injectable for tests.
    """

    holder: EngineHolder
    is_needed: Callable[[], bool]
    publisher: StatusPublisher
    faults: Faults
    delay: LoadDelay
    idle_s: float
    monotonic: Callable[[], float]
    _idle_since_s: float | None = None  # None while it is needed, or not loaded
    _n_failed: int = 0  # attempts in a row to load it again
    _signs: str = ""  # of the model's files, before the last attempt

    @property
    def state(self) -> str:
        """The state of the service while it runs: loading (also between attempts to load again), ready or idle."""
        return "loading" if self._n_failed else _STATES.get(self.holder.phase, "loading")

    def left_s(self) -> float:
        """Return the seconds until `review` is worth calling again; infinite where only an event counts."""
        if self.holder.phase is Phase.LOADED and self._idle_since_s is not None:
            return max(0.0, self._idle_since_s + self.idle_s - self.monotonic())
        if self.holder.phase is Phase.UNLOADED and self._n_failed:
            return self.delay.left_s()
        return math.inf

    def review(self) -> None:
        """Begin to unload the model, or to load it again, if it is time."""
        if self.idle_s == math.inf:
            return
        if self.holder.phase is Phase.LOADED:
            self._note_loaded()
            self._unload_if_idle()
        elif self.holder.phase is Phase.UNLOADED:
            self._idle_since_s = None
            failure = self.holder.take_failure()
            if failure is not None:
                self._note_failure(failure)
            elif self._n_failed:
                self._retry_if_due()
            elif self._find_need() is True:
                self._load("Loading the model again.")

    def _find_need(self) -> bool | None:
        """Return whether the model is needed, None if that is unknown now."""
        try:
            return self.is_needed()
        except (TransientError, NoPermissionError, OSError):  # the main loop reports it
            return None

    def _unload_if_idle(self) -> None:
        if self._find_need() is not False:
            self._idle_since_s = None
            return
        if self._idle_since_s is None:
            self._idle_since_s = self.monotonic()
        idle_s = self.monotonic() - self._idle_since_s
        if idle_s >= self.idle_s:
            log.info("engine.unloading", idle_s=round(idle_s))
            self.holder.unload()

    def _retry_if_due(self) -> None:
        """Try again to load it after a failure, even if nothing needs it any more, so that the fault is cleared."""
        if self.delay.is_due():
            self._load("Trying again to load the model.")

    def _load(self, step: str) -> None:
        self._signs = self.delay.find_signs()
        self.publisher.begin_load(step)
        self.holder.load_again()

    def _note_failure(self, failure: ScribedError) -> None:
        self._n_failed += 1
        self.delay.begin(wait_after(self._n_failed), self._signs)
        remedy = f"{failure.remedy} Recordings wait. {self.delay.say_when()}".lstrip()
        log.warning("engine.load_delayed", n_failed=self._n_failed, what=failure.what, remedy=failure.remedy)
        self.faults.note(_FAULT, failure.what, remedy)
        self.publisher.show_step(f"{failure.what} {remedy}")

    def _note_loaded(self) -> None:
        if self._n_failed:
            self._n_failed = 0
            self.faults.clear(_FAULT)
