"""SIGHUP: read the configuration file again, and apply the settings that may change, all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from daemon import config as configuration
from daemon import configfile, logs
from daemon.errors import ConfigError
from daemon.status.hiding import shared_folders
from daemon.worker.outcomes import SKIPPED

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.config import Settings
    from daemon.status.faults import Faults

log = structlog.get_logger()


def sha256_of(config_path: Path | None) -> str:
    """Return the sha256 of a configuration file, "" for the defaults."""
    glanced = configfile.glance(config_path)
    return glanced[1] if glanced else ""


def reload_settings(settings: Settings, config_path: Path | None, faults: Faults) -> None:
    """Read the configuration file again and apply the settings that may change.

    A broken file changes nothing. What needs a restart, and a broken file, are noted as faults.
    """
    try:
        merged, refused = configuration.reload(settings.current, config_path)
        logs.configure(merged.logging, shared=shared_folders(merged.folders))
    except ConfigError as error:
        log.warning("config.refused", faults=list(error.faults), what=error.what)
        what = "The changed configuration has errors; the previous one stays in effect."
        faults.note("config", what, _say_how_to_fix(error))
        return
    faults.clear("config")
    if merged.transcribe.corrections != settings.current.transcribe.corrections:
        faults.clear(SKIPPED)
    settings.swap(merged, sha256_of(config_path))
    log.info("config.reloaded", needs_restart=list(refused))
    if refused:
        what = f"Changed settings that need a restart: {', '.join(refused)}."
        faults.note("config", what, "Restart the service.")


def _say_how_to_fix(error: ConfigError) -> str:
    """Return the first fault as a sentence, and where to find the others."""
    if not error.faults:
        return str(error)
    more = f" `sudo scribed check` lists it and {len(error.faults) - 1} more." if len(error.faults) > 1 else ""
    return f"Fix the file and reload it: {error.faults[0]}.{more}"
