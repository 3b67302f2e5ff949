"""What the commands that write documents share: the formats as typed, and the folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.display import escape
from daemon.documents import FORMATS
from daemon.errors import CannotWriteError, UsageError
from daemon.host import files

if TYPE_CHECKING:
    from pathlib import Path


def choose_formats(formats: str) -> tuple[str, ...]:
    """Return the formats in a list such as "txt,srt", each once.

    Raises:
        UsageError: one of them is unknown, or there is none.
    """
    wanted = tuple(dict.fromkeys(name.strip().lower() for name in formats.split(",") if name.strip()))
    unknown = [name for name in wanted if name not in FORMATS]
    if unknown or not wanted:
        shown = ", ".join(map(escape, unknown)) or repr(formats)
        raise UsageError(f"Unknown format {shown}.", f"Choose from {', '.join(FORMATS)}.")
    return wanted


def make_folder(folder: Path) -> None:
    """Make the folder for documents where it is missing."""
    shown = escape(str(folder))
    try:
        with files.explained(f"{shown} cannot be used", folder.absolute().parent):
            folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise CannotWriteError(f"{shown} is not a folder.", "Specify a folder with -o.") from None
