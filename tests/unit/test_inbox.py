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
import time
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
    Inbox,
    Scan,
    is_companion,
    is_temporary,
)
from daemon.inbox.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SETTLE_S = 5.0
UNSEEN_S = 15.0  # the quiet time where no close can be seen
LONG_S = 10_000.0
PATIENCE_S = 599.0  # a file that was written to is taken after ten minutes of quiet
EPOCH_S = time.time() - 1000.0
TIMEOUT_S = 30.0


class Watched:
    """An inbox with a clock of its own, and a way to wait until its events have come."""

    def __init__(self, root: Path, settings: Watch, *, is_once: bool = False) -> None:
        self.root = root
        self.now_s = 1000.0
        self.woken = threading.Event()
        clocks = (lambda: self.now_s, lambda: EPOCH_S + self.now_s)
        self.inbox = Inbox(root, lambda: settings, self.woken.set, *clocks, is_once=is_once)
        self._n_marks = 0

    def scan(self, after_s: float = 0.0) -> Scan:
        self.now_s += after_s
        return self.inbox.scan()

    def settled(self, after_s: float = UNSEEN_S) -> list[str]:
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
        pause, end_s = threading.Event(), time.monotonic() + TIMEOUT_S
        mark = self.root / f".mark{self._n_marks}"
        descriptor = os.open(mark, os.O_CREAT | os.O_WRONLY)
        os.write(descriptor, b"x")
        while mark.name not in self.inbox._writers.written():
            assert time.monotonic() < end_s, "no event came"
            pause.wait(0.005)  # a write wakes no one
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
a.!sync a.docx.crswap talk.wav:Zone.Identifier .syncthing.a.wav.tmp ~syncthing~a.wav .~lock.a.odt#
a.wav.ocTransferId123 Thumbs.db
desktop.ini Desktop.INI .DS_Store ._a.wav
"""


@pytest.mark.parametrize("name", TEMPORARY.split())
def test_temporary_names_are_never_taken(poll: Watched, name: str) -> None:
    assert is_temporary(name)
    (poll.root / name).write_bytes(b"sound")
    (poll.root / "plain.wav").write_bytes(b"sound")
    assert poll.settled(LONG_S) == ["plain.wav"]
    (poll.root / name).rename(poll.root / "renamed.wav")
    assert sorted(poll.settled()) == ["plain.wav", "renamed.wav"]


@pytest.mark.parametrize(
    "folder",
    [
        "@eaDir", ".stfolder", ".stversions", "__MACOSX", CLAIM_FOLDER, ".hidden", "#recycle", "@Recycle",
        "$RECYCLE.BIN", "System Volume Information", "lost+found", ".Trash-1000", ".Trashes",
    ],
)  # fmt: skip
def test_folders_of_other_programs_are_ignored(poll: Watched, folder: str) -> None:
    (poll.root / folder / "deep").mkdir(parents=True)
    (poll.root / folder / "a.wav").write_bytes(b"sound")
    (poll.root / folder / "deep" / "b.wav").write_bytes(b"sound")
    assert poll.settled(LONG_S) == []


@pytest.mark.parametrize(
    "name",
    [
        "talk.wav",
        "tmp.wav",
        "part",
        "a.tmp.wav",
        "a~b.wav",
        "thumbs.db.wav",
        "-rf",
        "@a",
        "#recycled.wav",
        "Zone.Identifier",
    ],
)
def test_names_that_resemble_temporary_ones_are_taken(poll: Watched, name: str) -> None:
    (poll.root / name).write_bytes(b"sound")
    assert poll.settled() == [name]


def test_companions_are_not_recordings(poll: Watched) -> None:
    for name in ("scribed.yaml", "talk.hotwords.txt", "talk.wav.error.txt"):
        assert is_companion(name)
        (poll.root / name).write_bytes(b"x")
    (poll.root / "talk.txt").write_bytes(b"x")
    assert poll.settled() == ["talk.txt"]
    assert poll.scan().error_notes == ("talk.wav.error.txt",)


@pytest.mark.parametrize("name", [b"caf\xe9.wav", b"a\nb.wav", b"-rf.wav", "\U0001f600.wav".encode(), b"x" * 255])
def test_unusual_names_are_taken(poll: Watched, name: bytes) -> None:
    (poll.root / os.fsdecode(name)).write_bytes(b"sound")
    assert poll.settled() == [os.fsdecode(name)]


def test_ignore_globs_leave_files_and_folders_alone(root: Path) -> None:
    watching = Watched(root, Watch(mode="poll", ignore=("*.txt", "private", "team/draft*")))
    (root / "private").mkdir()
    (root / "team").mkdir()
    for name in ("a.txt", "a.wav", "private/b.wav", "team/draft1.wav", "team/final.wav", "team/notes.txt"):
        (root / name).write_bytes(b"sound")
    assert sorted(watching.settled()) == ["a.wav", "team/final.wav"]


def test_sub_folders_are_scanned_unless_recursive_is_off(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "c.wav").write_bytes(b"sound")
    (root / "d.wav").write_bytes(b"sound")
    assert sorted(Watched(root, Watch(mode="poll")).settled()) == ["a/b/c.wav", "d.wav"]
    assert Watched(root, Watch(mode="poll", recursive=False)).settled() == ["d.wav"]


# Settling


def test_recording_settles_after_the_quiet_time(poll: Watched) -> None:
    (poll.root / "a.wav").write_bytes(b"sound")
    (arriving,) = poll.scan().arriving
    assert (arriving.path, arriving.n_bytes, arriving.left_s) == ("a.wav", 5, UNSEEN_S)
    assert poll.scan(UNSEEN_S - 0.1).settled == ()
    (arrival,) = poll.scan(0.1).settled
    facts = (poll.root / "a.wav").stat()
    seen = arrival.fingerprint
    assert (seen.device, seen.inode, seen.n_bytes, seen.mtime_ns) == (
        facts.st_dev,
        facts.st_ino,
        facts.st_size,
        facts.st_mtime_ns,
    )


def test_arriving_file_has_its_remaining_time_and_the_moment_it_ends(poll: Watched) -> None:
    (poll.root / "a.wav").write_bytes(b"sound")
    (first,) = poll.scan().arriving
    (arriving,) = poll.scan(UNSEEN_S / 2).arriving
    assert arriving.left_s == UNSEEN_S / 2
    assert arriving.due_s == pytest.approx(EPOCH_S + poll.now_s + arriving.left_s)
    assert arriving == first  # nothing has to be shown again while only time passes
    assert [arrival.path for arrival in poll.scan(arriving.left_s).settled] == ["a.wav"]


@pytest.mark.parametrize("change", ["size", "mtime", "inode", "blocks"])
def test_any_change_restarts_the_quiet_time(poll: Watched, change: str) -> None:
    path = poll.root / "a.wav"
    path.write_bytes(b"0" * 65536)
    os.utime(path, ns=(1, 1))
    poll.scan()
    poll.now_s += UNSEEN_S - 1
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
    else:  # room is reserved behind the end, as some programs do: neither size nor time show it
        before = path.stat()
        if subprocess.run(["fallocate", "--keep-size", "--length", "1M", str(path)], check=False).returncode:
            pytest.skip("this file system reserves no room")
        os.utime(path, ns=(1, 1))
        after = path.stat()
        assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
        assert before.st_blocks != after.st_blocks
    assert poll.scan().settled == ()
    assert poll.scan(UNSEEN_S - 1).settled == ()
    assert [arrival.path for arrival in poll.scan(1).settled] == ["a.wav"]


@pytest.mark.parametrize("mtime_s", [0, 4_000_000_000])
def test_old_and_future_mtimes_delay_nothing(poll: Watched, mtime_s: int) -> None:
    (poll.root / "a.wav").write_bytes(b"sound")
    os.utime(poll.root / "a.wav", (mtime_s, mtime_s))
    assert poll.scan().settled == ()
    assert len(poll.scan(UNSEEN_S).settled) == 1


@pytest.mark.parametrize(
    ("settle_s", "quiet_s"), [(0.5, 1.5), (1.0, 3.0), (5.0, 15.0), (10.0, 15.0), (15.0, 15.0), (60.0, 60.0)]
)
def test_quiet_time_is_longer_where_no_close_can_be_seen(root: Path, settle_s: float, quiet_s: float) -> None:
    watching = Watched(root, Watch(mode="poll", settle_s=settle_s))
    (root / "a.wav").write_bytes(b"sound")
    assert watching.settled(quiet_s - 0.1) == []
    (arrival,) = watching.scan(0.1).settled
    assert not arrival.close_seen


def test_once_waits_settle_s_where_no_close_can_be_seen(root: Path) -> None:
    watching = Watched(root, Watch(mode="poll", settle_s=SETTLE_S), is_once=True)
    (root / "a.wav").write_bytes(b"sound")
    assert watching.settled(SETTLE_S - 0.1) == []
    assert len(watching.scan(0.1).settled) == 1


@pytest.mark.parametrize(("age_s", "quiet_s"), [(590, UNSEEN_S), (610, SETTLE_S)])
def test_file_older_than_ten_minutes_waits_settle_s(poll: Watched, age_s: float, quiet_s: float) -> None:
    path = poll.root / "a.wav"
    path.write_bytes(b"sound")
    os.utime(path, (EPOCH_S + poll.now_s - age_s,) * 2)
    assert poll.settled(quiet_s - 0.1) == []
    assert len(poll.scan(0.1).settled) == 1
    with path.open("ab") as stream:  # and the advantage is lost with the first change
        stream.write(b"more")
    os.utime(path, (EPOCH_S - 5000,) * 2)
    assert poll.settled(UNSEEN_S - 0.1) == []


def test_empty_file_is_waited_for_ten_minutes(poll: Watched) -> None:
    (poll.root / "a.wav").touch()
    os.utime(poll.root / "a.wav", (1, 1))
    assert poll.settled(PATIENCE_S) == []
    assert poll.reasons() == {"a.wav": "still empty"}
    assert len(poll.scan(1).settled) == 1


@pytest.mark.parametrize("n_filled", [0, 1 << 16])
def test_file_that_ends_in_a_hole_waits_300_seconds(poll: Watched, n_filled: int) -> None:
    with (poll.root / "a.wav").open("wb") as stream:
        stream.write(bytes(range(256)) * (n_filled // 256))
        stream.truncate(1 << 20)
    assert poll.settled(299) == []
    assert poll.reasons() == {"a.wav": "has reserved space at its end that is not filled yet"}
    assert len(poll.scan(1).settled) == 1


def test_holes_within_a_file_do_not_delay_it(poll: Watched) -> None:
    """As `cp --sparse=always` makes them of digital silence."""
    with (poll.root / "a.wav").open("wb") as stream:
        stream.write(b"head" * 4096)
        stream.seek(1 << 20)
        stream.write(b"tail" * 4096)
    facts = (poll.root / "a.wav").stat()
    assert facts.st_blocks * 512 < facts.st_size, "this file system keeps no holes"
    assert poll.settled() == ["a.wav"]


def test_upload_into_reserved_space_waits_until_its_end_is_filled(poll: Watched) -> None:
    with (poll.root / "a.wav").open("wb", buffering=0) as stream:
        stream.truncate(1 << 20)
        for _ in range(16):
            assert poll.settled(100) == []
            stream.write(bytes(range(256)) * 256)
    assert poll.settled() == ["a.wav"]


def test_compressing_file_system_has_no_holes(poll: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "filesystem_of", lambda _path, _table=None: "btrfs")
    with (poll.root / "a.wav").open("wb") as stream:
        stream.truncate(1 << 20)  # fewer blocks than its size, as a compressed recording
    assert poll.settled() == ["a.wav"]


def test_second_hard_link_makes_a_file_wait_60_seconds(poll: Watched, tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(b"sound")
    (poll.root / "a.wav").hardlink_to(tmp_path / "upload")
    assert poll.settled(59) == []
    assert poll.reasons() == {"a.wav": "has a second name (a hard link)"}
    assert len(poll.scan(1).settled) == 1
    (poll.root / "b.wav").hardlink_to(tmp_path / "upload")
    poll.scan()
    (tmp_path / "upload").unlink()  # link, then unlink: how some programs commit
    (poll.root / "a.wav").unlink()
    assert [arrival.path for arrival in poll.scan(UNSEEN_S).settled] == ["b.wav"]


def test_settle_s_longer_than_every_other_wait_holds(root: Path) -> None:
    watching = Watched(root, Watch(mode="poll", settle_s=1000))
    with (root / "a.wav").open("wb") as stream:
        stream.truncate(1 << 20)
    assert watching.settled(999) == []
    assert len(watching.scan(1).settled) == 1


def test_recordings_come_in_the_order_of_their_arrival(poll: Watched) -> None:
    for name in ("z.wav", "m.wav", "a.wav"):
        (poll.root / name).write_bytes(b"sound")
        poll.scan()
    assert [arrival.path for arrival in poll.scan(UNSEEN_S).settled] == ["z.wav", "m.wav", "a.wav"]


def test_growing_file_present_at_start_is_waited_for(poll: Watched) -> None:
    with (poll.root / "a.wav").open("wb", buffering=0) as stream:
        for _ in range(5):
            stream.write(b"sound")
            assert poll.scan(UNSEEN_S - 1).settled == ()
    assert len(poll.scan(UNSEEN_S).settled) == 1


# Files that are not recordings


def test_links_pipes_and_sockets_are_never_taken(poll: Watched, tmp_path: Path) -> None:
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
watch = Watch(mode="poll")
inbox = Inbox(Path(sys.argv[1]), lambda: watch, monotonic=lambda: now_s)
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
inbox.scan()
now_s += 100
found = inbox.scan()
print(json.dumps([[arrival.path for arrival in found.settled], sorted(found.unreadable)]))
"""


def test_unreadable_files_and_folders_are_named() -> None:
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


def test_missing_inbox_is_an_error(poll: Watched) -> None:
    poll.root.rmdir()
    with pytest.raises(FileNotFoundError):
        poll.scan()


def test_10_000_files_are_listed_while_arriving_and_settled(poll: Watched) -> None:
    folder = poll.root / "burst"
    folder.mkdir()
    for number in range(10_000):
        os.close(os.open(folder / f"{number}.wav", os.O_CREAT | os.O_WRONLY))
    assert len(poll.scan().arriving) == 10_000
    for number in range(10_000):
        (folder / f"{number}.wav").write_bytes(b"x")
    poll.scan()
    found = poll.scan(UNSEEN_S)
    assert (len(found.settled), found.arriving) == (10_000, ())


# Folders that cannot be scanned


def make_deep(root: Path, names: list[str]) -> int:
    """Make folders one within the other, however long their path, and return a descriptor of the last."""
    descriptor = os.open(root, os.O_RDONLY)
    for name in names:
        os.mkdir(name, dir_fd=descriptor)
        outer, descriptor = descriptor, os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(outer)
    return descriptor


@pytest.mark.parametrize("names", [["x" * 240] * 20, ["d"] * 150])
def test_folder_nested_too_deeply_is_named_and_the_rest_goes_on(
    root: Path, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = make_deep(root, names)
    os.close(os.open("a.wav", os.O_CREAT | os.O_WRONLY, dir_fd=deep))
    os.close(deep)
    for folder in ("a", "z"):
        (root / folder).mkdir()
        (root / folder / "b.wav").write_bytes(b"sound")
    n_open = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # they are numbers
    with watched(root) as watching:
        assert sorted(watching.settled()) == ["a/b.wav", "z/b.wav"]
        (fault,) = watching.scan().faults
        assert fault.reason == "it is nested too deeply"
        assert set(fault.path.split("/")) == {names[0]}
        assert len(f"{root}/{fault.path}") > 4000 or fault.path.count("/") == 100 - 1
    assert len(os.listdir("/proc/self/fd")) == n_open  # noqa: PTH208  # the same
    monkeypatch.chdir(root)
    while (top := Path(names[0])).exists():  # neither pytest nor shutil can remove that by its path
        if (inner := top / names[0]).exists():
            inner.rename("next")
            shutil.rmtree(top)
            Path("next").rename(top)
        else:
            shutil.rmtree(top)


def test_recordings_just_above_the_limit_of_paths_are_taken(root: Path) -> None:
    n_folders = (4095 - len(str(root)) - len("/a.wav")) // 201
    folder = make_deep(root, ["y" * 200] * n_folders)
    descriptor = os.open("a.wav", os.O_CREAT | os.O_WRONLY, dir_fd=folder)
    os.write(descriptor, b"sound")
    os.close(descriptor)
    os.close(folder)
    with watched(root) as watching:
        assert [path.rpartition("/")[2] for path in watching.settled()] == ["a.wav"]
        assert watching.scan().faults == ()


def test_folder_names_that_are_not_utf8_are_scanned_and_watched(events: Watched) -> None:
    folder = events.root / os.fsdecode(b"caf\xe9 \xff")
    folder.mkdir()
    events.let_events_come()
    with (folder / "a.wav").open("wb", buffering=0) as stream:
        stream.write(b"half")
        events.let_events_come()
        assert events.settled(PATIENCE_S) == []
        assert list(events.reasons().values()) == ["still being written"]
    events.let_events_come()
    assert events.settled(SETTLE_S) == [f"{folder.name}/a.wav"]


def test_dead_mount_in_the_inbox_is_named_and_the_rest_goes_on(root: Path, tmp_path: Path) -> None:
    """A share whose server is gone, for real: a FUSE file system whose process is killed."""
    if shutil.which("bindfs") is None or not Path("/dev/fuse").exists():
        pytest.skip("no FUSE here")
    (tmp_path / "share").mkdir()
    (root / "share").mkdir()
    (root / "a.wav").write_bytes(b"sound")
    serving = subprocess.Popen(["bindfs", "-f", tmp_path / "share", root / "share"])
    try:
        end_s = time.monotonic() + TIMEOUT_S
        while not (root / "share").is_mount() and serving.poll() is None and time.monotonic() < end_s:
            threading.Event().wait(0.01)
        if serving.poll() is not None:
            pytest.skip("FUSE file systems cannot be mounted here")
        serving.kill()
        serving.wait()
        watching = Watched(root, Watch(mode="poll", settle_s=SETTLE_S))
        assert watching.settled() == ["a.wav"]
        (fault,) = watching.scan().faults
        assert (fault.path, fault.reason) == ("share", "Transport endpoint is not connected")
    finally:
        subprocess.run(["umount", "--lazy", root / "share"], capture_output=True, check=False)


def test_error_while_a_folder_is_listed_is_named_and_its_files_keep_their_state(
    events: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    (events.root / "bad").mkdir()
    (events.root / "good").mkdir()
    events.let_events_come()
    (events.root / "good" / "a.wav").write_bytes(b"sound")
    (events.root / "bad" / "closed.wav").write_bytes(b"sound")
    with (events.root / "bad" / "open.wav").open("wb", buffering=0) as stream:
        stream.write(b"half")
        events.let_events_come()
        events.scan()
        real, bad = os.listdir, (events.root / "bad").stat().st_ino

        def fail(folder: int) -> list[str]:
            if os.fstat(folder).st_ino == bad:
                raise OSError(5, "Input/output error")
            return real(folder)

        with monkeypatch.context() as patch:
            patch.setattr(os, "listdir", fail)
            for _ in range(3):
                found = events.scan(1)
            assert [(fault.path, fault.reason) for fault in found.faults] == [("bad", "Input/output error")]
            assert [arriving.path for arriving in found.arriving] == ["good/a.wav"]
        assert sorted(events.settled(SETTLE_S - 3)) == ["bad/closed.wav", "good/a.wav"]
        assert events.reasons() == {"bad/open.wav": "still being written"}


def test_close_seen_while_the_inbox_could_not_be_listed_counts(
    events: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    (events.root / "a.wav").write_bytes(b"sound")
    events.let_events_come()

    def fail(_folder: int) -> list[str]:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", fail)
        with pytest.raises(OSError, match="Input/output"):
            events.scan()
    assert events.settled(SETTLE_S) == ["a.wav"]


def test_folder_swapped_for_a_link_during_the_scan_is_not_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "diary.wav").write_bytes(b"sound")
    (root / "sub").mkdir()
    (root / "sub" / "b.wav").write_bytes(b"sound")
    (root / "a.wav").write_bytes(b"sound")
    files = Walk(root, Watch(), (), lambda _folder: None).files()
    assert next(files)[0] == "a.wav"
    (root / "sub").rename(tmp_path / "sub")
    (root / "sub").symlink_to(tmp_path / "secret")
    assert list(files) == []


# Events


def test_writer_that_pauses_is_waited_for_until_it_closes(events: Watched) -> None:
    with (events.root / "a.wav").open("wb", buffering=0) as stream:
        stream.write(b"half")
        events.let_events_come()
        assert events.settled(PATIENCE_S) == []
        assert events.reasons() == {"a.wav": "still being written"}
        stream.write(b"rest")
        events.let_events_come()
        assert events.settled(PATIENCE_S) == []
    events.let_events_come()
    assert events.settled(0) == ["a.wav"]
    assert events.scan().settled[0].close_seen


def test_file_whose_close_was_seen_waits_settle_s(events: Watched) -> None:
    (events.root / "a.wav").write_bytes(b"sound")
    events.let_events_come()
    assert events.settled(SETTLE_S - 0.1) == []
    (arrival,) = events.scan(0.1).settled
    assert arrival.close_seen


def test_file_is_taken_after_ten_minutes_of_quiet_though_no_close_was_seen(events: Watched) -> None:
    (events.root / "a.wav").write_bytes(b"sound and more")
    events.let_events_come()
    os.truncate(events.root / "a.wav", 5)  # by its path: a change without a close
    events.let_events_come()
    assert events.settled(PATIENCE_S) == []
    assert events.reasons() == {"a.wav": "still being written"}
    (arrival,) = events.scan(1).settled
    assert not arrival.close_seen


def test_closed_empty_file_is_waited_for_ten_minutes(events: Watched) -> None:
    (events.root / "a.wav").touch()
    events.let_events_come()
    assert events.settled(PATIENCE_S) == []
    assert events.settled(1) == ["a.wav"]


def test_file_that_is_written_to_again_is_waited_for(events: Watched) -> None:
    (events.root / "a.wav").write_bytes(b"sound")
    events.let_events_come()
    assert events.settled() == ["a.wav"]
    with (events.root / "a.wav").open("ab", buffering=0) as stream:
        stream.write(b"more")
        events.let_events_come()
        assert events.settled(PATIENCE_S) == []
    events.let_events_come()
    assert events.settled() == ["a.wav"]


def test_times_and_modes_set_after_the_close_do_not_look_like_writing(events: Watched) -> None:
    (events.root / "a.wav").write_bytes(b"sound")
    events.let_events_come()
    events.scan()
    os.utime(events.root / "a.wav", (1, 1))  # as cp -p and rsync do
    (events.root / "a.wav").chmod(0o640)
    events.let_events_come()
    assert events.settled(SETTLE_S) == ["a.wav"]


@pytest.mark.parametrize("place", ["outside", "temporary name", "sub-folder"])
def test_file_moved_in_waits_settle_s(events: Watched, tmp_path: Path, place: str) -> None:
    (events.root / "sub").mkdir()
    source = {
        "outside": tmp_path / "a",
        "temporary name": events.root / "a.part",
        "sub-folder": events.root / "sub" / "a.tmp",
    }[place]
    source.write_bytes(b"sound")
    source.rename(events.root / "a.wav")
    events.let_events_come()
    assert events.settled(SETTLE_S) == ["a.wav"]
    assert events.scan().settled[0].close_seen


def test_file_renamed_over_an_open_one_is_complete(events: Watched, tmp_path: Path) -> None:
    (tmp_path / "whole.wav").write_bytes(b"whole")
    with (events.root / "a.wav").open("wb", buffering=0) as stream:
        stream.write(b"half")
        events.let_events_come()
        (tmp_path / "whole.wav").rename(events.root / "a.wav")
        events.let_events_come()
        assert events.settled(SETTLE_S) == ["a.wav"]


def test_file_in_a_renamed_folder_is_still_being_written(events: Watched) -> None:
    (events.root / "old").mkdir()
    events.let_events_come()
    with (events.root / "old" / "a.wav").open("wb", buffering=0) as stream:
        stream.write(b"half")
        events.let_events_come()
        (events.root / "old").rename(events.root / "new")
        events.let_events_come()
        assert events.settled(PATIENCE_S) == []
        assert events.reasons() == {"new/a.wav": "still being written"}
        stream.write(b"rest")
    events.let_events_come()
    assert events.settled(SETTLE_S) == ["new/a.wav"]


def test_folder_made_and_filled_at_once_is_watched(events: Watched) -> None:
    folder = events.root / "new" / "deep"
    folder.mkdir(parents=True)
    (folder / "a.wav").write_bytes(b"sound")
    with (folder / "b.wav").open("wb", buffering=0) as stream:
        events.let_events_come()
        stream.write(b"sound")
        events.let_events_come()
        assert events.settled(PATIENCE_S) == ["new/deep/a.wav"]
        assert events.reasons() == {"new/deep/b.wav": "still being written"}
    events.let_events_come()
    assert sorted(events.settled()) == ["new/deep/a.wav", "new/deep/b.wav"]


def test_folder_tree_moved_in_is_taken_and_watched(events: Watched, tmp_path: Path) -> None:
    tree = tmp_path / "tree" / "deep"
    tree.mkdir(parents=True)
    (tree / "a.wav").write_bytes(b"sound")
    (tmp_path / "tree").rename(events.root / "tree")
    events.let_events_come()
    assert events.settled(SETTLE_S) == ["tree/deep/a.wav"]
    with (events.root / "tree" / "deep" / "b.wav").open("wb", buffering=0) as stream:
        stream.write(b"half")
        events.let_events_come()
        assert "tree/deep/b.wav" not in events.settled(PATIENCE_S)


def test_file_open_before_the_start_waits_longer(root: Path) -> None:
    with (root / "a.wav").open("wb", buffering=0) as stream, watched(root) as watching:
        stream.write(b"half")
        assert watching.settled(UNSEEN_S - 0.1) == []
        (arrival,) = watching.scan(0.1).settled  # nothing more can be known
        assert not arrival.close_seen
        stream.write(b"rest")
        watching.let_events_come()
        assert watching.settled(PATIENCE_S) == []  # now it can


def test_file_committed_by_link_does_not_wait_forever(events: Watched, tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(b"sound")
    (events.root / "a.wav").hardlink_to(tmp_path / "upload")  # made, and never closed
    (tmp_path / "upload").unlink()
    events.let_events_come()
    assert events.settled() == ["a.wav"]


def test_removed_files_are_forgotten(events: Watched) -> None:
    with (events.root / "a.wav").open("wb", buffering=0) as stream:
        stream.write(b"half")
        events.let_events_come()
        (events.root / "a.wav").unlink()
        for _ in range(2):
            events.scan()
        assert "a.wav" not in events.inbox._writers.written()


def test_arrival_wakes_the_loop(events: Watched, tmp_path: Path) -> None:
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


def test_event_during_stop_logs_no_error(events: Watched, caplog: pytest.LogCaptureFixture) -> None:
    assert events.inbox._events._observer is not None
    (emitter,) = events.inbox._events._observer.emitters
    events.inbox.stop()
    emitter.queue_events(0)  # watchdog's thread, one event late
    assert not caplog.records


def test_our_own_claims_do_not_wake_the_loop(events: Watched) -> None:
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
    assert len(wakes) <= 1  # that of the second mark, if it has arrived yet
    os.close(first)
    os.close(second)


def test_inbox_that_is_recreated_is_watched_again(events: Watched) -> None:
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
        assert events.settled(PATIENCE_S) == []


def test_folder_put_in_place_of_the_inbox_is_watched(events: Watched) -> None:
    events.root.rename(events.root.with_name("old"))
    events.root.mkdir()
    assert not events.inbox.has_events()
    events.scan(LONG_S)
    assert events.inbox.has_events()


def threads_end(watching: Watched) -> bool:
    """Wait for the thread that watchdog ends when its folder goes."""
    observer = watching.inbox._events._observer
    assert observer is not None
    emitters = list(observer.emitters)
    for emitter in emitters:
        emitter.join(TIMEOUT_S)
    return not any(emitter.is_alive() for emitter in emitters)


def test_watching_a_missing_inbox_leaks_no_thread_or_descriptor(tmp_path: Path) -> None:
    with watched(tmp_path / "nowhere") as watching:
        before = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # they are numbers
        for _ in range(5):
            with pytest.raises(FileNotFoundError):
                watching.scan(LONG_S)
        assert not watching.inbox.has_events()
        assert (set(threading.enumerate()), len(os.listdir("/proc/self/fd"))) == before  # noqa: PTH208  # the same


def test_stopping_twice_is_harmless_and_leaks_no_descriptor(root: Path) -> None:
    n_open = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # they are numbers
    with watched(root) as watching:
        watching.scan()
        watching.inbox.stop()
        assert not watching.inbox.has_events()
        assert len(os.listdir("/proc/self/fd")) == n_open  # noqa: PTH208  # the same
        assert watching.settled() == []


# Limits of the whole machine, which a test must not use up.


def refuse_instance(**_: object) -> None:
    raise OSError(24, "inotify instance limit reached")


class RefusingWatches(InotifyObserver):
    def start(self) -> None:
        raise OSError(28, "inotify watch limit reached")


@pytest.mark.parametrize("refusing", [refuse_instance, RefusingWatches])
def test_scan_works_without_events(root: Path, monkeypatch: pytest.MonkeyPatch, refusing: object) -> None:
    monkeypatch.setattr("daemon.inbox.events.InotifyObserver", refusing)
    n_open = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # they are numbers
    with watched(root) as watching:
        (root / "a.wav").write_bytes(b"sound")
        assert watching.settled(LONG_S) == ["a.wav"]
        assert not watching.inbox.has_events()
        assert len(os.listdir("/proc/self/fd")) == n_open  # noqa: PTH208  # the same


_FEW_WATCHES = """
import json, logging, os, sys, time
from pathlib import Path
from daemon.config import Watch
from daemon.inbox import Inbox
root, limit = Path(sys.argv[1]), Path("/proc/sys/user/max_inotify_watches")
limit.write_text("30")
logging.disable()
now_s = 1000.0
watch = Watch(mode="events", settle_s=5)
inbox = Inbox(root, lambda: watch, monotonic=lambda: now_s)
def scan(after_s):
    global now_s
    now_s += after_s
    return inbox.scan()
scan(0)
streams = []
for number in range(60):  # every upload pauses for eight seconds, which is longer than settle_s
    streams.append((root / f"{number:02}" / "a.wav").open("wb", buffering=0))
    streams[-1].write(b"half")
time.sleep(0.5)
scan(0)
found = scan(8)
told = {"settled": len(found.settled), "reasons": sorted({a.reason for a in found.arriving}), "has": inbox.has_events()}
told["shortage"] = found.shortage and [found.shortage.n_folders, found.shortage.sysctl, found.shortage.limit]
limit.write_text("100")
told["after"] = str(scan(2).shortage)
streams[-1].write(b"rest")
time.sleep(0.5)
told["watched"] = "59/a.wav" in inbox._writers.written()
print(json.dumps(told))
inbox.stop()
"""


def run_with_few_watches(root: Path, code: str) -> str:
    """Run Python where the kernel counts inotify watches apart, so that a test may use them all up."""
    unshare = ["unshare", "--user", "--map-root-user"]
    if subprocess.run([*unshare, "test", "-w", "/proc/sys/user/max_inotify_watches"], check=False).returncode:
        pytest.skip("no user namespaces here")
    done = subprocess.run(
        [*unshare, sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]  # behind what was logged


def test_folders_without_a_watch_are_counted_and_their_uploads_wait_longer(root: Path) -> None:
    for number in range(60):
        (root / f"{number:02}").mkdir()
    told = json.loads(run_with_few_watches(root, _FEW_WATCHES))
    n_folders, sysctl, limit = told["shortage"]
    assert (told["has"], told["settled"], sysctl, limit) == (True, 0, "user.max_inotify_watches", 30)
    assert 31 <= n_folders <= 60
    assert told["reasons"] == [
        "arrived a moment ago, and scribed cannot see here whether the upload is complete",
        "still being written",
    ]
    assert told["after"] == "None"  # the limit was raised: nothing has to be restarted
    assert told["watched"]


_NO_WATCHES = """
import json, logging, sys
from pathlib import Path
from daemon.config import Watch
from daemon.inbox import Inbox
logging.disable()
told = []
for name in ("watches", "instances"):
    limit = Path(f"/proc/sys/user/max_inotify_{name}")
    old = limit.read_text()
    limit.write_text("0")
    now_s = 1000.0
    watch = Watch(mode="events")
    inbox = Inbox(Path(sys.argv[1]), lambda: watch, monotonic=lambda: now_s)
    shortage = inbox.scan().shortage
    limit.write_text(old)
    now_s += 100
    again = inbox.scan().shortage
    told.append([shortage.sysctl, shortage.limit, shortage.n_folders, inbox.has_events(), again])
    inbox.stop()
print(json.dumps(told))
"""


def test_exhausted_inotify_limits_are_named_until_they_are_raised(root: Path) -> None:
    assert json.loads(run_with_few_watches(root, _NO_WATCHES)) == [
        ["user.max_inotify_watches", 0, 0, True, None],
        ["user.max_inotify_instances", 0, 0, True, None],
    ]


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
def test_event_thread_that_ends_is_restarted(events: Watched, end: Callable[[InotifyObserver], None]) -> None:
    assert events.inbox._events._observer is not None
    with (events.root / "a.wav").open("wb", buffering=0) as stream:
        stream.write(b"half")
        events.let_events_come()
        assert events.settled(PATIENCE_S) == []
        end(events.inbox._events._observer)
    assert not events.inbox.has_events()
    events.settled(LONG_S)
    assert events.inbox.has_events()
    assert events.settled(LONG_S) == ["a.wav"]  # its close went unseen
    with (events.root / "b.wav").open("wb", buffering=0) as stream:
        stream.write(b"half")
        events.let_events_come()
        assert events.settled(PATIENCE_S) == ["a.wav"]


@pytest.mark.parametrize(("mode", "hears"), [("auto", False), ("events", True), ("poll", False)])
def test_mode_auto_polls_on_a_share(
    root: Path, monkeypatch: pytest.MonkeyPatch, mode: Literal["auto", "events", "poll"], *, hears: bool
) -> None:
    monkeypatch.setattr(mounts, "is_silent", lambda folder: folder == root)
    with watched(root, Watch(mode=mode, settle_s=SETTLE_S)) as watching:
        (root / "a.wav").write_bytes(b"sound")
        watching.scan()
        assert watching.settled(LONG_S) == ["a.wav"]
        assert watching.inbox.has_events() is hears


def test_inbox_is_watched_again_after_unmount_and_mount(root: Path) -> None:
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


def test_100_000_files_settle_within_two_scans() -> None:
    """In memory, where there is one; what a scan takes is measured in benchmarks/daemon.py."""
    n_files = 100_000
    memory = Path("/dev/shm")  # noqa: S108  # a file system in memory is what is wanted
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        watched(Path(folder), Watch(mode="poll", settle_s=SETTLE_S)) as watching,
    ):
        for number in range(n_files):
            os.close(os.open(f"{folder}/{number}", os.O_CREAT | os.O_WRONLY))
        watching.scan()
        assert len(watching.scan(600).settled) == n_files


def test_lost_events_do_not_keep_a_recording_waiting(events: Watched, tmp_path: Path) -> None:
    """The kernel's queue overflows for real: its reader is held while more happens than it holds."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 100_000:
        pytest.skip("the kernel's queue is too long to be filled in a test")
    observer = events.inbox._events._observer
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
        assert events.settled(PATIENCE_S) == ["a.wav"]
