"""The configuration in force, shared by all parts of the service."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daemon.config.schema import Config


class Settings:
    """The configuration in force: a reload replaces it as a whole, and each part reads its section at every use.

    Args:
        config: the configuration.
        sha256: of the file it was read from, "" for the defaults.
    """

    def __init__(self, config: Config, sha256: str = "") -> None:
        self._in_force = (config, sha256)

    @property
    def current(self) -> Config:
        """The whole configuration; keep it only for as long as it must not change."""
        return self._in_force[0]

    @property
    def sha256(self) -> str:
        """The sha256 of the configuration file, "" for the defaults."""
        return self._in_force[1]

    def swap(self, config: Config, sha256: str = "") -> None:
        """Put another configuration into force; any thread sees either the old or the new one."""
        self._in_force = (config, sha256)
