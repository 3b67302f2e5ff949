"""Folders on disks and shares that come and go."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.conftest import SAMPLES
from tests.integration.instance import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.instance import Instance
    from tests.integration.test_daemon import MakeInstance

_OPTIONS = ("-t", "tmpfs", "-o", "size=64m", "none")


@pytest.fixture
def instance(make_instance: MakeInstance) -> Iterator[Instance]:
    """Return an instance whose inbox is a file system of its own."""
    made = make_instance()
    if not mount(made):
        pytest.skip("file systems cannot be mounted here")
    yield made
    if made.is_running():
        made.stop()
    subprocess.run(["umount", "--lazy", made.folder("inbox")], capture_output=True, check=False)


def mount(instance: Instance) -> bool:
    ended = subprocess.run(["mount", *_OPTIONS, instance.folder("inbox")], capture_output=True, check=False)
    return ended.returncode == 0


def unmount(instance: Instance) -> None:
    subprocess.run(["umount", "--lazy", instance.folder("inbox")], check=True)


def test_an_empty_mount_point_is_no_empty_inbox(instance: Instance) -> None:
    assert instance.run("once").returncode == 0
    unmount(instance)
    ended = instance.run("once")
    assert ended.returncode == 73
    assert "nothing is mounted at" in ended.stderr
    assert "Mount it." in ended.stderr
    assert list(instance.folder("inbox").iterdir()) == []  # nothing was made in its place
    assert mount(instance)
    assert instance.run("once").returncode == 0


def test_a_share_that_goes_is_told_and_taken_up_when_it_comes_back(instance: Instance) -> None:
    instance.start()
    unmount(instance)
    instance.drop(SAMPLES / "memo.wav", "below-the-mount-point.wav")
    status_txt = instance.folder("outbox") / "STATUS.txt"
    wait_until(lambda: "nothing is mounted" in status_txt.read_text(), "it is told")
    assert any("nothing is mounted" in fault["what"] for fault in instance.status()["faults"])
    assert mount(instance)
    instance.drop(SAMPLES / "memo.wav")
    wait_until(lambda: instance.names("processed") == ["memo.wav"], "what is on the share is transcribed")
    wait_until(lambda: "nothing is mounted" not in status_txt.read_text(), "it is told no longer")
    unmount(instance)
    assert instance.names("inbox") == ["below-the-mount-point.wav"]  # taken by nobody
