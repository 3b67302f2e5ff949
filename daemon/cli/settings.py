"""How a command finds its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon import config as configuration

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.config import Config


def read(option: Path | None) -> tuple[Config, Path | None]:
    """Return the configuration and the file it came from, None for the defaults.

    Raises:
        ConfigError: with every fault of it.
    """
    path = configuration.find(option)
    return configuration.load(path), path
