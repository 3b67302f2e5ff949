from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daemon.errors import JobError, NoPermissionError, TransientError
from daemon.host import files

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG_AGO_NS = 1_000_000_000_123_456_789
NOBODY = 65534


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than tmp_path."""
    memory = Path("/dev/shm")  # noqa: S108  # a second file system is what is wanted
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system at /dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, as pytest's own cannot be."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


_PREAMBLE = """
import json, os, sys
from pathlib import Path
from daemon.host import files
from daemon.errors import NoPermissionError
if os.geteuid() == 0 and {drops}:
    os.setgroups([]), os.setgid({nobody}), os.setuid({nobody})
"""


def run(code: str, *arguments: object, drops: bool = False) -> Any:  # noqa: ANN401  # what the code prints as JSON
    """Run code in a process of its own; the paths it uses are its arguments."""
    preamble = _PREAMBLE.format(drops=drops, nobody=NOBODY)
    command = [sys.executable, "-c", preamble + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def run_as_other(code: str, *arguments: object) -> Any:  # noqa: ANN401  # the same
    """Run code without root's powers."""
    return run(code, *arguments, drops=True)


# Writing and publishing


def test_published_file_is_complete_and_has_its_mode(tmp_path: Path) -> None:
    target = tmp_path / "talk.txt"
    files.publish(files.write_temporary(target, b"words", 0o664), target)
    assert target.read_bytes() == b"words"
    assert stat.S_IMODE(target.stat().st_mode) == 0o664  # whatever the umask
    assert names_in(tmp_path) == {"talk.txt"}


@pytest.mark.parametrize("kind", ["file", "link", "broken link", "folder"])
def test_publish_never_overwrites(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "talk.txt"
    if kind == "file":
        target.write_bytes(b"theirs")
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to(__file__ if kind == "link" else "nowhere")
    before = target.lstat()
    temporary = files.write_temporary(target, b"ours", 0o600)
    with pytest.raises(FileExistsError):
        files.publish(temporary, target)
    assert target.lstat() == before
    assert temporary.read_bytes() == b"ours"


def test_temporary_names_are_unique_and_fit(tmp_path: Path) -> None:
    target = tmp_path / ("x" * 255)
    temporaries = [files.write_temporary(target, b"whole", 0o600) for _ in range(3)]
    assert len(set(temporaries)) == 3
    files.publish(temporaries[0], target)
    assert target.read_bytes() == b"whole"


@pytest.mark.parametrize("wanted", [0o7777, 0o6755, 0o2664, 0o4755, 0o1444])
def test_no_file_gets_set_id_sticky_or_execute_bits(tmp_path: Path, wanted: int) -> None:
    target = tmp_path / "talk.txt"
    files.publish(files.write_temporary(target, b"words", wanted), target)
    assert stat.S_IMODE(target.stat().st_mode) == wanted & 0o666
    files.replace(target, b"words", wanted)
    assert stat.S_IMODE(target.stat().st_mode) == wanted & 0o666


def test_replace_overwrites_earlier_versions_and_leftovers_of_a_crash(tmp_path: Path) -> None:
    target = tmp_path / "status.json"
    files.temporary_beside(target).write_bytes(b"half a docu")
    files.replace(target, b"one", 0o640)
    files.replace(target, b"two", 0o600)
    assert target.read_bytes() == b"two"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert names_in(tmp_path) == {"status.json"}


def test_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="directory"):
        files.replace(tmp_path / "taken", b"x", 0o600)
    assert names_in(tmp_path) == {"taken"}


# A kernel filter (seccomp) that refuses single system calls stages a file system without them.
_NUMBERS = {"x86_64": {"renameat2": 316, "linkat": 265}, "aarch64": {"renameat2": 276, "linkat": 37}}
_REFUSE = """
import ctypes, struct
def refuse(calls):
    # https://docs.kernel.org/userspace-api/seccomp_filter.html: load the number, compare, answer with an error
    program = struct.pack("HBBI", 0x20, 0, 0, 0)
    for number, code in calls:
        program += struct.pack("HBBI", 0x15, 0, 1, number) + struct.pack("HBBI", 0x06, 0, 0, 0x50000 | code)
    program += struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)
    memory = ctypes.create_string_buffer(program)
    head = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(memory))
    libc = ctypes.CDLL(None)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.create_string_buffer(head), 0, 0):
        print(json.dumps("no filter")); sys.exit()
refuse(json.loads(sys.argv[1]))
temporary, taken, free = map(Path, sys.argv[2:])
said = []
for target in (taken, free):
    try:
        files.publish(temporary, target)
        said.append("published")
    except FileExistsError:
        said.append("taken")
print(json.dumps(said))
"""


@pytest.mark.parametrize("refused", [{"renameat2": errno.EINVAL}, {"renameat2": errno.EINVAL, "linkat": errno.EPERM}])
def test_nothing_is_overwritten_without_renameat2(tmp_path: Path, refused: dict[str, int]) -> None:
    numbers = _NUMBERS.get(platform.machine())
    if numbers is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        pytest.skip(f"the numbers of system calls on {platform.machine()} are not known here")
    temporary, taken, free = tmp_path / "temporary", tmp_path / "taken", tmp_path / "free"
    temporary.write_bytes(b"ours")
    taken.write_bytes(b"theirs")
    calls = json.dumps([(numbers[name], code) for name, code in refused.items()])
    said = run(_REFUSE, calls, temporary, taken, free)
    if said == "no filter":
        pytest.skip("system calls cannot be refused here")
    assert said == ["taken", "published"]
    assert (taken.read_bytes(), free.read_bytes()) == (b"theirs", b"ours")
    assert names_in(tmp_path) == {"taken", "free"}


def test_link_that_succeeded_despite_an_error_is_detected(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"sound")
    target.hardlink_to(source)  # what a repeated request of NFS finds
    files._rename_by_link(source, target)
    assert names_in(tmp_path) == {"target"}


def test_disk_of_a_missing_path_is_none(tmp_path: Path, other_disk: Path) -> None:
    assert files.disk_of(tmp_path) == tmp_path.stat().st_dev != files.disk_of(other_disk)
    assert files.disk_of(tmp_path / "nowhere") is None
    assert files.free_bytes(tmp_path) > 0


# Opening


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    regular = tmp_path / "a.wav"
    regular.write_bytes(b"sound")
    (tmp_path / "link.wav").symlink_to(regular)
    os.mkfifo(tmp_path / "pipe.wav")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.wav"))
    for refused in (tmp_path / "link.wav", tmp_path / "pipe.wav", tmp_path / "socket.wav", tmp_path, Path("/dev/null")):
        n_open = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # they are numbers, not paths
        with pytest.raises(JobError):
            files.open_regular(refused)
        assert len(os.listdir("/proc/self/fd")) == n_open  # noqa: PTH208  # the same
    with os.fdopen(files.open_regular(regular), "rb") as stream:
        assert stream.read() == b"sound"


def test_missing_file_is_a_transient_error(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="No such file"):
        files.open_regular(tmp_path / "gone.wav")


def test_error_for_an_unreadable_file_does_not_contain_its_name(open_folder: Path) -> None:
    (open_folder / "patient.wav").write_bytes(b"")
    (open_folder / "patient.wav").chmod(0)
    code = """
try:
    files.open_regular(Path(sys.argv[1]))
except NoPermissionError as error:
    print(json.dumps(str(error)))
"""
    told = run_as_other(code, open_folder / "patient.wav")
    assert "is not readable" in told
    assert "patient" not in told  # the text appears in STATUS.txt, where names may have to be hidden


def test_sha256_can_be_interrupted(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256_of(tmp_path / "a").startswith("ba7816bf")

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        files.sha256_of(tmp_path / "a", stop)


# Errors in plain words


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (errno.ENOSPC, TransientError, "Free some space"),
        (errno.EDQUOT, TransientError, "Free some space"),
        (errno.EIO, TransientError, "and its disk"),
        (errno.EROFS, TransientError, "ReadWritePaths="),
        (errno.EACCES, NoPermissionError, "write permission"),
        (errno.EEXIST, FileExistsError, "File exists"),
    ],
)
def test_file_system_errors_have_a_remedy(tmp_path: Path, code: int, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words), files.explained("It cannot be written", tmp_path):
        raise OSError(code, os.strerror(code), "x")
