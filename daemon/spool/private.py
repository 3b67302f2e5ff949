"""The private sub-folder `.scribed` of each shared folder: claims, and a lock that only the service can hold.

Members of the group may rename it, since the folder around it is theirs to change, but neither enter nor remove it: it
is closed (0700) and never empty. A renamed one is found by its owner, mode and lock file, and gets its name back.
They can also put a folder in its place that the service made for documents: that one is open to the group, and refused.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog

from daemon.errors import NoPermissionError, ScribedError, TransientError
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


def open_private(root: Folder, *, may_make: bool = False) -> Folder:
    """Open the private sub-folder of a shared folder.

    Args:
        root: the shared folder.
        may_make: whether to make it if there is none. Callers that look for a claim must not: a new, empty folder
            next to one that has just been renamed would hide its contents.

    Raises:
        NoPermissionError, TransientError: it is missing, or the existing one is not ours.
        OSError: it cannot be made or opened.
    """
    try:
        private = root.descend(PRIVATE_FOLDER)
    except FileNotFoundError:
        private = _restore_or_make(root, may_make=may_make)
    except (NotADirectoryError, LinkInTheWayError):
        what = f"{root.path / PRIVATE_FOLDER} is not a folder."
        raise TransientError(what, "Remove it; the service makes its own.") from None
    try:
        _check(root, private)
    except BaseException as error:
        private.close()
        if not (may_make and isinstance(error, ScribedError) and _remove_empty(root)):
            raise
        private = _restore_or_make(root, may_make=may_make)
        _check(root, private)
    return private


def _restore_or_make(root: Folder, *, may_make: bool) -> Folder:
    private = _restore(root) or (_make(root) if may_make else None)
    if private is None:
        remedy = f"If it was renamed, rename it back; it is in {root.path}. Otherwise restart the service."
        raise TransientError(f"The private folder {root.path / PRIVATE_FOLDER} is missing.", remedy)
    return private


def _remove_empty(root: Folder) -> bool:
    """Remove a folder that has the name of ours, is not ours and holds nothing; whether it is gone."""
    with suppress(OSError):
        root.rmdir(PRIVATE_FOLDER)
        return True
    return False


def gather(root: Folder, private: Folder) -> None:
    """Move what is in other private folders of ours into this one: a member may have renamed one while none was made.

    Args:
        root: the shared folder.
        private: its private sub-folder.
    """
    for name in root.names():
        if name == PRIVATE_FOLDER or not _is_ours(root, name):
            continue
        with suppress(OSError, LinkInTheWayError), root.descend(name) as other:
            if os.path.samestat(os.fstat(other.fd), os.fstat(private.fd)):
                continue
            for claim in filter(other.is_folder, other.names()):
                files.rename_noreplace(claim, claim, other.fd, private.fd)
            private.sync()
            other.unlink(LOCK_NAME)
            root.rmdir(name)
            log.warning("spool.private_folder_gathered", folder=str(root.path), was_called=name)


def _check(root: Folder, private: Folder) -> None:
    """Raise where a member may have put this folder in place of ours, which belongs to us and is closed to others."""
    facts = os.fstat(private.fd)
    is_open = bool(stat.S_IMODE(facts.st_mode) & _OTHERS)
    if facts.st_uid == os.geteuid() and not is_open:
        return
    usual = _facts_of_new(root)
    if facts.st_uid not in {os.geteuid(), usual.st_uid}:
        what = f"{private.path} belongs to another user."
        raise NoPermissionError(what, "It may hold recordings: give it to the service's user with chown -R.")
    if is_open and not stat.S_IMODE(usual.st_mode) & _OTHERS:
        remedy = f"If only recordings are in it, run chmod -R go= {private.path}; otherwise move it out of {root.path}."
        raise TransientError(f"{private.path} is open to others, who may have changed what is in it.", remedy)


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
        is_lock = lock is not None and stat.S_ISREG(lock.st_mode) and lock.st_uid == os.geteuid()
        return is_lock and lock is not None and stat.S_IMODE(lock.st_mode) == _FILE_MODE
    return False


def _facts_of_new(root: Folder) -> os.stat_result:
    """Return the facts of a file that we make here, closed to others: some shares show another owner, or no modes."""
    name = files.temporary_name("owner")
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE, dir_fd=root.fd)
    try:
        return os.fstat(fd)  # of the file itself: a member may have put something else in its place
    finally:
        os.close(fd)
        with suppress(OSError):
            root.unlink(name)
