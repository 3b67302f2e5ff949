"""Files of our own that are written again and again, some of them where others can write too."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from daemon.errors import ScribedError
from daemon.host.folders import Folder

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_TAG: Final = "status"


def root_of(path: Path, shared: Iterable[Path]) -> tuple[Path, str] | None:
    """Return the shared folder that a path is below and the rest of the path; None where it is below none.

    Args:
        path: absolute.
        shared: folders into which others may write.
    """
    spellings = (os.path.normpath(path), os.path.join(os.path.realpath(path.parent), path.name))  # noqa: PTH118  # strings
    for root in shared:
        for spelling in spellings:
            for top in (os.path.normpath(root), os.path.realpath(root)):
                if spelling.startswith(f"{top}/"):
                    return root, spelling[len(top) + 1 :]
    return None


def open_folder(path: Path, shared: Iterable[Path] = ()) -> Folder:
    """Open the folder of a file; below a shared folder no link is followed.

    Args:
        path: of the file, which need not exist.
        shared: folders into which others may write; they may themselves be links.

    Raises:
        LinkInTheWayError: a link is in the way below a shared folder.
        OSError: there is no such folder.
    """
    found = root_of(path, shared)
    if found is None:
        return Folder.open_anywhere(path.parent)
    root, rest = found
    with Folder.open(root) as top:
        return top.descend(rest.rpartition("/")[0])


def overwrite(path: Path, content: bytes, mode: int, shared: Iterable[Path] = ()) -> None:
    """Replace a file of our own whole, in one step and without waiting for the disk.

    Not synced: it is written again soon. A link that has its name is replaced, not followed.

    Args:
        path: of the file.
        content: what it holds from then on.
        mode: its permission bits, whatever the umask.
        shared: as for `open_folder`.

    Raises:
        LinkInTheWayError, OSError: it cannot be written; the old one is still there.
    """
    with open_folder(path, shared) as folder:
        folder.replace(path.name, content, mode, _TAG, is_durable=False)


def remove_leftovers(path: Path, shared: Iterable[Path] = ()) -> None:
    """Remove what a crash within `overwrite` left in the folder of this file."""
    with suppress(OSError, ScribedError), open_folder(path, shared) as folder:
        folder.sweep(_TAG)
