"""`scribed fetch-model`: the one command that uses the network."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from daemon import configfile
from daemon.checkpoint import fetch
from daemon.cli import config_option
from daemon.display import escape
from daemon.errors import ExitCode
from daemon.host.privileges import become_owner

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.config import Config


def fetch_model(model_id: str | None, source: str, option: Path | None, *, is_forced: bool) -> int:
    """Fetch a model into the folder of the configured one and say what to configure, if anything.

    Args:
        model_id: the model's ID, None for the default one.
        source: "hub", "modelscope" or a folder.
        option: the configuration file, None for the usual places.
        is_forced: whether an existing folder of that model is replaced.
    """
    config, _ = config_option.read(option)
    become_owner(config.folders.state)
    folder = fetch.fetch(model_id or fetch.DEFAULT_MODEL, source, _target(config), _report, is_forced=is_forced)
    sys.stdout.write(f"{escape(str(folder))}\n")
    if config.model.path != folder:
        sys.stderr.write(f"To use it, set model.path to {escape(str(folder))} and restart the service.\n")
    return ExitCode.OK


def _target(config: Config) -> Path:
    """Return the folder for models: the parent of the configured model, or the default one."""
    if str(config.model.path) == configfile.DEMO_MODEL:
        return fetch.DEFAULT_FOLDER
    return config.model.path.parent


def _report(line: str) -> None:
    sys.stderr.write(f"{escape(line)}\n")
