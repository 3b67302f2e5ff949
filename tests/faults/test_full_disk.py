"""A state folder on a full disk: the service waits, shows why wherever it still can, and goes on by itself."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

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


def test_service_started_on_a_full_state_disk_waits_and_goes_on_by_itself(instance: Instance) -> None:
    ballast = fill(instance.folder("state"))
    with (instance.root / "log").open("ab") as stream:
        instance.process = subprocess.Popen(instance.command("run"), stdout=stream, stderr=stream, env=environment())
    wait_until(lambda: "NEEDS ATTENTION" in status_txt(instance) or not instance.is_running(), "STATUS.txt says why")
    assert instance.is_running(), instance.log
    text = status_txt(instance)
    assert "scribed is waiting" in text
    assert "No space left on device" in text or "disk is full" in text
    assert "service.fault_found" in instance.log
    instance.drop(SAMPLES / "memo.wav")
    ballast.unlink()
    wait_until(lambda: instance.names("processed") == ["memo.wav"], "the recording is delivered")
    wait_until(lambda: "NEEDS ATTENTION" not in status_txt(instance), "the fault is gone")
    assert "Traceback" not in instance.log


def test_once_on_a_full_state_disk_ends_with_73(instance: Instance) -> None:
    fill(instance.folder("state"))
    ended = instance.run("once")
    assert ended.returncode == 73, ended.stderr
    assert "Traceback" not in ended.stderr


def test_intake_pauses_while_the_state_disk_is_full_and_resumes(instance: Instance) -> None:
    instance.start()
    ballast = fill(instance.folder("state"))
    instance.drop(SAMPLES / "memo.wav")
    wait_until(lambda: "NEEDS ATTENTION" in status_txt(instance), "STATUS.txt says why")
    assert "MiB" in status_txt(instance)
    assert instance.names("inbox") == ["memo.wav"]
    assert instance.claimed() == []
    ballast.unlink()
    wait_until(lambda: instance.names("processed") == ["memo.wav"], "the recording is delivered")
    wait_until(lambda: "NEEDS ATTENTION" not in status_txt(instance), "the fault is gone")
    assert instance.names("failed") == []


@pytest.mark.parametrize("n_free", [0, 40_960])
def test_disk_that_fills_up_between_two_starts_is_waited_for_wherever_it_stops(instance: Instance, n_free: int) -> None:
    """The journal is there and can be opened, but what a crash left in flight cannot be settled."""
    instance.start()
    instance.stop(9)
    state = instance.folder("state")
    ballast = fill(state)
    with ballast.open("r+b") as stream:
        stream.truncate(ballast.stat().st_size - n_free)
    instance.drop(SAMPLES / "memo.wav")
    with (instance.root / "log").open("ab") as stream:
        command = [sys.executable, *instance.command("run")[1:]]
        instance.process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment())
    wait_until(lambda: "NEEDS ATTENTION" in status_txt(instance) or not instance.is_running(), "STATUS.txt says why")
    assert instance.is_running(), instance.log
    ballast.unlink()
    wait_until(lambda: instance.names("processed") == ["memo.wav"], "the recording is delivered")
