"""The private sub-folder `.scribed` of each shared folder: claims, and a lock that only the service can hold.

Members of the group may rename it, since the folder around it is theirs to change, but neither enter nor remove it: it
is closed (0700) and never empty. A renamed one is found by its owner, mode and lock file, and gets its name back.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog

from daemon.errors import NoPermissionError, TransientError
from daemon.host import files
from daemon.host.folders import LinkInTheWayError
from daemon.inbox import CLAIM_FOLDER

if TYPE_CHECKING:
    from daemon.host.folders import Folder

PRIVATE_FOLDER: Final = CLAIM_FOLDER
LOCK_NAME: Final = "lock"
_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

log = structlog.get_logger()


def open_private(root: Folder) -> Folder:
    """Open the private sub-folder of a shared folder, making it where there is none.

    Raises:
        NoPermissionError, TransientError: what has its name is not ours.
        OSError: it cannot be made or opened.
    """
    try:
        private = root.descend(PRIVATE_FOLDER)
    except FileNotFoundError:
        private = _restore(root) or _make(root)
    except (NotADirectoryError, LinkInTheWayError):
        what = f"{root.path / PRIVATE_FOLDER} is not a folder."
        raise TransientError(what, "Remove it; the service makes its own.") from None
    try:
        _check(root, private)
    except BaseException:
        private.close()
        raise
    return private


def _check(root: Folder, private: Folder) -> None:
    facts = os.fstat(private.fd)
    if facts.st_uid != os.geteuid() and facts.st_uid != _owner_of_new(root):
        what = f"{private.path} belongs to another user."
        raise NoPermissionError(what, "It may hold recordings: give it to the service's user with chown -R.")
    if stat.S_IMODE(facts.st_mode) & _OTHERS:
        with suppress(PermissionError):  # a share without modes
            os.fchmod(private.fd, _FOLDER_MODE)


def _make(root: Folder) -> Folder:
    with suppress(FileExistsError):
        root.mkdir(PRIVATE_FOLDER, _FOLDER_MODE)
        root.sync()
    private = root.descend(PRIVATE_FOLDER)
    try:
        with suppress(FileExistsError):  # so that it is never empty, and no one else can remove it
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(LOCK_NAME, flags, _FILE_MODE, dir_fd=private.fd))
    except BaseException:
        private.close()
        raise
    return private


def _restore(root: Folder) -> Folder | None:
    """Give our folder its name back if another user has renamed it; None if there is none."""
    name = next((name for name in root.names() if _is_ours(root, name)), None)
    if name is None:
        return None
    root.rename(name, PRIVATE_FOLDER)
    log.warning("spool.private_folder_restored", folder=str(root.path), was_called=name)
    return root.descend(PRIVATE_FOLDER)


def _is_ours(root: Folder, name: str) -> bool:
    facts = root.find(name)
    if facts is None or not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
        return False
    if stat.S_IMODE(facts.st_mode) & _OTHERS:
        return False
    with suppress(OSError, LinkInTheWayError), root.descend(name) as folder:
        lock = folder.find(LOCK_NAME)
        return lock is not None and stat.S_ISREG(lock.st_mode) and stat.S_IMODE(lock.st_mode) == _FILE_MODE
    return False


def _owner_of_new(root: Folder) -> int:
    """Return who owns a folder that we make here: on some shares it is not us."""
    name = files.temporary_name("owner")
    root.mkdir(name, _FOLDER_MODE)
    try:
        return root.lstat(name).st_uid
    finally:
        root.rmdir(name)
