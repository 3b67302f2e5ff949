"""Who is blamed when the process dies, and who is not."""

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


def n_in_flight(instance: Instance) -> int:
    db = sqlite3.connect(instance.folder("state") / "journal.sqlite3")
    try:
        return int(db.execute("SELECT count(*) FROM jobs WHERE is_in_flight = 1").fetchone()[0])
    finally:
        db.close()


def test_a_recording_that_ends_the_process_each_time_is_set_aside(make_instance: MakeInstance, tmp_path: Path) -> None:
    instance = make_instance(retry={"max_attempts": 2})
    make_long(tmp_path / "poison.flac", 20)  # minutes of sound, so that no chunk is done before the kill
    instance.start()
    instance.drop(tmp_path / "poison.flac")
    for _ in range(2):
        wait_until(lambda: n_in_flight(instance) == 1, "the poison is in work")
        instance.stop(signal.SIGKILL)
        instance.start()
    wait_until(lambda: "poison.flac" in instance.names("failed"), "the poison is set aside")
    note = (instance.folder("failed") / "poison.flac.error.txt").read_text()
    assert "sudden end" in note
    instance.drop(SAMPLES / "memo.wav")
    wait_until(lambda: instance.names("processed") == ["memo.wav"], "the daemon goes on")


def test_a_journal_removed_under_the_daemon_loses_and_doubles_nothing(
    make_instance: MakeInstance, tmp_path: Path
) -> None:
    instance = make_instance(model={"slots": 1})  # chunk after chunk, so that the kill meets it at work
    make_long(tmp_path / "long.flac", 3)
    instance.start()
    instance.drop(SAMPLES / "memo.wav", "before.wav")
    wait_until(lambda: instance.names("processed") == ["before.wav"], "one is delivered before")
    instance.drop(tmp_path / "long.flac")
    wait_until(lambda: n_in_flight(instance) == 1, "the other is in work")
    for path in instance.folder("state").glob("journal.sqlite3*"):
        path.unlink()
    status_txt = instance.folder("outbox") / "STATUS.txt"
    wait_until(lambda: "The journal was removed" in status_txt.read_text(), "it is told")
    instance.stop(signal.SIGKILL)
    instance.start()
    wait_until(lambda: instance.names("processed") == ["before.wav", "long.flac"], "the other is delivered")
    assert instance.names("failed") == []
    assert instance.names("outbox") == ["before.json", "before.txt", "long.json", "long.txt"]
    wait_until(lambda: "The journal was removed" not in status_txt.read_text(), "it is told no longer")


def test_recordings_that_were_in_flight_together_are_not_blamed(make_instance: MakeInstance, tmp_path: Path) -> None:
    instance = make_instance(retry={"max_attempts": 1})
    names = [f"innocent-{number}.flac" for number in range(3)]
    for name in names:
        make_long(tmp_path / name, 1)
    for name in names:
        (tmp_path / name).rename(instance.folder("inbox") / name)
    instance.start()
    wait_until(lambda: n_in_flight(instance) == len(names), "all are in work")
    instance.stop(signal.SIGKILL)
    instance.start()
    wait_until(lambda: instance.names("processed") == names, "all are delivered")
    assert instance.names("failed") == []
    texts = {instance.document(name.partition(".")[0])["text"] for name in names}
    assert len(texts) == 1  # the same sound, the same words
    assert "meeting" in texts.pop()
