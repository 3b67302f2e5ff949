"""One line of `scribed check`."""

from __future__ import annotations

from dataclasses import dataclass

from daemon.errors import ExitCode


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found: ok, warning or fault, and for the latter two what to do.

    Attributes:
        level: ok, warning or fault.
        what: what was looked at, and how it is.
        remedy: a command or a sentence, "" where nothing is to be done.
        exit_code: what `check` ends with if this is the first that is not OK.
    """

    level: str
    what: str
    remedy: str = ""
    exit_code: ExitCode = ExitCode.OK
