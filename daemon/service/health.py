"""Whether the service can do its work: the model's loading, signs of life for systemd, and what ends it."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING

import structlog

from daemon.errors import EngineUnavailableError, ScribedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.engine import Engine
    from daemon.host.systemd import Notifier
    from daemon.status.publisher import StatusPublisher
    from daemon.worker import Worker

# Asked for again and again while the model loads, from slow disks too; what takes longer hangs. As long as this,
# because libraries that load for the first time hold Python's lock, and with it the loop that asks.
LOAD_EXTENSION_S = 300.0
_MAX_LOAD_S = 1800.0
# Signs of life between two scans that lie far apart.
_PULSE_S = 10.0

log = structlog.get_logger()


class Health:
    """The engine from its loading to its loss.

    Args:
        worker: gets the engine.
        board: shows how far the loading is.
        notifier: tells systemd that we live.
        wake: called when the loading has ended.
        monotonic: seconds that only ever grow.

    Attributes:
        heartbeat_s: how often `heartbeat` is to be called.
    """

    def __init__(
        self,
        worker: Worker,
        publisher: StatusPublisher,
        notifier: Notifier,
        wake: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.heartbeat_s = min(_PULSE_S, notifier.watchdog_interval_s or _PULSE_S)
        self._worker = worker
        self._publisher = publisher
        self._notifier = notifier
        self._wake = wake
        self._monotonic = monotonic
        self._loading: threading.Thread | None = None
        self._load_error: ScribedError | None = None
        self._load_ends_s = math.inf

    @property
    def has_begun(self) -> bool:
        """Whether the model has been asked for."""
        return self._loading is not None

    def begin_load(self, load_engine: Callable[[Callable[[str], None]], Engine]) -> None:
        """Load the model on a thread of its own, so that arrivals are seen meanwhile.

        Args:
            load_engine: called with a function that takes a line on how far it is.
        """
        self._load_ends_s = self._monotonic() + _MAX_LOAD_S
        self._loading = threading.Thread(target=self._load, args=(load_engine,), name="engine-loading", daemon=True)
        self._loading.start()

    def _load(self, load_engine: Callable[[Callable[[str], None]], Engine]) -> None:
        try:
            engine = load_engine(self._tell_loading)
        except ScribedError as error:
            self._load_error = error
        else:
            self._publisher.show_model(engine.identity.name, engine.identity.device)
            self._worker.engine = engine
        self._wake()

    def _tell_loading(self, line: str) -> None:
        self._publisher.show_step(line)
        log.info("engine.loading", step=line)

    def heartbeat(self) -> None:
        """Tell systemd that all parts live: the loop, which watches and calls this, the engine and the workers."""
        self._publisher.beat()
        engine = self._worker.engine
        if engine is None:  # the first WATCHDOG=1 would arm the watchdog, whose limit is none for a load
            if self._monotonic() < self._load_ends_s:
                self._notifier.extend_timeout(LOAD_EXTENSION_S)
        elif engine.is_alive() and self._worker.is_alive():
            self._notifier.watchdog()

    def find_loss(self) -> ScribedError | None:
        """Return why there is no model, or no longer, and none will come; None while all is well."""
        # Asked first, for the engine comes before the end of its loading.
        has_load_ended = self._loading is not None and not self._loading.is_alive()
        engine = self._worker.engine
        lost = self._load_error or self._worker.lost
        if lost is not None:
            return lost
        if engine is None and has_load_ended:  # by an error that nobody expected
            return EngineUnavailableError("The model's loading came to a sudden end.", "The log says where.")
        if engine is not None and not engine.is_alive() and self._worker.is_idle():
            return EngineUnavailableError("The model does not answer any more.", "The service starts anew by itself.")
        return None
