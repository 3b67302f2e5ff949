"""Which recordings are blamed when the process dies, and which are not."""

from __future__ import annotations

import signal
import sqlite3
from typing import TYPE_CHECKING

from tests.conftest import SAMPLES
from tests.integration.instance import wait_until
from tests.integration.test_daemon import make_long

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.instance import Instance
    from tests.integration.test_daemon import MakeInstance


def n_in_flight(instance: Instance, *, at_engine: bool = False) -> int:
    """Return how many recordings are in progress, or how many of them the engine has a chunk of."""
    db = sqlite3.connect(instance.folder("state") / "journal.sqlite3")
    try:
        query = "SELECT count(*) FROM jobs WHERE is_in_flight = 1 AND has_reached_engine >= ?"
        return int(db.execute(query, (at_engine,)).fetchone()[0])
    finally:
        db.close()


def test_recording_that_crashes_the_engine_each_time_moves_to_failed(
    make_instance: MakeInstance, tmp_path: Path
) -> None:
    instance = make_instance(retry={"max_attempts": 2})
    make_long(tmp_path / "poison.flac", 20)  # minutes of audio, so that no chunk is done before the kill
    instance.start()
    instance.drop(tmp_path / "poison.flac")
    for _ in range(2):
        wait_until(lambda: n_in_flight(instance, at_engine=True) == 1, "the engine has a chunk of the poison")
        instance.stop(signal.SIGKILL)
        instance.start()
    wait_until(lambda: "poison.flac" in instance.names("failed"), "the poison is in failed")
    note = (instance.folder("failed") / "poison.flac.error.txt").read_text()
    assert "The service crashed each time" in note
    instance.drop(SAMPLES / "memo.wav")
    wait_until(lambda: instance.names("processed") == ["memo.wav"], "the daemon goes on")


def test_recording_killed_from_outside_while_it_is_decoded_is_not_blamed(
    make_instance: MakeInstance, tmp_path: Path
) -> None:
    instance = make_instance(retry={"max_attempts": 1})
    make_long(tmp_path / "innocent.flac", 20)  # its decoding takes a while
    instance.start()
    instance.drop(tmp_path / "innocent.flac")
    for _ in range(3):
        wait_until(lambda: n_in_flight(instance) == 1, "the recording is in progress")
        is_decoding = n_in_flight(instance, at_engine=True) == 0
        instance.stop(signal.SIGKILL)
        assert is_decoding
        instance.start()
    wait_until(lambda: n_in_flight(instance) == 1, "the recording is in progress again")
    assert instance.names("failed") == []


def test_journal_deleted_under_the_daemon_loses_and_doubles_nothing(
    make_instance: MakeInstance, tmp_path: Path
) -> None:
    instance = make_instance(model={"slots": 1})  # chunk after chunk, so that it is still running when it is killed
    make_long(tmp_path / "long.flac", 3)
    instance.start()
    instance.drop(SAMPLES / "memo.wav", "before.wav")
    wait_until(lambda: instance.names("processed") == ["before.wav"], "one is delivered before")
    instance.drop(tmp_path / "long.flac")
    wait_until(lambda: n_in_flight(instance) == 1, "the other is in progress")
    for path in instance.folder("state").glob("journal.sqlite3*"):
        path.unlink()
    status_txt = instance.folder("outbox") / "STATUS.txt"
    wait_until(lambda: "The journal was deleted" in status_txt.read_text(), "it is shown")
    instance.stop(signal.SIGKILL)
    instance.start()
    wait_until(lambda: instance.names("processed") == ["before.wav", "long.flac"], "the other is delivered")
    assert instance.names("failed") == []
    assert instance.names("outbox") == ["before.json", "before.txt", "long.json", "long.txt"]
    wait_until(lambda: "The journal was deleted" not in status_txt.read_text(), "it is no longer shown")


def test_recordings_in_flight_together_are_not_blamed(make_instance: MakeInstance, tmp_path: Path) -> None:
    instance = make_instance(retry={"max_attempts": 1})
    names = [f"innocent-{number}.flac" for number in range(3)]
    for name in names:
        make_long(tmp_path / name, 1)
    for name in names:
        (tmp_path / name).rename(instance.folder("inbox") / name)
    instance.start()
    wait_until(lambda: n_in_flight(instance) == len(names), "all are in progress")
    instance.stop(signal.SIGKILL)
    instance.start()
    wait_until(lambda: instance.names("processed") == names, "all are delivered")
    assert instance.names("failed") == []
    texts = {instance.document(name.partition(".")[0])["text"] for name in names}
    assert len(texts) == 1  # the same audio, the same words
    assert "meeting" in texts.pop()
