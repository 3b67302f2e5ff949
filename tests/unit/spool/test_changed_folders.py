"""One of the six folder keys is changed between two runs, with jobs in every state."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from daemon.errors import TransientError
from daemon.job import JobState
from tests.unit.spool.crashes import crash_in
from tests.unit.spool.world import AUDIO, WORDS, World, expire, tree

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.job import Job

KEYS = ("inbox", "outbox", "processed", "failed", "state", "cache")
STATES = ("claimed", "half delivered", "delivered", "half failed")


def begin(world: World, state: str) -> Job:
    """Bring a job into a state and let the process die there."""
    with world.shared.locked():
        job = world.claim("team/talk.wav", hotwords=WORDS)
    if state == "half delivered":
        crash_in(world, lambda: world.deliver(job, "1"), at_commit=True)
    elif state == "delivered":

        def die(*_: object, **__: object) -> None:
            raise TransientError("The disk of processed is full.")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("daemon.spool.delivery.move_to_free_name", die)
            with pytest.raises(TransientError):
                world.deliver(job, "1")
    elif state == "half failed":
        with pytest.MonkeyPatch.context() as patch:

            def die_too(*_: object, **__: object) -> None:
                raise TransientError("The disk of failed is full.")

            patch.setattr("daemon.spool.failures.move_to_free_name", die_too)
            with pytest.raises(TransientError):
                world.set_aside(job)
    return job


def everywhere(root: Path) -> list[Path]:
    return [
        path
        for path in root.rglob("*")
        if path.is_file() and ".scribed" not in path.parts and "state" not in path.parts[-2]
    ]


def end(world: World) -> None:
    for job in world.spool.recover():
        if not world.spool.conclude(job):
            world.deliver(job, "2")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("state", STATES)
def test_each_job_ends_in_exactly_one_place_though_a_folder_key_changed(tmp_path: Path, key: str, state: str) -> None:
    world = World(tmp_path)
    begin(world, state)
    world.close()
    later = World(tmp_path, changed={key: tmp_path / f"new-{key}"})
    end(later)
    assert later.spool.recover() == ()
    audio = [path for path in everywhere(tmp_path) if path.name == "talk.wav"]
    assert [path.read_bytes() for path in audio] == [AUDIO]
    documents = sorted(path.name for path in everywhere(tmp_path) if path.suffix in {".txt", ".json"})
    if state == "half failed":
        assert documents == ["talk.hotwords.txt", "talk.wav.error.txt"]
        assert {path.parent for path in everywhere(tmp_path)} == {audio[0].parent}
    else:
        assert documents == ["talk.hotwords.txt", "talk.json", "talk.txt"]
    left = [path for path in tmp_path.rglob("*") if path.name.startswith(".scribed-")]
    claims = [path for path in tmp_path.rglob(".scribed/*") if path.is_dir()]
    assert (left, claims) == ([], [])
    later.close()


@pytest.mark.parametrize("way", ["gone", "unmounted", "read-only"])
def test_old_inbox_that_cannot_be_used_is_a_fault_that_names_it_until_it_is_back(tmp_path: Path, way: str) -> None:
    world = World(tmp_path)
    job = world.claim("team/talk.wav")
    world.close()
    later = World(tmp_path, changed={"inbox": tmp_path / "new-inbox"})
    old = tmp_path / "inbox"
    if way == "read-only":
        if os.geteuid() == 0:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("daemon.host.folders.Folder.is_writable", lambda _: False)  # root may write anywhere
                complain(later, job, old, "no longer writable for the service")
    else:
        old.rename(tmp_path / "away")
        if way == "unmounted":
            old.mkdir()
        complain(later, job, old, "No such file" if way == "gone" else "empty or not mounted")
        if way == "unmounted":
            old.rmdir()
        (tmp_path / "away").rename(old)
    assert later.spool.displaced() == ((job, old / ".scribed"),)
    end(later)
    assert (later.folders.processed / "team" / "talk.wav").read_bytes() == AUDIO
    assert later.spool.displaced() == ()
    later.close()


def complain(world: World, job: Job, old: Path, why: str) -> None:
    (left,) = world.spool.recover()
    assert left.job_id == job.job_id
    for _ in range(2):
        with pytest.raises(TransientError) as told:
            world.spool.conclude(left)
        assert str(old / ".scribed") in str(told.value)
        assert why in str(told.value)
        assert str(old) in told.value.remedy
    assert [known.job_id for known in world.journal.unfinished()] == [job.job_id]


def test_failed_recordings_in_an_old_folder_are_listed_and_retried_from_there(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.set_aside(world.claim("team/talk.wav", hotwords=WORDS))
    world.close()
    later = World(tmp_path, changed={"failed": tmp_path / "new-failed"})
    later.sweep()
    assert [past.job.path for past in later.journal.failures()] == ["team/talk.wav"]
    assert later.retry() == (tmp_path / "inbox" / "team" / "talk.wav",)
    assert tree(tmp_path / "failed") <= {"team", ".scribed"}
    later.close()


@pytest.mark.parametrize("key", ["processed", "failed"])
def test_retention_deletes_from_the_folder_that_a_job_used(tmp_path: Path, key: str) -> None:
    world = World(tmp_path)
    job = world.claim("team/talk.wav")
    if key == "processed":
        world.deliver(job)
    else:
        world.set_aside(job)
    world.close()
    later = World(tmp_path, changed={key: tmp_path / f"new-{key}"})
    expire(later)
    assert not (tmp_path / key / "team" / "talk.wav").exists()
    later.close()


def test_with_a_new_state_folder_the_note_next_to_the_audio_decides(tmp_path: Path) -> None:
    world = World(tmp_path)
    job = begin(world, "half delivered")
    world.close()
    later = World(tmp_path, changed={"state": tmp_path / "new-state"})
    (left,) = later.spool.recover()
    assert (left.job_id, left.path, left.state) == (job.job_id, "team/talk.wav", JobState.DELIVERING)
    end(later)
    assert tree(later.folders.outbox) - {".scribed"} == {"team/talk.txt", "team/talk.json"}
    assert (later.folders.outbox / "team" / "talk.txt").read_text() == "words1\n"
    later.close()


@pytest.mark.parametrize("are_fetched", [False, True])
def test_old_state_folder_removes_no_documents_that_another_one_has_delivered(
    tmp_path: Path, *, are_fetched: bool
) -> None:
    world = World(tmp_path)
    begin(world, "half delivered")
    world.close()
    later = World(tmp_path, changed={"state": tmp_path / "new-state"})
    later.spool.recover()
    end(later)
    later.close()
    documents = {tmp_path / "outbox" / "team" / name for name in ("talk.txt", "talk.json")}
    if are_fetched:
        (tmp_path / "outbox" / "team" / "talk.json").unlink()
        documents.discard(tmp_path / "outbox" / "team" / "talk.json")
    before = {path: path.read_bytes() for path in documents}
    back = World(tmp_path)
    (left,) = back.spool.recover()
    assert back.spool.conclude(left)
    assert {path: path.read_bytes() for path in documents} == before
    assert back.spool.recover() == ()
    assert tree(back.folders.processed) - {".scribed"} == {"team/talk.wav", "team/talk.hotwords.txt"}
    back.close()


def test_old_folder_that_was_removed_permanently_can_be_given_up(tmp_path: Path) -> None:
    """The fault says what to do; once the folder exists again, without the claim, the job ends."""
    world = World(tmp_path)
    world.claim()
    world.close()
    shutil.rmtree(tmp_path / "inbox")
    later = World(tmp_path, changed={"inbox": tmp_path / "new-inbox"})
    (left,) = later.spool.recover()
    with pytest.raises(TransientError, match="No such file"):
        later.spool.conclude(left)
    (tmp_path / "inbox" / ".scribed").mkdir(parents=True, mode=0o700)
    assert later.spool.conclude(left)
    assert later.spool.recover() == ()
    later.close()


def test_claim_is_not_undone_while_an_empty_folder_is_in_place_of_its_old_inbox(tmp_path: Path) -> None:
    """As where the disk of the old inbox is not mounted: looking for the claim must not make it look usable."""
    world = World(tmp_path)
    world.claim()
    world.close()
    (tmp_path / "inbox").rename(tmp_path / "away")
    (tmp_path / "inbox").mkdir()
    later = World(tmp_path, changed={"inbox": tmp_path / "new-inbox"})
    (left,) = later.spool.recover()
    for _ in range(2):
        assert later.spool.broken_off({"talk.wav"}) == {"talk.wav"}
        with pytest.raises(TransientError, match="empty or not mounted"):
            later.spool.conclude(left)
    assert list((tmp_path / "inbox").iterdir()) == []
    (tmp_path / "inbox").rmdir()
    (tmp_path / "away").rename(tmp_path / "inbox")
    end(later)
    assert (later.folders.processed / "talk.wav").read_bytes() == AUDIO
    assert later.spool.recover() == ()
    later.close()
