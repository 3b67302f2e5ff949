"""Which disk or share a folder lies on, and whether its changes can be heard of."""

from __future__ import annotations

import os
import re
from pathlib import Path

_TABLE = Path("/proc/self/mountinfo")
# Here others write without our kernel being told: events would be of our own doing alone.
_SILENT = re.compile(r"nfs4?|cifs|smb\w*|9p|afs|ceph|lustre|glusterfs|virtiofs|vboxsf|vmhgfs|fuse(?!ctl).*")
_ESCAPE = re.compile(r"\\([0-7]{3})")


def top_of(folder: Path) -> Path:
    """Return the highest folder above this one on the same disk or share: where that is mounted.

    A folder that does not exist is looked for in the nearest one above it that does. It is "/" where
    the folder lies on no disk of its own. Bind mounts of one disk do not count, so that the answer
    is the same within the service's sandbox and outside.
    """
    path = Path(os.path.realpath(folder))
    while not path.exists():
        path = path.parent
    while path != path.parent and path.stat().st_dev == path.parent.stat().st_dev:
        path = path.parent
    return path


def is_silent(folder: Path, table: Path = _TABLE) -> bool:
    """Whether others can change this folder unheard: it is a network share (NFS, SMB, 9p) or FUSE.

    Args:
        folder: any folder.
        table: what proc(5) calls mountinfo.
    """
    kind, depth = "", -1
    path = Path(os.path.realpath(folder))
    for line in table.read_bytes().splitlines():
        fields, _, rest = os.fsdecode(line).partition(" - ")
        top = Path(_ESCAPE.sub(lambda found: chr(int(found[1], 8)), fields.split()[4]))
        if path.is_relative_to(top) and len(top.parts) >= depth:  # a later mount hides an earlier one
            kind, depth = rest.split()[0], len(top.parts)
    return _SILENT.fullmatch(kind) is not None
