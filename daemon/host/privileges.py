"""Started as root, become whom the state folder belongs to, so that no file ends up as root's."""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
from typing import TYPE_CHECKING

from daemon.errors import NoPermissionError

if TYPE_CHECKING:
    from pathlib import Path

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def become_owner(state: Path) -> None:
    """Give up root for the owner of the state folder; does nothing for anybody else.

    Raises:
        NoPermissionError: the owner cannot be become.
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
            f"Cannot become the owner of {state}: {error.strerror}.", f"Who owns {state}?"
        ) from error
    os.setgid(facts.st_gid)
    os.setuid(facts.st_uid)


def leave_no_core() -> None:
    """See to it that a crash leaves no memory image behind: it would hold speech and text."""
    # Too little for any image, and the one limit at which the kernel hands none to a program such as
    # systemd-coredump either: "RLIMIT_CORE set to 1" in fs/coredump.c.
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = 0 if hard == 0 else 1
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def hide_memory() -> None:
    """Keep other processes of this user from reading our memory; /proc then belongs to root in this regard."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
