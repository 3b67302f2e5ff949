"""`scribed recorder`: the page that records from the microphone."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from daemon.cli import outputs
from daemon.display import escape
from daemon.documents.recorder_page import render_recorder
from daemon.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from pathlib import Path

_ENDINGS: Final = (".html", ".htm")


def write_recorder(output: Path, *, is_forced: bool) -> int:
    """Write the page; an existing file is overwritten only if `is_forced`."""
    if output.suffix.lower() not in _ENDINGS:
        raise UsageError(f"{escape(str(output))} does not end in .html.", "Name it FILE.html for the browser.")
    outputs.refuse_taken([output], [], is_forced=is_forced)
    outputs.write_file(output, render_recorder().encode(), is_forced=is_forced)
    sys.stderr.write(f"{escape(str(output))}\n")
    return ExitCode.OK
