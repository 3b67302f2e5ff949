"""`scribed status`: what the daemon is doing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.cli import config_option, outputs
from daemon.errors import ExitCode
from daemon.status import read_status

if TYPE_CHECKING:
    from pathlib import Path


def show(option: Path | None, *, is_json: bool, is_watched: bool) -> int:
    """Print the status once, or with `is_watched` until Ctrl-C."""
    state = config_option.find_state(option)
    if is_json:
        outputs.print_json(read_status(state))
        return ExitCode.OK
    from daemon.cli import status_view

    status_view.show(lambda: read_status(state), is_watched=is_watched)
    return ExitCode.OK
