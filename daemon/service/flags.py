"""Requests of signal handlers and other threads to the loop."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Flags:
    """Events between threads.

    Attributes:
        wake: the loop has something to do.
        is_look_wanted: something in the inbox may have changed.
        is_stopping: the service is to stop.
        is_reload_wanted: the configuration file is to be read again.
    """

    wake: threading.Event = field(default_factory=threading.Event)
    is_look_wanted: threading.Event = field(default_factory=threading.Event)
    is_stopping: threading.Event = field(default_factory=threading.Event)
    is_reload_wanted: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Ask for a look at the inbox."""
        self.is_look_wanted.set()
        self.wake.set()

    def stop(self) -> None:
        """Ask for an orderly stop."""
        self.is_stopping.set()
        self.wake.set()

    def reload(self) -> None:
        """Ask for the configuration file to be read again."""
        self.is_reload_wanted.set()
        self.wake.set()
