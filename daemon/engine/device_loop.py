"""One thread per device: the only one that touches it, for all models that are resident there."""

from __future__ import annotations

import time
import traceback
from threading import Condition, Thread
from typing import TYPE_CHECKING, Final, Protocol

import structlog
import torch

from daemon.engine import device as devices
from daemon.engine.failures import classify
from daemon.errors import EngineLostError

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger()

# Models send a heartbeat at each layer and step. The longest gap is one layer of a full prefill, which takes
# seconds even on a slow CPU; a device that hangs never sends another one.
_STUCK_S: Final = 300.0


class DeviceClient(Protocol):
    """A resident model's scheduler, as the device thread sees it.

    `is_closed` and `has_work` are called with the loop's lock held; the others, except `end`, on the device thread.
    """

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more work and wants to be released."""
        ...

    @property
    def working_bytes(self) -> int:
        """Memory of the device that its work takes for a short time, beyond what it holds."""
        ...

    def has_work(self) -> bool:
        """Whether `run_iteration` has something to do."""
        ...

    def run_iteration(self) -> None:
        """Do a bounded share of the work, calling `DeviceLoop.heartbeat` often."""
        ...

    def recover(self, failure: Exception) -> None:
        """Decide what happens to the work of an iteration that failed; the device itself is usable."""
        ...

    def end(self, reason: EngineLostError) -> None:
        """Close for this reason, because the device is lost."""
        ...

    def release(self) -> None:
        """End running work and free the memory it used."""
        ...


class DeviceLoop:
    """The thread of one device. Resident models take turns on it, one iteration each.

    The thread starts with the first client and ends when the last one is removed.

    Args:
        device: the device that the thread uses.
        monotonic: clock in seconds, injectable for tests.
    """

    def __init__(self, device: torch.device, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.device = device
        self.monotonic = monotonic
        self._last_heartbeat_s: float | None = None  # None while idle; written by the device thread alone
        self._changed = Condition()  # guards the attributes below
        self._clients: list[DeviceClient] = []
        self._thread: Thread | None = None
        self._loss: EngineLostError | None = None

    def add(self, client: DeviceClient) -> None:
        """Give a client turns from now on; after the loss of the device it is ended at once."""
        with self._changed:
            if self._loss is None:
                self._clients.append(client)
                if self._thread is None:
                    # A daemon thread, so that a device that hangs cannot keep the process from exiting.
                    self._thread = Thread(target=self._run, name="engine", daemon=True)
                    self._thread.start()
                return
        client.end(self._loss)

    def remove(self, client: DeviceClient, timeout_s: float) -> bool:
        """Wait until a closed client has been released and, if it was the last one, the thread has ended.

        Returns:
            False on a timeout.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            thread = self._thread
            self._changed.notify_all()
            is_released = self._changed.wait_for(lambda: client not in self._clients, timeout_s)
            is_last = not self._clients
        if thread is None or not is_last:
            return is_released
        thread.join(max(0.0, deadline_s - time.monotonic()))
        return is_released and not thread.is_alive()

    def wake(self) -> None:
        """Tell the thread that a client has new work."""
        with self._changed:
            self._changed.notify_all()

    def heartbeat(self) -> None:
        """Show that the device thread is making progress; called many times a second while it works."""
        self._last_heartbeat_s = self.monotonic()

    def is_alive(self) -> bool:
        """Whether the thread runs, the device responds, and no iteration hangs."""
        thread, last_s = self._thread, self._last_heartbeat_s
        is_stuck = last_s is not None and self.monotonic() - last_s > _STUCK_S
        return self._loss is None and thread is not None and thread.is_alive() and not is_stuck

    def count_other_bytes(self, client: DeviceClient) -> int:
        """Return the memory that the work of all other clients may take at short notice."""
        with self._changed:
            return sum(other.working_bytes for other in self._clients if other is not client)

    # On the device thread

    def _run(self) -> None:
        devices.prepare_memory(self.device)
        with torch.inference_mode(), devices.activate(self.device):
            while (client := self._wait_for_client()) is not None:
                if client.is_closed:
                    self._drop(client)
                else:
                    self._serve(client)

    def _wait_for_client(self) -> DeviceClient | None:
        """Return the next client that has work or is closed; None when no client is left."""
        with self._changed:
            while self._clients:
                for index, client in enumerate(self._clients):
                    if client.is_closed or client.has_work():
                        self._clients.append(self._clients.pop(index))  # the others come first next time
                        return client
                self._changed.wait()
            self._thread = None
            return None

    def _serve(self, client: DeviceClient) -> None:
        self.heartbeat()
        error = _run_iteration(client)
        self._last_heartbeat_s = None
        if error is None:
            return
        failure = classify(error) or error
        if isinstance(failure, EngineLostError):
            self._lose(failure)
        elif not client.is_closed:  # otherwise the iteration was aborted, and the next turn releases the client
            client.recover(failure)

    def _lose(self, loss: EngineLostError) -> None:
        log.error("engine.lost", reason=loss.what)
        with self._changed:
            self._loss = loss
            clients = list(self._clients)
        for client in clients:
            client.end(loss)

    def _drop(self, client: DeviceClient) -> None:
        try:
            client.release()
        except Exception as error:
            # A lost device may refuse to free memory as well; the process ends anyway.
            if self._loss is None and not isinstance(classify(error), EngineLostError):
                raise
        finally:
            with self._changed:
                self._clients.remove(client)
                self._changed.notify_all()


def _run_iteration(client: DeviceClient) -> Exception | None:
    """Run one iteration and return its error."""
    try:
        client.run_iteration()
    except Exception as error:  # noqa: BLE001  # classified by the loop; callers see it through their futures
        # The frames hold the iteration's tensors, and a caller may keep the error for a long time.
        traceback.clear_frames(error.__traceback__)
        return error
    return None
