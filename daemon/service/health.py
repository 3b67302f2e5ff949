"""The watchdog for systemd, and the conditions that end the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from daemon.errors import EngineUnavailableError, ScribedError

if TYPE_CHECKING:
    from daemon.host.systemd import Notifier
    from daemon.service.engine_holder import EngineHolder
    from daemon.status.publisher import StatusPublisher
    from daemon.worker import Worker

# Repeated while the service waits or the model loads. As long as this because libraries that load for the first time
# hold Python's lock, and with it the thread that repeats it.
TIMEOUT_EXTENSION_S: Final = 300.0
# Between two scans that are far apart.
_HEARTBEAT_S: Final = 10.0


class Health:
    """Checks that all parts of the service are alive.

    Args:
        publisher: writes a heartbeat to status.json.
        holder: has the engine.
        worker: has the running recordings.
        notifier: reports to systemd.

    Attributes:
        heartbeat_s: how often `heartbeat` is to be called.
    """

    def __init__(self, publisher: StatusPublisher, holder: EngineHolder, worker: Worker, notifier: Notifier) -> None:
        self.heartbeat_s = min(_HEARTBEAT_S, notifier.watchdog_interval_s or _HEARTBEAT_S)
        self._publisher = publisher
        self._holder = holder
        self._worker = worker
        self._notifier = notifier

    def heartbeat(self, *, is_ready: bool) -> None:
        """Feed the watchdog if all parts are alive: the loop, which calls this, the engine and the runs.

        Args:
            is_ready: whether systemd has been sent READY=1. The first WATCHDOG=1 arms the watchdog, whose limit is too
                short for a start; it is never sent before.
        """
        self._publisher.beat()
        engine = self._holder.engine
        # Without an engine nothing is loaded; loading and unloading have their own time limit.
        is_alive = self._holder.is_within_limit() if engine is None else engine.is_alive()
        if not is_ready:
            if self._holder.is_within_limit():
                self._notifier.extend_timeout(TIMEOUT_EXTENSION_S)
        elif is_alive and self._worker.is_alive():
            self._notifier.watchdog()

    def find_loss(self) -> ScribedError | None:
        """Return why the engine failed to load or was lost; None while all is well."""
        if (loss := self._holder.find_loss()) is not None:
            return loss
        engine = self._holder.engine
        if engine is not None and not engine.is_alive() and self._worker.is_idle():
            return EngineUnavailableError(
                "The model stopped responding.", "The service restarts by itself; if this repeats, see the log."
            )
        return None
