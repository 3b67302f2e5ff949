from __future__ import annotations

import errno
import functools
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config import Folders, RetentionSettings
from daemon.errors import NoPermissionError, TransientError
from daemon.host import files, mounts
from daemon.inbox import Arrival, fingerprint_of
from daemon.job import Job, JobState
from daemon.journal import JOURNAL_NAME, Journal
from daemon.spool import Claims, Delivery, Failures, Places, Retention, conclude, find_unfinished, is_error_note
from daemon.spool.names import error_note_name, failure_names, fit, hotwords_name, new_job_id, outcome_names

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator

SOUND, WORDS = b"RIFF sound", b"Bessel\nChebyshev\n"
MTIME_NS = 1_000_000_000_123_456_789
REASON, REMEDY = "It is no sound.", "Record it again."


@pytest.fixture
def fast() -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of crashes need thousands of syncs."""
    memory = Path("/dev/shm")  # noqa: S108 - a file system in memory is what is wanted
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    yield folder
    shutil.rmtree(folder)


class World:
    """One life of the daemon: all that is built at its start, upon folders that may have a past."""

    def __init__(self, root: Path, elsewhere: Path | None = None, *, is_mirrored: bool = True) -> None:
        far = elsewhere or root
        self.folders = Folders(
            inbox=root / "inbox",
            outbox=root / "outbox",
            processed=far / "processed",
            failed=far / "failed",
            state=root / "state",
            cache=root / "cache",
        )
        self.places = Places(self.folders, is_mirrored)
        self.places.prepare()
        self.journal = Journal(self.folders.state)
        self.claims = Claims(self.places, self.journal)
        self.claims.check_room = lambda: None  # type: ignore[method-assign] # a small /dev/shm is room enough here
        self.delivery = Delivery(self.places, self.journal, 0o640)
        self.failures = Failures(self.places, self.journal, 0o640)

    def drop(self, path: str = "talk.wav", content: bytes = SOUND, hotwords: bytes | None = None) -> Arrival:
        target = self.folders.inbox / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        os.utime(target, ns=(MTIME_NS, MTIME_NS))
        if hotwords is not None:
            target.with_name(hotwords_name(target.name)).write_bytes(hotwords)
        return Arrival(path, fingerprint_of(target.lstat()))

    def claim(self, path: str = "talk.wav", content: bytes = SOUND, hotwords: bytes | None = None) -> Job:
        claimed = self.claims.claim(self.drop(path, content, hotwords))
        assert claimed is not None
        return claimed[0]

    def deliver(self, job: Job, mark: str = "") -> str:
        """Deliver documents of the job and return their stem."""
        return self.delivery.deliver(job, documents(job, mark), 12.5, 1.5, is_complete=True).stem

    def conclude(self, job: Job) -> bool:
        return conclude(job, self.places, self.journal, self.delivery, self.failures)

    def unfinished(self) -> tuple[Job, ...]:
        return find_unfinished(self.places, self.journal, self.delivery)

    def close(self) -> None:
        self.journal.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def documents(job: Job, mark: str = "") -> dict[str, bytes]:
    facts = {
        "job_id": job.job_id,
        "mark": mark,
        "complete": True,
        "audio": {"duration_s": 12.5},
        "processing": {"wall_s": 1.5},
    }
    return {"txt": f"words{mark}\n".encode(), "json": json.dumps(facts).encode()}


def tree(folder: Path) -> set[str]:
    """Return every file below a folder, with the folders that have none."""
    return {
        str(Path(root, name).relative_to(folder))
        for root, folders, names in os.walk(folder)
        for name in (*names, *(name for name in folders if not any(Path(root, name).iterdir())))
    }


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "talk.wav",
            [
                ("talk", "talk.wav"),
                ("talk.wav", "talk.wav"),
                ("talk.wav", "talk.wav.wav"),
                ("talk.wav (2)", "talk.wav (2).wav"),
                ("talk.wav (3)", "talk.wav (3).wav"),
            ],
        ),
        ("STATUS.wav", [("STATUS.wav", "STATUS.wav"), ("STATUS.wav", "STATUS.wav.wav")]),
        ("Status", [("Status (2)", "Status (2)")]),
        ("talk.", [("talk", "talk."), ("talk.", "talk."), ("talk.", "talk..")]),
        ("talk", [("talk", "talk"), ("talk", "talk"), ("talk", "talk"), ("talk (2)", "talk (2)")]),
        ("-rf.wav", [("-rf", "-rf.wav")]),
    ],
)
def test_names_of_an_outcome_in_their_order(name: str, expected: list[tuple[str, str]]) -> None:
    assert list(islice(outcome_names(name), len(expected))) == expected


NAMES = (
    st.binary(min_size=1, max_size=255).filter(lambda name: not {0, 47} & {*name} and name not in {b".", b".."})
    | st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1).map(str.encode)
    | st.sampled_from([b"a." + b"x" * 253, b"x" * 251 + b".wav", "\U0001f600".encode() * 63, b"\x80" * 255, b"..wav"])
).filter(lambda name: len(name) <= 255)


@given(NAMES)
def test_every_name_that_is_made_fits_and_is_another(encoded: bytes) -> None:
    name = os.fsdecode(encoded)
    made = list(islice(outcome_names(name), 8))
    for stem, audio_name in made:
        assert len(os.fsencode(f"{stem}.json")) <= 255
        assert len(os.fsencode(audio_name)) <= 255
        assert stem.casefold() != "status"
        for other in (audio_name, hotwords_name(audio_name), error_note_name(audio_name)):
            assert len(os.fsencode(other)) <= 255
            assert other not in {"", ".", ".."}
    assert len(set(made[-5:])) == 5
    away = list(islice(failure_names(name), 5))
    assert away[0] == name
    assert len(set(away)) == 5
    assert max(len(os.fsencode(other)) for other in away) <= 255


def test_a_shortened_name_is_valid_text_and_tells_its_like_apart() -> None:
    one, other = (fit("\u00fc" * 125 + end, 5) for end in ("a", "b"))
    assert one != other
    assert one.encode().decode().startswith("\u00fc" * 100)


def test_job_ids_sort_by_time_and_differ() -> None:
    ids = [new_job_id() for _ in range(100)]
    assert len(set(ids)) == 100
    assert [job_id[:15] for job_id in ids] == sorted(job_id[:15] for job_id in ids)


# Places


def test_folders_are_made_and_claims_are_private(world: World) -> None:
    assert world.places.claims == world.folders.inbox / ".scribed"
    assert stat.S_IMODE(world.places.claims.stat().st_mode) == 0o700


def test_claims_that_others_may_enter_are_closed(tmp_path: Path) -> None:
    (tmp_path / "inbox" / ".scribed").mkdir(parents=True)
    (tmp_path / "inbox" / ".scribed").chmod(0o777)
    World(tmp_path).close()
    assert stat.S_IMODE((tmp_path / "inbox" / ".scribed").stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder somebody else's")
def test_claims_that_somebody_else_made_are_refused(tmp_path: Path) -> None:
    (tmp_path / "inbox" / ".scribed").mkdir(parents=True)
    os.chown(tmp_path / "inbox" / ".scribed", 65534, 65534)
    with pytest.raises(NoPermissionError, match="somebody else"):
        World(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder somebody else's")
def test_claims_on_a_share_where_all_belongs_to_another_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inbox" / ".scribed").mkdir(parents=True)
    os.chown(tmp_path / "inbox" / ".scribed", 65534, 65534)
    mkdir = os.mkdir

    def mkdir_on_share(path: Path, mode: int = 0o777) -> None:
        mkdir(path, mode)
        os.chown(path, 65534, 65534)

    monkeypatch.setattr(os, "mkdir", mkdir_on_share)  # as CIFS mounted with uid= shows everything
    World(tmp_path).close()
    assert tree(tmp_path / "inbox") == {".scribed"}


@pytest.mark.parametrize("kind", ["file", "link"])
def test_claims_that_are_no_folder_are_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "inbox").mkdir()
    claims = tmp_path / "inbox" / ".scribed"
    if kind == "link":
        claims.symlink_to(tmp_path)
    else:
        claims.write_bytes(b"")
    with pytest.raises(TransientError, match="not a folder"):
        World(tmp_path)


def test_a_file_in_place_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "outbox").write_bytes(b"")
    with pytest.raises(TransientError, match=r"outbox is not a folder. Make it one, or change folders\.outbox"):
        World(tmp_path)


def test_there_is_a_lock_for_the_state_and_one_for_the_inbox(world: World) -> None:
    paths = [path for path, _ in world.places.locks()]
    assert paths == [world.folders.state / "lock", world.folders.inbox / ".scribed" / "lock"]


# Claiming


def test_a_claim_is_one_rename_out_of_sight(world: World) -> None:
    arrival = world.drop("team/talk.wav", hotwords=WORDS)
    claimed = world.claims.claim(arrival)
    assert claimed is not None
    job, is_same = claimed
    audio = world.places.audio(job)
    assert is_same
    assert audio == world.folders.inbox / ".scribed" / job.job_id / "talk.wav"
    assert (audio.stat().st_ino, audio.stat().st_mtime_ns) == (arrival.fingerprint.inode, MTIME_NS)
    assert stat.S_IMODE(audio.parent.stat().st_mode) == 0o700
    assert world.claims.hotwords(job) == ("Bessel", "Chebyshev")
    assert tree(world.folders.inbox / "team") == set()
    assert world.journal.find(job.job_id) == job
    assert (job.path, job.name, job.folder) == ("team/talk.wav", "talk.wav", "team")


def test_what_is_gone_in_between_is_no_job(world: World) -> None:
    arrival = world.drop("team/talk.wav", hotwords=WORDS)
    (world.folders.inbox / "team" / "talk.wav").unlink()
    assert world.claims.claim(arrival) is None
    assert tree(world.folders.inbox) == {".scribed", "team/talk.hotwords.txt"}
    assert world.journal.unfinished() == ()
    shutil.rmtree(world.folders.inbox / "team")
    assert world.claims.claim(arrival) is None


def test_what_was_replaced_after_it_settled_is_told(world: World) -> None:
    arrival = world.drop()
    (world.folders.inbox / "talk.wav").unlink()
    world.drop(content=b"something else")
    claimed = world.claims.claim(arrival)
    assert claimed is not None
    assert not claimed[1]
    assert world.claims.fingerprint(claimed[0]) != arrival.fingerprint


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_recording_waits_for_hotwords_that_a_disk_withholds(
    number: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrival = world.drop(hotwords=WORDS)
    move = files.move

    def refuse(source: Path, target: Path, *, is_private: bool = False) -> None:
        if source.name == "talk.hotwords.txt":
            raise OSError(number, os.strerror(number))
        move(source, target, is_private=is_private)

    with monkeypatch.context() as patch:
        patch.setattr(files, "move", refuse)  # a disk that fails, which the test cannot make
        with pytest.raises(TransientError):
            world.claims.claim(arrival)
    assert tree(world.folders.inbox) == {".scribed", "talk.wav", "talk.hotwords.txt"}
    claimed = world.claims.claim(arrival)
    assert claimed is not None
    assert world.claims.hotwords(claimed[0])


@pytest.mark.parametrize("kind", ["link", "broken link", "pipe", "folder"])
def test_what_took_the_place_of_a_recording_is_given_back(world: World, kind: str) -> None:
    arrival = world.drop(hotwords=WORDS)
    path = world.folders.inbox / "talk.wav"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(__file__ if kind == "link" else "nowhere")
    assert world.claims.claim(arrival) is None
    assert tree(world.folders.inbox) == {".scribed", "talk.wav", "talk.hotwords.txt"}
    assert world.unfinished() == ()


def test_a_link_in_place_of_a_sub_folder_is_not_followed(world: World) -> None:
    """Else somebody could have the journal, or another's recording, moved to where he may read it."""
    arrival = world.drop("team/journal.sqlite3")
    shutil.rmtree(world.folders.inbox / "team")
    (world.folders.inbox / "team").symlink_to(world.folders.state)
    assert world.claims.claim(arrival) is None
    assert (world.folders.state / JOURNAL_NAME).exists()


def test_a_claim_that_fails_leaves_no_trace(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    arrival = world.drop(hotwords=WORDS)

    def refuse(job: Job) -> None:
        raise TransientError(f"The journal cannot be written for {job.job_id}: disk full.")

    with monkeypatch.context() as patch:
        patch.setattr(world.journal, "add", refuse)  # a full disk, which the test cannot make
        for _ in range(3):
            with pytest.raises(TransientError):
                world.claims.claim(arrival)
    assert tree(world.folders.inbox) == {".scribed", "talk.wav", "talk.hotwords.txt"}
    assert world.claims.claim(arrival) is not None


_CLAIM_AS_OTHER = """
import json, os, sys
from pathlib import Path
from daemon.config import Folders
from daemon.errors import NoPermissionError
from daemon.inbox import Arrival, fingerprint_of
from daemon.journal import Journal
from daemon.spool import Claims, Places

root, mode = Path(sys.argv[1]), int(sys.argv[2], 8)
folders = Folders(**{name: root / name for name in ("inbox", "outbox", "processed", "failed", "state", "cache")})
if os.geteuid() == 0:
    os.chown(root, 65534, 65534)
    os.setgroups([]), os.setegid(65534), os.seteuid(65534)
places = Places(folders, True)
places.prepare()
claims = Claims(places, Journal(folders.state))
closed = folders.inbox / "closed"
closed.mkdir()
(closed / "talk.wav").write_bytes(b"sound")
closed.chmod(mode)
if os.getuid() == 0:
    os.seteuid(0)
    os.chown(closed, 12345, 12345), os.chown(closed / "talk.wav", 12345, 12345), os.chmod(closed, mode)
    os.setgid(65534), os.setuid(65534)
try:
    claims.claim(Arrival("closed/talk.wav", fingerprint_of((closed / "talk.wav").lstat())))
except NoPermissionError as error:
    print(json.dumps([str(error), sorted(os.listdir(places.claims)), os.listdir(closed)]))
"""


@pytest.mark.parametrize(("mode", "words"), [("0555", "write permission"), ("1777", "chmod -t")])
def test_a_folder_that_gives_nothing_away_is_told_before_anything_is_written(mode: str, words: str) -> None:
    if mode == "1777" and os.geteuid() != 0:
        pytest.skip("only root can make a folder somebody else's")
    root = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
    try:
        command = [sys.executable, "-c", _CLAIM_AS_OTHER, str(root), mode]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        told, claims, left = json.loads(done.stdout)
        assert words in told
        assert (claims, left) == ([], ["talk.wav"])
    finally:
        (root / "inbox" / "closed").chmod(0o755)
        shutil.rmtree(root)


def test_hotwords_that_are_no_plain_file_do_no_harm(world: World, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret\n")
    (world.folders.inbox / "talk.hotwords.txt").symlink_to(tmp_path / "secret")
    job = world.claim()
    assert world.claims.hotwords(job) == ()
    (world.folders.inbox / "memo.hotwords.txt").mkdir()
    assert world.claims.hotwords(world.claim("memo.wav")) == ()
    world.deliver(job)
    assert tree(world.folders.inbox) >= {"talk.hotwords.txt", "memo.hotwords.txt"}


def test_hotwords_are_read_with_care(world: World) -> None:
    odd = "\ufeffBessel\r\n\n  Bessel  \r\n\u4f60\u597d\n".encode() + b"caf\xe9\n"
    assert world.claims.hotwords(world.claim(hotwords=odd)) == ("Bessel", "\u4f60\u597d", "caf\ufffd")
    many = b"".join(b"word%d\n" % number for number in range(5000))
    words = world.claims.hotwords(world.claim("long.wav", hotwords=many))
    assert 1000 < len(words) < 5000
    assert words[-1] == f"word{len(words) - 1}"  # not cut in two


def test_a_full_disk_is_told_before_a_claim(world: World) -> None:
    assert Claims(world.places, world.journal).check_room() is None  # type: ignore[func-returns-value]
    files_free = files.free_bytes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "free_bytes", lambda folder: 3 << 20 if folder.name == "outbox" else files_free(folder))
        with pytest.raises(TransientError, match=r"outbox has only 3 MiB left, 16 MiB are needed"):
            Claims(world.places, world.journal).check_room()


# Delivering


def test_a_delivery_puts_everything_in_its_place(world: World) -> None:
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
    assert (audio.read_bytes(), audio.stat().st_mtime_ns) == (SOUND, MTIME_NS)
    (past,) = world.journal.recent(5)
    assert (past.job.state, past.audio_s, past.is_complete) == (JobState.DONE, 12.5, True)


def test_without_mirrored_folders_all_lies_together(tmp_path: Path) -> None:
    world = World(tmp_path, is_mirrored=False)
    assert [world.deliver(world.claim(path)) for path in ("a/talk.wav", "b/talk.wav")] == ["talk", "talk.wav"]
    assert tree(world.folders.outbox) == {"talk.txt", "talk.json", "talk.wav.txt", "talk.wav.json"}
    assert tree(world.folders.processed) == {"talk.wav", "talk.wav.wav"}
    world.close()


def test_the_same_name_again_and_again(world: World) -> None:
    stems = [world.deliver(world.claim(content=b"%d" % number)) for number in range(4)]
    assert stems == ["talk", "talk.wav", "talk.wav (2)", "talk.wav (3)"]
    kept = {path.read_bytes() for path in world.folders.processed.iterdir()}
    assert kept == {b"0", b"1", b"2", b"3"}


def test_two_recordings_of_one_stem(world: World) -> None:
    jobs = [world.claim(name) for name in ("a.wav", "a.mp3")]
    assert [world.deliver(job) for job in jobs] == ["a", "a.mp3"]
    assert tree(world.folders.processed) == {"a.wav", "a.mp3"}


def test_status_is_never_a_stem(world: World) -> None:
    (world.folders.outbox / "STATUS.txt").write_bytes(b"ours")
    for name in ("STATUS.wav", "status.mp3", "Status"):
        assert world.deliver(world.claim(name)).casefold() != "status"
    assert (world.folders.outbox / "STATUS.txt").read_bytes() == b"ours"


@pytest.mark.parametrize("name", [b"x" * 251 + b".wav", "\u00fc".encode() * 125 + b".wav", b"a." + b"x" * 253])
def test_the_longest_names_come_through(world: World, name: bytes) -> None:
    for number in range(3):
        job = world.claim(os.fsdecode(name), content=b"%d" % number)
        assert world.claims.hotwords(job) == ()
        world.deliver(job)
    world.failures.set_aside(world.claim(os.fsdecode(name)), REASON, REMEDY)
    assert [len(tree(folder)) for folder in (world.folders.outbox, world.folders.processed)] == [6, 3]
    assert len(tree(world.folders.failed)) == 2


@pytest.mark.parametrize(
    "name", [b"caf\xe9.wav", b"a\nb.wav", b"-rf.wav", "\U0001f600.wav".encode(), b"talk.", b"talk", b"nfc\xcc\x81.wav"]
)
def test_odd_names_come_through(world: World, name: bytes) -> None:
    path = f"team/{os.fsdecode(name)}"
    world.deliver(world.claim(path, hotwords=WORDS))
    assert (world.folders.processed / path).read_bytes() == SOUND
    assert len(tree(world.folders.outbox)) == 2
    world.failures.set_aside(world.claim(path, hotwords=WORDS), REASON, REMEDY)
    assert (world.folders.failed / path).read_bytes() == SOUND
    (back,) = world.failures.retry_all()
    assert back == world.folders.inbox / path


def test_names_that_only_look_alike_stay_apart(world: World) -> None:
    for name in ("caf\u00e9.wav", "cafe\u0301.wav"):  # composed and decomposed
        world.deliver(world.claim(name))
        assert (world.folders.processed / name).exists()
    assert len(tree(world.folders.outbox)) == 4


@pytest.mark.parametrize("taken", ["outbox/talk.txt", "outbox/talk.srt", "outbox/talk.html", "processed/talk.wav"])
@pytest.mark.parametrize("kind", ["file", "broken link"])
def test_what_is_not_ours_stays_as_it_is(world: World, tmp_path: Path, taken: str, kind: str) -> None:
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
        len([path for path in world.folders.processed.iterdir() if path.is_file() and path.read_bytes() == SOUND]) == 1
    )


def test_a_name_taken_between_the_look_and_the_publishing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    publish, thefts = files.publish, iter(["talk.json", "talk.wav.txt"])

    def race(temporary: Path, target: Path) -> None:
        if theft := next(thefts, None):
            (world.folders.outbox / theft).write_bytes(b"theirs")
        publish(temporary, target)

    monkeypatch.setattr(files, "publish", race)
    assert world.deliver(world.claim()) == "talk.wav (2)"
    assert tree(world.folders.outbox) == {"talk.json", "talk.wav.txt", "talk.wav (2).txt", "talk.wav (2).json"}
    assert (world.folders.outbox / "talk.json").read_bytes() == b"theirs"
    assert (world.folders.outbox / "talk.wav.txt").read_bytes() == b"theirs"


def test_a_name_taken_in_processed_after_it_was_reserved(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = world.journal.commit_delivery

    def race(job_id: str) -> None:
        commit(job_id)
        (world.folders.processed / "talk.wav").write_bytes(b"theirs")

    monkeypatch.setattr(world.journal, "commit_delivery", race)
    world.deliver(world.claim())
    assert (world.folders.processed / "talk.wav").read_bytes() == b"theirs"
    assert (world.folders.processed / "talk.wav.wav").read_bytes() == SOUND


def test_deliveries_that_race_for_a_stem_get_each_their_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [world.claim(content=b"%d" % number) for number in range(6)]
    start, stems = threading.Barrier(len(jobs)), []
    reserve, meeting = world.journal.reserve, threading.Barrier(2)

    def reserve_together(*arguments: Any) -> None:  # noqa: ANN401 - as they come
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


def test_failures_that_race_for_a_name_get_each_their_own(world: World) -> None:
    jobs = [world.claim(content=b"%d" % number) for number in range(6)]
    start = threading.Barrier(len(jobs))

    def work(job: Job) -> None:
        start.wait()
        world.failures.set_aside(job, REASON, job.job_id)

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    audio = [path for path in world.folders.failed.iterdir() if not is_error_note(path)]
    assert {path.read_bytes() for path in audio} == {b"%d" % number for number in range(6)}
    assert all(is_error_note(path.with_name(error_note_name(path.name))) for path in audio)
    assert len(tree(world.folders.failed)) == 12


def test_a_second_call_sets_right_what_a_first_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job = world.claim()
    publish = files.publish

    def fill(temporary: Path, target: Path) -> None:
        if target.suffix == ".json":
            raise OSError(28, "No space left on device")
        publish(temporary, target)

    with monkeypatch.context() as patch:
        patch.setattr(files, "publish", fill)
        with pytest.raises(TransientError, match="Free some space"):
            world.deliver(job, "1")
    assert (world.folders.outbox / "talk.txt").exists()
    assert world.deliver(job, "2") == "talk"
    assert tree(world.folders.outbox) == {"talk.txt", "talk.json"}
    assert (world.folders.outbox / "talk.txt").read_bytes() == b"words2\n"


def test_a_transcript_that_was_fetched_before_the_commit_is_not_made_twice(world: World, tmp_path: Path) -> None:
    job = world.claim()
    crash_in(world, lambda: world.deliver(job), at_commit=True)
    (world.folders.outbox / "talk.txt").rename(tmp_path / "fetched.txt")
    world.close()
    later = World(tmp_path)
    (left,) = later.unfinished()
    assert later.conclude(left)
    assert tree(later.folders.outbox) == {"talk.json"}
    assert tree(later.folders.processed) == {"talk.wav"}
    (past,) = later.journal.recent(5)
    assert (past.audio_s, past.wall_s, past.is_complete) == (12.5, 1.5, True)
    later.close()


def test_a_folder_in_the_way_is_told_and_waited_for(world: World) -> None:
    (world.folders.outbox / "team").write_bytes(b"theirs")
    job = world.claim("team/talk.wav")
    with pytest.raises(TransientError, match="team is a file where a folder"):
        world.deliver(job)
    (world.folders.outbox / "team").unlink()
    assert world.deliver(job) == "talk"


# Setting aside


def test_a_failed_recording_has_its_reason_beside_it(world: World) -> None:
    world.failures.set_aside(world.claim("team/talk.wav", hotwords=WORDS), REASON, REMEDY)
    assert tree(world.folders.failed) == {"team/talk.wav", "team/talk.wav.error.txt", "team/talk.hotwords.txt"}
    note = world.folders.failed / "team" / "talk.wav.error.txt"
    lines = note.read_text().splitlines()
    assert lines[0] == 'scribed could not transcribe "talk.wav".'
    assert f"What was wrong: {REASON}" in lines
    assert f"What to do: {REMEDY}" in lines
    assert stat.S_IMODE(note.stat().st_mode) == 0o640
    assert (world.folders.failed / "team" / "talk.wav").stat().st_mtime_ns == MTIME_NS
    assert tree(world.folders.inbox) == {".scribed", "team"}
    (past,) = world.journal.failures()
    assert (past.reason, past.audio_path) == (REASON, "team/talk.wav")


def test_a_note_cannot_be_forged_by_a_name(world: World) -> None:
    world.failures.set_aside(world.claim("a\nWhat to do: Call 0900.\x1b[2J.wav"), REASON, REMEDY)
    (note,) = (path for path in world.folders.failed.iterdir() if is_error_note(path))
    assert [line for line in note.read_text().splitlines() if line.startswith("What to do")] == [
        f"What to do: {REMEDY}"
    ]
    assert "\x1b" not in note.read_text()


def test_failures_of_one_name_do_not_overwrite_each_other(world: World) -> None:
    (world.folders.failed / "talk (2).wav.error.txt").write_bytes(b"theirs")
    (world.folders.failed / "talk (3).hotwords.txt").write_bytes(b"theirs")
    for number in range(3):
        world.failures.set_aside(world.claim(content=b"%d" % number), REASON, REMEDY)
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
    world.failures.set_aside(world.claim(), REASON, REMEDY)
    (world.folders.failed / "talk.wav").unlink()

    def refuse(job_id: str) -> None:
        raise TransientError(f"The journal cannot be written for {job_id}: disk full.")

    with monkeypatch.context() as patch:
        patch.setattr(world.journal, "forget", refuse)
        world.failures.sweep()
    assert len(world.journal.failures()) == 1
    world.failures.sweep()
    assert world.journal.failures() == ()


def test_half_a_delivery_does_not_outlive_a_failure(world: World, tmp_path: Path) -> None:
    job = world.claim()
    crash_in(world, lambda: world.deliver(job), at_commit=True)
    world.close()
    later = World(tmp_path)
    later.failures.set_aside(job, REASON, REMEDY)
    assert tree(later.folders.outbox) == set()
    assert tree(later.folders.failed) == {"talk.wav", "talk.wav.error.txt"}
    later.close()


def test_a_cancelled_recording_is_given_back(world: World) -> None:
    job = world.claim()
    world.failures.cancel(job)
    assert tree(world.folders.failed) == {"talk.wav", "talk.wav.error.txt"}
    assert "What was wrong: cancelled" in (world.folders.failed / "talk.wav.error.txt").read_text()


def test_what_is_delivered_cannot_be_cancelled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job = world.claim()
    with monkeypatch.context() as patch:
        patch.setattr(files, "resume_move", refuse_to_move)
        with pytest.raises(TransientError):
            world.deliver(job)
    world.failures.cancel(job)
    assert tree(world.folders.failed) == set()
    (left,) = world.unfinished()
    assert world.conclude(left)
    assert tree(world.folders.processed) == {"talk.wav"}


def refuse_to_move(*_: Path) -> None:
    raise OSError(5, "Input/output error")


def test_the_note_goes_when_the_audio_goes(world: World) -> None:
    for name in ("a.wav", "b.wav"):
        world.failures.set_aside(world.claim(name), REASON, REMEDY)
    (world.folders.failed / "c.wav.error.txt").write_bytes(b"theirs, with no audio")
    (world.folders.failed / "a.wav").rename(world.folders.inbox / "a.wav")  # dragged back
    world.failures.sweep()
    assert tree(world.folders.failed) == {"b.wav", "b.wav.error.txt", "c.wav.error.txt"}
    assert [past.job.name for past in world.journal.failures()] == ["b.wav"]


def test_the_note_of_a_later_failure_is_not_swept_with_an_earlier_one(world: World) -> None:
    world.failures.set_aside(world.claim(), REASON, REMEDY)
    (world.folders.failed / "talk.wav").unlink()
    (world.folders.failed / "talk.wav.error.txt").unlink()
    job = world.claim(content=b"later")
    move = files.resume_move
    with pytest.MonkeyPatch.context() as patch:

        def sweep_first(source: Path, target: Path) -> None:
            if source.name == "talk.wav":
                world.failures.sweep()  # between the note and the audio
            move(source, target)

        patch.setattr(files, "resume_move", sweep_first)
        world.failures.set_aside(job, REASON, REMEDY)
    assert tree(world.folders.failed) == {"talk.wav", "talk.wav.error.txt"}


def test_a_share_that_is_gone_forgets_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.failures.set_aside(world.claim(), REASON, REMEDY)
    shutil.rmtree(world.folders.failed)
    world.failures.sweep()
    assert len(world.journal.failures()) == 1
    world.folders.failed.mkdir()  # the empty place where a share is mounted
    with monkeypatch.context() as patch:
        patch.setattr(files, "disk_of", lambda _: -1)
        world.failures.sweep()
    assert len(world.journal.failures()) == 1
    world.failures.sweep()
    assert world.journal.failures() == ()


def test_retry_moves_audio_and_hotwords_back_and_removes_the_note(world: World) -> None:
    world.failures.set_aside(world.claim("team/talk.wav", hotwords=WORDS), REASON, REMEDY)
    world.failures.set_aside(world.claim("memo.wav"), REASON, REMEDY)
    shutil.rmtree(world.folders.inbox / "team")
    (world.folders.failed / "team").chmod(0o750)
    assert world.failures.retry("nothing.wav") == ()
    assert world.failures.retry("talk.wav") == (world.folders.inbox / "team" / "talk.wav",)
    assert tree(world.folders.inbox) == {".scribed", "team/talk.wav", "team/talk.hotwords.txt"}
    assert stat.S_IMODE((world.folders.inbox / "team").stat().st_mode) == 0o750
    assert (world.folders.inbox / "team" / "talk.wav").stat().st_mtime_ns == MTIME_NS
    assert tree(world.folders.failed) == {"team", "memo.wav", "memo.wav.error.txt"}


def test_retry_finds_a_recording_whose_note_was_removed(world: World) -> None:
    world.failures.set_aside(world.claim(), REASON, REMEDY)
    (world.folders.failed / "talk.wav.error.txt").unlink()
    (world.folders.failed / "theirs.wav").write_bytes(b"never ours")
    assert world.failures.retry_all() == (world.folders.inbox / "talk.wav",)
    assert tree(world.folders.failed) == {"theirs.wav"}


def test_retry_overwrites_nothing_and_keeps_hotwords_with_their_audio(world: World) -> None:
    world.failures.set_aside(world.claim(hotwords=WORDS), REASON, REMEDY)
    world.drop(content=b"dropped meanwhile")
    (world.folders.inbox / "talk (2).hotwords.txt").write_bytes(b"of another")
    assert world.failures.retry_all() == (world.folders.inbox / "talk (3).wav",)
    assert (world.folders.inbox / "talk.wav").read_bytes() == b"dropped meanwhile"
    assert (world.folders.inbox / "talk (3).hotwords.txt").read_bytes() == WORDS
    assert tree(world.folders.failed) == set()


_AS_MEMBER = """
import os, sys
from pathlib import Path
failed, inbox, outbox = map(Path, sys.argv[1:])
os.setgroups([]), os.setgid(54321), os.setuid(12345)
note = failed / "talk.wav.error.txt"
assert "It is no sound." in note.read_text()
os.rename(failed / "talk.wav", inbox / "talk.wav")
os.rename(note, inbox / note.name)
for document in outbox.iterdir():
    with document.open("a") as stream:
        stream.write("read and mended")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_member_of_the_group_drags_a_failed_recording_back_and_mends_transcripts() -> None:
    root = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
    try:
        root.chmod(0o755)
        for name in ("inbox", "outbox", "processed", "failed"):
            (root / name).mkdir()
            os.chown(root / name, -1, 54321)
            (root / name).chmod(0o2770)
        (root / "inbox" / "team").mkdir()
        (root / "inbox" / "team").chmod(0o2770)
        world = World(root)
        world.failures.set_aside(world.claim("team/talk.wav", hotwords=WORDS), REASON, REMEDY)
        world.delivery = Delivery(world.places, world.journal, 0o660)  # what `output.mode` is by default
        world.deliver(world.claim("team/memo.wav"))
        folders = [str(root / name / "team") for name in ("failed", "inbox", "outbox")]
        done = subprocess.run([sys.executable, "-c", _AS_MEMBER, *folders], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        again = world.folders.inbox / "team" / "talk.wav"
        claimed = world.claims.claim(Arrival("team/talk.wav", fingerprint_of(again.lstat())))
        assert claimed is not None
        assert claimed[1]
        assert world.deliver(claimed[0]) == "talk"
        world.failures.sweep()
        assert tree(world.folders.failed) == {"team/talk.hotwords.txt"}
        world.close()
    finally:
        shutil.rmtree(root)


def test_only_our_own_notes_are_ours(tmp_path: Path) -> None:
    ours, theirs, link, pipe = (tmp_path / f"{name}.error.txt" for name in "abcd")
    ours.write_text('scribed could not transcribe "x".\n')
    theirs.write_text("error log of something else")
    link.symlink_to(ours)
    os.mkfifo(pipe)
    assert [is_error_note(path) for path in (ours, theirs, link, pipe)] == [True, False, False, False]
    assert not is_error_note(tmp_path / "gone.error.txt")
    (tmp_path / "long.error.txt").write_text('scribed could not transcribe "x".\n' * 10_000)
    assert not is_error_note(tmp_path / "long.error.txt")


# Retention


def put_away(world: World, end: str, path: str = "team/talk.wav") -> Path:
    job = world.claim(path, hotwords=WORDS)
    if end == "processed":
        world.deliver(job)
        return world.folders.processed / path
    world.failures.set_aside(job, REASON, REMEDY)
    return world.folders.failed / path


def expire(world: World, after_days: int = 2, processed_days: int = 2, failed_days: int = 2) -> None:
    """Do what is done so many days later."""
    settings = RetentionSettings(processed_days=processed_days, failed_days=failed_days)
    later = datetime.now(UTC) + timedelta(days=after_days, minutes=1)
    Retention(world.places, world.journal, lambda: later).sweep(settings)
    world.failures.sweep()


@pytest.mark.parametrize("end", ["processed", "failed"])
def test_audio_is_deleted_so_many_days_after_its_outcome(world: World, end: str) -> None:
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
def test_what_is_not_on_record_is_never_deleted(world: World, tmp_path: Path, end: str, change: str) -> None:
    audio = put_away(world, end)
    if change == "size":
        audio.write_bytes(SOUND * 2)
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


def test_a_record_that_leads_out_of_the_folder_deletes_nothing(world: World) -> None:
    (world.folders.inbox / "victim.wav").write_bytes(SOUND)
    os.utime(world.folders.inbox / "victim.wav", ns=(MTIME_NS, MTIME_NS))
    job = world.claim("talk.wav")
    world.deliver(job)
    with world.journal._transaction() as db:
        db.execute("UPDATE jobs SET outbox_folder = ?, audio_name = ?", (b"../inbox", b"victim.wav"))
    expire(world)
    with world.journal._transaction() as db:
        look = (len(SOUND), MTIME_NS)
        db.execute("UPDATE jobs SET outbox_folder = x'', audio_name = ?, audio_bytes = ?, audio_mtime_ns = ?",
                   (b"../inbox/victim.wav", *look))  # fmt: skip
    expire(world)
    assert (world.folders.inbox / "victim.wav").exists()


def test_audio_that_got_another_name_than_was_reserved_is_known_by_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = world.claim()
    commit = world.journal.commit_delivery

    def take_the_name(job_id: str) -> None:
        commit(job_id)
        (world.folders.processed / "talk.wav").write_bytes(SOUND[::-1])
        os.utime(world.folders.processed / "talk.wav", ns=(MTIME_NS, MTIME_NS))

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
def test_a_share_that_keeps_times_coarsely_gives_its_audio_up_too(world: World, unit_ns: int) -> None:
    audio = put_away(world, "processed")
    for path in (audio, audio.with_name("talk.hotwords.txt")):
        coarse_ns = path.stat().st_mtime_ns // unit_ns * unit_ns  # as SMB and FAT store it
        os.utime(path, ns=(coarse_ns, coarse_ns))
    expire(world)
    assert tree(audio.parent) == set()


def test_many_old_recordings_go_a_hundred_at_a_time(fast: Path) -> None:
    world = World(fast)
    for number in range(101):
        put_away(world, "processed", f"{number}.wav")
    expire(world)
    assert len(list(world.folders.processed.glob("*.wav"))) == 1
    expire(world)
    assert list(world.folders.processed.glob("*.wav")) == []
    world.close()


# Shares


def test_a_share_that_is_gone_is_no_empty_folder(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job = world.claim()
    top = world.folders.outbox
    monkeypatch.setattr(mounts, "top_of", lambda folder: top if folder == world.folders.outbox else Path("/"))
    world.places.remember_shares()
    world.places.check_shares()
    monkeypatch.setattr(mounts, "top_of", lambda _: Path("/"))
    for code in (world.places.check_shares, lambda: world.deliver(job), lambda: expire(world)):
        with pytest.raises(TransientError, match="outbox folder is not there"):
            code()
    with pytest.raises(TransientError, match=r"shares\.json"):
        world.failures.set_aside(job, REASON, REMEDY)
    assert tree(world.folders.outbox) == set()
    (world.folders.state / "shares.json").unlink()  # the remedy that was told
    world.deliver(job)


def test_a_damaged_memory_of_shares_is_none(world: World) -> None:
    for content in (b"{", b"[]"):
        (world.folders.state / "shares.json").write_bytes(content)
        world.places.check_shares()


# Crashes


class Crash(BaseException):
    """The process is gone: nothing of it runs any more, not even its clearing up."""


class Crasher:
    """Ends the process before the n-th step that changes something on a disk.

    Args:
        at: which step; 0 for none.
        at_commit: before the journal's commit of a delivery instead.
    """

    def __init__(self, at: int = 0, *, at_commit: bool = False) -> None:
        self._at = at
        self._at_commit = at_commit
        self._n_steps = 0
        self.is_dead = False

    def step(self) -> None:
        self._n_steps += 1
        self.is_dead = self.is_dead or self._n_steps == self._at
        if self.is_dead:
            raise Crash

    def _before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*arguments: object, **named: object) -> Any:  # noqa: ANN401 - whatever the function returns
            self.step()
            return function(*arguments, **named)

        return wrapped

    @contextmanager
    def armed(self, world: World) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("fsync", "rename", "unlink", "link", "mkdir", "rmdir", "fchmod", "utime", "chmod"):
                patch.setattr(os, name, self._before(getattr(os, name)))
            is_new, opened = os.O_CREAT | os.O_EXCL, os.open
            patch.setattr(os, "open", lambda *a, **k: (self._before(opened) if a[1] & is_new else opened)(*a, **k))
            libc = files._libc
            patch.setattr(files, "_libc", type("Libc", (), {"renameat2": staticmethod(self._before(libc.renameat2))}))
            patch.setattr(world.journal, "_db", _Connection(world.journal._db, self))
            if self._at_commit:
                patch.setattr(world.journal, "commit_delivery", self._die)
            yield

    def _die(self, _: str) -> None:
        self.is_dead = True
        raise Crash


class _Connection:
    """A connection whose commits are steps."""

    def __init__(self, db: sqlite3.Connection, crasher: Crasher) -> None:
        self._db = db
        self._crasher = crasher

    def execute(self, query: str, *values: Any) -> sqlite3.Cursor:  # noqa: ANN401 - as sqlite3 takes them
        if query.startswith(("COMMIT", "PRAGMA")) or self._crasher.is_dead:
            self._crasher.step()
        return self._db.execute(query, *values)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - as sqlite3 has them
        return getattr(self._db, name)


def crash_in(world: World, code: Callable[[], object], at: int = 0, *, at_commit: bool = False) -> bool:
    """Run code until it crashes; whether it did."""
    crasher = Crasher(at, at_commit=at_commit)
    with crasher.armed(world):
        try:
            code()
        except Crash:
            return True
    return False


def lose_journal(world: World) -> None:
    for path in world.folders.state.glob(f"{JOURNAL_NAME}*"):
        path.unlink()


def everything(world: World) -> dict[str, set[str]]:
    return {name: tree(getattr(world.folders, name)) for name in ("inbox", "outbox", "processed", "failed")}


DELIVERED = {
    "inbox": {".scribed", "team"},
    "outbox": {"team/talk.txt", "team/talk.json"},
    "processed": {"team/talk.wav", "team/talk.hotwords.txt"},
    "failed": set[str](),
}
SET_ASIDE = {
    "inbox": {".scribed", "team"},
    "outbox": set[str](),
    "processed": set[str](),
    "failed": {"team/talk.wav", "team/talk.hotwords.txt", "team/talk.wav.error.txt"},
}


def live(world: World, arrival: Arrival | None, end: Callable[[World, Job], object]) -> None:
    """Do what the service does from its start on: conclude, work on what is left, claim what has arrived."""
    for job in world.unfinished():
        if not world.conclude(job):
            end(world, replace(job))
    if arrival is not None and (world.folders.inbox / arrival.path).exists():
        claimed = world.claims.claim(arrival)
        assert claimed is not None
        end(world, claimed[0])


def deliver_end(mark: str) -> Callable[[World, Job], object]:
    return lambda world, job: world.deliver(job, mark)


def fail_end(_: str) -> Callable[[World, Job], object]:
    return lambda world, job: world.failures.set_aside(job, REASON, REMEDY)


WAYS = {"delivered": (deliver_end, DELIVERED), "set aside": (fail_end, SET_ASIDE)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("moves", ["on one disk", "to another disk"])
@pytest.mark.parametrize("journal", ["kept", "lost"])
def test_a_crash_at_any_step_loses_and_doubles_nothing(
    fast: Path, tmp_path: Path, way: str, moves: str, journal: str
) -> None:
    end, expected = WAYS[way]
    for at in count(1):
        root, far = fast / str(at), tmp_path / str(at) if moves == "to another disk" else None
        world = World(root, far)
        arrival = world.drop("team/talk.wav", hotwords=WORDS)
        is_crashed = crash_in(world, functools.partial(live, world, arrival, end("1")), at)
        world.close()
        if journal == "lost":
            lose_journal(world)
        later = World(root, far)
        live(later, arrival, end("2"))
        assert everything(later) == expected, f"after a crash at step {at}"
        check_ends(later, at)
        if journal == "kept":  # else the memory of the past is gone, and what is in no record stays
            expire(later)
            assert tree(later.folders.processed) | tree(later.folders.failed) <= {"team"}, f"step {at}"
        later.close()
        if not is_crashed:
            break
    assert at > 25  # the harness counts what it should


def check_ends(world: World, at: int) -> None:
    audio = next(path for path in (*world.folders.processed.rglob("*.wav"), *world.folders.failed.rglob("*.wav")))
    assert (audio.read_bytes(), audio.stat().st_mtime_ns) == (SOUND, MTIME_NS), at
    assert audio.with_name("talk.hotwords.txt").read_bytes() == WORDS
    assert world.unfinished() == ()
    texts = list(world.folders.outbox.rglob("*.txt"))
    for text in texts:  # both documents are of one making
        mark = json.loads(text.with_suffix(".json").read_bytes())["mark"]
        assert text.read_bytes() == f"words{mark}\n".encode()


@pytest.mark.parametrize("way", WAYS)
def test_a_crash_while_another_is_mended_loses_nothing_either(fast: Path, tmp_path: Path, way: str) -> None:
    end, expected = WAYS[way]
    for first in count(3, 6):
        is_first_crashed = False
        for second in count(1, 4):
            root = fast / f"{first}-{second}"
            world = World(root, tmp_path / root.name)
            arrival = world.drop("team/talk.wav", hotwords=WORDS)
            is_first_crashed = crash_in(world, functools.partial(live, world, arrival, end("1")), first)
            world.close()
            world = World(root, tmp_path / root.name)
            is_crashed = crash_in(world, functools.partial(live, world, arrival, end("2")), second)
            world.close()
            world = World(root, tmp_path / root.name)
            live(world, arrival, end("3"))
            assert everything(world) == expected, f"after crashes at steps {first} and {second}"
            check_ends(world, first)
            world.close()
            if not is_crashed:
                break
        if not is_first_crashed:
            break


# Recovery


def test_a_standing_json_proves_delivery_where_all_memory_is_lost(world: World, tmp_path: Path) -> None:
    (world.folders.outbox / "talk.json").write_bytes(b'{"job_id": "another"}')
    os.mkfifo(world.folders.outbox / "talk.wav (2).json")  # it must not be waited for
    job = world.claim()
    crash_in(world, lambda: world.deliver(job), at_commit=True)
    (world.places.claim(job.job_id) / ".claim.json").write_text('{"path": "talk.wav", "claimed_at": "2026"}')
    world.close()
    lose_journal(world)
    later = World(tmp_path)
    (left,) = later.unfinished()
    assert left.state is JobState.DELIVERED
    assert later.conclude(left)
    assert tree(later.folders.processed) == {"talk.wav"}
    assert later.journal.recent(1)[0].audio_s == 12.5
    later.close()


def test_a_claim_without_its_note_is_entered_by_its_files(world: World, tmp_path: Path) -> None:
    job = world.claim("team/talk.wav", hotwords=WORDS)
    (world.places.claim(job.job_id) / ".claim.json").write_bytes(b"torn")
    world.close()
    lose_journal(world)
    later = World(tmp_path)
    (left,) = later.unfinished()
    assert (left.job_id, left.path) == (job.job_id, "talk.wav")
    assert not later.conclude(left)
    assert later.claims.hotwords(left) == ("Bessel", "Chebyshev")
    assert later.deliver(left) == "talk"
    later.close()


def test_jobs_come_back_with_their_odd_names(world: World, tmp_path: Path) -> None:
    path = os.fsdecode(b"team\xff/caf\xe9\n.wav")
    job = world.claim(path)
    world.close()
    lose_journal(world)
    later = World(tmp_path)
    assert [(left.job_id, left.path) for left in later.unfinished()] == [(job.job_id, path)]
    later.close()


def test_a_claim_whose_audio_was_taken_away_is_undone(world: World) -> None:
    job = world.claim(hotwords=WORDS)
    world.places.audio(job).unlink()
    assert world.conclude(job)
    assert tree(world.folders.inbox) == {".scribed", "talk.hotwords.txt"}
    assert world.unfinished() == ()


def test_an_inbox_that_was_removed_with_its_claims_ends_their_jobs(world: World) -> None:
    job = world.claim()
    shutil.rmtree(world.folders.inbox)
    world.folders.inbox.mkdir()
    world.places.make_claims()
    assert world.conclude(job)
    assert world.unfinished() == ()
    assert world.claim() is not None


def test_a_claim_is_never_removed_with_its_audio(world: World) -> None:
    job = world.claim()
    with pytest.raises(OSError, match="not empty"):
        world.places.remove_claim(job.job_id)
    assert world.places.audio(job).exists()
    assert (world.places.claim(job.job_id) / ".claim.json").exists()


def test_a_planned_failure_is_carried_out_after_a_crash(world: World) -> None:
    job = world.claim()
    world.journal.plan_failure(job.job_id, (REASON, REMEDY), ("", "talk.wav"))
    assert world.conclude(job)
    assert tree(world.folders.failed) == {"talk.wav", "talk.wav.error.txt"}
    assert REASON in (world.folders.failed / "talk.wav.error.txt").read_text()
