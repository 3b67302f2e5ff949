"""Disks, shares, and where they are mounted."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon.host.mounts import compresses, filesystem_of, is_silent, top_of

if TYPE_CHECKING:
    from collections.abc import Iterator

LINES = """\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /srv/inbox rw - {kind} server:/export rw
31 22 254:2 / /srv/inbox/local rw - ext4 /dev/vdb rw
32 22 0:41 / /srv/with\\040space rw - {kind} server:/more rw
33 22 0:42 / /srv/hidden rw - {kind} server:/old rw
34 22 254:3 / /srv/hidden rw - xfs /dev/vdc rw
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory that can be unmounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "none", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], capture_output=True, check=False)


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuseblk", "fuse", "virtiofs", "ceph"]
)
def test_shares_are_silent(tmp_path: Path, kind: str) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(LINES.format(kind=kind))
    silent = ["/srv/inbox", "/srv/inbox/team", "/srv/with space/x"]
    heard = ["/", "/srv", "/srv/inboxes", "/srv/inbox/local", "/srv/hidden/x"]
    assert [path for path in (*silent, *heard) if is_silent(Path(path), table)] == silent


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fusectl"])
def test_local_disks_are_not_silent(tmp_path: Path, kind: str) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(LINES.format(kind=kind))
    assert not is_silent(Path("/srv/inbox"), table)


def test_real_folder_is_looked_up(tmp_path: Path) -> None:
    assert not is_silent(tmp_path)
    assert filesystem_of(Path("/proc/self")) == "proc"


@pytest.mark.parametrize(("kind", "expected"), [("btrfs", True), ("zfs", True), ("ext4", False), ("nfs4", False)])
def test_compressing_file_systems_are_known(tmp_path: Path, kind: str, *, expected: bool) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(LINES.format(kind=kind))
    assert filesystem_of(Path("/srv/inbox/a.wav"), table) == kind
    assert compresses(Path("/srv/inbox/a.wav"), table) is expected
    assert not compresses(Path("/srv/inbox/local/a.wav"), table)
    assert not compresses(Path("/srv/inbox/a.wav"), tmp_path / "missing")


def test_top_is_where_the_disk_is_mounted(small_disk: Path) -> None:
    (small_disk / "a" / "b").mkdir(parents=True)
    assert top_of(small_disk / "a" / "b") == small_disk
    assert top_of(small_disk / "a" / "missing" / "too") == small_disk
    (small_disk.parent / "link").symlink_to(small_disk / "a")
    assert top_of(small_disk.parent / "link") == small_disk
    above = top_of(small_disk.parent)
    assert above != small_disk
    subprocess.run(["umount", small_disk], check=True)
    assert top_of(small_disk) == above


def test_bind_mount_of_the_same_disk_is_not_a_top(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    bound = subprocess.run(["mount", "--bind", tmp_path / "one", tmp_path / "two"], capture_output=True, check=False)
    if bound.returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        assert top_of(tmp_path / "two") == top_of(tmp_path)
    finally:
        subprocess.run(["umount", tmp_path / "two"], check=True)


def test_root_is_its_own_top() -> None:
    assert top_of(Path("/")) == Path("/")
    assert os.path.realpath(tempfile.gettempdir()).startswith(str(top_of(Path(tempfile.gettempdir()))))
