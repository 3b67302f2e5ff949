from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daemon.errors import AlreadyRunningError, TransientError
from daemon.host import locks

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
from daemon.host import locks
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


# Locks

_HOLD = """
from daemon.host.locks import Lock
lock = Lock(Path(sys.argv[1]))
lock.acquire("the inbox")
print("held", flush=True)
sys.stdin.readline()
"""


def test_lock_excludes_other_processes_and_ends_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    command = [sys.executable, "-c", f"import sys\nfrom pathlib import Path\n{_HOLD}", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(AlreadyRunningError, match="already using the inbox"):
            locks.Lock(path).acquire("the inbox")
        holder.kill()
    lock = locks.Lock(path)
    lock.acquire("the inbox")
    with pytest.raises(AlreadyRunningError):
        locks.Lock(path).acquire("the inbox")
    lock.release()
    lock.release()
    again = locks.Lock(path)
    again.acquire("the inbox")
    again.release()


def test_other_users_cannot_open_a_lock_file(open_folder: Path) -> None:
    (open_folder / "lock").touch()
    (open_folder / "lock").chmod(0o666)  # as an earlier version may have left it
    lock = locks.Lock(open_folder / "lock")
    lock.acquire("it")
    lock.release()
    assert stat.S_IMODE((open_folder / "lock").stat().st_mode) == 0o600
    if os.geteuid() == 0:
        code = """
try:
    os.open(sys.argv[1], os.O_RDONLY)
except PermissionError:
    print(json.dumps("refused"))
"""
        assert run_as_other(code, open_folder / "lock") == "refused"


def test_asking_for_a_lock_does_not_keep_an_instance_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_LOCK_PAUSE_S", 0.5)  # a slow machine must not fail this
    path = tmp_path / "lock"
    asker = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(asker, fcntl.LOCK_SH)
    release = threading.Timer(0.05, os.close, [asker])
    release.start()
    lock = locks.Lock(path)
    lock.acquire("it")
    lock.release()
    release.join()


def test_lock_that_cannot_be_created_is_an_error(open_folder: Path) -> None:
    code = """
try:
    locks.Lock(Path(sys.argv[1])).acquire("the inbox")
except NoPermissionError as error:
    print(json.dumps(str(error)))
"""
    open_folder.chmod(0o555)
    assert "The lock on the inbox cannot be taken" in run_as_other(code, open_folder / "lock")
    open_folder.chmod(0o755)
    (open_folder / "link").symlink_to("elsewhere")
    with pytest.raises(TransientError, match="symbolic links"):
        locks.Lock(open_folder / "link").acquire("it")
