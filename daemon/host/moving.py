"""Moving and copying files between open folders, durably. Standard library only.

A file keeps its mtime wherever it goes. Between file systems it is copied under a temporary name, synced, published,
and only then removed, so that a crash leaves it whole in one place at least.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import Final

from daemon.host import files
from daemon.host.folders import Folder
from daemon.host.turns import waiting

Place = tuple[Folder, str]
"""An open folder, and a name in it."""

_BLOCK_BYTES: Final = 1 << 20


def move(source: Place, target: Place, tag: str, *, is_private: bool = False) -> None:
    """Move a file durably, keeping its mtime; across file systems by copy, sync, rename, unlink.

    Args:
        source: where it is.
        target: where it goes.
        tag: for the temporary name of a copy.
        is_private: no one else can write to the folder of the target: then a plain rename will do, which is one step on
            every file system.

    Raises:
        FileExistsError: the new name is taken.
    """
    move_unsynced(source, target, tag, is_private=is_private)
    target[0].sync()  # with the new name a journaling file system also records that the old one is gone


def move_unsynced(source: Place, target: Place, tag: str, *, is_private: bool = False) -> None:
    """Move a file like `move`, and leave it to the caller to sync the folder it goes to."""
    (here, name), (there, new_name) = source, target
    try:
        with here.naming(name):
            if is_private:
                os.rename(name, new_name, src_dir_fd=here.fd, dst_dir_fd=there.fd)
            else:
                files.rename_noreplace(name, new_name, here.fd, there.fd)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with waiting():
            copy(source, target, tag)
        files.give_up_name(name, new_name, here.fd, there.fd)
        here.sync()


def resume_move(source: Place, target: Place, tag: str) -> None:
    """Move a file as `move` does; where a crash cut that off after the copy, only the source goes.

    Raises:
        FileExistsError: another file has the new name.
    """
    if is_copy(source, target):
        here, name = source
        here.unlink(name)
    else:
        move(source, target, tag)


def copy(source: Place, target: Place, tag: str) -> None:
    """Copy a file to another folder under a temporary name, sync it, then publish it.

    Times and user attributes are kept, and so is the mode, but for what `files.file_mode` takes away.

    Raises:
        FileExistsError: the new name is taken.
    """
    (here, name), (there, new_name) = source, target
    temporary = files.temporary_name(tag)
    with os.fdopen(here.open_regular(name), "rb") as reader:
        facts = os.fstat(reader.fileno())
        try:
            # Closed to all others until it is whole, whatever the umask: it is private speech.
            with os.fdopen(there.create(temporary), "wb") as writer:
                while block := reader.read(_BLOCK_BYTES):
                    writer.write(block)
                writer.flush()
                _copy_user_attributes(reader.fileno(), writer.fileno())
                os.fchmod(writer.fileno(), files.file_mode(facts.st_mode))
                os.utime(writer.fileno(), ns=(facts.st_atime_ns, facts.st_mtime_ns))
                os.fsync(writer.fileno())
            there.publish(temporary, new_name)
        except BaseException:
            there.discard_quietly(temporary)
            raise


def is_copy(source: Place, other: Place) -> bool:
    """Whether the other is a regular file with the same bytes as the source, which is one too."""
    (here, name), (there, other_name) = source, other
    facts, others = here.lstat(name), there.find(other_name)
    if others is None or not (stat.S_ISREG(facts.st_mode) and stat.S_ISREG(others.st_mode)):
        return False
    return facts.st_size == others.st_size and there.has_sha256(other_name, here.sha256(name))


def _copy_user_attributes(source: int, target: int) -> None:
    """Copy extended attributes of the user's namespace, as far as the file systems have them."""
    with suppress(OSError):
        for name in os.listxattr(source):
            if name.startswith("user."):
                os.setxattr(target, name, os.getxattr(source, name))
