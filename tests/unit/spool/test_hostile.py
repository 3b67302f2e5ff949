"""What a member of the group with bad intent may try in the shared folders: links, locks, names, renames."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daemon.config import Watch
from daemon.errors import AlreadyRunningError, NoPermissionError, TransientError
from daemon.host import files, moving
from daemon.host.folders import Folder, LinkInTheWayError
from daemon.host.links import UntrustedLinkError
from daemon.inbox import Arrival, Inbox
from daemon.spool import SharedFolders, private
from tests.unit.spool.world import AUDIO, REASON, WORDS, World, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon.job import Job

MEMBER, GROUP = 12345, 54321
_AS_MEMBER = f"""
import fcntl, json, os, pathlib, shutil, sys
os.setgroups([]), os.setgid({GROUP}), os.setuid({MEMBER})
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@pytest.fixture
def shared_world(open_folder: Path) -> Iterator[World]:
    """A world whose four shared folders a group may write to."""
    for name in ("inbox", "outbox", "processed", "failed"):
        (open_folder / name).mkdir()
        os.chown(open_folder / name, -1, GROUP)
        (open_folder / name).chmod(0o2770)
    (open_folder / "state").mkdir()
    os.chown(open_folder / "state", -1, GROUP)
    (open_folder / "state").chmod(0o750)
    made = World(open_folder)
    yield made
    made.close()


def as_member(code: str, *arguments: object) -> str:
    """Run code as a member of the group and return what it printed."""
    command = [sys.executable, "-c", _AS_MEMBER + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Links


@pytest.mark.parametrize("folder", ["outbox", "processed", "failed"])
@pytest.mark.parametrize("path", ["sub/talk.wav", "a/sub/talk.wav"])
def test_link_in_place_of_an_outcome_folder_is_a_fault_and_the_recording_waits(
    world: World, tmp_path: Path, folder: str, path: str
) -> None:
    job = world.claim(path, hotwords=WORDS)
    link = tmp_path / folder / Path(path).parent
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(world.folders.state)
    before = tree(world.folders.state)
    finish: Callable[[Job], object] = world.set_aside if folder == "failed" else world.deliver
    with pytest.raises(LinkInTheWayError, match="is a symbolic link") as told:
        finish(job)
    assert str(link) in str(told.value)
    assert "Remove the link" in told.value.remedy
    assert link.name not in told.value.remedy  # `logging.names` hides names in paths only
    assert tree(world.folders.state) == before
    assert world.audio(job).read_bytes() == AUDIO
    other = world.claim("other.wav")  # nothing else stops
    assert world.deliver(other) == "other"
    link.unlink()
    if folder == "failed":
        world.set_aside(job)
        assert (world.folders.failed / path).read_bytes() == AUDIO
    else:
        (left,) = world.spool.recover()
        if not world.spool.conclude(left):
            world.deliver(left)
        assert (world.folders.processed / path).read_bytes() == AUDIO
        assert len(list(world.folders.outbox.rglob("talk.*"))) == 2


def test_retry_follows_no_link_and_moves_the_others_back(world: World) -> None:
    world.set_aside(world.claim("sub/journal.sqlite3"))
    world.set_aside(world.claim("memo.wav"))
    shutil.rmtree(world.folders.failed / "sub")
    (world.folders.failed / "sub").symlink_to(world.folders.state)
    done = world.spool.retry(None)
    assert done.moved == (world.folders.inbox / "memo.wav",)
    assert "sub is a symbolic link" in str(done.problems[0])
    assert (world.folders.state / "journal.sqlite3").exists()
    assert not list(world.folders.inbox.rglob("journal.sqlite3"))


@pytest.mark.parametrize("victim", ["talk.wav.error.txt", "talk.hotwords.txt"])
def test_retry_and_sweep_take_no_link_for_a_companion(world: World, tmp_path: Path, victim: str) -> None:
    (tmp_path / "secret").write_bytes(b'scribed could not transcribe "secret"')
    world.set_aside(world.claim())
    (world.folders.failed / victim).unlink(missing_ok=True)
    (world.folders.failed / victim).symlink_to(tmp_path / "secret")
    world.retry()
    world.sweep()
    assert (tmp_path / "secret").read_bytes() == b'scribed could not transcribe "secret"'


def test_retry_into_a_link_in_the_inbox_is_refused(world: World, tmp_path: Path) -> None:
    world.set_aside(world.claim("sub/talk.wav"))
    shutil.rmtree(world.folders.inbox / "sub")
    (tmp_path / "elsewhere").mkdir()
    (world.folders.inbox / "sub").symlink_to(tmp_path / "elsewhere")
    done = world.spool.retry(None)
    assert (done.moved, tree(tmp_path / "elsewhere")) == ((), set())
    assert "symbolic link" in str(done.problems[0])
    assert (world.folders.failed / "sub" / "talk.wav").exists()


def test_configured_folders_may_be_links(tmp_path: Path) -> None:
    for name in ("inbox", "outbox", "processed", "failed"):
        (tmp_path / "disk" / name).mkdir(parents=True)
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    world = World(tmp_path)
    assert world.deliver(world.claim("sub/talk.wav")) == "talk"
    assert (tmp_path / "disk" / "processed" / "sub" / "talk.wav").exists()
    world.close()


@needs_root
@pytest.mark.parametrize("name", ["inbox", "outbox", "processed", "failed"])
def test_link_that_a_member_puts_in_place_of_a_shared_folder_leads_nowhere(shared_world: World, name: str) -> None:
    world, folder = shared_world, getattr(shared_world.folders, name)
    waiting, job = world.drop("waiting.wav"), world.claim("talk.wav")
    (world.folders.state / "memo.wav").write_bytes(AUDIO)
    os.chown(folder.parent, -1, GROUP)
    folder.parent.chmod(0o770)  # as an administrator may have set it
    before = tree(world.folders.state)
    swap = "os.rename(sys.argv[1], sys.argv[1] + '.old'); os.symlink(sys.argv[2], sys.argv[1])"
    as_member(swap, folder, world.folders.state)
    assert getattr(SharedFolders(world.folders).roots, name) == folder  # at a start while the link is there
    steps: tuple[Callable[[], object], ...] = (
        lambda: world.spool.claim(waiting),
        lambda: world.deliver(job),
        lambda: world.set_aside(job),
        world.retry,
        lambda: world.sweep(processed_days=1, failed_days=1),
        lambda: Inbox(world.folders.inbox, lambda: Watch(mode="poll")).scan(),
        world.shared.make_claims,
    )
    refused = []
    for step in steps:
        try:
            step()
        except UntrustedLinkError as error:
            refused.append(error.what)
    assert refused
    assert all(str(folder) in what for what in refused)
    assert tree(world.folders.state) == before
    folder.unlink()
    Path(f"{folder}.old").rename(folder)
    if name != "failed":
        assert world.deliver(world.claim("other.wav")) == "other"


def test_claimed_audio_is_reached_though_the_folder_of_claims_is_swapped(world: World, tmp_path: Path) -> None:
    job = world.claim()
    with world.spool.opened(job) as claim:
        claims = world.folders.inbox / ".scribed"
        claims.rename(world.folders.inbox / "moved")
        (tmp_path / "fake" / job.job_id).mkdir(parents=True)
        (tmp_path / "fake" / job.job_id / "talk.wav").write_bytes(b"another's speech")
        claims.symlink_to(tmp_path / "fake")
        assert claim.audio.read_bytes() == AUDIO
        with pytest.raises(TransientError, match="is not a folder"):
            world.spool.fingerprint(job)


# Modes


@pytest.mark.parametrize("mode", [0o2664, 0o4755, 0o6755, 0o444])
@pytest.mark.parametrize("end", ["processed", "failed"])
def test_recordings_of_any_mode_arrive_on_another_disk_without_special_bits(
    fast: Path, tmp_path: Path, mode: int, end: str
) -> None:
    if fast.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system at /dev/shm")
    world = World(tmp_path, fast)
    arrival = world.drop()
    (world.folders.inbox / "talk.wav").chmod(mode)
    arrival = world.arrival()
    claim = world.spool.claim(arrival)
    assert claim is not None
    if end == "processed":
        world.deliver(claim.job)
    else:
        world.set_aside(claim.job)
    assert stat.S_IMODE((fast / end / "talk.wav").stat().st_mode) == mode & 0o666
    world.close()


# Temporary names


@pytest.mark.parametrize("folder", ["outbox", "failed"])
def test_folders_with_hidden_names_block_nothing(world: World, folder: str) -> None:
    job = world.claim()
    root: Path = getattr(world.folders, folder)
    for name in (f".scribed-{job.job_id}-00", ".scribed-0.tmp", f".scribed-{job.job_id}"):
        (root / name).mkdir()
    if folder == "outbox":
        assert world.deliver(job) == "talk"
    else:
        world.set_aside(job)
        assert (root / "talk.wav").exists()
    assert sum(path.is_dir() for path in root.iterdir()) == 3


# Locks


def test_instances_that_share_any_folder_are_refused(tmp_path: Path) -> None:
    one = World(tmp_path / "one")
    one.close()
    with one.shared.locked():
        for name in ("inbox", "outbox", "processed", "failed", "state"):
            other = World(tmp_path / f"other-{name}", changed={name: getattr(one.folders, name)})
            other.close()
            with pytest.raises(AlreadyRunningError, match=f"the {name} folder {getattr(one.folders, name)}"):
                other.shared.locked().__enter__()
        alone = World(tmp_path / "alone")
        alone.close()
        with alone.shared.locked():
            pass
    with one.shared.locked():
        pass


_HOLD_ALL = """
held = []
for root in sys.argv[1:]:
    for path in (pathlib.Path(root), *pathlib.Path(root).rglob("*")):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue
        held.append(fd)
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
print(len(held), flush=True)
sys.stdin.readline()
"""


@needs_root
def test_member_who_locks_everything_readable_does_not_stop_the_service(shared_world: World) -> None:
    folders = shared_world.folders
    with shared_world.shared.locked():
        pass  # the lock files exist
    roots = [str(getattr(folders, name)) for name in ("inbox", "outbox", "processed", "failed", "state")]
    command = [sys.executable, "-c", _AS_MEMBER + _HOLD_ALL, *roots]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as member:
        assert member.stdout is not None
        assert int(member.stdout.readline()) >= 5
        with shared_world.shared.locked():
            assert shared_world.deliver(shared_world.claim()) == "talk"
        member.kill()


# The private folder


@needs_root
def test_member_can_neither_enter_nor_remove_the_private_folder(shared_world: World) -> None:
    job = shared_world.claim()
    code = """
root = sys.argv[1]
said = []
for attempt in (os.listdir, os.rmdir, shutil.rmtree, lambda path: os.open(path, 0)):
    try:
        attempt(root)
    except OSError as error:
        said.append(error.strerror)
print(json.dumps(said))
"""
    said = json.loads(as_member(code, shared_world.folders.inbox / ".scribed"))
    assert len(said) == 4
    assert shared_world.audio(job).exists()


@needs_root
@pytest.mark.parametrize("when", ["running", "stopped"])
def test_private_folder_that_a_member_renamed_gets_its_name_back(shared_world: World, when: str) -> None:
    job = shared_world.claim("sub/talk.wav", hotwords=WORDS)
    inbox = shared_world.folders.inbox
    as_member("os.rename(sys.argv[1], sys.argv[2])", inbox / ".scribed", inbox / "moved")
    world = shared_world
    if when == "stopped":
        world = World(inbox.parent)
    (left,) = world.spool.recover()
    assert (left.job_id, left.path) == (job.job_id, "sub/talk.wav")
    assert not world.spool.conclude(left)
    assert world.deliver(left) == "talk"
    assert tree(inbox) == {".scribed", "sub"}
    if when == "stopped":
        world.close()


@needs_root
def test_folder_that_a_member_puts_in_place_of_the_private_one_is_refused(shared_world: World) -> None:
    job = shared_world.claim()
    inbox = shared_world.folders.inbox
    as_member("os.rename(sys.argv[1], sys.argv[2]), os.mkdir(sys.argv[1])", inbox / ".scribed", inbox / "moved")
    arrival = shared_world.drop("next.wav")
    with pytest.raises(Exception, match="belongs to another user"):
        shared_world.spool.claim(arrival)
    assert (inbox / "next.wav").exists()
    (inbox / ".scribed").rmdir()  # the remedy
    assert shared_world.deliver(job) == "talk"


def forge_claim(world: World, folder: Path) -> None:
    """Put a claim into a folder as the service would, with the state folder as the place where it fails."""
    (folder / "20260101T000000-12345678").mkdir()
    roots = {name: str(getattr(world.folders, name)) for name in ("inbox", "outbox", "processed")}
    note = {
        "path": "shares.json",
        "claimed_at": "2026-01-01T00:00:00Z",
        "roots": roots | {"failed": str(world.folders.state)},
        "failure": {"what": "x", "remedy": "", "place": {"folder": "", "name": "shares.json"}},
    }
    (folder / "20260101T000000-12345678" / ".claim.json").write_text(json.dumps(note))
    (folder / "20260101T000000-12345678" / "shares.json").write_text("{}")


@needs_root
def test_folder_of_the_service_that_a_member_puts_in_place_of_the_private_one_is_refused(shared_world: World) -> None:
    world, inbox = shared_world, shared_world.folders.inbox
    world.drop("sub/talk.wav")
    os.chown(inbox / "sub", MEMBER, GROUP)
    (inbox / "sub").chmod(0o2770)
    world.deliver(world.claim("sub/talk.wav"))
    job = world.claim("memo.wav")
    made_by_service = world.folders.outbox / "sub"
    assert (made_by_service.stat().st_uid, stat.S_IMODE(made_by_service.stat().st_mode)) == (0, 0o2770)
    forge_claim(world, made_by_service)
    swap = "os.rename(sys.argv[1], sys.argv[2]), os.rename(sys.argv[3], sys.argv[1])"
    as_member(swap, inbox / ".scribed", inbox / "moved", made_by_service)
    before = tree(world.folders.state)
    steps: tuple[Callable[[], object], ...] = (
        world.shared.make_claims, world.spool.recover, lambda: world.deliver(job)
    )  # fmt: skip
    for step in steps:
        with pytest.raises(TransientError, match="open to others"):
            step()
    assert tree(world.folders.state) == before
    (inbox / ".scribed").rename(inbox / "fake")
    assert [left.path for left in world.spool.recover()] == ["memo.wav"]
    assert world.deliver(job) == "memo"


def test_no_second_private_folder_is_made_while_ours_is_in_the_inbox(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = world.claim()
    inbox = world.folders.inbox
    with world.shared.locked():
        (inbox / ".scribed").rename(inbox / "moved")
        with monkeypatch.context() as patch:
            patch.setattr(private, "_restore", lambda _: None)  # renamed again and again, so that no listing shows it
            steps: tuple[Callable[[], object], ...] = (
                world.shared.make_claims, lambda: world.spool.claim(world.drop("next.wav"))
            )  # fmt: skip
            for step in steps:
                with pytest.raises(TransientError, match="is missing"):
                    step()
        assert not (inbox / ".scribed").exists()
        world.shared.make_claims()
        assert world.deliver(job) == "talk"
        shutil.rmtree(inbox)  # by an administrator, who makes another one
        inbox.mkdir()
        world.shared.make_claims()
        assert world.deliver(world.claim("other.wav")) == "other"


def test_claims_in_a_second_private_folder_are_found_at_the_start(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = world.claim("sub/talk.wav", hotwords=WORDS)
    (world.folders.inbox / ".scribed").rename(world.folders.inbox / "moved")
    with monkeypatch.context() as patch:
        patch.setattr(private, "_restore", lambda _: None)
        again = World(tmp_path)
    assert world.audio(job).exists() is False
    (left,) = again.spool.recover()
    assert again.deliver(left) == "talk"
    assert tree(world.folders.inbox) == {".scribed", "sub"}
    again.close()


def test_private_folder_put_in_place_of_a_new_folder_stays_closed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (world.folders.inbox / "sub").mkdir()
    (world.folders.inbox / "sub").chmod(0o2770)
    with world.shared.locked():
        pass
    mkdir, outbox = os.mkdir, world.folders.outbox

    def mkdir_and_swap(path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        mkdir(path, mode, dir_fd=dir_fd)
        if path == "sub" and not (outbox / "aside").exists():
            (outbox / "sub").rename(outbox / "aside")
            (outbox / ".scribed").rename(outbox / "sub")

    with monkeypatch.context() as patch, suppress(TransientError):
        patch.setattr(os, "mkdir", mkdir_and_swap)
        world.deliver(world.claim("sub/talk.wav"))
    assert stat.S_IMODE((outbox / "sub").stat().st_mode) == 0o700


@needs_root
def test_member_cannot_pretend_that_new_files_belong_to_the_member(
    shared_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = shared_world.folders.inbox
    code = "os.rename(sys.argv[1], sys.argv[2]), os.mkdir(sys.argv[1]), os.mkdir(sys.argv[1] + '/mine')"
    as_member(code, inbox / ".scribed", inbox / "moved")
    real_open = os.open

    def open_and_swap(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        fd = real_open(path, flags, mode, dir_fd=dir_fd)
        if str(path).startswith(".scribed-owner"):
            os.unlink(path, dir_fd=dir_fd)
            os.mknod(path, dir_fd=dir_fd)
            os.chown(path, MEMBER, GROUP, dir_fd=dir_fd)
        return fd

    monkeypatch.setattr(os, "open", open_and_swap)
    with pytest.raises(NoPermissionError, match="belongs to another user"):
        shared_world.shared.make_claims()


# Files that the service may not read


@needs_root
@pytest.mark.parametrize("end", ["processed", "outbox"])
def test_unreadable_file_of_a_member_takes_a_name_but_does_not_block_the_delivery(
    shared_world: World, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """A member closes a file of the same name and size to the service, just before the service uses the name."""
    world, job = shared_world, shared_world.claim()
    planted = getattr(world.folders, end) / ("talk.wav" if end == "processed" else "talk.txt")

    def refuse(name: str, folder: int) -> int:
        if os.stat(name, dir_fd=folder).st_uid == MEMBER:
            raise NoPermissionError("It is not readable.")
        return real_open(name, folder)

    real_open = files.open_regular
    monkeypatch.setattr(files, "open_regular", refuse)  # root may read everything
    publish = Folder.publish

    def plant_and_publish(folder: Folder, temporary: str, name: str, **how: bool) -> None:
        publish(folder, temporary, name, **how)
        if name == "talk.json" and not planted.with_suffix(".done").exists():
            planted.with_suffix(".done").touch()
            planted.unlink(missing_ok=True)
            planted.write_bytes(AUDIO)
            os.chown(planted, MEMBER, GROUP)
            planted.chmod(0o600)
            if end == "outbox":
                raise OSError(28, "No space left on device")  # so that the delivery is rolled back

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "publish", plant_and_publish)
        if end == "outbox":
            with pytest.raises(TransientError):
                world.deliver(job)
        else:
            assert world.deliver(job) == "talk"
    if end == "outbox":
        assert world.deliver(job) == "talk.wav"
    assert planted.read_bytes() == AUDIO
    delivered = [path for path in world.folders.processed.iterdir() if path != planted and path.suffix == ".wav"]
    assert [path.read_bytes() for path in delivered] == [AUDIO]


# What is replaced after it was looked at


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_hotwords_replaced_during_the_claim_stay_in_the_inbox(
    fast: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    world, move = World(tmp_path, fast), moving.move_unsynced
    hotwords = world.folders.inbox / "talk.hotwords.txt"

    def replace_and_move(source: moving.Place, *rest: Any, is_private: bool = False) -> None:  # noqa: ANN401  # as they come
        if is_private and source[1] == hotwords.name:
            hotwords.unlink()
            make(kind, hotwords)
        move(source, *rest, is_private=is_private)

    with monkeypatch.context() as patch:
        patch.setattr(moving, "move_unsynced", replace_and_move)
        job = world.claim(hotwords=WORDS)
    assert world.hotwords(job) == ()
    assert world.deliver(job) == "talk"
    assert (world.folders.processed / "talk.wav").read_bytes() == AUDIO
    assert not hotwords.is_file()
    assert os.path.lexists(hotwords)
    world.close()


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_non_file_in_place_of_delivered_audio_is_not_claimed_again(world: World, kind: str) -> None:
    arrival = world.drop()
    claim = world.spool.claim(Arrival(arrival.path, arrival.fingerprint, close_seen=False))
    assert claim is not None
    world.deliver(claim.job)
    audio = world.folders.processed / "talk.wav"
    audio.unlink()
    make(kind, audio)
    world.sweep(datetime.now(UTC) + timedelta(minutes=2))
    assert world.journal.unfinished() == ()
    assert os.path.lexists(audio)


def make(kind: str, path: Path) -> None:
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "link":
            path.symlink_to("/" + "x" * 100)
        case "folder":
            path.mkdir()


# Retry


def test_retry_moves_only_regular_files_that_are_not_hidden(world: World) -> None:
    failed = world.folders.failed
    world.set_aside(world.claim("memo.wav"))
    with world.shared.locked():
        pass
    (failed / "folder.wav").mkdir()
    (failed / "link.wav").symlink_to(world.folders.state)
    os.mkfifo(failed / "pipe.wav")
    for name in (".scribed", "folder.wav", "link.wav", "pipe.wav"):
        (failed / f"{name}.error.txt").write_text('scribed could not transcribe "x".')
    assert world.retry() == (world.folders.inbox / "memo.wav",)
    assert (failed / ".scribed" / "lock").exists()
    assert tree(world.folders.inbox) == {".scribed", "memo.wav"}


# Claims that cannot be made


def test_claims_that_cannot_be_undone_leave_one_folder_however_often_they_are_tried(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrival = world.drop()
    rename, rmdir = os.rename, os.rmdir

    def refuse(*_: object, **__: object) -> None:  # a share where files can be made but neither renamed nor removed
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        patch.setattr(os, "rmdir", refuse)
        for _ in range(5):
            with pytest.raises(Exception, match="not writable"):
                world.spool.claim(arrival)
        assert len([path for path in (world.folders.inbox / ".scribed").iterdir() if path.is_dir()]) == 1
    assert (os.rename, os.rmdir) == (rename, rmdir)
    claim = world.spool.claim(arrival)
    assert claim is not None
    assert world.deliver(claim.job) == "talk"


# Paths that are too long


def test_path_that_does_not_fit_the_outbox_goes_to_failed_with_the_reason(tmp_path: Path) -> None:
    deep = "/".join(["d" * 200] * 17)
    far = tmp_path / "/".join(["o" * 200] * 2)
    world = World(tmp_path, changed={"outbox": far})
    folder = f"{deep}/{'e' * 200}"
    with pytest.raises(OSError, match="too long"):
        (world.folders.outbox / folder / ("x" * 200)).lstat()
    job = world.claim(f"{folder}/talk.wav")
    assert world.spool.conclude(job)
    (note,) = world.folders.failed.rglob("*.error.txt")
    assert "Its path is too long for the folder" in note.read_text()
    assert "Shorten the name" in note.read_text()
    assert note.with_name(note.name.removesuffix(".error.txt")).read_bytes() == AUDIO
    assert tree(world.folders.outbox) == set()
    world.close()


def test_recording_with_too_long_a_path_can_be_cancelled(tmp_path: Path) -> None:
    far = tmp_path / "/".join(["o" * 200] * 2)
    world = World(tmp_path, changed={"outbox": far / "outbox", "failed": far / "failed"})
    job = world.claim(f"{'/'.join(['d' * 200] * 18)}/talk.wav")
    world.spool.cancel(job)
    (note,) = world.folders.failed.glob("*.error.txt")
    assert "cancelled" in note.read_text()
    world.close()


def test_name_that_does_not_fit_a_disk_with_shorter_names_goes_to_failed_shortened(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.spool.limits.name_bytes", lambda _: 143)  # eCryptfs, which the test cannot mount
    job = world.claim("x" * 150 + ".wav")
    assert world.spool.conclude(job)
    names = {path.name for path in world.folders.failed.iterdir()}
    assert len(names) == 2
    assert max(map(len, names)) <= 143
    (note,) = world.folders.failed.glob("*.error.txt")
    assert "too long" in note.read_text()
    assert world.deliver(world.claim("short.wav")) == "short"


def test_reason_is_written_to_the_error_note(world: World) -> None:
    world.set_aside(world.claim())
    assert REASON.what in (world.folders.failed / "talk.wav.error.txt").read_text()


def test_shared_folders_are_resolved_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "inbox").symlink_to(tmp_path / "a")
    world = World(tmp_path)
    shared: SharedFolders = world.shared
    (tmp_path / "inbox").unlink()
    (tmp_path / "inbox").symlink_to(tmp_path / "b")
    assert shared.roots.inbox == tmp_path / "a"
    world.close()
