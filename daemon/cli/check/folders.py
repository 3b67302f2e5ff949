"""The folders, and the group that shares them."""

from __future__ import annotations

import grp
import os
import stat
from typing import TYPE_CHECKING, Final

from daemon.cli.check.finding import Finding
from daemon.configfile import SHARED_FOLDERS
from daemon.errors import ExitCode
from daemon.host import files
from daemon.journal.displaced import count_unfinished_by_inbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from daemon.cli.check.finding import Installation

_LOW_BYTES: Final = 2 << 30
# The group may read, write and enter, and new files and folders belong to the group too.
_SHARED_MODE: Final = stat.S_ISGID | stat.S_IRWXG
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def check_folders(installation: Installation) -> Iterator[Finding]:
    """Check that each folder exists, can be used, is shared where it should be, and has room."""
    folders = installation.config.folders
    named: dict[str, Path] = {name: getattr(folders, name) for name in type(folders).model_fields}
    for name, folder in named.items():
        yield _check_folder(name, folder)
    for name in ("processed", "failed"):
        if folders.inbox.is_dir() and named[name].is_dir() and folders.inbox.stat().st_dev != named[name].stat().st_dev:
            remedy = "This works, but every recording is copied; with both on one file system it is only renamed."
            yield Finding("warning", f"folder {name}: on another file system than the inbox", remedy)


def _check_folder(name: str, folder: Path) -> Finding:
    if not os.path.lexists(folder):
        remedy = f"sudo install -d -o scribed -g scribed -m {'2770' if name in SHARED_FOLDERS else '0750'} {folder}"
        return Finding("fault", f"folder {name}: {folder} does not exist", remedy, ExitCode.CANNOT_WRITE)
    if not folder.is_dir():
        what = "is a link to nothing" if not folder.exists() else "is a file, not a folder"
        remedy = f"Move it away, or set folders.{name} to a folder."
        return Finding("fault", f"folder {name}: {folder} {what}", remedy, ExitCode.CANNOT_WRITE)
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        remedy = f"Give this user read and write permission on {folder}."
        return Finding("fault", f"folder {name}: {folder} is not readable and writable", remedy, ExitCode.NO_PERMISSION)
    if name in SHARED_FOLDERS and (found := _check_sharing(name, folder)) is not None:
        return found
    free_bytes = files.free_bytes(folder)
    if free_bytes < _LOW_BYTES:
        what = f"folder {name}: {folder} has only {free_bytes >> 20} MiB free"
        return Finding("warning", what, "Free some space.")
    return Finding("ok", f"folder {name}: {folder}")


def _check_sharing(name: str, folder: Path) -> Finding | None:
    if folder.stat().st_mode & _SHARED_MODE != _SHARED_MODE:
        remedy = f"sudo chgrp scribed {folder} && sudo chmod 2770 {folder}"
        return Finding("warning", f"folder {name}: {folder} is not shared with a group", remedy)
    parent = folder.resolve().parent
    if _can_be_replaced_in(parent.stat().st_mode):
        what = f"folder {name}: others can write to {parent} and so replace {folder}"
        return Finding("warning", what, f"sudo chmod g-w,o-w {parent}")
    return None


def _can_be_replaced_in(mode: int) -> bool:
    """Whether others than the owner can rename what is in a folder of this mode."""
    return bool(mode & _OTHERS_WRITE) and not mode & stat.S_ISVTX


def check_displaced(installation: Installation) -> Iterator[Finding]:
    """Name the inboxes of earlier configurations in which recordings still lie claimed."""
    current = os.path.realpath(installation.config.folders.inbox)
    for inbox, n_jobs in sorted(count_unfinished_by_inbox(installation.config.folders.state).items()):
        if str(inbox) == current:
            continue
        are = "1 recording is" if n_jobs == 1 else f"{n_jobs} recordings are"
        what = f"claimed: {are} unfinished in {inbox}, the inbox of an earlier configuration"
        remedy = f"The running service finishes them from there: keep {inbox} in place and writable for it until then."
        yield Finding("warning", what, remedy)


def check_group(installation: Installation) -> Iterator[Finding]:
    """List the people who may drop recordings and read transcripts: the members of the inbox's group."""
    try:
        group = grp.getgrgid(installation.config.folders.inbox.stat().st_gid)
    except (OSError, KeyError):  # reported with the folder, or a group of another machine
        return
    if group.gr_mem:
        yield Finding("ok", f"group {group.gr_name}: {', '.join(sorted(group.gr_mem))}")
    else:
        remedy = f"sudo usermod -aG {group.gr_name} NAME, for each person who may drop recordings and read transcripts"
        yield Finding("warning", f"group {group.gr_name}: has no members", remedy)
