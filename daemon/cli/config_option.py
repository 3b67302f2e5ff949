"""How a command finds its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon import configfile
from daemon.status import was_read

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.config import Config


def read(option: Path | None) -> tuple[Config, Path | None]:
    """Return the configuration and the file it came from, None for the defaults.

    Raises:
        ConfigError: with every fault of it.
    """
    from daemon.config import load

    path = configfile.find(option)
    return load(path), path


def find_state(option: Path | None) -> Path:
    """Return the state folder, without loading the schema where the daemon has read this very file.

    Raises:
        ConfigError: with every fault of the configuration.
    """
    path = configfile.find(option)
    glanced = configfile.glance(path)
    if glanced is not None:
        state, sha256 = glanced
        if path is None or was_read(state, sha256):
            return state
    return read(option)[0].folders.state
