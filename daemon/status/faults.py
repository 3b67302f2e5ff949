"""Faults that a person has to fix, by key."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import structlog

from daemon.host.clock import now
from daemon.status.snapshot import Fault

Conceal = Callable[[str, tuple[str, ...]], str]

log = structlog.get_logger()


def show_as_it_is(text: str, names: tuple[str, ...]) -> str:
    """Return the text; names may be shown."""
    del names
    return text


class Faults:
    """The current faults; may be used from any thread.

    Args:
        monotonic: clock in seconds, injectable for tests.

    Attributes:
        conceal: applied to every text and the names it has, to hide them where that is configured.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.conceal: Conceal = show_as_it_is
        self._lock = threading.Lock()
        self._faults: dict[str, Fault] = {}
        self._monotonic = monotonic
        self._ends_s: dict[str, float] = {}  # of faults with a time

    def note(self, key: str, what: str, remedy: str, shown_s: float = math.inf, *, names: tuple[str, ...] = ()) -> None:
        """Remember a fault; it is logged when it is new or has changed.

        Args:
            key: of the fault.
            what: what is wrong.
            remedy: what to do.
            shown_s: how long to show it; infinite to show it until it is cleared. For events that no one clears.
            names: every name of a recording or a folder that the texts have, as they have it, so that it can be hidden
                where it must not be shown. Paths below a shared folder need not be listed. A name that begins with /
                is hidden only within a path.
        """
        what, remedy = self.conceal(what, names), self.conceal(remedy, names)
        with self._lock:
            known = self._faults.get(key)
            self._faults[key] = Fault(what, known.since if known else now(), remedy, names)
            self._ends_s[key] = self._monotonic() + shown_s
        if known is None or known.what != what:
            log.warning("service.fault_found", what=what, remedy=remedy)

    def clear(self, key: str) -> None:
        """Clear the fault with this key, if there is one."""
        with self._lock:
            known = self._faults.pop(key, None)
            self._ends_s.pop(key, None)
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
            over = [key for key, ends_s in self._ends_s.items() if self._monotonic() >= ends_s]
        for key in over:
            self.clear(key)
        with self._lock:
            return tuple(sorted(self._faults.values(), key=lambda fault: fault.since))
