"""Folders on disks and shares that come and go."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.conftest import SAMPLES
from tests.integration.instance import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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


def test_empty_mount_point_is_not_taken_for_an_empty_inbox(instance: Instance) -> None:
    assert instance.run("once").returncode == 0
    unmount(instance)
    ended = instance.run("once")
    assert ended.returncode == 73
    assert "nothing is mounted at" in ended.stderr
    assert "Mount it." in ended.stderr
    assert list(instance.folder("inbox").iterdir()) == []  # nothing was made in its place
    assert mount(instance)
    assert instance.run("once").returncode == 0


def test_share_that_goes_away_is_a_fault_until_it_is_back(instance: Instance) -> None:
    instance.start()
    unmount(instance)
    instance.drop(SAMPLES / "memo.wav", "below-the-mount-point.wav")
    status_txt = instance.folder("outbox") / "STATUS.txt"
    wait_until(lambda: "nothing is mounted" in status_txt.read_text(), "the fault is shown")
    assert any("nothing is mounted" in fault["what"] for fault in instance.status()["faults"])
    assert mount(instance)
    instance.drop(SAMPLES / "memo.wav")
    wait_until(lambda: instance.names("processed") == ["memo.wav"], "what is on the share is transcribed")
    wait_until(lambda: "nothing is mounted" not in status_txt.read_text(), "the fault is cleared")
    unmount(instance)
    assert instance.names("inbox") == ["below-the-mount-point.wav"]  # taken by no one


@pytest.fixture
def far(make_instance: MakeInstance, tmp_path: Path) -> Iterator[tuple[Instance, Path]]:
    """Return an instance whose folders are shares of FUSE, and the server's side of them."""
    made, server = make_instance(), tmp_path / "server"
    names = ("inbox", "outbox", "processed", "failed")
    if shutil.which("bindfs") is None:
        pytest.skip("bindfs is not installed (apt-get install bindfs)")
    try:
        for name in names:
            (server / name).mkdir(parents=True)
            mounted = subprocess.run(
                ["bindfs", server / name, made.folder(name)], capture_output=True, text=True, check=False
            )
            if mounted.returncode:
                pytest.skip(f"FUSE cannot be mounted here: {mounted.stderr.strip()}")
        yield made, server
        if made.is_running():
            made.stop()
    finally:
        for name in names:
            subprocess.run(["umount", "--lazy", made.folder(name)], capture_output=True, check=False)


def test_recordings_on_a_share_without_events_are_found_and_delivered(far: tuple[Instance, Path]) -> None:
    instance, server = far
    instance.start()
    assert "inbox.polled" in instance.log
    (server / "inbox" / "team").mkdir()
    for name in ("memo.wav", "team/memo.wav"):  # by another machine: our kernel sees no event
        shutil.copyfile(SAMPLES / "memo.wav", server / "inbox" / name)
    (server / "inbox" / "words.mp3").write_bytes(b"these are words and no sound\n" * 50)
    wait_until(lambda: instance.names("processed") == ["memo.wav", "team/memo.wav"], "what came is delivered")
    wait_until(lambda: instance.names("failed") == ["words.mp3", "words.mp3.error.txt"], "the other moves to failed")
    assert sorted(str(path.relative_to(server)) for path in server.rglob("*.json")) == [
        "outbox/memo.json",
        "outbox/team/memo.json",
    ]
    assert instance.names("inbox") == []
    assert instance.claimed() == []
