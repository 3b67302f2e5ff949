"""Files below a shared folder, reached without following a link. Standard library only.

Everyone who can write to a shared folder can put a symbolic link in the place of any of its sub-folders, at any
moment. So a sub-folder is opened component by component with O_NOFOLLOW, and its files are named relative to its
descriptor. (openat2 with RESOLVE_NO_SYMLINKS would do the same in one call; `RestrictSUIDSGID=` of systemd refuses it.)

Temporary names are random and created with O_EXCL, so that no other process can occupy them first. What a crash leaves
behind is removed by `sweep`, which takes regular files of our own only. `moving` moves files between folders.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from daemon.errors import JobError, NoPermissionError, ScribedError, TransientError
from daemon.host import files, links, syncs
from daemon.host.turns import waiting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_BUFFER_BYTES: Final = 1 << 16  # with an explicit size, Python does not check whether a new file is a terminal
_MAX_DEPTH: Final = 1000  # of a walk; far below Python's limit of recursion and of open descriptors


class LinkInTheWayError(TransientError):
    """A symbolic link is in place of a folder below a shared folder."""

    def __init__(self, path: Path) -> None:
        # The name is in the first sentence only, where `logging.names` can hide it as a part of the path.
        remedy = "Remove the link, or replace it with a folder."
        super().__init__(f"{path} is a symbolic link. Links inside the shared folders are never followed.", remedy)


class Folder:
    """An open folder. Use it as a context manager; it is for one thread at a time.

    Every name that a method takes is one component, without "/". Methods raise OSError as the system calls do, with the
    whole path as its file name.

    Attributes:
        fd: its descriptor.
    """

    __slots__ = ("_shown", "fd")

    def __init__(self, fd: int, path: Path | str) -> None:
        self.fd = fd
        self._shown = os.fspath(path)  # a string: many thousand folders are opened in a minute, and few are named

    @property
    def path(self) -> Path:
        """Where it was when it was opened, for messages."""
        return Path(self._shown)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a configured folder.

        Raises:
            UntrustedLinkError: a link on the way to it belongs neither to root nor to our user.
        """
        return cls(links.open_configured(path), path)

    @classmethod
    def open_anywhere(cls, path: Path) -> Self:
        """Open a folder that is not shared; links on the way to it are followed as usual."""
        return cls(os.open(path, _OPEN_FOLDER), path)

    def close(self) -> None:
        """Close the descriptor; closing twice is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        """Return the folder itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the folder."""
        self.close()

    @property
    def proc_path(self) -> Path:
        """A path to this very folder, for code that takes no descriptor; valid while it is open."""
        return Path(f"/proc/self/fd/{self.fd}")

    # Ways down

    def descend(self, relative: str) -> Folder:
        """Open a sub-folder; `relative` has "/" between components, "" opens the folder itself once more.

        Raises:
            LinkInTheWayError: a component is a symbolic link.
            FileNotFoundError, NotADirectoryError: there is no such folder.
        """
        parts = _parts(relative)
        if not parts:
            return Folder(os.dup(self.fd), self._shown)
        here = self._enter(parts[0])
        try:
            for part in parts[1:]:
                here = here.step(part)
        except BaseException:
            here.close()
            raise
        return here

    def make(self, relative: str, model: Folder | None = None) -> Folder:
        """Open a sub-folder like `descend`, making what is missing of it.

        Args:
            relative: components with "/" between them.
            model: a folder with the same sub-folders; a new one gets the group and mode of its twin.

        Raises:
            TransientError: a file or a link has the name of one of them.
        """
        here, twin, part = self.descend(""), None, ""
        try:
            if model is not None:
                twin = model.descend("")
            for part in _parts(relative):
                twin = _twin_below(twin, part)
                here.make_one(part, twin)
                here = here.step(part)
        except NotADirectoryError as error:
            here.close()
            what = f"{here.path / part} is a file where a folder of this name is needed."
            raise TransientError(what, "Rename it or move it away.") from error
        except BaseException:
            here.close()
            raise
        finally:
            if twin is not None:
                twin.close()
        return here

    def walk(self) -> Iterator[tuple[str, Folder]]:
        """Yield (path relative to here, open folder) of this folder and all below it that can be opened, no links.

        Each is closed when the next one is asked for. Hidden folders are left out: there are none of ours among them.
        """
        ahead = [""]
        while ahead:
            relative = ahead.pop()
            try:
                folder = self.descend(relative)
            except (OSError, LinkInTheWayError):  # gone, replaced, or closed to us
                if not relative:
                    raise
                continue
            with folder:
                yield relative, folder
                if relative.count("/") < _MAX_DEPTH:
                    ahead += [f"{relative}/{name}" if relative else name for name in _visible_folders(folder)]

    def step(self, name: str) -> Folder:
        """Open a folder in this one and close this one."""
        entered = self._enter(name)
        self.close()
        return entered

    def _enter(self, name: str) -> Folder:
        try:
            with self.naming(name):
                fd = os.open(name, _OPEN_FOLDER | os.O_NOFOLLOW, dir_fd=self.fd)
        except NotADirectoryError:
            if self.is_link(name):
                raise LinkInTheWayError(self.path / name) from None
            raise
        return Folder(fd, f"{self._shown}/{name}")

    def make_one(self, name: str, twin: Folder | None) -> None:
        """Make a sub-folder with the group and mode of its twin where permitted; keep one that exists."""
        mode = files.folder_mode(0o777 if twin is None else os.fstat(twin.fd).st_mode)
        try:
            # Never wider than the twin, not even for a moment. A chmod to setgid may be refused to us
            # (RestrictSUIDSGID); a folder made within one that is setgid has it without.
            self.mkdir(name, mode & 0o777)
        except FileExistsError:
            return
        if twin is not None:
            with suppress(OSError, LinkInTheWayError), self.descend(name) as made:
                if made.names():  # not the new one: a member has put another folder of ours in its place
                    return
                with suppress(OSError):
                    os.chown(made.fd, -1, os.fstat(twin.fd).st_gid)
                os.fchmod(made.fd, mode)
        self.sync()

    # Looking

    def names(self) -> list[str]:
        """Return the names of everything in this folder."""
        with self.naming():
            return os.listdir(self.fd)  # noqa: PTH208  # a path knows no descriptors

    def lstat(self, name: str) -> os.stat_result:
        """Return the facts of a file, of a link itself where it is one."""
        with self.naming(name):
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)

    def find(self, name: str) -> os.stat_result | None:
        """Return the facts of a file, or None where the name is free."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            error.filename = f"{self._shown}/{name}"
            raise

    def exists(self, name: str) -> bool:
        """Whether the name is taken, even by a broken link."""
        return self.find(name) is not None

    def is_file(self, name: str) -> bool:
        """Whether it is a regular file."""
        facts = self.find(name)
        return facts is not None and stat.S_ISREG(facts.st_mode)

    def is_folder(self, name: str) -> bool:
        """Whether it is a folder."""
        facts = self.find(name)
        return facts is not None and stat.S_ISDIR(facts.st_mode)

    def is_link(self, name: str) -> bool:
        """Whether it is a symbolic link."""
        facts = self.find(name)
        return facts is not None and stat.S_ISLNK(facts.st_mode)

    def open_regular(self, name: str) -> int:
        """Open a file for reading; see `files.open_regular`."""
        return files.open_regular(name, self.fd)

    def read(self, name: str, limit: int) -> bytes:
        """Return the content of a regular file, at most `limit` bytes of it.

        Raises:
            JobError, NoPermissionError, TransientError: see `files.open_regular`.
        """
        with os.fdopen(self.open_regular(name), "rb") as stream:
            return stream.read(limit)

    def sha256(self, name: str) -> str:
        """Return the sha256 of a regular file in hexadecimal."""
        with os.fdopen(self.open_regular(name), "rb") as stream:
            return files.sha256_of_stream(stream)

    def has_sha256(self, name: str, digest: str) -> bool:
        """Whether it is a regular file with these bytes; a file that is not readable belongs to another user."""
        with suppress(JobError, NoPermissionError):
            return self.is_file(name) and self.sha256(name) == digest
        return False

    def is_writable(self) -> bool:
        """Whether files can be created in this folder and removed from it."""
        return os.access(".", os.W_OK | os.X_OK, dir_fd=self.fd)

    # Changing

    def sync(self) -> None:
        """Make the names in this folder durable."""
        with waiting():
            syncs.sync_shared(self.fd, files.sync_descriptor)

    def write_temporary(self, content: files.Content, mode: int, tag: str, *, is_durable: bool = True) -> str:
        """Write `content` under a temporary name that holds `tag`, synced if it has to be durable; return that name."""
        name = files.temporary_name(tag)
        fd = self.create(name)
        try:
            with os.fdopen(fd, "wb", _BUFFER_BYTES) as stream:
                stream.writelines(files.blocks_of(content))
                stream.flush()
                os.fchmod(stream.fileno(), files.file_mode(mode))  # not subject to the umask
                if is_durable:
                    with waiting():
                        os.fsync(stream.fileno())
        except BaseException:
            self.discard_quietly(name)
            raise
        return name

    def publish(self, temporary: str, name: str, *, is_durable: bool = True) -> None:
        """Give a written file its name, unless that is taken; sync the folder, unless the caller does.

        Raises:
            FileExistsError: the name is taken; the temporary file is left as it was.
        """
        with self.naming(name):
            files.rename_noreplace(temporary, name, self.fd, self.fd)
        if is_durable:
            self.sync()

    def replace(self, name: str, content: bytes, mode: int, tag: str, *, is_durable: bool = True) -> None:
        """Write a file of our own whole, over an earlier version of itself."""
        temporary = self.write_temporary(content, mode, tag, is_durable=is_durable)
        try:
            with self.naming(name):
                os.rename(temporary, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except BaseException:
            self.discard_quietly(temporary)
            raise
        if is_durable:
            self.sync()

    def write_new(self, name: str, content: bytes) -> None:
        """Write a file for us alone into a folder of ours that has none of this name; a crash may cut it short."""
        with os.fdopen(self.create(name), "wb", _BUFFER_BYTES) as stream:
            stream.write(content)

    def unlink(self, name: str) -> None:
        """Remove a file durably."""
        with self.naming(name):
            os.unlink(name, dir_fd=self.fd)
        self.sync()

    def discard(self, name: str) -> None:
        """Remove a file durably; it may be gone already."""
        with suppress(FileNotFoundError):
            self.unlink(name)

    def mkdir(self, name: str, mode: int) -> None:
        """Make a folder."""
        with self.naming(name):
            os.mkdir(name, mode, dir_fd=self.fd)

    def rmdir(self, name: str, *, is_durable: bool = True) -> None:
        """Remove an empty folder."""
        with self.naming(name):
            os.rmdir(name, dir_fd=self.fd)
        if is_durable:
            self.sync()

    def rename(self, name: str, new_name: str) -> None:
        """Rename an entry of this folder.

        Raises:
            FileExistsError: the new name is taken.
        """
        with self.naming(name):
            files.rename_noreplace(name, new_name, self.fd, self.fd)
        self.sync()

    def sweep(self, tag: str, owners: frozenset[int] = frozenset()) -> None:
        """Remove temporary files with this tag that a crash left here: regular files of ours, and nothing else.

        Args:
            tag: as it was given when they were written.
            owners: user ids besides our own that files of ours may show, as on some shares.
        """
        ours = owners | {os.geteuid()}
        for name in self.names():
            if not name.startswith(f"{files.TEMPORARY_PREFIX}{tag}-"):
                continue
            facts = self.find(name)
            if facts is not None and stat.S_ISREG(facts.st_mode) and facts.st_uid in ours:
                self.discard(name)

    def create(self, name: str) -> int:
        """Create a file for writing, closed to all others until its mode is set."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self.naming(name):
            return os.open(name, flags, 0o600, dir_fd=self.fd)

    def naming(self, name: str = "") -> _Naming:
        """Give an OSError the whole path: to the system it is a name relative to a descriptor."""
        return _Naming(f"{self._shown}/{name}" if name else self._shown)

    def discard_quietly(self, name: str) -> None:
        """Remove a temporary file after an error, which is the one to be reported."""
        with suppress(OSError):
            os.unlink(name, dir_fd=self.fd)


class _Naming:
    """See `Folder.naming`. A generator would take several times as long, and a recording takes a hundred calls."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            error.filename, error.filename2 = self._path, None


def _visible_folders(folder: Folder) -> list[str]:
    with suppress(OSError):
        return sorted(name for name in folder.names() if not name.startswith(".") and folder.is_folder(name))
    return []


def _parts(relative: str) -> list[str]:
    parts = [part for part in relative.split("/") if part]
    if any(part in {".", ".."} for part in parts):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), relative)
    return parts


def _twin_below(twin: Folder | None, name: str) -> Folder | None:
    """Step down to the twin's sub-folder; None where there is none, for its sender may have removed it."""
    if twin is None:
        return None
    try:
        return twin.step(name)
    except (OSError, ScribedError):
        twin.close()
        return None
