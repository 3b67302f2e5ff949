"""How a command finds its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon import configfile

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.config import Config


def read(option: Path | None) -> tuple[Config, Path | None]:
    """Return the configuration and the file it came from, None for the defaults.

    Raises:
        ConfigError: it is wrong; the error holds every fault.
    """
    from daemon.config import load

    path = configfile.find(option)
    return load(path), path


def find_state(option: Path | None) -> Path:
    """Return the state folder; the schema is not loaded where the daemon has already validated this file.

    Raises:
        ConfigError: the configuration is wrong; the error holds every fault.
    """
    from daemon.status import was_read  # other commands need nothing of it

    path = configfile.find(option)
    glanced = configfile.glance(path)
    if glanced is not None:
        state, sha256 = glanced
        if path is None or was_read(state, sha256):
            return state
    return read(option)[0].folders.state
