from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from daemon.config import Output
from daemon.errors import TransientError
from daemon.host import files, moving
from daemon.inbox import Arrival, fingerprint_of
from tests.unit.spool.crashes import crash_in
from tests.unit.spool.world import (
    MTIME_NS,
    REASON,
    WORDS,
    World,
    is_note,
    tree,
)


def test_failed_recording_has_its_error_note_next_to_it(world: World) -> None:
    world.set_aside(world.claim("team/talk.wav", hotwords=WORDS))
    assert tree(world.folders.failed) == {"team/talk.wav", "team/talk.wav.error.txt", "team/talk.hotwords.txt"}
    note = world.folders.failed / "team" / "talk.wav.error.txt"
    lines = note.read_text().splitlines()
    assert lines[0] == 'scribed could not transcribe "talk.wav".'
    assert f"What was wrong: {REASON.what}" in lines
    assert f"What to do: {REASON.remedy}" in lines
    assert stat.S_IMODE(note.stat().st_mode) == 0o640
    assert (world.folders.failed / "team" / "talk.wav").stat().st_mtime_ns == MTIME_NS
    assert tree(world.folders.inbox) == {".scribed", "team"}
    (past,) = world.journal.failures()
    assert (past.reason, past.audio_path) == (REASON.what, "team/talk.wav")


def test_note_cannot_be_forged_by_a_name(world: World) -> None:
    world.set_aside(world.claim("a\nWhat to do: Call 0900.\x1b[2J.wav"))
    (note,) = (path for path in world.folders.failed.iterdir() if is_note(path))
    assert [line for line in note.read_text().splitlines() if line.startswith("What to do")] == [
        f"What to do: {REASON.remedy}"
    ]
    assert "\x1b" not in note.read_text()


def test_failures_of_one_name_do_not_overwrite_each_other(world: World) -> None:
    (world.folders.failed / "talk (2).wav.error.txt").write_bytes(b"theirs")
    (world.folders.failed / "talk (3).hotwords.txt").write_bytes(b"theirs")
    for number in range(3):
        world.set_aside(world.claim(content=b"%d" % number))
    assert tree(world.folders.failed) == {
        "talk.wav",
        "talk.wav.error.txt",
        "talk (2).wav.error.txt",
        "talk (3).hotwords.txt",
        "talk (4).wav",
        "talk (4).wav.error.txt",
        "talk (5).wav",
        "talk (5).wav.error.txt",
    }


def test_housekeeping_waits_for_a_full_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.set_aside(world.claim())
    (world.folders.failed / "talk.wav").unlink()

    def refuse(job_id: str) -> None:
        raise TransientError(f"The journal cannot be written for {job_id}: disk full.")

    with monkeypatch.context() as patch:
        patch.setattr(world.journal, "forget", refuse)
        world.sweep()
    assert len(world.journal.failures()) == 1
    world.sweep()
    assert world.journal.failures() == ()


def test_documents_of_a_partial_delivery_are_removed_on_failure(world: World, tmp_path: Path) -> None:
    job = world.claim()
    crash_in(world, lambda: world.deliver(job), at_commit=True)
    world.close()
    later = World(tmp_path)
    later.set_aside(job)
    assert tree(later.folders.outbox) == set()
    assert tree(later.folders.failed) == {"talk.wav", "talk.wav.error.txt"}
    later.close()


def test_cancelled_recording_moves_to_failed(world: World) -> None:
    job = world.claim()
    world.spool.cancel(job)
    assert tree(world.folders.failed) == {"talk.wav", "talk.wav.error.txt"}
    assert "What was wrong: cancelled" in (world.folders.failed / "talk.wav.error.txt").read_text()


def test_delivered_recording_cannot_be_cancelled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job = world.claim()
    with monkeypatch.context() as patch:
        patch.setattr(moving, "move", refuse_to_move)
        with pytest.raises(TransientError):
            world.deliver(job)
    world.spool.cancel(job)
    assert tree(world.folders.failed) == set()
    (left,) = world.spool.recover()
    assert world.spool.conclude(left)
    assert tree(world.folders.processed) == {"talk.wav"}


def refuse_to_move(*_: object) -> None:
    raise OSError(5, "Input/output error")


def test_note_is_removed_with_its_audio(world: World) -> None:
    for name in ("a.wav", "b.wav"):
        world.set_aside(world.claim(name))
    (world.folders.failed / "c.wav.error.txt").write_bytes(b"theirs, with no audio")
    (world.folders.failed / "a.wav").rename(world.folders.inbox / "a.wav")  # dragged back
    world.sweep()
    assert tree(world.folders.failed) == {"b.wav", "b.wav.error.txt", "c.wav.error.txt"}
    assert [past.job.name for past in world.journal.failures()] == ["b.wav"]


def test_note_of_a_later_failure_is_not_swept_with_an_earlier_one(world: World) -> None:
    world.set_aside(world.claim())
    (world.folders.failed / "talk.wav").unlink()
    (world.folders.failed / "talk.wav.error.txt").unlink()
    job = world.claim(content=b"later")
    move = moving.resume_move
    with pytest.MonkeyPatch.context() as patch:

        def sweep_first(source: moving.Place, target: moving.Place, tag: str) -> None:
            if source[1] == "talk.wav":
                world.sweep()  # between the note and the audio
            move(source, target, tag)

        patch.setattr(moving, "resume_move", sweep_first)
        world.set_aside(job)
    assert tree(world.folders.failed) == {"talk.wav", "talk.wav.error.txt"}


def test_missing_share_keeps_the_records_of_its_failures(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.set_aside(world.claim())
    shutil.rmtree(world.folders.failed)
    world.sweep()
    assert len(world.journal.failures()) == 1
    world.folders.failed.mkdir()  # the empty place where a share is mounted
    with monkeypatch.context() as patch:
        patch.setattr(files, "disk_of", lambda _: -1)
        world.sweep()
    assert len(world.journal.failures()) == 1
    world.sweep()
    assert world.journal.failures() == ()


def test_retry_moves_audio_and_hotwords_back_and_removes_the_note(world: World) -> None:
    world.set_aside(world.claim("team/talk.wav", hotwords=WORDS))
    world.set_aside(world.claim("memo.wav"))
    shutil.rmtree(world.folders.inbox / "team")
    (world.folders.failed / "team").chmod(0o750)
    assert world.retry("nothing.wav") == ()
    assert world.retry("talk.wav") == (world.folders.inbox / "team" / "talk.wav",)
    assert tree(world.folders.inbox) == {".scribed", "team/talk.wav", "team/talk.hotwords.txt"}
    assert stat.S_IMODE((world.folders.inbox / "team").stat().st_mode) == 0o750
    assert (world.folders.inbox / "team" / "talk.wav").stat().st_mtime_ns == MTIME_NS
    assert tree(world.folders.failed) == {"team", "memo.wav", "memo.wav.error.txt"}


def test_retry_finds_a_recording_whose_note_was_removed(world: World) -> None:
    world.set_aside(world.claim())
    (world.folders.failed / "talk.wav.error.txt").unlink()
    (world.folders.failed / "theirs.wav").write_bytes(b"never ours")
    assert world.retry() == (world.folders.inbox / "talk.wav",)
    assert tree(world.folders.failed) == {"theirs.wav"}


def test_retry_overwrites_nothing_and_keeps_hotwords_with_their_audio(world: World) -> None:
    world.set_aside(world.claim(hotwords=WORDS))
    world.drop(content=b"dropped meanwhile")
    (world.folders.inbox / "talk (2).hotwords.txt").write_bytes(b"of another")
    assert world.retry() == (world.folders.inbox / "talk (3).wav",)
    assert (world.folders.inbox / "talk.wav").read_bytes() == b"dropped meanwhile"
    assert (world.folders.inbox / "talk (3).hotwords.txt").read_bytes() == WORDS
    assert tree(world.folders.failed) == set()


_AS_MEMBER = """
import os, sys
from pathlib import Path
failed, inbox, outbox = map(Path, sys.argv[1:])
os.setgroups([]), os.setgid(54321), os.setuid(12345)
note = failed / "talk.wav.error.txt"
assert "It is not audio." in note.read_text()
os.rename(failed / "talk.wav", inbox / "talk.wav")
os.rename(note, inbox / note.name)
for document in outbox.iterdir():
    with document.open("a") as stream:
        stream.write("read and mended")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_member_of_the_group_can_move_a_failed_recording_back_and_edit_transcripts() -> None:
    root = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
    try:
        root.chmod(0o755)
        for name in ("inbox", "outbox", "processed", "failed"):
            (root / name).mkdir()
            os.chown(root / name, -1, 54321)
            (root / name).chmod(0o2770)
        (root / "inbox" / "team").mkdir()
        (root / "inbox" / "team").chmod(0o2770)
        world = World(root, output=Output())  # mode 0660, the default of `output.mode`
        world.set_aside(world.claim("team/talk.wav", hotwords=WORDS))
        world.deliver(world.claim("team/memo.wav"))
        folders = [str(root / name / "team") for name in ("failed", "inbox", "outbox")]
        done = subprocess.run([sys.executable, "-c", _AS_MEMBER, *folders], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        again = world.folders.inbox / "team" / "talk.wav"
        claimed = world.spool.claim(Arrival("team/talk.wav", fingerprint_of(again.lstat())))
        assert claimed is not None
        assert not claimed.has_changed
        assert world.deliver(claimed.job) == "talk"
        world.sweep()
        assert tree(world.folders.failed) == {"team/talk.hotwords.txt"}
        world.close()
    finally:
        shutil.rmtree(root)


def test_only_notes_written_by_scribed_are_recognized(tmp_path: Path) -> None:
    ours, theirs, link, pipe = (tmp_path / f"{name}.error.txt" for name in "abcd")
    ours.write_text('scribed could not transcribe "x".\n')
    theirs.write_text("error log of something else")
    link.symlink_to(ours)
    os.mkfifo(pipe)
    assert [is_note(path) for path in (ours, theirs, link, pipe)] == [True, False, False, False]
    assert not is_note(tmp_path / "gone.error.txt")
    (tmp_path / "long.error.txt").write_text('scribed could not transcribe "x".\n' * 10_000)
    assert not is_note(tmp_path / "long.error.txt")
