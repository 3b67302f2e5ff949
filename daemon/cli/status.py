"""`scribed status`: how the daemon stands."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from daemon.cli import config_option as settings
from daemon.errors import ExitCode
from daemon.status import read_status

if TYPE_CHECKING:
    from pathlib import Path


def show(option: Path | None, *, is_json: bool, is_watched: bool) -> int:
    """Print the status once, or with `is_watched` until Ctrl-C."""
    state = settings.find_state(option)
    if is_json:
        sys.stdout.write(json.dumps(read_status(state), ensure_ascii=False, indent=2) + "\n")
        return ExitCode.OK
    from daemon.cli import status_view as picture

    picture.show(lambda: read_status(state), is_watched=is_watched)
    return ExitCode.OK
