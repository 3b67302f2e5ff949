"""Where everything lies: the one home of paths."""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.errors import NoPermissionError, TransientError
from daemon.host import files, mounts
from daemon.inbox import CLAIM_FOLDER

if TYPE_CHECKING:
    from daemon.config import Folders
    from daemon.job import Job
    from daemon.journal.records import Reservation

_LOCK_NAME = "lock"
_SHARES_NAME = "shares.json"
_SHARES_MODE = 0o600
_PRIVATE = 0o700
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(slots=True)
class Places:
    """The folders of one instance and the paths within them.

    Attributes:
        folders: the section of the configuration.
        is_mirrored: whether outcomes go into sub-folders as in the inbox; a reload may change it.
    """

    folders: Folders
    is_mirrored: bool

    @property
    def claims(self) -> Path:
        """The folder of claimed recordings, within the inbox so that a claim is one rename."""
        return self.folders.inbox / CLAIM_FOLDER

    def claim(self, job_id: str) -> Path:
        """The folder of one claimed recording."""
        return self.claims / job_id

    def audio(self, job: Job) -> Path:
        """Where a claimed recording lies."""
        return self.claim(job.job_id) / job.name

    def outcome_folder(self, job: Job) -> str:
        """The folder within outbox, processed and failed where a job's outcome goes."""
        return job.folder if self.is_mirrored else ""

    def mirror(self, root: Path, folder: str) -> Path:
        """Make a sub-folder of the inbox below another root, with its group and mode.

        Raises:
            TransientError: a share is not there; what was put in its place would be seen by nobody.
        """
        self.check_shares()
        return files.make_folders(root, folder, model=self.folders.inbox)

    def processed(self, reservation: Reservation) -> Path:
        """Where the audio of a delivered job goes."""
        return self.folders.processed / reservation.folder / reservation.audio_name

    def locks(self) -> tuple[tuple[Path, str], ...]:
        """The lock files of this instance, with what each guards."""
        return (
            (self.state_lock, f"the state folder {self.folders.state}"),
            (self.claims / _LOCK_NAME, f"the inbox {self.folders.inbox}"),
        )

    @property
    def state_lock(self) -> Path:
        """The lock that says whether an instance runs; readable for the group."""
        return self.folders.state / _LOCK_NAME

    def check_shares(self) -> None:
        """Make sure that every disk or share that was there before still is: an empty mount point is no inbox.

        Raises:
            TransientError: one is not mounted.
        """
        remembered = self._remembered_shares()
        for name, folder in self._shared():
            top = remembered.get(str(folder))
            if top is not None and mounts.top_of(folder) != Path(top):
                what = f"The disk or share of the {name} folder is not there: nothing is mounted at {top}."
                remedy = f"Mount it. If it is gone for good, remove {self._shares} and restart the service."
                raise TransientError(what, remedy)

    def remember_shares(self) -> None:
        """Write down where the disks and shares of the folders are mounted.

        Raises:
            NoPermissionError, TransientError: the state folder cannot be written.
        """
        tops = {str(folder): str(mounts.top_of(folder)) for _, folder in self._shared()}
        mounted = {folder: top for folder, top in tops.items() if top != "/"}
        if mounted != self._remembered_shares():
            with files.explained("The shares cannot be remembered", self.folders.state):
                files.replace(self._shares, json.dumps(mounted).encode(), _SHARES_MODE)

    @property
    def _shares(self) -> Path:
        return self.folders.state / _SHARES_NAME

    def _shared(self) -> tuple[tuple[str, Path], ...]:
        names = ("inbox", "outbox", "processed", "failed")
        return tuple((name, getattr(self.folders, name)) for name in names)

    def _remembered_shares(self) -> dict[str, str]:
        try:
            remembered = json.loads(self._shares.read_bytes())
        except (OSError, ValueError):  # not written yet, or damaged: then what is there now is right
            return {}
        return remembered if isinstance(remembered, dict) else {}

    def prepare(self) -> None:
        """Make the folders that are missing and make sure that all can be used.

        Raises:
            NoPermissionError: one may not be made, read or written.
            TransientError: one cannot be made.
        """
        for name in ("inbox", "outbox", "processed", "failed", "state", "cache"):
            folder: Path = getattr(self.folders, name)
            with suppress(FileExistsError), files.explained(f"The {name} folder cannot be made", folder.parent):
                folder.mkdir(parents=True)
            if not folder.is_dir():
                raise TransientError(f"{folder} is not a folder.", f"Make it one, or change folders.{name}.")
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                remedy = f"Give the service's user read and write permission on {folder}."
                if os.statvfs(folder).f_flag & os.ST_RDONLY:  # so the unit shows what it does not name
                    remedy = f"It is mounted read-only here. A unit must name it: ReadWritePaths={folder} in a drop-in."
                raise NoPermissionError(f"The {name} folder {folder} may not be read and written.", remedy)
        self.make_claims()

    def make_claims(self) -> None:
        """Make the folder of claims, or make sure that the one which stands there is nobody else's.

        Raises:
            NoPermissionError, TransientError: it cannot be used.
        """
        with files.explained("Claims cannot be made", self.folders.inbox):
            with suppress(FileExistsError):
                self.claims.mkdir(mode=_PRIVATE)
            facts = self.claims.lstat()
            if not stat.S_ISDIR(facts.st_mode):
                raise TransientError(f"{self.claims} is not a folder.", "Remove it; the service makes its own.")
            if facts.st_uid != os.geteuid() and facts.st_uid != self._owner_of_new():
                remedy = "It may hold recordings: give it to the service's user with chown -R."
                raise NoPermissionError(f"{self.claims} belongs to somebody else.", remedy)
            if stat.S_IMODE(facts.st_mode) & _OTHERS:
                with suppress(PermissionError):  # a share that knows no modes
                    self.claims.chmod(_PRIVATE)

    def _owner_of_new(self) -> int:
        """Return to whom a folder belongs that we make in the inbox: on some shares not to us."""
        folder = Path(tempfile.mkdtemp(prefix=files.TEMPORARY_PREFIX, dir=self.folders.inbox))
        try:
            return folder.stat().st_uid
        finally:
            folder.rmdir()

    def remove_claim(self, job_id: str) -> None:
        """Remove the emptied folder of a claim, with our own hidden notes in it.

        Raises:
            OSError: somebody's file is in it; then nothing is removed.
        """
        folder = self.claim(job_id)
        with suppress(FileNotFoundError):
            left = list(folder.iterdir())
            if not all(path.name.startswith(".") for path in left):
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(folder))
            for path in left:
                path.unlink()
            folder.rmdir()
            files.sync_folder(self.claims)
