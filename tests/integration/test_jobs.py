"""`scribed cancel`, `retry` and `forget`, with the daemon and without."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.conftest import SAMPLES
from tests.integration.instance import Instance, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.test_daemon import MakeInstance


@pytest.fixture
def instance(make_instance: MakeInstance) -> Instance:
    """Return an instance that has run once, so that it has a journal."""
    made = make_instance()
    assert made.run("once").returncode == 0
    return made


def put(folder: Path, name: str = "talk.wav") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return shutil.copyfile(SAMPLES / "memo.wav", folder / name)


def test_cancel_moves_a_recording_that_waits_in_the_inbox(instance: Instance) -> None:
    put(instance.folder("inbox") / "court")
    ended = instance.run("cancel", "talk.wav")
    assert ended.returncode == 0, ended.stderr
    assert f"court/talk.wav was moved to {instance.folder('failed')}" in ended.stdout
    assert instance.names("inbox") == []
    assert instance.claimed() == []
    assert instance.names("failed") == ["court/talk.wav", "court/talk.wav.error.txt"]
    assert "cancelled" in (instance.folder("failed") / "court/talk.wav.error.txt").read_text()
    ended = instance.run("cancel", "talk.wav")
    assert ended.returncode == 1
    assert "talk.wav is not queued or in progress" in ended.stderr


def test_cancel_of_an_ambiguous_name_asks_for_the_path_and_cancels_nothing(instance: Instance) -> None:
    inbox = instance.folder("inbox")
    for folder in (inbox, inbox / "court", inbox / "office"):
        put(folder)
    ended = instance.run("cancel", "talk.wav")
    assert ended.returncode == 2
    assert "court/talk.wav, office/talk.wav, ./talk.wav" in ended.stderr
    assert instance.names("failed") == []
    assert len(instance.names("inbox")) == 3
    assert instance.run("cancel", "./talk.wav").returncode == 0
    assert instance.run("cancel", str(inbox / "court/talk.wav")).returncode == 0
    assert instance.names("inbox") == ["office/talk.wav"]


def test_retry_and_forget_of_an_ambiguous_name_ask_for_the_path(instance: Instance) -> None:
    inbox = instance.folder("inbox")
    for folder in (inbox, inbox / "court"):
        put(folder)
    for path in ("./talk.wav", "court/talk.wav"):
        assert instance.run("cancel", path).returncode == 0
    for command in ("retry", "forget"):
        ended = instance.run(command, "talk.wav")
        assert ended.returncode == 2
        assert "court/talk.wav, ./talk.wav" in ended.stderr
    assert instance.names("inbox") == []
    ended = instance.run("retry", "./talk.wav")
    assert ended.returncode == 0
    assert ended.stdout == f"{inbox / 'talk.wav'}\n"
    assert instance.names("inbox") == ["talk.wav"]
    assert instance.names("failed") == ["court/talk.wav", "court/talk.wav.error.txt"]
    ended = instance.run("retry", "court/talk.wav", "missing.wav")
    assert ended.returncode == 1
    assert "No failed recording called missing.wav" in ended.stderr
    assert instance.names("failed") == []


def test_forget_erases_one_path_and_keeps_its_namesakes(instance: Instance) -> None:
    inbox = instance.folder("inbox")
    for folder in (inbox, inbox / "court"):
        put(folder)
    for path in ("./talk.wav", "court/talk.wav"):
        assert instance.run("cancel", path).returncode == 0
    assert instance.run("forget", "./talk.wav").returncode == 0
    left = json.loads(instance.run("status", "--json").stdout)["failed"]
    assert [failed["name"] for failed in left] == ["court/talk.wav"]
    assert instance.run("forget", "./talk.wav").returncode == 1
    assert instance.run("forget", "talk.wav").returncode == 0
    assert b"talk.wav" not in b"".join(
        path.read_bytes() for path in instance.folder("state").rglob("*") if path.is_file()
    )


def test_running_daemon_cancels_what_its_status_lists_as_waiting(make_instance: MakeInstance) -> None:
    instance = make_instance(watch={"scan_s": 0.2})
    instance.start()
    names = [f"meeting {number}.flac" for number in range(8)]  # more than are claimed at once
    for name in names:
        instance.drop(SAMPLES / "meeting.flac", name)
    wait_until(lambda: instance.status().get("queue", {}).get("waiting"), "some of them wait")
    name = instance.status()["queue"]["waiting"][-1]
    ended = instance.run("cancel", name)
    assert ended.returncode == 0, ended.stderr
    wait_until(lambda: name in instance.names("failed"), "it is moved to failed")
    wait_until(lambda: len(instance.names("processed")) == len(names) - 1, "all others are delivered")
    assert instance.stop() == 0
    assert instance.names("failed") == [name, f"{name}.error.txt"]
    assert instance.names("inbox") == []
    assert instance.claimed() == []
