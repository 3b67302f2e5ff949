"""Faults that a person has to fix, by key."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import structlog

from daemon.host.clock import now
from daemon.status.snapshot import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger()


class Faults:
    """The current faults; may be used from any thread.

    Attributes:
        conceal: applied to every text, to hide names of recordings and folders in it where that is configured.
    """

    def __init__(self) -> None:
        self.conceal: Callable[[str], str] = str
        self._lock = threading.Lock()
        self._faults: dict[str, Fault] = {}

    def note(self, key: str, what: str, remedy: str) -> None:
        """Remember a fault; it is logged when it is new or has changed."""
        what, remedy = self.conceal(what), self.conceal(remedy)
        with self._lock:
            known = self._faults.get(key)
            self._faults[key] = Fault(what, known.since if known else now(), remedy)
        if known is None or known.what != what:
            log.warning("service.fault_found", what=what, remedy=remedy)

    def clear(self, key: str) -> None:
        """Clear the fault with this key, if there is one."""
        with self._lock:
            known = self._faults.pop(key, None)
        if known is not None:
            log.info("service.fault_cleared", what=known.what)

    def find(self, key: str) -> Fault | None:
        """Return the fault with this key, or None."""
        with self._lock:
            return self._faults.get(key)

    def keys(self, prefix: str) -> set[str]:
        """Return the keys of all faults that begin with this prefix."""
        with self._lock:
            return {key for key in self._faults if key.startswith(prefix)}

    def standing(self) -> tuple[Fault, ...]:
        """Return all faults, the oldest first."""
        with self._lock:
            return tuple(sorted(self._faults.values(), key=lambda fault: fault.since))
