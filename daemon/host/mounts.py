"""Which disk or share a folder is on, and what that means for its files."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

_TABLE: Final = Path("/proc/self/mountinfo")
# Here others write without our kernel knowing: only our own changes would cause events.
_SILENT: Final = re.compile(r"nfs4?|cifs|smb\w*|9p|afs|ceph|lustre|glusterfs|virtiofs|vboxsf|vmhgfs|fuse(?!ctl).*")
_COMPRESSING: Final = frozenset({"btrfs", "zfs", "bcachefs", "ntfs3", "erofs"})
_tops: Final[dict[Path, tuple[int, int, Path]]] = {}  # device, inode and answer of `top_of` for each folder
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


def top_of(folder: Path) -> Path:
    """Return the highest folder above this one on the same disk or share: where that is mounted.

    For a folder that does not exist, the nearest existing one above it counts. The answer is "/" where
    the folder has no disk of its own. Bind mounts of one disk do not count, so that the answer
    is the same inside the service's sandbox and outside.
    """
    try:
        facts = os.stat(folder)  # noqa: PTH116  # Path.stat takes twice as long
    except OSError:
        return _find_top(folder)
    found = _tops.get(folder)
    # The same folder is where it was. A folder is asked about several times for each recording.
    if found is None or found[:2] != (facts.st_dev, facts.st_ino):
        found = _tops[folder] = (facts.st_dev, facts.st_ino, _find_top(folder))
    return found[2]


def _find_top(folder: Path) -> Path:
    path = Path(os.path.realpath(folder))
    while not path.exists():
        path = path.parent
    while path != path.parent and path.stat().st_dev == path.parent.stat().st_dev:
        path = path.parent
    return path


def filesystem_of(folder: Path, table: Path = _TABLE) -> str:
    """Return the kind of file system a path is on, as in mountinfo ("ext4", "nfs4"); "" where that is unknown.

    Args:
        folder: any path; links in it are followed.
        table: what proc(5) calls mountinfo.

    Raises:
        OSError: the table cannot be read.
    """
    kind, depth = "", -1
    path = Path(os.path.realpath(folder))
    for line in table.read_bytes().splitlines():
        fields, _, rest = os.fsdecode(line).partition(" - ")
        top = Path(_ESCAPE.sub(lambda found: chr(int(found[1], 8)), fields.split()[4]))
        if path.is_relative_to(top) and len(top.parts) >= depth:  # a later mount hides an earlier one
            kind, depth = rest.split()[0], len(top.parts)
    return kind


def is_silent(folder: Path, table: Path = _TABLE) -> bool:
    """Whether others can change this folder without our kernel knowing: a network share (NFS, SMB, 9p) or FUSE.

    Raises:
        OSError: the table of mounts cannot be read.
    """
    return _SILENT.fullmatch(filesystem_of(folder, table)) is not None


def compresses(path: Path, table: Path = _TABLE) -> bool:
    """Whether a file here may take less room than its size without having holes."""
    try:
        return filesystem_of(path, table) in _COMPRESSING
    except OSError:  # no /proc
        return False
