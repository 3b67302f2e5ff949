"""A state folder on a full disk: the service waits, shows why wherever it still can, and goes on by itself."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from daemon.journal import JOURNAL_NAME
from tests.conftest import SAMPLES
from tests.integration.instance import environment, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.instance import Instance
    from tests.integration.test_daemon import MakeInstance

_BLOCK = bytes(1 << 16)


@pytest.fixture
def instance(make_instance: MakeInstance) -> Iterator[Instance]:
    """Return an instance whose state folder is a small file system of its own."""
    made = make_instance()
    state = made.folder("state")
    command = ["mount", "-t", "tmpfs", "-o", "size=40m", "none", str(state)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    yield made
    if made.is_running():
        made.stop()
    subprocess.run(["umount", "--lazy", state], capture_output=True, check=False)


def fill(folder: Path) -> Path:
    """Fill the disk of a folder to its last byte and return the file that does."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as stream:
        for block in (_BLOCK, b"\0"):
            try:
                while True:
                    stream.write(block)
            except OSError:
                continue
    return path


def status_txt(instance: Instance) -> str:
    path = instance.folder("outbox") / "STATUS.txt"
    return path.read_text() if path.exists() else ""


def start_waiting(instance: Instance) -> None:
    """Start the service where it cannot go on, and return when STATUS.txt says why."""
    with (instance.root / "log").open("ab") as stream:
        instance.process = subprocess.Popen(instance.command("run"), stdout=stream, stderr=stream, env=environment())
    wait_until(lambda: "NEEDS ATTENTION" in status_txt(instance) or not instance.is_running(), "STATUS.txt says why")
    assert instance.is_running(), instance.log


def test_service_waits_for_a_full_state_disk_at_its_start_and_later_and_goes_on_by_itself(instance: Instance) -> None:
    ballast = fill(instance.folder("state"))
    start_waiting(instance)
    text = status_txt(instance)
    assert "scribed is waiting" in text
    assert "No space left on device" in text or "disk is full" in text
    assert "service.fault_found" in instance.log
    instance.drop(SAMPLES / "memo.wav")
    ballast.unlink()
    wait_until(lambda: instance.names("processed") == ["memo.wav"], "the recording is delivered")
    wait_until(lambda: "NEEDS ATTENTION" not in status_txt(instance), "the fault is gone")

    ballast = fill(instance.folder("state"))
    instance.drop(SAMPLES / "meeting.flac")
    wait_until(lambda: "MiB" in status_txt(instance), "STATUS.txt says why it is not claimed")
    assert instance.names("inbox") == ["meeting.flac"]
    assert instance.claimed() == []
    ballast.unlink()
    wait_until(lambda: instance.names("processed") == ["meeting.flac", "memo.wav"], "the recording is delivered")
    wait_until(lambda: "NEEDS ATTENTION" not in status_txt(instance), "the fault is gone")
    assert instance.names("failed") == []
    assert "Traceback" not in instance.log


def test_once_on_a_full_state_disk_ends_with_73(instance: Instance) -> None:
    fill(instance.folder("state"))
    ended = instance.run("once")
    assert ended.returncode == 73, ended.stderr
    assert "Traceback" not in ended.stderr


# Takes a job in flight and dies, which leaves the write-ahead log of SQLite as a crash of the service does.
_CRASH = """
import os, sys
from pathlib import Path
from daemon.job import Job
from daemon.journal import Journal
journal = Journal(Path(sys.argv[1]))
journal.add(Job("20260101T000000-abcdef", "gone.wav", "2026-01-01T00:00:00Z"))
journal.begin("20260101T000000-abcdef")
os._exit(9)
"""


@pytest.mark.parametrize("n_free", [0, 40_960])
def test_disk_that_fills_up_between_two_starts_is_waited_for_wherever_it_stops(instance: Instance, n_free: int) -> None:
    """The journal is there and can be opened, but what a crash left in flight cannot be settled."""
    state = instance.folder("state")
    crashed = subprocess.run([sys.executable, "-c", _CRASH, state], env=environment(), check=False)
    assert crashed.returncode == 9
    assert (state / f"{JOURNAL_NAME}-wal").stat().st_size
    ballast = fill(state)
    with ballast.open("r+b") as stream:
        stream.truncate(ballast.stat().st_size - n_free)
    instance.drop(SAMPLES / "memo.wav")
    start_waiting(instance)
    ballast.unlink()
    wait_until(lambda: instance.names("processed") == ["memo.wav"], "the recording is delivered")
