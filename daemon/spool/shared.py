"""The shared folders of one instance: prepared, locked, and known by the disks and shares they are on."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from daemon.errors import NoPermissionError, TransientError
from daemon.host import files, links, mounts
from daemon.host.folders import Folder
from daemon.host.locks import Lock
from daemon.journal.records import Roots
from daemon.spool.private import LOCK_NAME, open_private

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from daemon.config import Folders

_SHARES_NAME: Final = "shares.json"
_SHARES_MODE: Final = 0o600
_SHARED: Final = ("inbox", "outbox", "processed", "failed")
_ALL: Final = (*_SHARED, "state", "cache")


class SharedFolders:
    """The configured folders. They may be links themselves, which are resolved once, here.

    Args:
        folders: the section of the configuration.

    Attributes:
        folders: as above.
        roots: the four shared folders, resolved.
    """

    def __init__(self, folders: Folders) -> None:
        self.folders = folders
        self._held_claims: tuple[os.stat_result, int] | None = None  # facts of the inbox, descriptor of its claims
        self._shares = folders.state / _SHARES_NAME
        self._remembered: tuple[tuple[int, int, int], Mapping[str, Path]] | None = None  # facts of that file, content
        self.roots = Roots(**{name: links.resolve(getattr(folders, name)) for name in _SHARED})

    # Ways in

    @contextmanager
    def outcome(self, root: Path, folder: str, model: Path) -> Iterator[Folder]:
        """Open a sub-folder of outbox, processed or failed, making what is missing of it.

        Args:
            root: the outbox, processed or failed.
            folder: the sub-folder, "" for the root itself.
            model: the inbox; new folders get the group and mode of their twins in it.

        Raises:
            TransientError: a link or a file is in the way, or a share is not mounted: files put in its place
                would be hidden once it is mounted again.
        """
        self.check_mounts()
        with Folder.open(root) as top, _descend_or_make(top, folder, model) as made:
            yield made

    # Start

    def prepare(self) -> None:
        """Make the folders that are missing and check that all can be used.

        Raises:
            NoPermissionError: one cannot be made, read or written by this user.
            TransientError: one cannot be made.
        """
        for name in _ALL:
            folder: Path = getattr(self.folders, name)
            with suppress(FileExistsError), files.explained(f"The {name} folder cannot be made", folder.parent):
                folder.mkdir(parents=True)
            if not folder.is_dir():
                raise TransientError(
                    f"{folder} is not a folder.", f"Replace it with a folder, or change folders.{name}."
                )
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                remedy = f"Give the service's user read and write permission on {folder}."
                if os.statvfs(folder).f_flag & os.ST_RDONLY:  # so the unit shows what it does not name
                    remedy = f"It is read-only here. Allow it in a drop-in of the unit: ReadWritePaths={folder}."
                raise NoPermissionError(f"The {name} folder {folder} is not readable and writable.", remedy)
        self.make_claims()

    def make_claims(self) -> None:
        """Make the folder of claims, or check that the existing one is ours.

        Raises:
            NoPermissionError, TransientError: it cannot be used.
        """
        inbox = self.roots.inbox
        with files.explained("Recordings cannot be claimed", inbox), Folder.open(inbox) as root:
            open_private(root, may_make=not self._has_claims_in(root)).close()

    def _has_claims_in(self, inbox: Folder) -> bool:
        """Whether the folder of claims that we hold the lock of is still in this inbox, under whatever name."""
        if self._held_claims is None:
            return False
        held_inbox, claims = self._held_claims
        is_same = os.path.samestat(held_inbox, os.fstat(inbox.fd))
        return is_same and os.fstat(claims).st_nlink > 0

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the state folder and of each shared folder.

        Raises:
            AlreadyRunningError: another instance holds one of them; the message names it.
            NoPermissionError, TransientError: a lock cannot be taken.
        """
        state = Path(os.path.realpath(self.folders.state))
        named = {"state folder": state, **{f"{name} folder": getattr(self.roots, name) for name in _SHARED}}
        with ExitStack() as held:
            for name, path in named.items():
                with (
                    files.explained(f"The {name} cannot be locked", path),
                    Folder.open(path) as root,
                    open_private(root, may_make=True) as private,
                ):
                    lock = Lock(private.path / LOCK_NAME, private.fd)
                    lock.acquire(f"the {name} {path}")
                    held.callback(lock.release)
                    if name == "inbox folder":
                        claims = os.dup(private.fd)
                        held.callback(os.close, claims)
                        self._held_claims = os.fstat(root.fd), claims
            held.callback(self._give_up_claims)
            yield

    def _give_up_claims(self) -> None:
        self._held_claims = None

    # Mounts

    def check_mounts(self) -> None:
        """Check that every disk or share that was there before still is: an empty mount point is not an empty inbox.

        Raises:
            TransientError: one is not mounted.
        """
        for name, top in self._remembered_mounts().items():
            folder: Path = getattr(self.folders, name)
            if mounts.top_of(folder) != top:
                what = f"The disk or share of the {name} folder is not there: nothing is mounted at {top}."
                remedy = f"Mount it. If it is gone permanently, remove {self._shares} and restart the service."
                raise TransientError(what, remedy)

    def remember_mounts(self) -> None:
        """Write down where the disks and shares of the folders are mounted.

        Raises:
            NoPermissionError, TransientError: the state folder cannot be written.
        """
        tops = {name: mounts.top_of(getattr(self.folders, name)) for name in _SHARED}
        mounted = {name: top for name, top in tops.items() if top != Path("/")}
        if mounted != self._remembered_mounts():
            content = {str(getattr(self.folders, name)): str(top) for name, top in mounted.items()}
            with files.explained("The mounts of the shared folders cannot be remembered", self.folders.state):
                files.replace(self._shares, json.dumps(content).encode(), _SHARES_MODE)

    def _remembered_mounts(self) -> Mapping[str, Path]:
        """Return where shared folders were mounted, by their names."""
        try:
            facts = os.stat(self._shares)  # noqa: PTH116  # Path.stat takes twice as long
        except OSError:  # not written yet: trust what is mounted now
            return {}
        stamp = facts.st_ino, facts.st_size, facts.st_mtime_ns
        if self._remembered is None or self._remembered[0] != stamp:  # it is asked for twice for each recording
            self._remembered = stamp, self._read_mounts()
        return self._remembered[1]

    def _read_mounts(self) -> Mapping[str, Path]:
        try:
            content = json.loads(self._shares.read_bytes())
        except (OSError, ValueError):  # damaged: trust what is mounted now
            return {}
        known = content if isinstance(content, dict) else {}
        tops = {name: known.get(str(getattr(self.folders, name))) for name in _SHARED}
        return {name: Path(top) for name, top in tops.items() if isinstance(top, str)}


def _descend_or_make(top: Folder, folder: str, model: Path) -> Folder:
    with suppress(FileNotFoundError, NotADirectoryError):
        return top.descend(folder)
    with _opened_or_none(model) as twin:
        return top.make(folder, twin)


@contextmanager
def _opened_or_none(path: Path) -> Iterator[Folder | None]:
    try:
        folder = Folder.open(path)
    except OSError:
        yield None
    else:
        with folder:
            yield folder
