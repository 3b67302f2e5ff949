"""Durable files: write, publish without overwriting, move, lock. Standard library only.

A name is durable when the file was synced before it got the name and the folder after it
(https://lwn.net/Articles/457667/). Nothing here follows a link at the last step of a path, and
nothing but `replace` ever takes a name that another file has.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import stat
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.errors import AlreadyRunningError, JobError, NoPermissionError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

TEMPORARY_PREFIX = ".scribed-"
_BLOCK_BYTES = 1 << 20
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
# What rename and link answer where a filesystem has no such operation (NFS, FUSE, SMB, FAT).
_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EMLINK})
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# Who asks whether a lock is held holds it himself for some microseconds.
_LOCK_TRIES, _LOCK_PAUSE_S = 5, 0.02
_LOCK_MODE = 0o640  # members of the group may ask whether an instance runs
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def explained(what: str, folder: Path) -> Iterator[None]:
    """Turn an OSError of the file system into one of ours, which says what to do.

    Args:
        what: what was being done, such as "the transcript could not be written".
        folder: the folder a person has to look at.

    Raises:
        NoPermissionError: the folder may not be written.
        TransientError: anything else (disk full, share gone); it may be gone the next time.
    """
    try:
        yield
    except FileExistsError:
        raise
    except PermissionError as error:
        remedy = f"Give the service's user write permission on {folder}."
        raise NoPermissionError(f"{what}: {folder} may not be written.", remedy) from error
    except OSError as error:
        remedy = f"Free some space on the disk of {folder}." if error.errno in _DISK_FULL else f"Look at {folder}."
        raise TransientError(f"{what}: {error.strerror or error}.", remedy) from error


def sync_folder(folder: Path) -> None:
    """Make the names within a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # SMB and some FUSE filesystems cannot sync a folder
            raise
    finally:
        os.close(fd)


def temporary_beside(target: Path) -> Path:
    """Return the hidden name under which `target` is written.

    It follows from the target's name, so that what a crash left there is found and written over.
    """
    return target.with_name(f"{TEMPORARY_PREFIX}{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}.tmp")


def write_temporary(target: Path, content: bytes, mode: int) -> Path:
    """Write `content` durably under a hidden name beside `target` and return that name."""
    temporary = temporary_beside(target)
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), mode)  # not subject to the umask, as `output.mode` promises
            os.fsync(stream.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def publish(temporary: Path, target: Path) -> None:
    """Give a written file its name, unless another file has it.

    Raises:
        FileExistsError: the name is taken; the temporary file is left as it was.
    """
    _rename_noreplace(temporary, target)
    sync_folder(target.parent)


def replace(target: Path, content: bytes, mode: int) -> None:
    """Write a file of our own whole, over an earlier version of itself."""
    temporary = write_temporary(target, content, mode)
    try:
        temporary.rename(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def move(source: Path, target: Path, *, is_private: bool = False) -> None:
    """Move a file durably, keeping its mtime; across file systems by copy, sync, rename, unlink.

    Args:
        source: the file.
        target: its new path.
        is_private: the target is in a folder where nobody else puts anything: then a plain rename
            will do, which is one step on every file system.

    Raises:
        FileExistsError: the target's name is taken.
    """
    try:
        if is_private:
            source.rename(target)
        else:
            _rename_noreplace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy_over(source, target)
        _give_up_name(source, target)
    sync_folder(target.parent)
    sync_folder(source.parent)


def resume_move(source: Path, target: Path) -> None:
    """Move a file as `move` does; where a crash cut that off after the copy, only the source goes.

    Raises:
        FileExistsError: another file has the target's name.
    """
    if is_copy(source, target):
        source.unlink()
        sync_folder(source.parent)
    else:
        move(source, target)


@contextmanager
def reached(root: Path, relative: str) -> Iterator[Path]:
    """Hold on to a sub-folder, reached without following a link below `root`.

    Who may write to a shared folder can put a link in the place of one of its sub-folders at any
    moment. The path that is yielded goes on to name the folder that was reached.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such folder.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    fd = os.open(root, flags)
    try:
        for part in filter(None, relative.split("/")):
            outer, fd = fd, os.open(part, flags | os.O_NOFOLLOW, dir_fd=fd)
            os.close(outer)
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def make_folders(root: Path, relative: str, model: Path | None = None) -> Path:
    """Make the sub-folders of `relative` below `root` and return the last.

    Args:
        root: an existing folder.
        relative: folders with "/" between them, "" for root itself.
        model: a folder with the same sub-folders; a new one gets the group and mode of its twin.

    Raises:
        TransientError: a file has the name of one of them.
    """
    folder = root
    for part in filter(None, relative.split("/")):
        folder /= part
        model = model / part if model is not None else None
        _make_folder(folder, model)
    return folder


def disk_of(folder: Path) -> int | None:
    """Return what tells the folder's disk or share from others, or None where there is no such folder."""
    try:
        return folder.stat().st_dev
    except OSError:
        return None


def free_bytes(folder: Path) -> int:
    """Return how many bytes an ordinary user can still write to the folder's disk."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def open_regular(path: Path | int) -> int:
    """Open a file for reading and return its descriptor; never a link, a pipe or a device.

    Args:
        path: the file, or a descriptor of ours, which is opened again with a position of its own.

    Raises:
        JobError: it is not a regular file.
        NoPermissionError: it may not be read.
        TransientError: it is gone, or cannot be read now.
    """
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(f"/proc/self/fd/{path}", flags) if isinstance(path, int) else os.open(path, flags | os.O_NOFOLLOW)
    except PermissionError as error:
        raise NoPermissionError("It may not be read.", "Give the service's user read permission on it.") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise JobError("It is a link, not a recording.", "Put the recording itself into the inbox.") from error
        if error.errno == errno.ENXIO:  # a socket
            raise _not_a_file() from error
        raise TransientError(f"It cannot be opened: {error.strerror}.", "Look at the folder's disk.") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _not_a_file()
    return fd


def _not_a_file() -> JobError:
    return JobError("It is not a file.", "Put the recording itself into the inbox.")


def sha256_of(path: Path | int, raise_if_stopped: Callable[[], None] = lambda: None) -> str:
    """Return the sha256 of a file in hexadecimal; `raise_if_stopped` is called at every MiB and may raise."""
    with os.fdopen(open_regular(path), "rb") as stream:
        return sha256_of_stream(stream, raise_if_stopped)


def sha256_of_stream(stream: BinaryIO, raise_if_stopped: Callable[[], None] = lambda: None) -> str:
    """Return the sha256 of the rest of an open file, as `sha256_of` does."""
    digest = hashlib.sha256()
    while block := stream.read(_BLOCK_BYTES):
        raise_if_stopped()
        digest.update(block)
    return digest.hexdigest()


class Lock:
    """A lock on a file which the kernel drops when its holder dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self, holds: str) -> None:
        """Take the lock; `holds` names what it guards.

        Raises:
            AlreadyRunningError: another process holds it.
            NoPermissionError, TransientError: there can be no lock here.
        """
        with explained(f"The lock on {holds} cannot be taken", self.path.parent):
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _LOCK_MODE)
            try:
                with suppress(PermissionError):  # somebody else's file; its mode is their affair
                    os.fchmod(fd, _LOCK_MODE)
                is_ours = _try_lock(fd)
            except BaseException:
                os.close(fd)
                raise
        if not is_ours:
            os.close(fd)
            remedy = "Stop it first, or give this one folders of its own."
            raise AlreadyRunningError(f"Another scribed already holds {holds}.", remedy)
        self._fd = fd

    def release(self) -> None:
        """Give the lock back; it is no fault to do so twice."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _try_lock(fd: int) -> bool:
    pause = threading.Event()
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pause.wait(_LOCK_PAUSE_S)
        else:
            return True
    return False


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock; needs no more than read permission."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    finally:
        os.close(fd)
    return False


def _rename_noreplace(source: Path, target: Path) -> None:
    """Rename in one step, or by link and unlink where the filesystem knows no such rename."""
    result = _libc.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
    if result == 0:
        return
    code = ctypes.get_errno()
    if code not in _UNSUPPORTED:
        raise OSError(code, os.strerror(code), str(target))
    _rename_by_link(source, target)


def _rename_by_link(source: Path, target: Path) -> None:
    """Rename in two steps, where the filesystem knows no rename that replaces nothing."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        # NFS repeats a request whose answer was lost and then finds its own work: look, then judge.
        if not os.path.samestat(source.lstat(), target.lstat()):
            raise
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        # Neither operation exists here (FAT, some shares). We are the only writer that takes these
        # names, so a look before the rename is the best that can be done.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        source.rename(target)
        return
    _give_up_name(source, target)


def _give_up_name(source: Path, target: Path) -> None:
    """Remove the old name of a moved file; where that is refused the new one, lest there be two for ever."""
    try:
        source.unlink(missing_ok=True)
    except OSError:
        target.unlink()
        raise


def _copy_over(source: Path, target: Path) -> None:
    """Copy a file to another file system under a hidden name, sync it, then publish it."""
    temporary = temporary_beside(target)
    temporary.unlink(missing_ok=True)
    with os.fdopen(open_regular(source), "rb") as reader:
        facts = os.fstat(reader.fileno())
        try:
            # Closed to all others until it is whole, whatever the umask: it may be somebody's speech.
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as writer:
                while block := reader.read(_BLOCK_BYTES):
                    writer.write(block)
                writer.flush()
                os.fchmod(writer.fileno(), stat.S_IMODE(facts.st_mode))
                os.utime(writer.fileno(), ns=(facts.st_atime_ns, facts.st_mtime_ns))
                os.fsync(writer.fileno())
            publish(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def is_copy(source: Path, target: Path) -> bool:
    """Whether the target is a file with the same bytes as the source."""
    if not os.path.lexists(target):
        return False
    facts, others = source.lstat(), target.lstat()
    are_files = stat.S_ISREG(facts.st_mode) and stat.S_ISREG(others.st_mode)
    return are_files and facts.st_size == others.st_size and sha256_of(source) == sha256_of(target)


def _make_folder(folder: Path, model: Path | None) -> None:
    """Make a folder with the group and mode of its model, as far as we may."""
    mode, facts = 0o777, None
    if model is not None:
        with suppress(OSError):  # its sender may have removed it by now
            facts = model.stat()
            mode = stat.S_IMODE(facts.st_mode) | stat.S_IRWXU  # whatever its owner may there, we must here
    try:
        # Never wider than the model, not even for a moment. A chmod to setgid may be refused to us
        # (RestrictSUIDSGID); a folder made within one that is setgid has it without.
        folder.mkdir(mode=mode & 0o777)
    except FileExistsError:
        if not folder.is_dir():
            what = f"{folder} is a file where a folder of this name is needed."
            raise TransientError(what, "Rename it or move it away.") from None
        return
    if facts is not None:
        with suppress(OSError):
            os.chown(folder, -1, facts.st_gid)
        with suppress(OSError):
            folder.chmod(mode)
    sync_folder(folder.parent)
