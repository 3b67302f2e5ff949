"""Files of our own that may lie where others can write: their folder is reached without following their links."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TEMPORARY_PREFIX: Final = ".scribed-status-"


def root_of(path: Path, shared: Iterable[Path]) -> tuple[Path, str] | None:
    """Return the shared folder that a path is below and the rest of the path; None where it is below none.

    Args:
        path: absolute.
        shared: folders into which others may write.
    """
    spellings = (os.path.normpath(path), os.path.join(os.path.realpath(path.parent), path.name))  # noqa: PTH118 - strings
    for root in shared:
        for spelling in spellings:
            for top in (os.path.normpath(root), os.path.realpath(root)):
                if spelling.startswith(f"{top}/"):
                    return root, spelling[len(top) + 1 :]
    return None


def open_folder(path: Path, shared: Iterable[Path] = ()) -> int:
    """Open the folder of a file and return its descriptor; below a shared folder no link is followed.

    Args:
        path: of the file, which need not exist.
        shared: folders into which others may write; they may themselves be links.

    Raises:
        OSError: there is no such folder, or a link is in the way (NotADirectoryError).
    """
    found = root_of(path, shared)
    if found is None:
        return os.open(path.parent, _FOLDER_FLAGS)
    root, rest = found
    descriptor = os.open(root, _FOLDER_FLAGS)
    try:
        for part in rest.split("/")[:-1]:
            outer, descriptor = descriptor, os.open(part, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(outer)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def overwrite(path: Path, content: bytes, mode: int, shared: Iterable[Path] = ()) -> None:
    """Replace a file of our own whole, in one step and without waiting for the disk.

    Not synced: what is written here is written again every few seconds. A link with its name is replaced.

    Args:
        path: of the file.
        content: what it holds from then on.
        mode: its permission bits, whatever the umask.
        shared: as for `open_folder`.

    Raises:
        OSError: it cannot be written; the old one is still there.
    """
    folder = open_folder(path, shared)
    temporary = f"{_TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    try:
        descriptor = os.open(temporary, _NEW_FLAGS, 0o600, dir_fd=folder)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fchmod(stream.fileno(), mode & 0o666)
            os.rename(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise
    finally:
        os.close(folder)


def remove_leftovers(path: Path, shared: Iterable[Path] = ()) -> None:
    """Remove what a crash within `overwrite` left beside this file: regular files of ours with its hidden name."""
    with suppress(OSError):
        folder = open_folder(path, shared)
        try:
            for name in os.listdir(folder):  # noqa: PTH208 - a descriptor
                if name.startswith(_TEMPORARY_PREFIX):
                    facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    if stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid():
                        os.unlink(name, dir_fd=folder)
        finally:
            os.close(folder)
