"""Every step that changes a disk, seen and steered from outside the process that takes it.

The kernel asks us before each such system call of the process and its threads (seccomp's user
notification, Linux 5.19 and newer) and waits for the answer: go on, fail with this error, only say it
was done. So the n-th step is the n-th of the whole process, whichever thread takes it, and nothing in
the process under test is changed. See seccomp_unotify(2).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import sys
import time
import traceback
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# System calls of x86-64: (verb, where the path is). A path is an index of an argument, a descriptor
# of a folder before it where the call takes one.
_BY_PATH = {
    82: ("rename", None, 1),
    264: ("rename", 2, 3),
    316: ("rename", 2, 3),
    86: ("link", None, 1),
    265: ("link", 2, 3),
    87: ("unlink", None, 0),
    263: ("unlink", 0, 1),
    83: ("mkdir", None, 0),
    258: ("mkdir", 0, 1),
    84: ("rmdir", None, 0),
    90: ("chmod", None, 0),
    268: ("chmod", 0, 1),
    76: ("truncate", None, 0),
    257: ("create", 0, 1),  # openat, and only where it may create
}
# Calls that only look at what a path names, or follow it: an attacker may change it just before them too.
_LOOKS = {
    2: ("look", None, 0),  # open
    4: ("look", None, 0),  # stat
    6: ("look", None, 0),  # lstat
    21: ("look", None, 0),  # access
    80: ("look", None, 0),  # chdir
    89: ("look", None, 0),  # readlink
    137: ("look", None, 0),  # statfs
    188: ("look", None, 0),  # setxattr
    189: ("look", None, 0),  # lsetxattr
    260: ("look", 0, 1),  # fchownat
    262: ("look", 0, 1),  # newfstatat
    267: ("look", 0, 1),  # readlinkat
    269: ("look", 0, 1),  # faccessat
    280: ("look", 0, 1),  # utimensat
    332: ("look", 0, 1),  # statx
    439: ("look", 0, 1),  # faccessat2
}
_BY_FD = {74: "sync", 75: "sync", 77: "truncate", 91: "chmod", 1: "write", 18: "write"}
_OPENAT = 257
_RENAMES = frozenset({82, 264, 316})
_SECCOMP = 317
_SECCOMP_SET_MODE_FILTER = 1
_NEW_LISTENER = 8
_WAIT_KILLABLE = 32  # else a signal would end a waiting call with EINTR, which no disk answers
_TGKILL = 234
_PR_SET_NO_NEW_PRIVS = 38
_RET_USER_NOTIF, _RET_ALLOW = 0x7FC00000, 0x7FFF0000
_LOAD, _IS_EQUAL, _HAS_BITS, _RETURN = 0x20, 0x15, 0x45, 0x06
_ARGS_OFFSET = 16  # of struct seccomp_data
_RECEIVE, _ANSWER = 0xC0502100, 0xC0182101  # ioctls of the listener
_NOTICE = struct.Struct("QIIiIQ6Q")  # struct seccomp_notif
_REPLY = struct.Struct("QqiI")  # struct seccomp_notif_resp
_CONTINUE = 1
_MAX_PATH_BYTES = 4096
_PAGE_BYTES = 4096
_AT_FDCWD = 0xFFFFFF9C
_CRASHED = 70
_SLICE_S, _DEATH_S = 1.0, 10.0
_KERNEL = (5, 19)
_libc = ctypes.CDLL(None, use_errno=True)


class Answer(Enum):
    """What happens to a step, apart from an errno."""

    GO_ON = "go on"
    DIE = "die"  # the process is killed before it
    STOP = "stop"  # the process is asked to end, and the step is done
    PRETEND = "pretend"  # it is not done, and answered as if it were
    HOLD = "hold"  # its thread waits, until a signal has ended the process


@dataclass(frozen=True, slots=True)
class Step:
    """One system call that is about to change a disk.

    Attributes:
        verb: rename, link, unlink, mkdir, rmdir, chmod, truncate, create, sync, write, or look (see run_steered).
        path: what it is done to; the new name of what is renamed.
        source: the old name of what is renamed.
        thread: the number of the thread that takes it; that of the first is the process's.
    """

    verb: str
    path: Path
    source: Path | None = None
    thread: int = 0


@dataclass(frozen=True, slots=True)
class End:
    """How a steered process ended: its exit code (negative: a signal), and whether it had to be killed for time."""

    code: int
    is_hung: bool = False


def why_not() -> str:
    """Return why processes cannot be steered here, "" where they can."""
    if platform.machine() != "x86_64":
        return f"system calls are known by their numbers on x86_64 alone, and this is {platform.machine()}"
    try:
        actions = Path("/proc/sys/kernel/seccomp/actions_avail").read_text()
    except OSError:
        actions = ""
    version = tuple(int(number) for number in platform.release().split("-")[0].split(".")[:2])
    is_able = "user_notif" in actions and version >= _KERNEL
    return "" if is_able else "this kernel cannot stop and ask at each system call (Linux 5.19 can)"


def run_steered(
    program: Callable[[], int], decide: Callable[[Step, int], Answer | int], limit_s: float, *, sees_looks: bool = False
) -> End:
    """Run a program in a forked process and decide about each of its steps.

    Args:
        program: runs in the child and returns its exit code.
        decide: called with each step and the process's id while that thread waits; returns an
            Answer or an errno.
        limit_s: it is killed when it takes longer.
        sees_looks: also ask before each call that only looks at a path or opens it for reading.
    """
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        _be_child(program, theirs, sees_looks=sees_looks)
    theirs.close()
    _, (listener,), _, _ = socket.recv_fds(ours, 1, 1)
    ours.close()
    try:
        return _steer(child, listener, decide, limit_s)
    finally:
        os.close(listener)


def _be_child(program: Callable[[], int], to_parent: socket.socket, *, sees_looks: bool) -> None:
    code = _CRASHED
    try:
        listener = _install_filter(sees_looks=sees_looks)
        socket.send_fds(to_parent, [b"."], [listener])
        os.close(listener)
        to_parent.close()
        code = program()
    except BaseException:  # noqa: BLE001  # it must not run on as a second copy of its parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _steer(child: int, listener: int, decide: Callable[[Step, int], Answer | int], limit_s: float) -> End:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    is_hung = is_dead = False
    while True:
        # In slices: the time in which all of us are stopped, for something else to be measured, is no sign of a hang.
        slice_s = min(limit_s, _SLICE_S)
        begun_s = time.monotonic()
        events = poll.poll(slice_s * 1000)
        limit_s -= min(time.monotonic() - begun_s, slice_s)
        if not events and limit_s <= 0:
            is_hung = is_dead = True
            os.kill(child, signal.SIGKILL)
            limit_s = _DEATH_S
        elif not events:
            continue
        elif events[0][1] & select.POLLIN:
            # What it has started outlives it by a moment, and must not wait for us.
            is_dead = _answer(child, listener, decide if not is_dead else _let_go) or is_dead
        else:  # the last thread is gone
            return End(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), is_hung)


def _let_go(_: Step, __: int) -> Answer:
    return Answer.GO_ON


def _answer(child: int, listener: int, decide: Callable[[Step, int], Answer | int]) -> bool:
    """Answer one question of the kernel; whether the answer was to die."""
    notice = bytearray(_NOTICE.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, notice)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.EINTR}:  # it died meanwhile
            return False
        raise
    notice_id, thread, _, number, _, _, *arguments = _NOTICE.unpack(notice)
    step = _step(thread, number, arguments)
    answer = decide(step, child) if step is not None else Answer.GO_ON
    if answer is Answer.HOLD:
        return False
    if answer is Answer.DIE:
        os.kill(child, signal.SIGKILL)
    elif answer is Answer.STOP:  # through this thread, for another may not wait killably yet
        _libc.syscall(_TGKILL, child, thread, signal.SIGTERM)
    code = answer if isinstance(answer, int) else errno.EINTR if answer is Answer.DIE else 0
    reply = _REPLY.pack(notice_id, 0, -code, _CONTINUE if answer in {Answer.GO_ON, Answer.STOP} else 0)
    try:
        fcntl.ioctl(listener, _ANSWER, bytearray(reply))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    return answer is Answer.DIE


def _step(thread: int, number: int, arguments: list[int]) -> Step | None:
    """Return the step a system call is, or None where it changes nothing that has a name."""
    try:
        if number in _BY_FD:
            path = Path(f"/proc/{thread}/fd/{arguments[0]}").readlink()
            return Step(_BY_FD[number], path, thread=thread) if path.is_absolute() else None
        verb, folder, index = _BY_PATH.get(number) or _LOOKS[number]
        if number == _OPENAT and not arguments[2] & os.O_CREAT:
            verb = "look"
        path = _read_path(thread, arguments[folder] if folder is not None else None, arguments[index])
        source = None
        if number in _RENAMES:
            source_folder = arguments[0] if folder is not None else None
            source = _read_path(thread, source_folder, arguments[index // 2])
    except OSError:  # the thread is gone
        return None
    return Step(verb, path, source, thread)


def _read_path(thread: int, folder: int | None, address: int) -> Path:
    text = b""
    with Path(f"/proc/{thread}/mem").open("rb", buffering=0) as memory:
        while b"\0" not in text and len(text) < _MAX_PATH_BYTES:
            at = address + len(text)
            memory.seek(at)
            text += memory.read(_PAGE_BYTES - at % _PAGE_BYTES)  # what lies beyond the page may not be there
    path = Path(os.fsdecode(text.partition(b"\0")[0]))
    if path.parts[:4] == ("/", "proc", "self", "fd") and len(path.parts) > 4:  # the descriptor
        return Path(f"/proc/{thread}/fd/{path.parts[4]}").readlink().joinpath(*path.parts[5:])
    if path.is_absolute():
        return path
    base = "cwd" if folder is None or folder & 0xFFFFFFFF == _AT_FDCWD else f"fd/{folder}"
    return Path(f"/proc/{thread}/{base}").readlink() / path


def _install_filter(*, sees_looks: bool) -> int:
    """Have the kernel ask about every such call of this process and return the descriptor it asks on."""
    plain = [*(number for number in _BY_PATH if number != _OPENAT), *_BY_FD]
    if sees_looks:
        plain += [*_LOOKS, _OPENAT]
    lines = [(_LOAD, 0, 0, 0)]
    for index, number in enumerate(plain):
        lines.append((_IS_EQUAL, len(plain) - index + 3, 0, number))
    lines += [
        (_IS_EQUAL, 0, 2, _OPENAT),
        (_LOAD, 0, 0, _ARGS_OFFSET + 2 * 8),
        (_HAS_BITS, 1, 0, os.O_CREAT),
        (_RETURN, 0, 0, _RET_ALLOW),
        (_RETURN, 0, 0, _RET_USER_NOTIF),
    ]
    code = b"".join(struct.pack("HBBI", *line) for line in lines)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("HP", len(lines), ctypes.addressof(buffer)))
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS was refused")
    listener = int(
        _libc.syscall(_SECCOMP, _SECCOMP_SET_MODE_FILTER, _NEW_LISTENER | _WAIT_KILLABLE, ctypes.byref(program))
    )
    if listener < 0:
        raise OSError(ctypes.get_errno(), "the filter was refused")
    return listener
