"""One walk through the inbox and its sub-folders, from descriptor to descriptor.

The kernel never gets a whole path, and no link is followed: neither a deep tree nor a folder that is swapped for
a link can mislead it. A folder that cannot be read is reported, and the walk continues.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, TypeAlias

from daemon.host import links
from daemon.inbox.names import ERROR_SUFFIX, is_companion, is_temporary

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator
    from pathlib import Path

    from daemon.config import Watch

# PATH_MAX without its final zero: no program can open what lies deeper by its path.
_MAX_PATH_BYTES: Final = 4095
# A descriptor is open for each level.
_MAX_DEPTH: Final = 100
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class FolderFault:
    """Why something in the inbox could not be looked at.

    Attributes:
        path: of the folder or file within the inbox.
        reason: what the file system said, or what is wrong with it, in words.
    """

    path: str
    reason: str


# A regular file that may be a recording: its path within the inbox, what stat says of it, a descriptor of its
# folder, open until the next file is asked for, and its name there. A plain tuple: there may be 100,000.
Found: TypeAlias = tuple[str, os.stat_result, int, str]


@dataclass(slots=True)
class _Folder:
    """A folder of the walk: its descriptor, its path, and the sub-folders still ahead."""

    descriptor: int
    path: str
    ahead: list[str] = field(default_factory=list)


class Walk:
    """One walk; the attributes are complete when `files` has ended.

    Args:
        root: the inbox, which may itself be reached through a link.
        settings: the section `watch` of the configuration.
        known: paths that were recordings at the last walk: their names need no second judgement.
        enter: called with the path of each folder before it is listed, so that events of it are heard.

    Attributes:
        unreadable: paths of folders that our user may not list or enter.
        faults: what could not be looked at for any other reason.
        error_notes: paths of the `.error.txt` files.
    """

    def __init__(self, root: Path, settings: Watch, known: Container[str], enter: Callable[[str], None]) -> None:
        self.unreadable: list[str] = []
        self.faults: list[FolderFault] = []
        self.error_notes: list[str] = []
        self._root = root
        self._settings = settings
        self._known = known
        self._enter = enter
        self._room_bytes = _MAX_PATH_BYTES - len(os.fsencode(root)) - 1

    def files(self) -> Iterator[Found]:
        """Yield every file that may be a recording.

        Raises:
            OSError: the inbox itself cannot be listed.
            UntrustedLinkError: a link of another user leads to it.
        """
        way: list[_Folder] = []
        try:
            way.append(_Folder(links.open_configured(self._root), ""))
            self._enter("")
            yield from self._files_in(way[0], os.listdir(way[0].descriptor))  # noqa: PTH208  # a descriptor
            while way:
                if not way[-1].ahead:
                    os.close(way.pop().descriptor)
                    continue
                folder = self._opened(way[-1], way[-1].ahead.pop(), len(way))
                if folder is not None:
                    way.append(folder)
                    yield from self._files_in(folder, self._listed(folder))
        finally:
            for folder in way:
                os.close(folder.descriptor)

    def _opened(self, parent: _Folder, name: str, depth: int) -> _Folder | None:
        path = f"{parent.path}/{name}" if parent.path else name
        if depth >= _MAX_DEPTH or len(os.fsencode(path)) > self._room_bytes:
            self.faults.append(FolderFault(path, "it is nested too deeply"))
            return None
        try:
            # Asked by name, for within a folder that may not be entered nothing can be asked.
            if not os.access(name, os.R_OK | os.X_OK, dir_fd=parent.descriptor):
                os.stat(name, dir_fd=parent.descriptor, follow_symlinks=False)  # raises where it is gone
                self.unreadable.append(path)
            return _Folder(os.open(name, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=parent.descriptor), path)
        except (FileNotFoundError, NotADirectoryError):  # gone, or a link by now
            return None
        except PermissionError:
            if path not in self.unreadable[-1:]:
                self.unreadable.append(path)
            return None
        except OSError as error:
            self.faults.append(FolderFault(path, error.strerror or str(error)))
            return None

    def _listed(self, folder: _Folder) -> list[str]:
        """List a sub-folder whole or not at all; os.scandir would keep what it learns of every file until the end."""
        self._enter(folder.path)
        try:
            return os.listdir(folder.descriptor)  # noqa: PTH208  # a descriptor
        except OSError as error:
            self.faults.append(FolderFault(folder.path, error.strerror or str(error)))
            return []

    def _files_in(self, folder: _Folder, names: list[str]) -> Iterator[Found]:
        descriptor, known, ignore = folder.descriptor, self._known, self._settings.ignore
        prefix = f"{folder.path}/" if folder.path else ""
        for name in names:
            path = prefix + name
            is_known = path in known
            if not is_known and is_temporary(name):
                continue
            if ignore and any(fnmatchcase(path, glob) for glob in ignore):
                continue
            try:
                facts = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            except (FileNotFoundError, PermissionError):  # gone since the listing, or in a folder named as unreadable
                continue
            except OSError as error:
                self.faults.append(FolderFault(path, error.strerror or str(error)))
                continue
            if stat.S_ISREG(facts.st_mode):
                if is_known or not is_companion(name):
                    yield path, facts, descriptor, name
                elif name.endswith(ERROR_SUFFIX):
                    self.error_notes.append(path)
            elif stat.S_ISDIR(facts.st_mode) and self._settings.recursive:
                folder.ahead.append(name)
