"""One look a minute after delivery, at recordings whose writer was not seen to close them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING

import pytest

from daemon.job import JobState
from tests.unit.spool.crashes import crash_in
from tests.unit.spool.world import AUDIO, WORDS, World, tree

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.job import Job

MORE = b" that arrived late"


def claim(world: World, path: str = "team/talk.wav", *, close_seen: bool = False) -> Job:
    claimed = world.spool.claim(replace(world.drop(path, hotwords=WORDS), close_seen=close_seen))
    assert claimed is not None
    return claimed.job


def grow(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(MORE)


def look(world: World, after_s: float = 61.0) -> None:
    world.sweep(datetime.now(UTC) + timedelta(seconds=after_s))


def work(world: World, mark: str) -> None:
    """Do what the worker does with the jobs that are not held."""
    for job in world.spool.recover():
        if job.job_id not in world.spool.held() and not world.spool.conclude(job):
            world.deliver(job, mark)


def mark_of(world: World, stem: str = "team/talk") -> str:
    document = json.loads((world.folders.outbox / f"{stem}.json").read_bytes())
    text = (world.folders.outbox / f"{stem}.txt").read_text()
    assert text == f"words{document['mark']}\n"
    return str(document["mark"])


def test_recording_that_grew_after_delivery_is_transcribed_again_and_its_documents_are_replaced(world: World) -> None:
    world.deliver(claim(world), "1")
    grow(world.folders.processed / "team" / "talk.wav")
    look(world, after_s=50)
    assert world.spool.recover() == ()  # not yet
    look(world)
    (job,) = world.spool.recover()
    assert world.spool.explain_second_set(job) is None
    assert (job.state, world.audio(job).read_bytes()) == (JobState.CLAIMED, AUDIO + MORE)
    assert tree(world.folders.processed) == {"team"}
    work(world, "2")
    assert mark_of(world) == "2"
    assert tree(world.folders.outbox) == {"team/talk.txt", "team/talk.json"}
    assert tree(world.folders.processed) == {"team/talk.wav", "team/talk.hotwords.txt"}
    assert (world.folders.processed / "team" / "talk.wav").read_bytes() == AUDIO + MORE
    assert len(world.journal.recent(9)) == 1


def test_recording_that_stayed_the_same_is_left_alone(world: World) -> None:
    world.deliver(claim(world), "1")
    look(world)
    grow(world.folders.processed / "team" / "talk.wav")  # after the one look
    look(world, after_s=1000)
    assert world.spool.recover() == ()
    assert mark_of(world) == "1"


def test_recording_whose_close_was_seen_is_not_looked_at(world: World) -> None:
    world.deliver(claim(world, close_seen=True), "1")
    grow(world.folders.processed / "team" / "talk.wav")
    look(world)
    assert world.spool.recover() == ()


def test_recording_is_transcribed_again_at_most_twice(world: World) -> None:
    world.deliver(claim(world), "0")
    for mark in ("1", "2", "3"):
        grow(world.folders.processed / "team" / "talk.wav")
        look(world)
        work(world, mark)
    assert mark_of(world) == "2"
    assert world.spool.recover() == ()


@pytest.mark.parametrize("changed", ["team/talk.txt", "team/talk.json"])
def test_documents_edited_after_delivery_are_kept_next_to_the_new_ones(world: World, changed: str) -> None:
    world.deliver(claim(world), "1")
    with (world.folders.outbox / changed).open("ab") as stream:
        stream.write(b"\n")
    kept = (world.folders.outbox / changed).read_bytes()
    grow(world.folders.processed / "team" / "talk.wav")
    look(world)
    (job,) = world.spool.recover()
    note = world.spool.explain_second_set(job)
    assert note is not None
    assert "kept as talk.txt, talk.json," in note
    work(world, "2")
    assert (world.folders.outbox / changed).read_bytes() == kept
    assert mark_of(world, "team/talk.wav") == "2"
    assert len(tree(world.folders.outbox)) == 4


def test_documents_taken_from_the_outbox_are_delivered_again(world: World) -> None:
    world.deliver(claim(world), "1")
    (world.folders.outbox / "team" / "talk.txt").unlink()
    grow(world.folders.processed / "team" / "talk.wav")
    look(world)
    work(world, "2")
    assert mark_of(world) == "2"
    assert len(tree(world.folders.outbox)) == 2


def test_recording_removed_from_processed_is_not_transcribed_again(world: World) -> None:
    world.deliver(claim(world), "1")
    (world.folders.processed / "team" / "talk.wav").unlink()
    look(world)
    assert world.spool.recover() == ()
    assert mark_of(world) == "1"


@pytest.fixture
def far(fast: Path, tmp_path: Path) -> Path:
    if fast.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system at /dev/shm")
    return fast


@pytest.mark.parametrize("grows", [False, True])
def test_across_disks_the_audio_stays_in_its_claim_until_the_look(tmp_path: Path, far: Path, *, grows: bool) -> None:
    world = World(tmp_path, far)
    job = claim(world)
    with world.audio(job).open("ab") as writer:  # still open
        world.deliver(job, "1")
        assert mark_of(world) == "1"
        assert world.spool.held() == {job.job_id}
        look(world, after_s=50)
        assert tree(far / "processed") - {"team"} == set()
        if grows:
            writer.write(MORE)
    look(world)
    assert world.spool.held() == frozenset()
    work(world, "2")
    if grows:
        assert world.spool.held() == {job.job_id}
        look(world)
        work(world, "3")
    assert mark_of(world) == ("2" if grows else "1")
    assert (far / "processed" / "team" / "talk.wav").read_bytes() == AUDIO + (MORE if grows else b"")
    assert tree(world.folders.inbox) == {".scribed", "team"}
    world.close()


def test_once_expects_no_second_look_and_finishes_pending_ones(tmp_path: Path, far: Path) -> None:
    world = World(tmp_path, far)
    world.deliver(claim(world), "1")
    world.close()
    once = World(tmp_path, far, looks_again=False)
    assert once.spool.held() == frozenset()
    work(once, "2")
    once.deliver(claim(once, "memo.wav"), "1")
    assert {path.name for path in (far / "processed").rglob("*.wav")} == {"talk.wav", "memo.wav"}
    assert once.spool.recover() == ()
    once.close()


@pytest.mark.parametrize("journal", ["kept", "lost"])
@pytest.mark.parametrize("disks", ["one", "two"])
def test_crash_at_any_step_of_the_second_delivery_leaves_one_set_of_documents(
    fast: Path, tmp_path: Path, disks: str, journal: str
) -> None:
    for at in count(1):
        root, far = fast / str(at), tmp_path / str(at) if disks == "two" else None
        world = World(root, far)
        job = claim(world)
        world.deliver(job, "1")
        grow(world.audio(job) if world.spool.held() else world.folders.processed / "team" / "talk.wav")

        def again(world: World = world) -> None:
            look(world)
            work(world, "2")

        is_crashed = crash_in(world, again, at)
        world.close()
        if journal == "lost":
            for path in (root / "state").glob("journal*"):
                path.unlink()
        later = World(root, far)
        for _ in range(3):
            look(later)
            work(later, "3")
        audio = [*root.rglob("talk.wav"), *(far or root / "state").rglob("talk.wav")]
        assert {path.read_bytes() for path in audio} == {AUDIO + MORE}, at
        assert len(audio) == 1, at
        assert later.spool.recover() == ()
        if journal == "kept":
            assert tree(later.folders.outbox) == {"team/talk.txt", "team/talk.json"}, at
            assert mark_of(later) in {"2", "3"}, at
        for text in later.folders.outbox.rglob("*.json"):
            mark_of(later, str(text.relative_to(later.folders.outbox).with_suffix("")))
        later.close()
        if not is_crashed:
            break
    assert at > 10
