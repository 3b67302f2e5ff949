from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
from watchdog.observers.inotify import InotifyObserver
from watchdog.observers.inotify_c import InotifyConstants, inotify_add_watch

from daemon.config import Watch
from daemon.host import mounts
from daemon.inbox import (
    CLAIM_FOLDER,
    Arriving,
    Inbox,
    Scan,
    is_companion,
    is_temporary,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SETTLE_S = 5.0
LONG_S = 10_000.0
TIMEOUT_S = 30.0


class Watched:
    """An inbox with a clock of its own, and a way to wait until its events have come."""

    def __init__(self, root: Path, settings: Watch) -> None:
        self.root = root
        self.now_s = 1000.0
        self.woken = threading.Event()
        self.inbox = Inbox(root, settings, self.woken.set, lambda: self.now_s)
        self._n_marks = 0

    def scan(self, after_s: float = 0.0) -> Scan:
        self.now_s += after_s
        return self.inbox.scan()

    def settled(self, after_s: float = SETTLE_S) -> list[str]:
        """Look, let time pass, look again."""
        self.scan()
        return [arrival.path for arrival in self.scan(after_s).settled]

    def reasons(self, after_s: float = 0.0) -> dict[str, str]:
        return {arriving.path: arriving.reason for arriving in self.scan(after_s).arriving}

    def let_events_come(self) -> None:
        """Wait until all events of what was done so far have been heard, by one of our own behind them."""
        os.close(self.mark())

    def mark(self) -> int:
        """Make a file, wait until that was heard, and return its descriptor, whose closing will be heard too."""
        self._n_marks += 1
        mark = self.root / f".mark{self._n_marks}"
        descriptor = os.open(mark, os.O_CREAT | os.O_WRONLY)
        while mark.name not in self.inbox._writers.snapshot()[1]:
            assert self.woken.wait(TIMEOUT_S), "no event came"
            self.woken.clear()
        mark.unlink()
        return descriptor


@contextmanager
def watched(root: Path, settings: Watch | None = None) -> Iterator[Watched]:
    watching = Watched(root, settings or Watch(settle_s=SETTLE_S, mode="events"))
    try:
        yield watching
    finally:
        watching.inbox.stop()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    return inbox


@pytest.fixture
def poll(root: Path) -> Watched:
    """An inbox without events: nothing to stop."""
    return Watched(root, Watch(settle_s=SETTLE_S, mode="poll"))


@pytest.fixture
def events(root: Path) -> Iterator[Watched]:
    """An inbox that hears its events."""
    with watched(root) as watching:
        watching.scan()
        assert watching.inbox.has_events()
        yield watching


# Names


TEMPORARY = """
.talk.wav ~talk.wav talk.wav~ talk.wav.part talk.partial talk.filepart a.crdownload a.download a.TMP a.temp
a.!sync .syncthing.a.wav.tmp ~syncthing~a.wav .~lock.a.odt# a.wav.ocTransferId123 Thumbs.db desktop.ini
Desktop.INI .DS_Store ._a.wav
"""


@pytest.mark.parametrize("name", TEMPORARY.split())
def test_temporary_names_are_never_taken(poll: Watched, name: str) -> None:
    assert is_temporary(name)
    (poll.root / name).write_bytes(b"sound")
    (poll.root / "plain.wav").write_bytes(b"sound")
    assert poll.settled(LONG_S) == ["plain.wav"]
    (poll.root / name).rename(poll.root / "renamed.wav")
    assert sorted(poll.settled()) == ["plain.wav", "renamed.wav"]


@pytest.mark.parametrize("folder", ["@eaDir", ".stfolder", ".stversions", "__MACOSX", CLAIM_FOLDER, ".hidden"])
def test_folders_of_other_programs_are_left_alone(poll: Watched, folder: str) -> None:
    (poll.root / folder / "deep").mkdir(parents=True)
    (poll.root / folder / "a.wav").write_bytes(b"sound")
    (poll.root / folder / "deep" / "b.wav").write_bytes(b"sound")
    assert poll.settled(LONG_S) == []


@pytest.mark.parametrize("name", ["talk.wav", "tmp.wav", "part", "a.tmp.wav", "a~b.wav", "thumbs.db.wav", "-rf", "@a"])
def test_honest_names_are_taken(poll: Watched, name: str) -> None:
    (poll.root / name).write_bytes(b"sound")
    assert poll.settled() == [name]


def test_companions_are_no_recordings(poll: Watched) -> None:
    for name in ("scribed.yaml", "talk.hotwords.txt", "talk.wav.error.txt"):
        assert is_companion(name)
        (poll.root / name).write_bytes(b"x")
    (poll.root / "talk.txt").write_bytes(b"x")
    assert poll.settled() == ["talk.txt"]
    assert poll.scan().error_notes == ("talk.wav.error.txt",)


@pytest.mark.parametrize("name", [b"caf\xe9.wav", b"a\nb.wav", b"-rf.wav", "\U0001f600.wav".encode(), b"x" * 255])
def test_any_other_name_is_taken(poll: Watched, name: bytes) -> None:
    (poll.root / os.fsdecode(name)).write_bytes(b"sound")
    assert poll.settled() == [os.fsdecode(name)]


def test_what_is_to_be_ignored_is(root: Path) -> None:
    watching = Watched(root, Watch(mode="poll", ignore=("*.txt", "private", "team/draft*")))
    (root / "private").mkdir()
    (root / "team").mkdir()
    for name in ("a.txt", "a.wav", "private/b.wav", "team/draft1.wav", "team/final.wav", "team/notes.txt"):
        (root / name).write_bytes(b"sound")
    assert sorted(watching.settled()) == ["a.wav", "team/final.wav"]


def test_sub_folders_are_looked_into_unless_told_otherwise(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "c.wav").write_bytes(b"sound")
    (root / "d.wav").write_bytes(b"sound")
    assert sorted(Watched(root, Watch(mode="poll")).settled()) == ["a/b/c.wav", "d.wav"]
    assert Watched(root, Watch(mode="poll", recursive=False)).settled() == ["d.wav"]


# Settling


def test_a_recording_settles_when_it_was_quiet_long_enough(poll: Watched) -> None:
    (poll.root / "a.wav").write_bytes(b"sound")
    assert poll.scan().arriving == (Arriving("a.wav", 5, "arrived a moment ago", SETTLE_S),)
    assert poll.scan(SETTLE_S - 0.1).settled == ()
    (arrival,) = poll.scan(0.1).settled
    facts = (poll.root / "a.wav").stat()
    seen = arrival.fingerprint
    assert (seen.device, seen.inode, seen.n_bytes, seen.mtime_ns) == (
        facts.st_dev,
        facts.st_ino,
        facts.st_size,
        facts.st_mtime_ns,
    )


def test_it_is_told_when_a_recording_may_be_whole(poll: Watched) -> None:
    (poll.root / "a.wav").write_bytes(b"sound")
    poll.scan()
    (arriving,) = poll.scan(SETTLE_S / 2).arriving
    assert arriving.left_s == SETTLE_S / 2
    assert [arrival.path for arrival in poll.scan(arriving.left_s).settled] == ["a.wav"]


@pytest.mark.parametrize("change", ["size", "mtime", "inode", "blocks"])
def test_any_change_begins_the_wait_anew(poll: Watched, change: str) -> None:
    path = poll.root / "a.wav"
    path.write_bytes(b"0" * 65536)
    os.utime(path, ns=(1, 1))
    poll.scan()
    poll.now_s += SETTLE_S - 1
    if change == "size":
        with path.open("ab") as stream:
            stream.write(b"0")
        os.utime(path, ns=(1, 1))
    elif change == "mtime":
        os.utime(path, ns=(1, 2))
    elif change == "inode":
        path.rename(poll.root / ".old")
        path.write_bytes(b"0" * 65536)
        os.utime(path, ns=(1, 1))
    else:  # room is reserved behind the end, as some programs do: neither size nor time tell of it
        before = path.stat()
        if subprocess.run(["fallocate", "--keep-size", "--length", "1M", str(path)], check=False).returncode:
            pytest.skip("this file system reserves no room")
        os.utime(path, ns=(1, 1))
        after = path.stat()
        assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
        assert before.st_blocks != after.st_blocks
    assert poll.scan().settled == ()
    assert poll.scan(SETTLE_S - 1).settled == ()
    assert [arrival.path for arrival in poll.scan(1).settled] == ["a.wav"]


@pytest.mark.parametrize("mtime_s", [0, 4_000_000_000])
def test_old_and_future_times_do_not_matter(poll: Watched, mtime_s: int) -> None:
    (poll.root / "a.wav").write_bytes(b"sound")
    os.utime(poll.root / "a.wav", (mtime_s, mtime_s))
    assert poll.scan().settled == ()
    assert len(poll.scan(SETTLE_S).settled) == 1


def test_a_file_with_holes_waits_longer(poll: Watched) -> None:
    with (poll.root / "a.wav").open("wb") as stream:
        stream.truncate(1 << 20)
    assert poll.settled(299) == []
    assert poll.reasons() == {"a.wav": "has room reserved that is not filled yet"}
    assert len(poll.scan(1).settled) == 1


def test_a_second_name_makes_it_wait_longer(poll: Watched, tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(b"sound")
    (poll.root / "a.wav").hardlink_to(tmp_path / "upload")
    assert poll.settled(59) == []
    assert poll.reasons() == {"a.wav": "has a second name"}
    assert len(poll.scan(1).settled) == 1
    (poll.root / "b.wav").hardlink_to(tmp_path / "upload")
    poll.scan()
    (tmp_path / "upload").unlink()  # link, then unlink: how some programs commit
    (poll.root / "a.wav").unlink()
    assert [arrival.path for arrival in poll.scan(SETTLE_S).settled] == ["b.wav"]


def test_a_settle_time_longer_than_those_holds(root: Path) -> None:
    watching = Watched(root, Watch(mode="poll", settle_s=1000))
    with (root / "a.wav").open("wb") as stream:
        stream.truncate(1 << 20)
    assert watching.settled(999) == []
    assert len(watching.scan(1).settled) == 1


def test_who_came_first_is_first(poll: Watched) -> None:
    for name in ("z.wav", "m.wav", "a.wav"):
        (poll.root / name).write_bytes(b"sound")
        poll.scan()
    assert [arrival.path for arrival in poll.scan(SETTLE_S).settled] == ["z.wav", "m.wav", "a.wav"]


def test_a_growing_file_that_was_there_at_start_is_waited_for(poll: Watched) -> None:
    with (poll.root / "a.wav").open("wb", buffering=0) as stream:
        for _ in range(5):
            stream.write(b"sound")
            assert poll.scan(SETTLE_S - 1).settled == ()
    assert len(poll.scan(SETTLE_S).settled) == 1


# What is no recording


def test_links_pipes_and_sockets_are_left_alone(poll: Watched, tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_bytes(b"sound")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.wav").write_bytes(b"sound")
    (poll.root / "link.wav").symlink_to(tmp_path / "secret.wav")
    (poll.root / "folder").symlink_to(tmp_path / "elsewhere")
    (poll.root / "broken.wav").symlink_to("nowhere")
    os.mkfifo(poll.root / "pipe.wav")
    os.mkfifo(poll.root / "pipe.wav.error.txt")
    short = Path(tempfile.mkdtemp())  # the path of a socket may have 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(short / "socket"))
        (short / "socket").rename(poll.root / "socket.wav")
    short.rmdir()
    assert poll.settled(LONG_S) == []
    assert poll.scan().arriving == ()


_SCAN_AS_OTHER = """
import json, os, sys
from pathlib import Path
from daemon.config import Watch
from daemon.inbox import Inbox
now_s = 1000.0
inbox = Inbox(Path(sys.argv[1]), Watch(mode="poll"), monotonic=lambda: now_s)
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
inbox.scan()
now_s += 100
found = inbox.scan()
print(json.dumps([[arrival.path for arrival in found.settled], sorted(found.unreadable)]))
"""


def test_what_may_not_be_read_is_named() -> None:
    root = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
    root.chmod(0o755)
    try:
        for folder in ("closed", "listed", "open"):
            (root / folder).mkdir()
            (root / folder / "a.wav").write_bytes(b"sound")
        (root / "b.wav").write_bytes(b"sound")
        (root / "b.wav").chmod(0)
        (root / "closed").chmod(0)
        (root / "listed").chmod(0o744)  # its names may be read, its files not
        command = [sys.executable, "-c", _SCAN_AS_OTHER, str(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        expected_listed = [] if os.geteuid() else ["listed"]  # as its owner one may enter it
        settled, unreadable = json.loads(done.stdout)
        assert unreadable == ["b.wav", "closed", *expected_listed]
        assert "open/a.wav" in settled
    finally:
        (root / "closed").chmod(0o755)
        shutil.rmtree(root)


def test_an_inbox_that_is_gone_is_an_error(poll: Watched) -> None:
    poll.root.rmdir()
    with pytest.raises(FileNotFoundError):
        poll.scan()


def test_ten_thousand_files_are_listed(poll: Watched) -> None:
    folder = poll.root / "burst"
    folder.mkdir()
    for number in range(10_000):
        os.close(os.open(folder / f"{number}.wav", os.O_CREAT | os.O_WRONLY))
    assert len(poll.scan().arriving) == 10_000
    found = poll.scan(SETTLE_S)
    assert (len(found.settled), found.arriving) == (10_000, ())


# Events


def test_a_writer_that_pauses_is_waited_for_until_it_closes(events: Watched) -> None:
    with (events.root / "a.wav").open("wb", buffering=0) as stream:
        stream.write(b"half")
        events.let_events_come()
        assert events.settled(LONG_S) == []
        assert events.reasons() == {"a.wav": "still being written"}
        stream.write(b"rest")
        events.let_events_come()
        assert events.settled(LONG_S) == []
    events.let_events_come()
    assert events.settled() == ["a.wav"]


def test_an_empty_file_is_waited_for_until_it_closes(events: Watched) -> None:
    with (events.root / "a.wav").open("wb"):
        events.let_events_come()
        assert events.settled(LONG_S) == []
        assert events.reasons() == {"a.wav": "still empty"}
    events.let_events_come()
    assert events.settled() == ["a.wav"]


def test_writing_again_is_seen_too(events: Watched) -> None:
    (events.root / "a.wav").write_bytes(b"sound")
    events.let_events_come()
    assert events.settled() == ["a.wav"]
    with (events.root / "a.wav").open("ab", buffering=0) as stream:
        stream.write(b"more")
        events.let_events_come()
        assert events.settled(LONG_S) == []
    events.let_events_come()
    assert events.settled() == ["a.wav"]


def test_times_and_modes_set_after_closing_do_not_look_like_writing(events: Watched) -> None:
    (events.root / "a.wav").write_bytes(b"sound")
    os.utime(events.root / "a.wav", (1, 1))  # as cp -p and rsync do
    (events.root / "a.wav").chmod(0o640)
    events.let_events_come()
    assert events.settled() == ["a.wav"]


@pytest.mark.parametrize("content", [b"sound", b""])
@pytest.mark.parametrize("place", ["outside", "temporary name", "sub-folder"])
def test_what_is_moved_in_is_whole(events: Watched, tmp_path: Path, content: bytes, place: str) -> None:
    (events.root / "sub").mkdir()
    source = {
        "outside": tmp_path / "a",
        "temporary name": events.root / "a.part",
        "sub-folder": events.root / "sub" / "a.tmp",
    }[place]
    source.write_bytes(content)
    source.rename(events.root / "a.wav")
    events.let_events_come()
    assert events.settled() == ["a.wav"]


def test_a_file_that_takes_the_place_of_an_open_one_is_whole(events: Watched, tmp_path: Path) -> None:
    (tmp_path / "whole.wav").write_bytes(b"whole")
    with (events.root / "a.wav").open("wb", buffering=0) as stream:
        stream.write(b"half")
        events.let_events_come()
        (tmp_path / "whole.wav").rename(events.root / "a.wav")
        events.let_events_come()
        assert events.settled() == ["a.wav"]


def test_a_folder_made_and_filled_at_once_is_heard(events: Watched) -> None:
    folder = events.root / "new" / "deep"
    folder.mkdir(parents=True)
    (folder / "a.wav").write_bytes(b"sound")
    with (folder / "b.wav").open("wb", buffering=0) as stream:
        events.let_events_come()
        stream.write(b"sound")
        events.let_events_come()
        assert events.settled(LONG_S) == ["new/deep/a.wav"]
        assert events.reasons() == {"new/deep/b.wav": "still being written"}
    events.let_events_come()
    assert sorted(events.settled()) == ["new/deep/a.wav", "new/deep/b.wav"]


def test_a_tree_that_is_moved_in_is_taken_and_watched(events: Watched, tmp_path: Path) -> None:
    tree = tmp_path / "tree" / "deep"
    tree.mkdir(parents=True)
    (tree / "a.wav").write_bytes(b"sound")
    (tree / "empty.wav").write_bytes(b"")
    (tmp_path / "tree").rename(events.root / "tree")
    events.let_events_come()
    assert sorted(events.settled()) == ["tree/deep/a.wav", "tree/deep/empty.wav"]
    with (events.root / "tree" / "deep" / "b.wav").open("wb", buffering=0) as stream:
        stream.write(b"half")
        events.let_events_come()
        assert "tree/deep/b.wav" not in events.settled(LONG_S)


def test_a_file_already_open_at_start_settles_by_its_quiet(root: Path) -> None:
    with (root / "a.wav").open("wb", buffering=0) as stream, watched(root) as watching:
        stream.write(b"half")
        assert watching.settled() == ["a.wav"]  # nothing more can be known
        stream.write(b"rest")
        watching.let_events_come()
        assert watching.settled(LONG_S) == []  # now it can


def test_a_link_that_is_left_open_nowhere_does_not_wait_for_ever(events: Watched, tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(b"sound")
    (events.root / "a.wav").hardlink_to(tmp_path / "upload")  # made, and never closed
    (tmp_path / "upload").unlink()
    events.let_events_come()
    assert events.settled() == ["a.wav"]


def test_marks_of_files_that_are_gone_are_dropped(events: Watched) -> None:
    with (events.root / "a.wav").open("wb", buffering=0) as stream:
        stream.write(b"half")
        events.let_events_come()
        (events.root / "a.wav").unlink()
        for _ in range(2):
            events.scan()
        assert "a.wav" not in events.inbox._writers.snapshot()[0]


def test_an_arrival_wakes(events: Watched, tmp_path: Path) -> None:
    for arrive in (
        lambda: (events.root / "a.wav").write_bytes(b"sound"),
        (events.root / "folder").mkdir,
        lambda: (events.root / "a.wav").rename(events.root / "b.wav"),
        lambda: shutil.move(tmp_path / "c.wav", events.root / "c.wav"),
    ):
        (tmp_path / "c.wav").write_bytes(b"sound")
        events.let_events_come()
        events.woken.clear()
        arrive()
        assert events.woken.wait(TIMEOUT_S)


def test_an_event_that_comes_while_it_stops_is_no_error(events: Watched, caplog: pytest.LogCaptureFixture) -> None:
    assert events.inbox._observer is not None
    (emitter,) = events.inbox._observer.emitters
    events.inbox.stop()
    emitter.queue_events(0)  # watchdog's thread, one event late
    assert not caplog.records


def test_our_own_claims_do_not_wake(events: Watched) -> None:
    (events.root / CLAIM_FOLDER).mkdir()
    (events.root / "a.wav").write_bytes(b"sound")
    (events.root / CLAIM_FOLDER / "job").mkdir()
    first = events.mark()  # from here on, the new folder is watched
    wakes: list[None] = []

    def wake() -> None:
        wakes.append(None)
        events.woken.set()

    events.inbox._writers._wake = wake
    (events.root / CLAIM_FOLDER / "job" / ".claim.json").write_bytes(b"{}")
    (events.root / "a.wav").rename(events.root / CLAIM_FOLDER / "job" / "a.wav")
    second = events.mark()
    assert len(wakes) <= 1  # that of the second mark, if it is told yet
    os.close(first)
    os.close(second)


def test_an_inbox_that_is_made_again_is_heard_again(events: Watched) -> None:
    shutil.rmtree(events.root)
    assert threads_end(events)
    assert not events.inbox.has_events()
    with pytest.raises(FileNotFoundError):
        events.scan(LONG_S)
    events.root.mkdir()
    events.scan(LONG_S)
    assert events.inbox.has_events()
    with (events.root / "a.wav").open("wb", buffering=0) as stream:
        stream.write(b"half")
        events.let_events_come()
        assert events.settled(LONG_S) == []


def test_another_inbox_in_its_place_is_heard(events: Watched) -> None:
    events.root.rename(events.root.with_name("old"))
    events.root.mkdir()
    assert not events.inbox.has_events()
    events.scan(LONG_S)
    assert events.inbox.has_events()


def threads_end(watching: Watched) -> bool:
    """Wait for the thread that watchdog ends when its folder goes."""
    observer = watching.inbox._observer
    assert observer is not None
    emitters = list(observer.emitters)
    for emitter in emitters:
        emitter.join(TIMEOUT_S)
    return not any(emitter.is_alive() for emitter in emitters)


def test_trying_to_watch_what_is_not_there_leaves_nothing_behind(tmp_path: Path) -> None:
    with watched(tmp_path / "nowhere") as watching:
        before = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - they are numbers
        for _ in range(5):
            with pytest.raises(FileNotFoundError):
                watching.scan(LONG_S)
        assert not watching.inbox.has_events()
        assert (set(threading.enumerate()), len(os.listdir("/proc/self/fd"))) == before  # noqa: PTH208 - the same


def test_stopping_twice_is_no_fault_and_leaves_no_descriptor(root: Path) -> None:
    n_open = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - they are numbers
    with watched(root) as watching:
        watching.scan()
        watching.inbox.stop()
        assert not watching.inbox.has_events()
        assert len(os.listdir("/proc/self/fd")) == n_open  # noqa: PTH208 - the same
        assert watching.settled() == []


# Limits of the whole machine, which a test must not use up.


def refuse_instance(**_: object) -> None:
    raise OSError(24, "inotify instance limit reached")


class RefusingWatches(InotifyObserver):
    def start(self) -> None:
        raise OSError(28, "inotify watch limit reached")


@pytest.mark.parametrize("refusing", [refuse_instance, RefusingWatches])
def test_without_events_it_is_a_scan_all_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch, refusing: object
) -> None:
    monkeypatch.setattr("daemon.inbox.InotifyObserver", refusing)
    n_open = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - they are numbers
    with watched(root) as watching:
        (root / "a.wav").write_bytes(b"sound")
        assert watching.settled(LONG_S) == ["a.wav"]
        assert not watching.inbox.has_events()
        assert len(os.listdir("/proc/self/fd")) == n_open  # noqa: PTH208 - the same


def end_reader(observer: InotifyObserver) -> None:
    observer._inotify_fd.stop()
    observer._inotify_fd.join(TIMEOUT_S)


def end_emitter(observer: InotifyObserver) -> None:
    for emitter in observer.emitters:
        emitter.stop()
        emitter.join(TIMEOUT_S)


def end_dispatcher(observer: InotifyObserver) -> None:
    observer.stop()
    observer.join(TIMEOUT_S)


@pytest.mark.parametrize("end", [end_reader, end_emitter, end_dispatcher])
def test_an_event_thread_that_ends_is_noticed_and_begun_anew(
    events: Watched, end: Callable[[InotifyObserver], None]
) -> None:
    assert events.inbox._observer is not None
    with (events.root / "a.wav").open("wb", buffering=0) as stream:
        stream.write(b"half")
        events.let_events_come()
        assert events.settled(LONG_S) == []
        end(events.inbox._observer)
    assert not events.inbox.has_events()
    events.settled(LONG_S)
    assert events.inbox.has_events()
    assert events.settled(LONG_S) == ["a.wav"]  # its closing was heard by nobody
    with (events.root / "b.wav").open("wb", buffering=0) as stream:
        stream.write(b"half")
        events.let_events_come()
        assert events.settled(LONG_S) == ["a.wav"]


@pytest.mark.parametrize(("mode", "hears"), [("auto", False), ("events", True), ("poll", False)])
def test_on_a_share_it_polls_by_itself(
    root: Path, monkeypatch: pytest.MonkeyPatch, mode: Literal["auto", "events", "poll"], *, hears: bool
) -> None:
    monkeypatch.setattr(mounts, "is_silent", lambda folder: folder == root)
    with watched(root, Watch(mode=mode, settle_s=SETTLE_S)) as watching:
        (root / "a.wav").write_bytes(b"sound")
        watching.scan()
        assert watching.settled(LONG_S) == ["a.wav"]
        assert watching.inbox.has_events() is hears


def test_an_inbox_whose_disk_is_unmounted_and_mounted_again(root: Path) -> None:
    """The share's own files are seen again, those below its mount point are not mistaken for them."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(root)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        with watched(root) as watching:
            watching.scan()
            assert watching.inbox.has_events()
            subprocess.run(["umount", "--lazy", root], check=True)
            assert not watching.inbox.has_events()
            watching.scan(LONG_S)
            assert watching.inbox.has_events()
            subprocess.run(mount, check=True)
            (root / "a.wav").write_bytes(b"sound")
            watching.scan(LONG_S)
            assert watching.inbox.has_events()
            assert watching.settled(LONG_S) == ["a.wav"]
    finally:
        subprocess.run(["umount", "--lazy", root], capture_output=True, check=False)


def test_a_hundred_thousand_files_at_once_are_found_within_two_scans() -> None:
    """In memory, where there is one; what a scan takes is measured in benchmarks/daemon.py."""
    n_files = 100_000
    memory = Path("/dev/shm")  # noqa: S108 - a file system in memory is what is wanted
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        watched(Path(folder), Watch(mode="poll", settle_s=SETTLE_S)) as watching,
    ):
        for number in range(n_files):
            os.close(os.open(f"{folder}/{number}", os.O_CREAT | os.O_WRONLY))
        watching.scan()
        assert len(watching.scan(SETTLE_S).settled) == n_files


def test_lost_events_keep_no_recording_waiting(events: Watched, tmp_path: Path) -> None:
    """The kernel's queue overflows for real: its reader is held while more happens than it holds."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 100_000:
        pytest.skip("the kernel's queue is too long to be filled in a test")
    observer = events.inbox._observer
    assert observer is not None
    overflowed = threading.Event()
    listener = logging.Filter()
    listener.filter = lambda record: "overflow" not in record.getMessage() or overflowed.set() or True  # type: ignore[method-assign, func-returns-value]
    logging.getLogger("watchdog.observers.inotify_c").addFilter(listener)

    noise = tmp_path / "noise"  # a folder that watchdog does not know, whose events it passes over quickly
    noise.mkdir()
    mask = InotifyConstants.IN_CREATE | InotifyConstants.IN_CLOSE_WRITE
    assert inotify_add_watch(observer._inotify_fd._inotify_fd, os.fsencode(noise), mask) > 0

    def make_noise(n_events: int) -> None:
        for _ in range(n_events // 2):  # one for making, one for closing
            os.close(os.open(noise / "x", os.O_CREAT | os.O_WRONLY))
            (noise / "x").unlink()

    with observer._inotify_fd._lock:
        make_noise(limit - 200)
        with (events.root / "a.wav").open("wb", buffering=0) as stream:
            stream.write(b"sound")  # its write is heard, at the very end of the queue
            make_noise(limit)  # the reader may have made some room before it was held
        # its closing is lost
    try:
        assert overflowed.wait(TIMEOUT_S)
    finally:
        logging.getLogger("watchdog.observers.inotify_c").removeFilter(listener)
    assert not events.inbox.has_events()
    events.scan(LONG_S)
    assert events.inbox.has_events()
    assert events.settled() == ["a.wav"]
    with (events.root / "b.wav").open("wb", buffering=0) as stream:  # and it hears again
        stream.write(b"half")
        events.let_events_come()
        assert events.settled(LONG_S) == ["a.wav"]
