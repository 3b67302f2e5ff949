"""Single files: write whole, publish without overwriting, open with care. Standard library only.

A name is durable when the file was synced before it got the name and the folder after it
(https://lwn.net/Articles/457667/). Nothing here follows a link at the last component of a path, and
nothing but `replace` takes a name that another file has. Files below shared folders are reached
through `host.folders`.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import io
import os
import secrets
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias

from daemon.errors import JobError, NoPermissionError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import TracebackType
    from typing import BinaryIO

Content: TypeAlias = bytes | io.FileIO
"""What is written to a file: bytes, or all that an open file contains."""

TEMPORARY_PREFIX: Final = ".scribed-"
_BLOCK_BYTES: Final = 1 << 20
_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1
# What rename and link answer where a filesystem has no such operation (NFS, FUSE, SMB, FAT).
_UNSUPPORTED: Final = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EMLINK}
)
_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
# Set-id, sticky and execute bits: no file that the service owns has any of them.
_NEVER: Final = 0o7111
_libc = ctypes.CDLL(None, use_errno=True)


def file_mode(wanted: int) -> int:
    """Return the permission bits of a file that the service creates or copies: the wanted ones without 07111.

    A set-user-id bit would be one of the service's own user, for everyone who can put a file into the inbox.
    """
    return stat.S_IMODE(wanted) & ~_NEVER


def folder_mode(wanted: int) -> int:
    """Return the permission bits of a folder that the service creates: never set-user-id or sticky, always usable."""
    return stat.S_IMODE(wanted) & ~(stat.S_ISUID | stat.S_ISVTX) | stat.S_IRWXU


def describe_error(error: OSError) -> str:
    """Return what the system says and, where known, about which file: `Permission denied: /srv/scribed/inbox/a.wav`.

    Bare names, which are relative to a descriptor, are left out: `logging.names` can hide whole paths only.
    """
    reason = error.strerror or str(error)
    path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    return f"{reason}: {path}" if path.startswith("/") and not path.startswith("/proc/self/fd/") else reason


def explained(what: str, folder: Path) -> AbstractContextManager[None]:
    """Turn an OSError of the file system into one of ours, which says what to do.

    Args:
        what: what was being done, such as "The transcript cannot be written".
        folder: the folder a person has to look at.

    Raises:
        NoPermissionError: the folder is not writable.
        TransientError: anything else (disk full, share gone); it may work the next time.
    """
    return _Explained(what, folder)


class _Explained:
    """See `explained`. A generator would take several times as long, and each recording uses a dozen of these."""

    __slots__ = ("_folder", "_what")

    def __init__(self, what: str, folder: Path) -> None:
        self._what = what
        self._folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and not isinstance(error, FileExistsError):
            raise _explain(self._what, self._folder, error) from error


def _explain(what: str, folder: Path, error: OSError) -> NoPermissionError | TransientError:
    if isinstance(error, PermissionError):
        remedy = f"Give the service's user write permission on {folder}."
        return NoPermissionError(f"{what}: {folder} is not writable.", remedy)
    if error.errno == errno.EROFS:
        remedy = f"{folder} is read-only here. Allow it in a drop-in of the unit: ReadWritePaths={folder}."
    elif error.errno in _DISK_FULL:
        remedy = f"Free some space on the disk of {folder}."
    else:
        remedy = f"Check {folder} and its disk."
    return TransientError(f"{what}: {describe_error(error)}.", remedy)


def sync_folder(folder: Path) -> None:
    """Make the names within a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_descriptor(fd)
    finally:
        os.close(fd)


def sync_descriptor(fd: int) -> None:
    """Make the names within an open folder durable, where its file system can do so."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # SMB and some FUSE filesystems cannot sync a folder
            raise


def temporary_name(tag: str) -> str:
    """Return a temporary name that cannot be guessed; `tag` (a job's id) says whose it is."""
    return f"{TEMPORARY_PREFIX}{tag}-{secrets.token_hex(8)}"


def temporary_beside(target: Path) -> Path:
    """Return the temporary name of a file in a folder where only its owner writes.

    It follows from the target's name, so that what a crash left there is found and written over.
    """
    return target.with_name(f"{TEMPORARY_PREFIX}{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}.tmp")


def write_temporary(target: Path, content: Content, mode: int) -> Path:
    """Write `content` durably under a random temporary name in the folder of `target` and return that name."""
    temporary = target.with_name(temporary_name("new"))
    _write(temporary, content, mode)
    return temporary


def publish(temporary: Path, target: Path) -> None:
    """Give a written file its name, unless another file has it.

    Raises:
        FileExistsError: the name is taken; the temporary file is left as it was.
    """
    rename_noreplace(temporary, target)
    sync_folder(target.parent)


def replace(target: Path, content: bytes, mode: int) -> None:
    """Write a file whole over an earlier version of itself, in a folder where only its owner writes."""
    temporary = temporary_beside(target)
    temporary.unlink(missing_ok=True)
    _write(temporary, content, mode)
    try:
        temporary.rename(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def blocks_of(content: Content) -> Iterator[bytes]:
    """Yield what is to be written, in blocks where it is in a file, whose position does not change."""
    if isinstance(content, bytes):
        yield content
        return
    offset = 0
    while block := os.pread(content.fileno(), _BLOCK_BYTES, offset):
        yield block
        offset += len(block)


def sha256_of_content(content: Content) -> str:
    """Return the sha256 of what is to be written, in hexadecimal."""
    digest = hashlib.sha256()
    for block in blocks_of(content):
        digest.update(block)
    return digest.hexdigest()


def _write(path: Path, content: Content, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.writelines(blocks_of(content))
            stream.flush()
            os.fchmod(stream.fileno(), file_mode(mode))  # not subject to the umask, as `output.mode` promises
            os.fsync(stream.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


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


def open_regular(path: Path | str | int, dir_fd: int | None = None) -> int:
    """Open a file for reading and return its descriptor; never a link, a pipe or a device.

    Args:
        path: the file, relative to `dir_fd` where that is given; or a descriptor of ours, which is opened again with a
            position of its own.
        dir_fd: descriptor of an open folder.

    Raises:
        JobError: it is not a regular file.
        NoPermissionError: it is not readable.
        TransientError: it is gone, or cannot be read now.
    """
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        if isinstance(path, int):
            fd = os.open(f"/proc/self/fd/{path}", flags)
        else:
            fd = os.open(path, flags | os.O_NOFOLLOW, dir_fd=dir_fd)
    except PermissionError as error:
        raise NoPermissionError("It is not readable.", "Give the service's user read permission on it.") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise JobError("It is a link, not a recording.", "Put the recording itself into the inbox.") from error
        if error.errno == errno.ENXIO:  # a socket
            raise _not_a_file() from error
        raise TransientError(f"It cannot be opened: {error.strerror}.", "Check the disk that holds it.") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _not_a_file()
    return fd


def read_named(path: Path, limit: int) -> bytes:
    """Return the content of a file that a person named to a command; a link is followed.

    In a shared folder anyone can put a pipe, a device or an endless file in its place: none of them holds the command
    up or fills the memory.

    Args:
        path: the file.
        limit: the most bytes it may have.

    Raises:
        OSError: it cannot be opened or read, is not a regular file, or is larger than `limit` (EFBIG).
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as stream:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return content


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


def rename_noreplace(
    source: Path | str, target: Path | str, source_fd: int | None = None, target_fd: int | None = None
) -> None:
    """Rename in one step where the new name is free, or by link and unlink where there is no such rename.

    Args:
        source: the old name, relative to `source_fd` where that is given.
        target: the new name, relative to `target_fd` where that is given.
        source_fd: descriptor of an open folder.
        target_fd: the same.

    Raises:
        FileExistsError: the new name is taken.
    """
    old, new = (_AT_FDCWD if fd is None else fd for fd in (source_fd, target_fd))
    result = _libc.renameat2(old, os.fsencode(source), new, os.fsencode(target), _RENAME_NOREPLACE)
    if result == 0:
        return
    code = ctypes.get_errno()
    if code not in _UNSUPPORTED:
        raise OSError(code, os.strerror(code), str(target))
    _rename_by_link(source, target, source_fd, target_fd)


def _rename_by_link(
    source: Path | str, target: Path | str, source_fd: int | None = None, target_fd: int | None = None
) -> None:
    """Rename in two steps, where the file system knows no rename that replaces nothing."""
    try:
        os.link(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
    except FileExistsError:
        # NFS repeats a request whose answer was lost and then finds its own work: look, then judge.
        if not os.path.samestat(_lstat(source, source_fd), _lstat(target, target_fd)):
            raise
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        # Neither operation exists here (FAT, some shares). We are the only writer that takes these
        # names, so a look before the rename is the best that can be done.
        with suppress(FileNotFoundError):
            _lstat(target, target_fd)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.rename(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd)
        return
    give_up_name(source, target, source_fd, target_fd)


def give_up_name(
    source: Path | str, target: Path | str, source_fd: int | None = None, target_fd: int | None = None
) -> None:
    """Remove the old name of a moved file; where that is refused, the new one, so that there are never two."""
    try:
        with suppress(FileNotFoundError):
            os.unlink(source, dir_fd=source_fd)
    except OSError:
        os.unlink(target, dir_fd=target_fd)
        raise


def _lstat(path: Path | str, dir_fd: int | None) -> os.stat_result:
    return os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
