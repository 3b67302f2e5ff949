from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.unit.spool.world import (
    AUDIO,
    MTIME_NS,
    WORDS,
    World,
    expire,
    lose_journal,
    tree,
)

if TYPE_CHECKING:
    from pathlib import Path


def put_away(world: World, end: str, path: str = "team/talk.wav") -> Path:
    job = world.claim(path, hotwords=WORDS)
    if end == "processed":
        world.deliver(job)
        return world.folders.processed / path
    world.set_aside(job)
    return world.folders.failed / path


@pytest.mark.parametrize("end", ["processed", "failed"])
def test_audio_is_deleted_the_configured_days_after_its_outcome(world: World, end: str) -> None:
    audio = put_away(world, end)
    assert audio.stat().st_mtime_ns == MTIME_NS  # years ago: that is not what counts
    expire(world, 1)
    expire(world, 1000, 0, 0)
    assert audio.exists()
    expire(world, 2, 2 * (end == "failed"), 2 * (end == "processed"))  # the other folder's days
    assert audio.exists()
    expire(world)
    assert tree(audio.parent) == set()  # hotwords and reason have gone with it
    assert tree(world.folders.outbox) == ({"team/talk.txt", "team/talk.json"} if end == "processed" else set())


@pytest.mark.parametrize("end", ["processed", "failed"])
@pytest.mark.parametrize("change", ["size", "time", "link", "folder", "journal"])
def test_files_without_a_record_are_never_deleted(world: World, tmp_path: Path, end: str, change: str) -> None:
    audio = put_away(world, end)
    if change == "size":
        audio.write_bytes(AUDIO * 2)
        os.utime(audio, ns=(MTIME_NS, MTIME_NS))
    elif change == "time":
        os.utime(audio, ns=(0, 0))
    elif change == "link":
        audio.rename(tmp_path / "elsewhere.wav")
        audio.symlink_to(tmp_path / "elsewhere.wav")
    elif change == "folder":
        audio.parent.rename(tmp_path / "elsewhere")
        audio.parent.symlink_to(tmp_path / "elsewhere")
    else:
        world.close()
        lose_journal(world)
        world = World(tmp_path)
    expire(world)
    assert audio.exists()
    world.close()


def test_record_with_a_path_outside_the_folder_deletes_nothing(world: World) -> None:
    (world.folders.inbox / "victim.wav").write_bytes(AUDIO)
    os.utime(world.folders.inbox / "victim.wav", ns=(MTIME_NS, MTIME_NS))
    job = world.claim("talk.wav")
    world.deliver(job)
    with world.journal._transaction() as db:
        db.execute("UPDATE jobs SET outbox_folder = ?, audio_name = ?", (b"../inbox", b"victim.wav"))
    expire(world)
    with world.journal._transaction() as db:
        look = (len(AUDIO), MTIME_NS)
        db.execute("UPDATE jobs SET outbox_folder = x'', audio_name = ?, audio_bytes = ?, audio_mtime_ns = ?",
                   (b"../inbox/victim.wav", *look))  # fmt: skip
    expire(world)
    assert (world.folders.inbox / "victim.wav").exists()


def test_audio_under_another_name_than_reserved_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job = world.claim()
    commit = world.journal.commit_delivery

    def take_the_name(job_id: str, document: Path) -> bool:
        is_queued = commit(job_id, document)
        (world.folders.processed / "talk.wav").write_bytes(AUDIO[::-1])
        os.utime(world.folders.processed / "talk.wav", ns=(MTIME_NS, MTIME_NS))
        return is_queued

    monkeypatch.setattr(world.journal, "commit_delivery", take_the_name)
    world.deliver(job)
    assert len(tree(world.folders.processed)) == 2
    expire(world)
    assert tree(world.folders.processed) == {"talk.wav"}  # the stranger's, though it is as long and as old


def test_hotwords_of_another_recording_stay(world: World) -> None:
    world.deliver(world.claim("talk.wav", hotwords=WORDS))
    world.deliver(world.claim("talk.mp3"))
    world.deliver(world.claim("talk.flac", hotwords=b"Legendre\n"))
    kept = {"talk.hotwords.txt", "talk.hotwords.txt (2)"}
    assert tree(world.folders.processed) == {"talk.wav", "talk.mp3", "talk.flac", *kept}
    with world.journal._transaction() as db:
        db.execute("UPDATE jobs SET finished_at = '2020-01-01T00:00:00Z' WHERE path = ?", (b"talk.mp3",))
    expire(world, 0)
    assert tree(world.folders.processed) == {"talk.wav", "talk.flac", *kept}
    with world.journal._transaction() as db:
        db.execute("UPDATE jobs SET finished_at = '2020-01-01T00:00:00Z' WHERE path = ?", (b"talk.flac",))
    expire(world, 0)
    assert tree(world.folders.processed) == {"talk.wav", "talk.hotwords.txt"}


@pytest.mark.parametrize("unit_ns", [100, 2_000_000_000])
def test_audio_on_a_share_with_coarse_timestamps_is_deleted_too(world: World, unit_ns: int) -> None:
    audio = put_away(world, "processed")
    for path in (audio, audio.with_name("talk.hotwords.txt")):
        coarse_ns = path.stat().st_mtime_ns // unit_ns * unit_ns  # as SMB and FAT store it
        os.utime(path, ns=(coarse_ns, coarse_ns))
    expire(world)
    assert tree(audio.parent) == set()


def test_old_recordings_are_deleted_a_hundred_at_a_time(fast: Path) -> None:
    world = World(fast)
    for number in range(101):
        put_away(world, "processed", f"{number}.wav")
    expire(world)
    assert len(list(world.folders.processed.glob("*.wav"))) == 1
    expire(world)
    assert list(world.folders.processed.glob("*.wav")) == []
    world.close()
