from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daemon.config import Output
from daemon.errors import TransientError
from daemon.host import files, moving
from daemon.journal import JOURNAL_NAME
from daemon.spool import Spool
from tests.unit.spool.world import (
    MTIME_NS,
    WORDS,
    World,
    tree,
)

if TYPE_CHECKING:
    from daemon.job import Job


def test_claim_is_one_rename_into_the_private_folder(world: World) -> None:
    arrival = world.drop("team/talk.wav", hotwords=WORDS)
    claimed = world.spool.claim(arrival)
    assert claimed is not None
    job = claimed.job
    audio = world.audio(job)
    assert not claimed.has_changed
    assert audio == world.folders.inbox / ".scribed" / job.job_id / "talk.wav"
    assert (audio.stat().st_ino, audio.stat().st_mtime_ns) == (arrival.fingerprint.inode, MTIME_NS)
    assert stat.S_IMODE(audio.parent.stat().st_mode) == 0o700
    assert world.hotwords(job) == ("Bessel", "Chebyshev")
    assert tree(world.folders.inbox / "team") == set()
    assert world.journal.find(job.job_id) == job
    assert (job.path, job.name, job.folder) == ("team/talk.wav", "talk.wav", "team")


def test_recording_that_vanishes_before_the_claim_gives_no_job(world: World) -> None:
    arrival = world.drop("team/talk.wav", hotwords=WORDS)
    (world.folders.inbox / "team" / "talk.wav").unlink()
    assert world.spool.claim(arrival) is None
    assert tree(world.folders.inbox) == {".scribed", "team/talk.hotwords.txt"}
    assert world.journal.unfinished() == ()
    shutil.rmtree(world.folders.inbox / "team")
    assert world.spool.claim(arrival) is None


def test_claim_reports_a_recording_replaced_after_it_settled(world: World) -> None:
    arrival = world.drop()
    (world.folders.inbox / "talk.wav").unlink()
    world.drop(content=b"something else")
    claimed = world.spool.claim(arrival)
    assert claimed is not None
    assert claimed.has_changed
    assert world.spool.fingerprint(claimed.job) != arrival.fingerprint


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_recording_waits_for_hotwords_that_a_failing_disk_does_not_move(
    number: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrival = world.drop(hotwords=WORDS)
    move = moving.move_unsynced

    def refuse(source: moving.Place, *rest: Any, **how: Any) -> None:  # noqa: ANN401  # as they come
        if source[1] == "talk.hotwords.txt":
            raise OSError(number, os.strerror(number))
        move(source, *rest, **how)

    with monkeypatch.context() as patch:
        patch.setattr(moving, "move_unsynced", refuse)  # a disk that fails, which the test cannot make
        with pytest.raises(TransientError):
            world.spool.claim(arrival)
    assert tree(world.folders.inbox) == {".scribed", "talk.wav", "talk.hotwords.txt"}
    claimed = world.spool.claim(arrival)
    assert claimed is not None
    assert world.hotwords(claimed.job)


@pytest.mark.parametrize("kind", ["link", "broken link", "pipe", "folder"])
def test_claim_puts_back_anything_that_is_not_a_regular_file(world: World, kind: str) -> None:
    arrival = world.drop(hotwords=WORDS)
    path = world.folders.inbox / "talk.wav"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(__file__ if kind == "link" else "nowhere")
    assert world.spool.claim(arrival) is None
    assert tree(world.folders.inbox) == {".scribed", "talk.wav", "talk.hotwords.txt"}
    assert world.spool.recover() == ()


def test_link_in_place_of_a_sub_folder_is_not_followed(world: World) -> None:
    """Otherwise a member could have the journal or another user's recording moved to a readable place."""
    arrival = world.drop("team/journal.sqlite3")
    shutil.rmtree(world.folders.inbox / "team")
    (world.folders.inbox / "team").symlink_to(world.folders.state)
    assert world.spool.claim(arrival) is None
    assert (world.folders.state / JOURNAL_NAME).exists()


def test_claim_that_fails_leaves_no_trace(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    arrival = world.drop(hotwords=WORDS)

    def refuse(jobs: list[Job], *_: object) -> None:
        raise TransientError(f"The journal cannot be written for {jobs}: disk full.")

    with monkeypatch.context() as patch:
        patch.setattr(world.journal, "add_all", refuse)  # a full disk, which the test cannot make
        for _ in range(3):
            with pytest.raises(TransientError):
                world.spool.claim(arrival)
    assert tree(world.folders.inbox) == {".scribed", "talk.wav", "talk.hotwords.txt"}
    assert world.spool.claim(arrival) is not None


def test_several_are_claimed_at_once_and_one_that_fails_does_not_stop_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals = [world.drop(path) for path in ("a.wav", "team/b.wav", "gone.wav", "full.wav", "team/c.wav")]
    (world.folders.inbox / "gone.wav").unlink()
    move = moving.move_unsynced

    def refuse(source: moving.Place, *rest: Any, **how: Any) -> None:  # noqa: ANN401  # as they come
        if source[1] == "full.wav":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        move(source, *rest, **how)

    with monkeypatch.context() as patch:
        patch.setattr(moving, "move_unsynced", refuse)  # a full disk, which the test cannot make
        claimed = world.spool.claim_all(arrivals)
    assert [claim.job.path for claim in claimed.claims] == ["a.wav", "team/b.wav", "team/c.wav"]
    assert isinstance(claimed.fault, TransientError)
    assert {job.path for job in world.journal.unfinished()} == {"a.wav", "team/b.wav", "team/c.wav"}
    assert all(world.audio(claim.job).exists() for claim in claimed.claims)
    assert (world.folders.inbox / "full.wav").exists()
    assert world.spool.broken_off({"a.wav", "team/b.wav", "team/c.wav"}) == frozenset()
    assert len(world.spool.claim_all([arrivals[3]]).claims) == 1


def test_claims_of_many_share_their_syncs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    arrivals = [world.drop(f"{number}.wav") for number in range(20)]
    made, sync = list[int](), os.fsync

    def count(fd: int) -> None:
        made.append(fd)
        sync(fd)

    monkeypatch.setattr(os, "fsync", count)
    claimed = world.spool.claim_all(arrivals)
    assert len(claimed.claims) == 20
    assert len(made) == 3  # the folder of claims, the journal, the inbox
    with world.spool.opened(claimed.claims[0].job) as claim:
        assert claim.fingerprint == arrivals[0].fingerprint
        assert claim.audio.read_bytes() == world.audio(claimed.claims[0].job).read_bytes()
    assert len(made) == 4  # and the folder of each claim before work on it begins


_CLAIM_AS_OTHER = """
import json, os, sys
from pathlib import Path
from daemon.config import Folders, Output
from daemon.errors import NoPermissionError
from daemon.inbox import Arrival, fingerprint_of
from daemon.journal import Journal
from daemon.spool import SharedFolders, Spool

root, mode = Path(sys.argv[1]), int(sys.argv[2], 8)
folders = Folders(**{name: root / name for name in ("inbox", "outbox", "processed", "failed", "state", "cache")})
if os.geteuid() == 0:
    os.chown(root, 65534, 65534)
    os.setgroups([]), os.setegid(65534), os.seteuid(65534)
shared = SharedFolders(folders)
shared.prepare()
spool = Spool(shared, Journal(folders.state), lambda _: Output())
closed = folders.inbox / "closed"
closed.mkdir()
(closed / "talk.wav").write_bytes(b"sound")
closed.chmod(mode)
if os.getuid() == 0:
    os.seteuid(0)
    os.chown(closed, 12345, 12345), os.chown(closed / "talk.wav", 12345, 12345), os.chmod(closed, mode)
    os.setgid(65534), os.setuid(65534)
try:
    spool.claim(Arrival("closed/talk.wav", fingerprint_of((closed / "talk.wav").lstat())))
except NoPermissionError as error:
    print(json.dumps([str(error), sorted(os.listdir(folders.inbox / ".scribed")), os.listdir(closed)]))
"""


@pytest.mark.parametrize(("mode", "words"), [("0555", "write permission"), ("1777", "chmod -t")])
def test_folder_that_forbids_moving_files_is_a_fault_before_anything_is_written(mode: str, words: str) -> None:
    if mode == "1777" and os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    root = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
    try:
        command = [sys.executable, "-c", _CLAIM_AS_OTHER, str(root), mode]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        told, claims, left = json.loads(done.stdout)
        assert words in told
        assert (claims, left) == (["lock"], ["talk.wav"])
    finally:
        (root / "inbox" / "closed").chmod(0o755)
        shutil.rmtree(root)


def test_hotwords_that_are_not_a_regular_file_are_ignored(world: World, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret\n")
    (world.folders.inbox / "talk.hotwords.txt").symlink_to(tmp_path / "secret")
    job = world.claim()
    assert world.hotwords(job) == ()
    (world.folders.inbox / "memo.hotwords.txt").mkdir()
    assert world.hotwords(world.claim("memo.wav")) == ()
    world.deliver(job)
    assert tree(world.folders.inbox) >= {"talk.hotwords.txt", "memo.hotwords.txt"}


def test_hotwords_are_cleaned_and_limited(world: World) -> None:
    odd = "\ufeffBessel\r\n\n  Bessel  \r\n\u4f60\u597d\n".encode() + b"caf\xe9\n"
    assert world.hotwords(world.claim(hotwords=odd)) == ("Bessel", "\u4f60\u597d", "caf\ufffd")
    many = b"".join(b"word%d\n" % number for number in range(5000))
    words = world.hotwords(world.claim("long.wav", hotwords=many))
    assert 1000 < len(words) < 5000
    assert words[-1] == f"word{len(words) - 1}"  # not cut in two


def test_full_disk_is_a_fault_before_the_claim(world: World) -> None:
    claims = Spool(world.shared, world.journal, lambda _: Output())
    assert claims.check_room() is None  # type: ignore[func-returns-value]
    files_free = files.free_bytes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "free_bytes", lambda folder: 3 << 20 if folder.name == "outbox" else files_free(folder))
        with pytest.raises(TransientError, match=r"outbox has only 3 MiB left, 16 MiB are needed"):
            claims.check_room()
