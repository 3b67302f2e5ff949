"""The configuration in force, shared by all parts of the service."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daemon.config.schema import Config


class Settings:
    """The configuration in force: a reload replaces it as a whole, and each part reads its section at every use.

    A job keeps the configuration of its claim for as long as it is pinned. Any thread may call.

    Args:
        config: the configuration.
        sha256: of the file it was read from, "" for the defaults.
    """

    def __init__(self, config: Config, sha256: str = "") -> None:
        self._in_force = (config, sha256)
        self._lock = threading.Lock()
        self._pinned: dict[str, Config] = {}

    @property
    def current(self) -> Config:
        """The whole configuration."""
        return self._in_force[0]

    @property
    def sha256(self) -> str:
        """The sha256 of the configuration file, "" for the defaults."""
        return self._in_force[1]

    def swap(self, config: Config, sha256: str = "") -> None:
        """Put another configuration into force; each reader sees either the old or the new one."""
        self._in_force = (config, sha256)

    def pin(self, job_id: str) -> None:
        """Keep the current configuration for a job, unless it has one already."""
        with self._lock:
            self._pinned.setdefault(job_id, self.current)

    def unpin(self, job_id: str) -> None:
        """Forget the configuration of a job that has ended."""
        with self._lock:
            self._pinned.pop(job_id, None)

    def of(self, job_id: str) -> Config:
        """Return the configuration that applies to a job: the pinned one, else the one in force."""
        with self._lock:
            return self._pinned.get(job_id) or self.current
