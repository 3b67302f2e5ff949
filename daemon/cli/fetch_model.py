"""`scribed fetch-model`: the one command that uses the network."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from daemon import checkpoint
from daemon.checkpoint import fetch
from daemon.cli import config_option as settings
from daemon.errors import ExitCode
from daemon.host.privileges import become_owner

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.config import Config


def fetch_model(model_id: str | None, source: str, option: Path | None) -> int:
    """Fetch a model beside the configured one and say what to configure, if anything."""
    config, _ = settings.read(option)
    become_owner(config.folders.state)
    folder = fetch.fetch(model_id or fetch.DEFAULT_MODEL, source, _target(config), _report)
    sys.stdout.write(f"{folder}\n")
    if config.model.path != folder:
        sys.stderr.write(f"To use it, set model.path to {folder} and restart the service.\n")
    return ExitCode.OK


def _target(config: Config) -> Path:
    """Return the folder for models: that of the configured one, if it names one."""
    if str(config.model.path) == checkpoint.DEMO:
        return fetch.DEFAULT_FOLDER
    return config.model.path.parent


def _report(line: str) -> None:
    sys.stderr.write(f"{line}\n")
