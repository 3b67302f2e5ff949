"""Giving up rights permanently: a process that continues with nothing but the descriptors it holds.

Two locks of the kernel, each of which holds where the other is missing. seccomp refuses the system calls that
open, create, connect, start or signal anything. Landlock refuses every path, TCP, and signals to other processes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass
from typing import Final

from daemon.host import seccomp

# linux/landlock.h; the numbers of its system calls are the same on all architectures.
_CREATE_RULESET: Final = 444
_RESTRICT_SELF: Final = 446
_ASK_VERSION: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38  # linux/prctl.h
# How many rights to files each version of Landlock knows: the lowest n bits.
_N_FILE_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NETWORK_VERSION: Final = 4  # bind and connect TCP
_NETWORK_RIGHTS: Final = 0b11
_SCOPE_VERSION: Final = 6  # abstract UNIX sockets, and signals to processes outside
_SCOPES: Final = 0b11


@dataclass(frozen=True, slots=True)
class Missing:
    """A protection that this machine does not give: what is missing, and what to do."""

    what: str
    remedy: str


_NO_SECCOMP: Final = Missing(
    "The kernel does not filter system calls (seccomp) for this program.",
    "Use a kernel with CONFIG_SECCOMP_FILTER, on x86-64 or aarch64; in a container, allow the call seccomp.",
)


def find_missing() -> tuple[Missing, ...]:
    """Return which protections of decoder processes are missing here; changes nothing."""
    version, reason = _landlock_version()
    missing = [] if version else [reason]
    if not seccomp.is_available():
        missing.append(_NO_SECCOMP)
    return tuple(found for found in missing if found is not None)


def give_up_rights() -> tuple[Missing, ...]:
    """Permanently give up everything this process does not need to work on the descriptors it holds.

    From here on it cannot open, list or change any path, start a process, load or make code, open a socket, or
    reach another process. All modules must be imported and all files open. Landlock holds for the calling thread
    and those it starts; so call this while there is one thread.

    Returns:
        what could not be given up because the kernel has no lock for it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    missing: list[Missing] = []
    version, reason = _landlock_version()
    if reason is not None:
        missing.append(reason)
    else:
        _apply_landlock(libc, version)
    try:
        available = seccomp.is_available()
        if available:
            seccomp.apply()
    except OSError:
        available = False
    if not available:
        missing.append(_NO_SECCOMP)
    return tuple(missing)


def _landlock_version() -> tuple[int, Missing | None]:
    """Return the version of Landlock, or 0 and why there is none."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION))
    if version > 0:
        return version, None
    if ctypes.get_errno() == errno.EOPNOTSUPP:
        return 0, Missing("Landlock is switched off in this kernel.", "Boot with lsm=landlock,... to switch it on.")
    if ctypes.get_errno() == errno.EPERM:
        return 0, Missing(
            "A system-call filter refuses Landlock here.",
            "Allow landlock_create_ruleset and landlock_restrict_self, as the unit of this version does.",
        )
    return 0, Missing("This kernel has no Landlock.", "Use Linux 5.13 or newer with CONFIG_SECURITY_LANDLOCK.")


def _apply_landlock(libc: ctypes.CDLL, version: int) -> None:
    """Forbid every path, TCP, and what reaches other processes: a set of rules that allows nothing."""
    files = (1 << _N_FILE_RIGHTS[min(version, max(_N_FILE_RIGHTS))]) - 1
    rights = struct.pack("=Q", files)
    if version >= _NETWORK_VERSION:
        rights += struct.pack("=Q", _NETWORK_RIGHTS)
    if version >= _SCOPE_VERSION:
        rights += struct.pack("=Q", _SCOPES)
    ruleset = libc.syscall(_CREATE_RULESET, rights, ctypes.c_size_t(len(rights)), 0)
    if ruleset < 0:
        raise _os_error()
    try:
        if libc.syscall(_RESTRICT_SELF, ruleset, 0) != 0:
            raise _os_error()
    finally:
        os.close(ruleset)


def _os_error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))
