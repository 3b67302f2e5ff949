"""What hostile code would try in a decoder process; run inside a real one, in place of the codec it took over."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import signal
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon import errors
from daemon.frontend import preparing, worker_process
from daemon.host import seccomp

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.decode import AudioFiles, RecordingFile
    from daemon.frontend.messages import Prepare
    from daemon.frontend.preparing import FoundStream
    from daemon.transcript import Receipt

REFUSED = frozenset({"EPERM", "EACCES", "ENOSYS"})
MARK = b"ATTACK"
"""At this place of a WAV file begins an attack."""
MARK_AT = 100

_IS_X86 = platform.machine() == "x86_64"
_BPF, _ADD_KEY, _PERF_EVENT_OPEN, _USERFAULTFD, _EXECVEAT = (
    (321, 248, 298, 323, 322) if _IS_X86 else (280, 217, 241, 282, 281)
)
_IO_URING_SETUP, _PIDFD_OPEN, _OPENAT2 = 425, 434, 437  # the same on both
_PTRACE_SEIZE = 0x4206
_CLONE_NEWUSER = 0x10000000
_SIGCHLD = 17
_F_SETSIG = 10
_FIOSETOWN = 0x8901
_LANDLOCK_CALLS = (444, 445, 446)
_AT_EMPTY_PATH = 0x1000


@dataclass(frozen=True, slots=True)
class Aims:
    """What an attack goes for.

    Attributes:
        secret: a file it could read, were it not for the sandbox.
        folder: one it could list and write.
        daemon: process id of the daemon.
        victim: process id of another process of the same user.
    """

    secret: str
    folder: str
    daemon: int
    victim: int


def _call(name: str, *words: Any) -> None:  # noqa: ANN401  # as C takes them
    """Call a function of the C library, or a system call by its number, and raise its error."""
    libc = ctypes.CDLL(None, use_errno=True)
    function = getattr(libc, name)
    function.restype = ctypes.c_long if name == "syscall" else ctypes.c_int
    if function(*words) == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _syscall(number: int, *words: Any) -> None:  # noqa: ANN401  # the same
    _call("syscall", ctypes.c_long(number), *words)


def _own_signals(target: int) -> None:
    """Have the kernel kill a process when there is something to read."""
    end, other = os.pipe()
    fcntl.fcntl(end, fcntl.F_SETOWN, target)
    fcntl.fcntl(end, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(end, fcntl.F_SETFL, os.O_ASYNC)
    os.write(other, b".")


def _own_signals_by_ioctl(descriptor: int, target: int) -> None:
    _call("ioctl", descriptor, ctypes.c_ulong(_FIOSETOWN), ctypes.byref(ctypes.c_int(target)))


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)
    os.wait()


def _bind(family: int, address: Any) -> None:  # noqa: ANN401  # each family has its own
    with socket.socket(family) as end:
        end.bind(address)


def _pair() -> None:
    for end in socket.socketpair():
        end.close()


def _connect_tcp(family: int) -> None:
    with socket.socket(family) as end:
        end.settimeout(1)
        try:
            end.connect(("127.0.0.1", 9))
        except ConnectionRefusedError:  # it got out
            return


def _code() -> None:
    mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def _turn_to_code() -> None:
    area = mmap.mmap(-1, mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    _call("mprotect", ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ | mmap.PROT_EXEC)


def attempts(aims: Aims, recording: int) -> dict[str, Callable[[], object]]:
    """Return all that hostile code of the service's user tries, by name; `recording` is an open descriptor."""
    secret, folder = Path(aims.secret), Path(aims.folder)
    new = folder / "new"
    return {
        "read a file": secret.read_bytes,
        "open a file as a path": lambda: os.open(secret, os.O_PATH),
        "open a file with openat2": lambda: _syscall(
            _OPENAT2, -100, str(secret).encode(), (ctypes.c_uint64 * 3)(), ctypes.c_size_t(24)
        ),
        "list a folder": lambda: os.listdir(folder),  # noqa: PTH208  # as hostile code does
        "look up a file": secret.stat,
        "read a link": lambda: os.readlink("/proc/self/exe"),  # noqa: PTH115  # the same
        "read its own memory map": Path("/proc/self/maps").read_bytes,
        "open the recording again": lambda: os.open(f"/proc/self/fd/{recording}", os.O_RDONLY),
        "write a file": lambda: secret.open("r+b").close(),
        "make a file": lambda: new.write_text("mine"),
        "make a file without a name": lambda: os.open(folder, os.O_TMPFILE | os.O_RDWR),
        "make a file in /tmp": lambda: Path(f"/tmp/{os.getpid()}").write_text("mine"),  # noqa: S108  # an attack
        "make a folder": (folder / "made").mkdir,
        "rename a file": lambda: secret.rename(folder / "renamed").rename(secret),
        "link a file": lambda: os.link(secret, folder / "linked"),
        "make a symbolic link": lambda: (folder / "symbolic").symlink_to(secret),
        "make a pipe with a name": lambda: os.mkfifo(folder / "pipe"),
        "shorten a file": lambda: os.truncate(secret, 0),
        "change a mode": lambda: secret.chmod(0o777),
        "change the recording's mode": lambda: os.fchmod(recording, 0o777),
        "change the recording's times": lambda: os.utime(recording, (0, 0)),
        "lock the recording": lambda: fcntl.flock(recording, fcntl.LOCK_EX | fcntl.LOCK_NB),
        "change folders": lambda: os.chdir("/"),
        "remove a file": secret.unlink,
        "inet socket": lambda: socket.socket(socket.AF_INET).close(),
        "inet6 socket": lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close(),
        "unix socket": lambda: socket.socket(socket.AF_UNIX).close(),
        "netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
        "pair of sockets": _pair,
        "connect by TCP": lambda: _connect_tcp(socket.AF_INET),
        "listen on TCP": lambda: _bind(socket.AF_INET, ("127.0.0.1", 0)),
        "fork": _fork,
        "run a program": lambda: subprocess.run(["/bin/true"], check=True),
        "ptrace": lambda: _call("ptrace", ctypes.c_long(_PTRACE_SEIZE), ctypes.c_long(aims.victim), None, None),
        "read another's memory": lambda: _call(
            "process_vm_readv", aims.victim, None, ctypes.c_ulong(0), None, ctypes.c_ulong(0), ctypes.c_ulong(0)
        ),
        "signal the daemon": lambda: os.kill(aims.daemon, 0),
        "signal another process": lambda: os.kill(aims.victim, signal.SIGCONT),
        "handle of another process": lambda: _syscall(_PIDFD_OPEN, aims.victim, 0),
        "signal by a descriptor": lambda: _own_signals(aims.victim),
        "signal by an ioctl": lambda: _own_signals_by_ioctl(recording, aims.victim),
        "limits of another process": lambda: _call("prlimit", aims.victim, 7, None, ctypes.create_string_buffer(16)),
        "priority of another process": lambda: os.setpriority(os.PRIO_PROCESS, aims.victim, 19),
        "memory file": lambda: os.close(os.memfd_create("code")),
        "writable code": _code,
        "data becomes code": _turn_to_code,
        "shared memory": lambda: _call("shmget", 0, ctypes.c_size_t(4096), 0o1600),
        "watch files": lambda: _call("inotify_init"),
        "io_uring": lambda: _syscall(_IO_URING_SETUP, 1, ctypes.create_string_buffer(120)),
        "bpf": lambda: _syscall(_BPF, 0, None, 0),
        "key ring": lambda: _syscall(_ADD_KEY, b"user", b"name", b"secret", ctypes.c_size_t(6), -3),
        "performance events": lambda: _syscall(_PERF_EVENT_OPEN, ctypes.create_string_buffer(128), 0, -1, -1, 0),
        "user faults": lambda: _syscall(_USERFAULTFD, 0),
    }


def irreversible(aims: Aims, recording: int) -> dict[str, Callable[[], object]]:
    """Return what would end or change this process or the machine, did it succeed."""
    return {
        "own limits": lambda: _call("setrlimit", 7, (ctypes.c_uint64 * 2)(9, 9)),
        "clone": lambda: _call("syscall", ctypes.c_long(56 if _IS_X86 else 220), ctypes.c_long(_SIGCHLD), *[None] * 4),
        "new user namespace": lambda: _call("unshare", _CLONE_NEWUSER),
        "mount": lambda: _call("mount", b"none", aims.folder.encode(), b"tmpfs", ctypes.c_ulong(0), None),
        "change the root": lambda: os.chroot(aims.folder),
        "kill everything": lambda: os.kill(-1, 0),
        "another filter": lambda: _call("prctl", 22, 1, None, 0, 0),
        "another personality": lambda: _call("personality", ctypes.c_ulong(0x0040000)),
        "exec": lambda: os.execv("/bin/true", ["true"]),  # noqa: S606  # an attack
        "exec a descriptor": lambda: _syscall(_EXECVEAT, recording, b"", None, None, _AT_EMPTY_PATH),
    }


def outcome(attempt: Callable[[], object]) -> str:
    """Try it; return the name of the error, or "done"."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    return "done"


def arm(aims: Aims) -> None:
    """Let a recording that holds MARK take over the decoder in this process."""
    genuine = preparing.find_streams

    def find_streams(
        source: RecordingFile, files: AudioFiles, request: Prepare, *control: Callable[[], None]
    ) -> tuple[tuple[FoundStream, ...], Receipt]:
        if source.read_at(MARK_AT, len(MARK)) != MARK:
            return genuine(source, files, request, *control)
        ways = attempts(aims, source.descriptor) | irreversible(aims, source.descriptor)
        raise errors.JobError(json.dumps({name: outcome(attempt) for name, attempt in ways.items()}), "")

    setattr(worker_process, "find_streams", find_streams)  # noqa: B010  # a name it imports


def be_without(part: str) -> None:
    """Be on a kernel without "landlock" or "seccomp": let its calls fail with ENOSYS in this process from now on."""
    machine = seccomp.MACHINES[platform.machine()]
    numbers = {"landlock": _LANDLOCK_CALLS, "seccomp": (machine.seccomp,)}[part]
    code = [seccomp._statement(0x20, 0)]
    for number in numbers:
        code += [seccomp._jump_if_equal(number, 0, 1), seccomp._statement(0x06, 0x00050000 | errno.ENOSYS)]
    code.append(seccomp._statement(0x06, 0x7FFF0000))
    fprog = seccomp._Program(len(code), b"".join(code))
    _call("prctl", 38, 1, 0, 0, 0)
    _syscall(machine.seccomp, 1, 0, ctypes.byref(fprog))


LAUNCHER = """\
#!{python}
import sys
sys.path.insert(0, {root!r})
from tests import escape
sys.argv[1:] = sys.argv[-2:]
escape.be_decoder({aims!r}, {lacking!r})
"""


def write_launcher(target: Path, aims: Aims, lacking: str = "") -> Path:
    """Write a program to start in place of the interpreter: a decoder that recordings can take over.

    Args:
        target: the program.
        aims: of the attack.
        lacking: "landlock" or "seccomp", which the kernel is to be without.
    """
    root = str(Path(__file__).parents[1])
    target.write_text(LAUNCHER.format(python=sys.executable, root=root, aims=json.dumps(asdict(aims)), lacking=lacking))
    target.chmod(0o755)
    return target


def be_decoder(aims: str, lacking: str) -> None:
    """Be a decoder process; the last words of the command line are its descriptors."""
    if lacking:
        be_without(lacking)
    arm(Aims(**json.loads(aims)))
    worker_process.main()
