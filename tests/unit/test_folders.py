"""Work below shared folders: no link is followed, nothing is overwritten, no mode grants what it should not."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daemon.errors import TransientError
from daemon.host import files, moving
from daemon.host.folders import Folder, LinkInTheWayError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONG_AGO_NS = 1_000_000_000_123_456_789
NOBODY = 65534


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than tmp_path."""
    memory = Path("/dev/shm")  # noqa: S108  # a second file system is what is wanted
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system at /dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, as pytest's own cannot be."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def run_as_other(code: str, *arguments: object) -> Any:  # noqa: ANN401  # what the code prints as JSON
    """Run code in a process without root's powers."""
    preamble = f"""
import json, os, sys
from pathlib import Path
from daemon.host import moving
from daemon.host.folders import Folder
if os.geteuid() == 0:
    os.setgroups([]), os.setgid({NOBODY}), os.setuid({NOBODY})
"""
    command = [sys.executable, "-c", preamble + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def move(source: Path, target: Path, *, is_private: bool = False) -> None:
    with Folder.open(source.parent) as here, Folder.open(target.parent) as there:
        moving.move((here, source.name), (there, target.name), "1", is_private=is_private)


# Links


@pytest.mark.parametrize("method", ["descend", "make"])
@pytest.mark.parametrize("relative", ["team", "team/sub", "team/sub/deep"])
def test_link_in_place_of_a_folder_is_named_and_not_followed(tmp_path: Path, method: str, relative: str) -> None:
    root, secret = tmp_path / "outbox", tmp_path / "state"
    link = root / relative
    link.parent.mkdir(parents=True)
    secret.mkdir()
    link.symlink_to(secret)
    with Folder.open(root) as folder, pytest.raises(LinkInTheWayError) as told:
        getattr(folder, method)(f"{relative}/below")
    assert f"{link} is a symbolic link" in str(told.value)
    assert names_in(secret) == set()
    assert len(os.listdir("/proc/self/fd")) < 100  # noqa: PTH208  # they are numbers, not paths


def test_root_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "outbox").symlink_to(tmp_path / "disk")
    with Folder.open(tmp_path / "outbox") as root, root.make("team") as made:
        made.replace("talk.txt", b"words", 0o640, "1")
    assert (tmp_path / "disk" / "team" / "talk.txt").read_bytes() == b"words"


def test_folder_that_was_opened_stays_the_same_when_a_link_takes_its_name(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inbox" / "team", tmp_path / "secret"
    inside.mkdir(parents=True)
    outside.mkdir()
    (inside / "a.wav").write_bytes(b"theirs")
    (outside / "a.wav").write_bytes(b"secret")
    with Folder.open(tmp_path / "inbox") as root, root.descend("team") as folder:
        inside.rename(tmp_path / "inbox" / "moved")  # the attack: another folder in its place
        inside.symlink_to(outside)
        assert folder.read("a.wav", 100) == b"theirs"
        assert (folder.proc_path / "a.wav").read_bytes() == b"theirs"
        with pytest.raises(LinkInTheWayError):
            root.descend("team")


@pytest.mark.parametrize("relative", ["..", "a/../..", "./a"])
def test_path_that_leads_up_is_refused(tmp_path: Path, relative: str) -> None:
    (tmp_path / "a").mkdir()
    with Folder.open(tmp_path) as root, pytest.raises(FileNotFoundError):
        root.descend(relative)


def test_walk_follows_no_link_and_skips_what_is_hidden_or_closed(open_folder: Path) -> None:
    for name in ("a/b", ".scribed", "closed", "outside"):
        (open_folder / "root" / name).mkdir(parents=True)
    (open_folder / "root" / "outside").rename(open_folder / "outside")
    (open_folder / "root" / "link").symlink_to(open_folder / "outside")
    (open_folder / "root" / "closed").chmod(0)
    code = """
with Folder.open(Path(sys.argv[1])) as root:
    print(json.dumps(sorted(relative for relative, _ in root.walk())))
"""
    assert run_as_other(code, open_folder / "root") == ["", "a", "a/b"]
    (open_folder / "root" / "closed").chmod(0o755)


def test_path_longer_than_any_system_call_takes_is_reached(tmp_path: Path) -> None:
    names = [f"{number:02}" + "x" * 240 for number in range(20)]
    with Folder.open(tmp_path) as root:
        with root.make("/".join(names)) as deep:
            deep.replace("talk.txt", b"words", 0o640, "1")
        with root.descend("/".join(names)) as deep:
            assert deep.read("talk.txt", 9) == b"words"
            deep.unlink("talk.txt")
        for n_names in range(len(names), 0, -1):  # no other tool could
            with root.descend("/".join(names[: n_names - 1])) as parent:
                parent.rmdir(names[n_names - 1])


# Publishing


@pytest.mark.parametrize("kind", ["file", "link", "broken link", "folder"])
def test_publish_never_overwrites(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "talk.txt"
    if kind == "file":
        target.write_bytes(b"theirs")
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to(__file__ if kind == "link" else "nowhere")
    before = target.lstat()
    with Folder.open(tmp_path) as folder:
        temporary = folder.write_temporary(b"ours", 0o600, "1")
        with pytest.raises(FileExistsError):
            folder.publish(temporary, "talk.txt")
    assert target.lstat() == before
    assert (tmp_path / temporary).read_bytes() == b"ours"


@pytest.mark.parametrize("wanted", [0o7777, 0o6755, 0o2664, 0o4755, 0o660])
def test_no_file_that_is_written_gets_set_id_sticky_or_execute_bits(tmp_path: Path, wanted: int) -> None:
    with Folder.open(tmp_path) as folder:
        folder.replace("talk.txt", b"words", wanted, "1")
    assert stat.S_IMODE((tmp_path / "talk.txt").stat().st_mode) == wanted & 0o666


def test_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with Folder.open(tmp_path) as folder, pytest.raises(OSError, match="directory"):
        folder.replace("taken", b"x", 0o600, "1")
    assert names_in(tmp_path) == {"taken"}


def test_sweep_removes_regular_files_of_ours_with_the_tag_and_nothing_else(tmp_path: Path) -> None:
    ours, others_job, folder_, link = (f".scribed-{tag}" for tag in ("1-aa", "2-aa", "1-bb", "1-cc"))
    (tmp_path / ours).write_bytes(b"half")
    (tmp_path / others_job).write_bytes(b"half")
    (tmp_path / folder_).mkdir()
    (tmp_path / link).symlink_to(ours)
    kept = {others_job, folder_, link}
    if os.geteuid() == 0:
        (tmp_path / ".scribed-1-dd").write_bytes(b"theirs")
        os.chown(tmp_path / ".scribed-1-dd", NOBODY, NOBODY)
        kept.add(".scribed-1-dd")
    with Folder.open(tmp_path) as folder:
        folder.sweep("1")
        assert names_in(tmp_path) == kept
        folder.replace("talk.txt", b"words", 0o600, "1")  # and none of them blocks anything
    assert names_in(tmp_path) == kept | {"talk.txt"}


# Moving


def test_move_keeps_the_file_and_its_time(tmp_path: Path) -> None:
    source, target = tmp_path / "a.wav", tmp_path / "b.wav"
    source.write_bytes(b"audio")
    os.utime(source, ns=(LONG_AGO_NS, LONG_AGO_NS))
    inode = source.stat().st_ino
    move(source, target)
    assert not source.exists()
    assert (target.stat().st_ino, target.stat().st_mtime_ns) == (inode, LONG_AGO_NS)


@pytest.mark.parametrize("is_private", [False, True])
def test_move_across_disks_keeps_bytes_and_time(tmp_path: Path, other_disk: Path, *, is_private: bool) -> None:
    source, target = tmp_path / "a.wav", other_disk / "a.wav"
    content = os.urandom(3 << 20)
    source.write_bytes(content)
    source.chmod(0o604)
    os.utime(source, ns=(LONG_AGO_NS, LONG_AGO_NS))
    move(source, target, is_private=is_private)
    assert not source.exists()
    assert target.read_bytes() == content
    assert stat.S_IMODE(target.stat().st_mode) == 0o604
    assert target.stat().st_mtime_ns == LONG_AGO_NS
    assert names_in(other_disk) == {"a.wav"}


@pytest.mark.parametrize("mode", [0o2664, 0o4755, 0o6755, 0o1777, 0o444])
def test_copy_to_another_disk_leaves_set_id_sticky_and_execute_bits_behind(
    tmp_path: Path, other_disk: Path, mode: int
) -> None:
    """The copy is the service's own: its set-user-id bit would make everyone the service's user."""
    source, target = tmp_path / "a.wav", other_disk / "a.wav"
    source.write_bytes(b"audio")
    source.chmod(mode)
    move(source, target)
    assert stat.S_IMODE(target.stat().st_mode) == mode & 0o666
    assert target.read_bytes() == b"audio"


def test_copy_to_another_disk_keeps_user_attributes(tmp_path: Path, other_disk: Path) -> None:
    source, target = tmp_path / "a.wav", other_disk / "a.wav"
    source.write_bytes(b"audio")
    try:
        for folder in (tmp_path, other_disk):
            os.setxattr(folder, "user.probe", b"1")
    except OSError:
        pytest.skip("a file system here has no user attributes")
    os.setxattr(source, "user.speaker", b"Ada")
    move(source, target)
    assert os.getxattr(target, "user.speaker") == b"Ada"


def test_move_never_overwrites(tmp_path: Path, other_disk: Path) -> None:
    source = tmp_path / "a.wav"
    source.write_bytes(b"ours")
    for target in (tmp_path / "b.wav", other_disk / "b.wav"):
        target.write_bytes(b"theirs")
        with pytest.raises(FileExistsError):
            move(source, target)
        assert (source.read_bytes(), target.read_bytes()) == (b"ours", b"theirs")
    assert names_in(other_disk) == {"b.wav"}


def test_file_that_cannot_be_removed_is_not_doubled(open_folder: Path, other_disk: Path) -> None:
    source = open_folder / "closed" / "a.wav"
    source.parent.mkdir()
    source.write_bytes(b"audio")
    source.parent.chmod(0o555)
    other_disk.chmod(0o777)
    code = """
try:
    with Folder.open(Path(sys.argv[1])) as here, Folder.open(Path(sys.argv[2])) as there:
        moving.move((here, "a.wav"), (there, "a.wav"), "1")
except PermissionError:
    print(json.dumps("refused"))
"""
    assert run_as_other(code, source.parent, other_disk) == "refused"
    assert source.exists()
    assert names_in(other_disk) == set()
    source.parent.chmod(0o755)


def test_move_between_disks_that_a_crash_cut_off_is_completed(tmp_path: Path, other_disk: Path) -> None:
    source, target = tmp_path / "a.wav", other_disk / "a.wav"
    source.write_bytes(b"audio")
    target.write_bytes(b"audio")
    with Folder.open(tmp_path) as here, Folder.open(other_disk) as there:
        moving.resume_move((here, "a.wav"), (there, "a.wav"), "1")
        assert (source.exists(), target.read_bytes()) == (False, b"audio")
        source.write_bytes(b"other")  # as long, and yet another recording
        with pytest.raises(FileExistsError):
            moving.resume_move((here, "a.wav"), (there, "a.wav"), "1")
    assert (source.read_bytes(), target.read_bytes()) == (b"other", b"audio")


# Making


def make(root: Path, relative: str, model: Path | None = None) -> Path:
    with Folder.open(root) as top:
        if model is None:
            top.make(relative).close()
        else:
            with Folder.open(model) as twin:
                top.make(relative, twin).close()
    return root / relative


def test_created_folders_have_mode_and_group_of_their_twins(tmp_path: Path) -> None:
    model, root = tmp_path / "inbox", tmp_path / "outbox"
    (model / "a" / "b").mkdir(parents=True)
    root.mkdir()
    group = 12345 if os.geteuid() == 0 else os.getgid()
    os.chown(model / "a", -1, group)
    (model / "a").chmod(0o2750)
    (model / "a" / "b").chmod(0o700)
    made = make(root, "a/b", model)
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o2750
    assert (root / "a").stat().st_gid == group
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_set_user_id_and_sticky_bits_of_a_twin_are_not_copied(tmp_path: Path) -> None:
    (tmp_path / "inbox" / "a").mkdir(parents=True)
    (tmp_path / "inbox" / "a").chmod(0o7770)
    (tmp_path / "outbox").mkdir()
    assert stat.S_IMODE(make(tmp_path / "outbox", "a", tmp_path / "inbox").stat().st_mode) == 0o2770


def test_folder_mode_never_exceeds_that_of_its_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inbox" / "a").mkdir(parents=True)
    (tmp_path / "inbox" / "a").chmod(0o2710)
    (tmp_path / "outbox").mkdir()
    (tmp_path / "outbox").chmod(0o2770)

    def refuse(*_: object, **__: object) -> None:  # what RestrictSUIDSGID answers to setgid
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchmod", refuse)
    made = make(tmp_path / "outbox", "a", tmp_path / "inbox")
    assert stat.S_IMODE(made.stat().st_mode) == 0o2710


def test_existing_folder_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "inbox" / "a").mkdir(parents=True, mode=0o755)
    (tmp_path / "outbox" / "a").mkdir(parents=True)
    (tmp_path / "outbox" / "a").chmod(0o700)
    assert stat.S_IMODE(make(tmp_path / "outbox", "a", tmp_path / "inbox").stat().st_mode) == 0o700


def test_folders_are_created_without_their_twins(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    assert make(tmp_path, "a/b", tmp_path / "inbox").is_dir()


def test_created_folder_is_always_writable_for_the_service(tmp_path: Path) -> None:
    (tmp_path / "inbox" / "a").mkdir(parents=True)
    (tmp_path / "inbox" / "a").chmod(0o070)  # its owner locked himself out, his group works there
    (tmp_path / "outbox").mkdir()
    assert stat.S_IMODE(make(tmp_path / "outbox", "a", tmp_path / "inbox").stat().st_mode) == 0o770


def test_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(TransientError, match="a is a file where a folder"):
        make(tmp_path, "a/b")


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "file").write_bytes(b"")
    n_open = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # they are numbers, not paths
    with Folder.open(tmp_path) as root:
        for relative in ("a", "link/x", "file/x", "gone/x", ".."):
            for method in (root.descend, root.make):
                with suppress(OSError, TransientError), method(relative):
                    pass
        assert [relative for relative, _ in root.walk()] == ["", "gone", "gone/x", "a"]
    assert len(os.listdir("/proc/self/fd")) == n_open  # noqa: PTH208  # the same


def test_modes_of_files_and_folders_are_decided_in_one_place() -> None:
    assert {oct(files.file_mode(mode)) for mode in (0o107777, 0o666)} == {"0o666"}
    assert oct(files.folder_mode(0o5070)) == "0o770"


def test_error_has_the_whole_path_of_what_it_is_about(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Folder.open(tmp_path) as folder:
        wrong: dict[str, list[Callable[[], object]]] = {
            "gone": [
                lambda: folder.descend("gone"),
                lambda: folder.lstat("gone"),
                lambda: folder.unlink("gone"),
                lambda: folder.rmdir("gone"),
                lambda: folder.rename("gone", "new"),
                lambda: moving.move((folder, "gone"), (folder, "new"), "tag"),
                lambda: folder.publish("temporary", "gone"),
            ],
            "file": [lambda: folder.descend("file"), lambda: folder.mkdir("file", 0o700)],
        }
        for name, calls in wrong.items():
            for call in calls:
                with pytest.raises(OSError, match=name) as caught:
                    call()
                assert files.describe_error(caught.value).endswith(f": {tmp_path / name}")


@pytest.mark.parametrize("filename", [None, 7, "talk.wav", b"talk.wav", "/proc/self/fd/7/talk.wav"])
def test_error_is_described_without_a_name_that_cannot_be_hidden(filename: str | bytes | int | None) -> None:
    assert files.describe_error(OSError(13, "Permission denied", filename)) == "Permission denied"
    assert files.describe_error(OSError(13, "Permission denied", b"/srv/a.wav")) == "Permission denied: /srv/a.wav"
