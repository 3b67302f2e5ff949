"""Giving up rights: root for the owner of the state folder, core files, and other processes' view of our memory."""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
from typing import TYPE_CHECKING, Final

from daemon.errors import NoPermissionError

if TYPE_CHECKING:
    from pathlib import Path

_PR_SET_DUMPABLE: Final = 4  # linux/prctl.h


def become_owner(state: Path) -> None:
    """Started as root, switch to the owner of the state folder, so that no file ends up owned by root.

    Does nothing for other users, or where root owns the folder.

    Raises:
        NoPermissionError: the switch is not possible.
    """
    if os.geteuid() != 0 or not state.is_dir():
        return
    facts = state.stat()
    if facts.st_uid == 0:
        return
    try:
        account = pwd.getpwuid(facts.st_uid)
        os.initgroups(account.pw_name, facts.st_gid)
        os.environ["HOME"] = account.pw_dir
    except KeyError:  # an owner without an account, as in a container
        os.setgroups([])
    except OSError as error:
        raise NoPermissionError(
            f"Cannot switch to the owner of {state}: {error.strerror}.", f"Check the ownership of {state}."
        ) from error
    os.setgid(facts.st_gid)
    os.setuid(facts.st_uid)


def leave_no_core() -> None:
    """Disable core files: they would hold speech and text."""
    # One byte is too little for a core file, and the only limit at which the kernel passes none to a program such as
    # systemd-coredump either: see "RLIMIT_CORE set to 1" in fs/coredump.c.
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = 0 if hard == 0 else 1
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def hide_memory() -> None:
    """Keep other processes of this user from reading our memory, through /proc or as debuggers."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
