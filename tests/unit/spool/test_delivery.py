from __future__ import annotations

import json
import os
import stat
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from daemon.config import Output
from daemon.errors import TransientError
from daemon.host.folders import Folder
from daemon.job import Job, JobState
from daemon.journal.records import Reason
from daemon.spool.names import error_note_name
from tests.unit.spool.crashes import crash_in
from tests.unit.spool.world import (
    AUDIO,
    MTIME_NS,
    RESULT,
    WORDS,
    World,
    documents,
    is_note,
    tree,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_delivery_moves_documents_and_audio_to_their_folders(world: World) -> None:
    (world.folders.inbox / "team").mkdir()
    (world.folders.inbox / "team").chmod(0o750)
    job = world.claim("team/talk.wav", hotwords=WORDS)
    assert world.deliver(job) == "talk"
    assert tree(world.folders.outbox) == {"team/talk.txt", "team/talk.json"}
    assert tree(world.folders.processed) == {"team/talk.wav", "team/talk.hotwords.txt"}
    assert tree(world.folders.inbox) == {".scribed", "team"}
    assert (world.folders.outbox / "team" / "talk.txt").read_bytes() == b"words\n"
    assert stat.S_IMODE((world.folders.outbox / "team" / "talk.txt").stat().st_mode) == 0o640
    assert {
        stat.S_IMODE(folder.stat().st_mode)
        for folder in (world.folders.outbox / "team", world.folders.processed / "team")
    } == {0o750}
    audio = world.folders.processed / "team" / "talk.wav"
    assert (audio.read_bytes(), audio.stat().st_mtime_ns) == (AUDIO, MTIME_NS)
    (past,) = world.journal.recent(5)
    assert (past.job.state, past.audio_s, past.is_complete) == (JobState.DONE, 12.5, True)


def test_listening_copy_is_delivered_with_the_documents_and_shares_their_stem(world: World, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    for stem in ("talk", "talk.wav"):
        job = world.claim()
        with (tmp_path / "copy").open("w+b", buffering=0) as copy:
            copy.write(content)
            delivered = world.spool.deliver(job, {"listen.mp3": copy, **documents(job)}, RESULT)
        assert delivered.stem == stem
        assert (world.folders.outbox / f"{stem}.listen.mp3").read_bytes() == content
    assert tree(world.folders.outbox) == {
        f"{stem}.{ending}" for stem in ("talk", "talk.wav") for ending in ("txt", "json", "listen.mp3")
    }


@pytest.mark.parametrize("ending", ["listen.mp3", "listen.m4a", "listen.opus"])
def test_stem_of_another_listening_copy_is_taken(world: World, ending: str) -> None:
    (world.folders.outbox / f"talk.{ending}").write_text("mine")
    assert world.deliver(world.claim()) == "talk.wav"


def test_without_mirrored_folders_all_documents_share_one_folder(tmp_path: Path) -> None:
    world = World(tmp_path, output=Output(mirror_folders=False))
    assert [world.deliver(world.claim(path)) for path in ("a/talk.wav", "b/talk.wav")] == ["talk", "talk.wav"]
    assert tree(world.folders.outbox) == {"talk.txt", "talk.json", "talk.wav.txt", "talk.wav.json"}
    assert tree(world.folders.processed) == {"talk.wav", "talk.wav.wav"}
    world.close()


def test_repeated_name_gets_numbered_documents(world: World) -> None:
    stems = [world.deliver(world.claim(content=b"%d" % number)) for number in range(4)]
    assert stems == ["talk", "talk.wav", "talk.wav (2)", "talk.wav (3)"]
    kept = {path.read_bytes() for path in world.folders.processed.iterdir()}
    assert kept == {b"0", b"1", b"2", b"3"}


def test_recordings_with_the_same_stem_get_separate_documents(world: World) -> None:
    jobs = [world.claim(name) for name in ("a.wav", "a.mp3")]
    assert [world.deliver(job) for job in jobs] == ["a", "a.mp3"]
    assert tree(world.folders.processed) == {"a.wav", "a.mp3"}


def test_status_is_never_a_stem(world: World) -> None:
    (world.folders.outbox / "STATUS.txt").write_bytes(b"ours")
    for name in ("STATUS.wav", "status.mp3", "Status"):
        assert world.deliver(world.claim(name)).casefold() != "status"
    assert (world.folders.outbox / "STATUS.txt").read_bytes() == b"ours"


@pytest.mark.parametrize("name", [b"x" * 251 + b".wav", "\u00fc".encode() * 125 + b".wav", b"a." + b"x" * 253])
def test_longest_possible_names_are_delivered(world: World, name: bytes) -> None:
    for number in range(3):
        job = world.claim(os.fsdecode(name), content=b"%d" % number)
        assert world.hotwords(job) == ()
        world.deliver(job)
    world.set_aside(world.claim(os.fsdecode(name)))
    assert [len(tree(folder)) for folder in (world.folders.outbox, world.folders.processed)] == [6, 3]
    assert len(tree(world.folders.failed)) == 2


@pytest.mark.parametrize(
    "name", [b"caf\xe9.wav", b"a\nb.wav", b"-rf.wav", "\U0001f600.wav".encode(), b"talk.", b"talk", b"nfc\xcc\x81.wav"]
)
def test_odd_names_are_delivered(world: World, name: bytes) -> None:
    path = f"team/{os.fsdecode(name)}"
    world.deliver(world.claim(path, hotwords=WORDS))
    assert (world.folders.processed / path).read_bytes() == AUDIO
    assert len(tree(world.folders.outbox)) == 2
    world.set_aside(world.claim(path, hotwords=WORDS))
    assert (world.folders.failed / path).read_bytes() == AUDIO
    (back,) = world.retry()
    assert back == world.folders.inbox / path


def test_names_that_only_look_alike_stay_separate(world: World) -> None:
    for name in ("caf\u00e9.wav", "cafe\u0301.wav"):  # composed and decomposed
        world.deliver(world.claim(name))
        assert (world.folders.processed / name).exists()
    assert len(tree(world.folders.outbox)) == 4


@pytest.mark.parametrize("taken", ["outbox/talk.txt", "outbox/talk.srt", "outbox/talk.html", "processed/talk.wav"])
@pytest.mark.parametrize("kind", ["file", "broken link"])
def test_files_of_others_are_left_unchanged(world: World, tmp_path: Path, taken: str, kind: str) -> None:
    if kind == "file":
        (tmp_path / taken).write_bytes(b"theirs")
    else:
        (tmp_path / taken).symlink_to("nowhere")
    before = (tmp_path / taken).lstat()
    stem = world.deliver(world.claim())
    assert (tmp_path / taken).lstat() == before
    assert stem == "talk.wav"
    assert (world.folders.outbox / "talk.wav.json").exists()
    assert (
        len([path for path in world.folders.processed.iterdir() if path.is_file() and path.read_bytes() == AUDIO]) == 1
    )


def test_name_taken_between_check_and_publishing_is_not_overwritten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, thefts = Folder.publish, iter(["talk.json", "talk.wav.txt"])

    def race(folder: Folder, temporary: str, name: str, **how: bool) -> None:
        if theft := next(thefts, None):
            (world.folders.outbox / theft).write_bytes(b"theirs")
        publish(folder, temporary, name, **how)

    monkeypatch.setattr(Folder, "publish", race)
    assert world.deliver(world.claim()) == "talk.wav (2)"
    assert tree(world.folders.outbox) == {"talk.json", "talk.wav.txt", "talk.wav (2).txt", "talk.wav (2).json"}
    assert (world.folders.outbox / "talk.json").read_bytes() == b"theirs"
    assert (world.folders.outbox / "talk.wav.txt").read_bytes() == b"theirs"


def test_name_taken_in_processed_after_its_reservation_is_not_overwritten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = world.journal.commit_delivery

    def race(job_id: str, document: Path) -> bool:
        is_queued = commit(job_id, document)
        (world.folders.processed / "talk.wav").write_bytes(b"theirs")
        return is_queued

    monkeypatch.setattr(world.journal, "commit_delivery", race)
    world.deliver(world.claim())
    assert (world.folders.processed / "talk.wav").read_bytes() == b"theirs"
    assert (world.folders.processed / "talk.wav.wav").read_bytes() == AUDIO


def test_concurrent_deliveries_of_one_stem_get_different_names(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [world.claim(content=b"%d" % number) for number in range(6)]
    start, stems = threading.Barrier(len(jobs)), []
    reserve, meeting = world.journal.reserve, threading.Barrier(2)

    def reserve_together(*arguments: Any) -> None:  # noqa: ANN401  # as they come
        with suppress(threading.BrokenBarrierError):  # two that have looked meet here, if they are let
            meeting.wait(0.3)
        reserve(*arguments)

    monkeypatch.setattr(world.journal, "reserve", reserve_together)

    def work(job: Job) -> None:
        start.wait()
        stems.append(world.deliver(job))

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(stems)) == len(jobs)
    ids = {json.loads((world.folders.outbox / f"{stem}.json").read_bytes())["job_id"] for stem in stems}
    assert ids == {job.job_id for job in jobs}
    assert {path.read_bytes() for path in world.folders.processed.iterdir()} == {b"%d" % number for number in range(6)}


def test_concurrent_failures_of_one_name_get_different_names(world: World) -> None:
    jobs = [world.claim(content=b"%d" % number) for number in range(6)]
    start = threading.Barrier(len(jobs))

    def work(job: Job) -> None:
        start.wait()
        world.set_aside(job, Reason("It is not audio.", job.job_id))

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    audio = [path for path in world.folders.failed.iterdir() if not is_note(path)]
    assert {path.read_bytes() for path in audio} == {b"%d" % number for number in range(6)}
    assert all(is_note(path.with_name(error_note_name(path.name))) for path in audio)
    assert len(tree(world.folders.failed)) == 12


def test_repeated_delivery_completes_an_interrupted_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job = world.claim()
    publish = Folder.publish

    def fill(folder: Folder, temporary: str, name: str, **how: bool) -> None:
        if name.endswith(".json"):
            raise OSError(28, "No space left on device")
        publish(folder, temporary, name, **how)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "publish", fill)
        with pytest.raises(TransientError, match="Free some space"):
            world.deliver(job, "1")
    assert (world.folders.outbox / "talk.txt").exists()
    assert world.deliver(job, "2") == "talk"
    assert tree(world.folders.outbox) == {"talk.txt", "talk.json"}
    assert (world.folders.outbox / "talk.txt").read_bytes() == b"words2\n"


def test_transcript_taken_before_the_commit_is_not_written_again(world: World, tmp_path: Path) -> None:
    job = world.claim()
    crash_in(world, lambda: world.deliver(job), at_commit=True)
    (world.folders.outbox / "talk.txt").rename(tmp_path / "fetched.txt")
    world.close()
    later = World(tmp_path)
    (left,) = later.spool.recover()
    assert later.spool.conclude(left)
    assert tree(later.folders.outbox) == {"talk.json"}
    assert tree(later.folders.processed) == {"talk.wav"}
    (past,) = later.journal.recent(5)
    assert (past.audio_s, past.wall_s, past.is_complete) == (12.5, 1.5, True)
    later.close()


def test_file_in_place_of_an_outbox_folder_is_a_fault_and_the_delivery_waits(world: World) -> None:
    (world.folders.outbox / "team").write_bytes(b"theirs")
    job = world.claim("team/talk.wav")
    with pytest.raises(TransientError, match="team is a file where a folder"):
        world.deliver(job)
    (world.folders.outbox / "team").unlink()
    assert world.deliver(job) == "talk"
