"""A system-call filter for a process that computes on descriptors it already holds.

An allow-list: whatever is not named here fails with EPERM, also calls that future kernels will add.
The filter is a program in the kernel's classic BPF: https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import struct
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Machine:
    """What differs between processor architectures.

    Attributes:
        audit_arch: the kernel's number of the architecture, from linux/audit.h.
        seccomp: number of the system call `seccomp`.
        numbers: of the system calls that the filter names; an architecture may lack some.
    """

    audit_arch: int
    seccomp: int
    numbers: dict[str, int]


# asm/unistd_64.h, and asm-generic/unistd.h, which aarch64 uses.
MACHINES: Final = {
    "x86_64": Machine(
        0xC000003E,
        317,
        dict(  # noqa: C408  # half as long as a literal
            read=0, write=1, close=3, fstat=5, poll=7, lseek=8, mmap=9, mprotect=10, munmap=11, brk=12,
            rt_sigaction=13, rt_sigprocmask=14, rt_sigreturn=15, ioctl=16, pread64=17, pwrite64=18, readv=19,
            writev=20, sched_yield=24, mremap=25, madvise=28, dup=32, dup2=33, nanosleep=35, getpid=39, sendto=44,
            recvfrom=45, sendmsg=46, recvmsg=47, shutdown=48, clone=56, exit=60, fcntl=72, fsync=74, fdatasync=75,
            ftruncate=77, gettimeofday=96, getrlimit=97, getrusage=98, sysinfo=99, times=100, sigaltstack=131,
            gettid=186, time=201, futex=202, sched_getaffinity=204, restart_syscall=219, clock_gettime=228,
            clock_getres=229, clock_nanosleep=230, exit_group=231, tgkill=234, newfstatat=262, ppoll=271,
            set_robust_list=273, dup3=292, preadv=295, pwritev=296, prlimit64=302, getrandom=318, membarrier=324,
            preadv2=327, pwritev2=328, statx=332, rseq=334, clone3=435,
        ),
    ),
    "aarch64": Machine(
        0xC00000B7,
        277,
        dict(  # noqa: C408  # half as long as a literal
            dup=23, dup3=24, fcntl=25, ioctl=29, ftruncate=46, close=57, lseek=62, read=63, write=64, readv=65,
            writev=66, pread64=67, pwrite64=68, preadv=69, pwritev=70, ppoll=73, newfstatat=79, fstat=80, fsync=82,
            fdatasync=83, exit=93, exit_group=94, futex=98, set_robust_list=99, nanosleep=101, clock_gettime=113,
            clock_getres=114, clock_nanosleep=115, sched_getaffinity=123, sched_yield=124, restart_syscall=128,
            tgkill=131, sigaltstack=132, rt_sigaction=134, rt_sigprocmask=135, rt_sigreturn=139, times=153,
            getrlimit=163, getrusage=165, gettimeofday=169, getpid=172, gettid=178, sysinfo=179, sendto=206,
            recvfrom=207, shutdown=210, sendmsg=211, recvmsg=212, brk=214, munmap=215, mremap=216, clone=220,
            mmap=222, mprotect=226, madvise=233, prlimit64=261, getrandom=278, membarrier=283, preadv2=286,
            pwritev2=287, statx=291, rseq=293, clone3=435,
        ),
    ),
}  # fmt: skip

_AT_EMPTY_PATH: Final = 0x1000
_CLONE_THREAD: Final = 0x10000
_FIOCLEX: Final = 0x5451

# linux/bpf_common.h and linux/seccomp.h
_LOAD_WORD: Final = 0x20
_JUMP_IF_EQUAL: Final = 0x15
_AND: Final = 0x54
_RETURN: Final = 0x06
_ALLOW: Final = 0x7FFF0000
_FAIL: Final = 0x00050000
_KILL_PROCESS: Final = 0x80000000
_OFFSET_NUMBER: Final = 0
_OFFSET_ARCH: Final = 4
_OFFSET_ARGUMENTS: Final = 16
_SET_MODE_FILTER: Final = 1
_GET_ACTION_AVAIL: Final = 2
_FLAG_TSYNC: Final = 1  # the filter holds for all threads


@dataclass(frozen=True, slots=True)
class ArgumentTest:
    """A condition on 32 bits of an argument: `word & mask == value`.

    Attributes:
        index: 2 * argument for its low half, 2 * argument + 1 for its high half.
    """

    index: int
    value: int
    mask: int = 0xFFFFFFFF


def _rules() -> dict[str, tuple[tuple[ArgumentTest, ...], ...]]:
    """Return the calls that depend on their arguments: each is allowed if all words of one alternative fit."""
    no_code = ((ArgumentTest(4, 0, mmap.PROT_EXEC),),)
    return {
        "mmap": no_code,
        "mprotect": no_code,
        "clone": ((ArgumentTest(0, _CLONE_THREAD, _CLONE_THREAD),),),  # threads, but no processes
        # Without a path: the C library asks for the size of an open file in this way.
        "newfstatat": ((ArgumentTest(6, _AT_EMPTY_PATH, _AT_EMPTY_PATH),),),
        "statx": ((ArgumentTest(4, _AT_EMPTY_PATH, _AT_EMPTY_PATH),),),
        # F_SETOWN and F_SETSIG would make the kernel send signals to other processes.
        "fcntl": tuple(
            (ArgumentTest(2, command),)
            for command in (fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC)
        ),
        "ioctl": ((ArgumentTest(2, _FIOCLEX),),),
        "tgkill": ((ArgumentTest(0, os.getpid()),),),  # abort() ends itself this way
        "prlimit64": ((ArgumentTest(0, 0), ArgumentTest(4, 0), ArgumentTest(5, 0)),),  # read our own limits
    }


def program(machine: Machine) -> bytes:
    """Return the filter, in instructions of 8 bytes, for the process that calls this."""
    rules = _rules()
    code = [
        _statement(_LOAD_WORD, _OFFSET_ARCH),
        _jump_if_equal(machine.audit_arch, 1, 0),
        _statement(_RETURN, _KILL_PROCESS),  # the numbers of another architecture mean other calls
        _statement(_LOAD_WORD, _OFFSET_NUMBER),
    ]
    for name, number in machine.numbers.items():
        if name == "clone3":
            body = [_statement(_RETURN, _FAIL | errno.ENOSYS)]  # its flags are out of reach; then clone is tried
        elif name in rules:
            body = [word for alternative in rules[name] for word in _alternative(alternative)]
            body.append(_statement(_RETURN, _FAIL | errno.EPERM))
        else:
            body = [_statement(_RETURN, _ALLOW)]
        code += [_jump_if_equal(number, 0, len(body)), *body]
    code.append(_statement(_RETURN, _FAIL | errno.EPERM))
    return b"".join(code)


def _alternative(words: tuple[ArgumentTest, ...]) -> list[bytes]:
    """Return instructions that allow the call if all words fit, and else go on behind them."""
    code: list[bytes] = []
    n_left = 3 * len(words) + 1
    for word in words:
        n_left -= 3
        code += [
            _statement(_LOAD_WORD, _OFFSET_ARGUMENTS + 4 * word.index),
            _statement(_AND, word.mask),
            _jump_if_equal(word.value, 0, n_left),
        ]
    return [*code, _statement(_RETURN, _ALLOW)]


def _statement(code: int, operand: int) -> bytes:
    return struct.pack("=HBBI", code, 0, 0, operand)


def _jump_if_equal(value: int, if_equal: int, if_not: int) -> bytes:
    return struct.pack("=HBBI", _JUMP_IF_EQUAL, if_equal, if_not, value)


class _Program(ctypes.Structure):
    """What the kernel calls struct sock_fprog."""

    _fields_ = (("n_instructions", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def is_available() -> bool:
    """Return whether this kernel filters system calls and we know its architecture."""
    machine = MACHINES.get(platform.machine())
    if machine is None:
        return False
    action = ctypes.c_uint32(_FAIL)
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(machine.seccomp, _GET_ACTION_AVAIL, 0, ctypes.byref(action)) == 0)


def apply() -> None:
    """Filter the system calls of this process from now on; it must have set PR_SET_NO_NEW_PRIVS.

    Raises:
        OSError: the kernel refuses.
    """
    machine = MACHINES[platform.machine()]
    code = program(machine)
    fprog = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(machine.seccomp, _SET_MODE_FILTER, _FLAG_TSYNC, ctypes.byref(fprog)) != 0:
        code_of_error = ctypes.get_errno()
        raise OSError(code_of_error, os.strerror(code_of_error))
