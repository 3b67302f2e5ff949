"""Configured folders: reached through links of root or of the service's own user, and of no one else.

A member of the group who may write to the folder around a configured one can put a link in its place at any moment.
Standard library only.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from daemon.errors import TransientError

_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PASS: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS: Final = 40  # as the kernel


class UntrustedLinkError(TransientError):
    """A symbolic link of another user leads to a configured folder."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is a symbolic link of another user. Only links of root and of the service's user are followed.",
            f"Remove it, put the folder back, and take write permission on {path.parent} away from the group.",
        )


def open_configured(path: Path) -> int:
    """Open a configured folder and return its descriptor.

    Raises:
        UntrustedLinkError: a link of another user leads to it.
        OSError: it cannot be opened.
    """
    fd = os.open(path, _OPEN_FOLDER)
    # A path through a link is not the path of what it leads to; then each step is looked at.
    if _path_of(fd) == os.fspath(path):
        return fd
    os.close(fd)
    return _open_step_by_step(path)


def resolve(path: Path) -> Path:
    """Return the path of a configured folder without links; unchanged where a link of another user leads to it."""
    try:
        fd = open_configured(path)
    except UntrustedLinkError:  # the caller that opens it gets the error
        return path
    except OSError:  # not made yet
        return Path(os.path.realpath(path))
    try:
        return Path(_path_of(fd))
    finally:
        os.close(fd)


def _path_of(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115  # a string is what is compared


def _open_step_by_step(path: Path) -> int:
    ahead = _steps(os.fspath(path.absolute()))
    here, n_links, trail = os.open("/", _PASS), 0, Path("/")
    try:
        while ahead:
            name = ahead.pop()
            found = _pass(here, name)
            if not stat.S_ISLNK(os.fstat(found).st_mode):
                os.close(here)
                here, trail = found, trail / name
                continue
            try:
                target = _trusted_target(found, trail / name)
            finally:
                os.close(found)
            n_links += 1
            if n_links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
            ahead += _steps(target)
            if target.startswith("/"):
                os.close(here)
                here, trail = os.open("/", _PASS), Path("/")
        return os.open(".", _OPEN_FOLDER, dir_fd=here)
    finally:
        os.close(here)


def _steps(path: str) -> list[str]:
    """Return the components of a path, the last one first."""
    return [part for part in reversed(path.split("/")) if part not in {"", "."}]


def _pass(folder: int, name: str) -> int:
    """Return a descriptor of a folder, mounting it if that is due, or of a link."""
    try:
        return os.open(name, _PASS | os.O_DIRECTORY, dir_fd=folder)
    except NotADirectoryError:
        return os.open(name, _PASS, dir_fd=folder)


def _trusted_target(link: int, path: Path) -> str:
    if os.fstat(link).st_uid not in {0, os.geteuid()}:
        raise UntrustedLinkError(path)
    return os.readlink("", dir_fd=link)
