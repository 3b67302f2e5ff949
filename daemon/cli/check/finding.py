"""What a check looks at, and the lines it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from daemon.errors import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.config import Config


@dataclass(frozen=True, slots=True)
class Installation:
    """What `scribed check` examines.

    Attributes:
        config: the configuration.
        config_path: the file it came from, None for the defaults.
        sample: a recording for `--deep`, None for a bundled one.
        sample_text: the words spoken in `sample`.
    """

    config: Config
    config_path: Path | None
    sample: Path | None = None
    sample_text: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `scribed check`.

    Attributes:
        level: ok, warning or fault.
        what: what was examined and what was found.
        remedy: a command or a sentence, empty where there is nothing to do.
        exit_code: the exit code of `check` if this is the first finding that has one.
    """

    level: str
    what: str
    remedy: str = ""
    exit_code: ExitCode = ExitCode.OK
