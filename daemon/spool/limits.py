"""Which outcome paths are too long for the disks of outbox, processed and failed; known before any work begins."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from daemon.inbox import ERROR_SUFFIX, HOTWORDS_SUFFIX
from daemon.journal.records import FailedPlace, Reason
from daemon.spool.names import NAME_BYTES, fit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.journal.records import Roots

_PATH_BYTES: Final = 4096  # PATH_MAX of Linux, with the zero at the end
_ROOM_FOR_NUMBER: Final = len(" (9999)")
# The longest suffix appended to a recording's name, or replacing its ending.
_LONGEST_ENDING: Final = max(map(len, (ERROR_SUFFIX, HOTWORDS_SUFFIX, ".listen.opus")))
_SPARE: Final = _ROOM_FOR_NUMBER + _LONGEST_ENDING
_WHAT: Final = "Its path is too long for the folder {folder} ({n_bytes} bytes; the limit is {limit})."
_REMEDY: Final = "Shorten the name of the recording, or of the folders it is in, and move it back into the inbox."


def find_too_long(
    name: str, folder: str, roots: Roots, name_bytes_of: Callable[[Path], int] | None = None
) -> tuple[Reason, FailedPlace] | None:
    """Look for an outcome folder in which the longest path of a recording does not fit.

    Args:
        name: of the recording.
        folder: its outcome folder within outbox, processed and failed.
        roots: where these are.
        name_bytes_of: answers as `name_bytes`, which asks the disk each time.

    Returns:
        (why it cannot be transcribed, where it goes within failed), or None where all fits.
    """
    name_bytes_of = name_bytes_of or name_bytes
    for root in (roots.outbox, roots.processed, roots.failed):
        if (n_bytes := _path_bytes(root, folder, name)) > _PATH_BYTES:
            what = _WHAT.format(folder=root, n_bytes=n_bytes, limit=_PATH_BYTES)
            return Reason(what, _REMEDY), place_in_failed(name, folder, roots.failed)
        limit = name_bytes_of(root)
        longest = max((len(os.fsencode(part)) for part in folder.split("/")), default=0)
        n_bytes = max(longest, 0 if limit >= NAME_BYTES else len(os.fsencode(name)) + _SPARE)
        if n_bytes > limit:
            what = _WHAT.format(folder=root, n_bytes=n_bytes, limit=limit)
            return Reason(what, _REMEDY), place_in_failed(name, folder, roots.failed)
    return None


def place_in_failed(name: str, folder: str, failed: Path) -> FailedPlace:
    """Return where a recording fits within failed: its own folder and name, or shortened ones."""
    limit = name_bytes(failed)
    parts = folder.split("/")
    is_too_deep = _path_bytes(failed, folder, name) > _PATH_BYTES
    if is_too_deep or any(len(os.fsencode(part)) > limit for part in parts):
        folder = ""
    room = _PATH_BYTES - len(os.fsencode(failed / folder)) - 2
    if limit < NAME_BYTES or room < NAME_BYTES:
        name = fit(name, NAME_BYTES - max(min(limit, room) - _SPARE, 1))
    return FailedPlace(folder, name)


def name_bytes(root: Path) -> int:
    """Return how many bytes a name may have on a folder's disk."""
    try:
        limit = os.statvfs(root).f_namemax
    except OSError:
        return NAME_BYTES
    return limit or NAME_BYTES


def _path_bytes(root: Path, folder: str, name: str) -> int:
    longest_name = min(len(os.fsencode(name)) + _SPARE, NAME_BYTES)
    within = len(os.fsencode(folder)) + 1 if folder else 0
    return len(os.fsencode(root)) + 1 + within + longest_name + 1
