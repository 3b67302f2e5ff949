"""Which links on the way to a configured folder are followed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from daemon.host import links
from daemon.host.links import UntrustedLinkError

if TYPE_CHECKING:
    from pathlib import Path

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link to another user")


def inode(path: Path) -> int:
    fd = links.open_configured(path)
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (tmp_path / "disk" / "inbox").mkdir(parents=True)
    return tmp_path / "disk"


@pytest.mark.parametrize("target", ["disk", "./disk/../disk", "{tmp}/disk"])
def test_own_links_are_followed_wherever_they_are(tmp_path: Path, disk: Path, target: str) -> None:
    (tmp_path / "srv").symlink_to(target.format(tmp=tmp_path))
    (tmp_path / "in").symlink_to("srv/inbox")
    for path in (tmp_path / "srv" / "inbox", tmp_path / "in", tmp_path / "srv" / ".." / "disk" / "inbox"):
        assert inode(path) == (disk / "inbox").stat().st_ino
        assert links.resolve(path) == disk / "inbox"


def test_relative_path_is_opened(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(disk)
    assert inode(type(disk)("inbox")) == (disk / "inbox").stat().st_ino


@needs_root
@pytest.mark.parametrize("path", ["srv/inbox", "in"])
def test_link_of_another_user_is_refused_and_named(tmp_path: Path, disk: Path, path: str) -> None:
    (tmp_path / "srv").symlink_to(disk)
    (tmp_path / "in").symlink_to("srv/inbox")
    os.lchown(tmp_path / "srv", 12345, 54321)
    with pytest.raises(UntrustedLinkError, match="srv is a symbolic link") as told:
        inode(tmp_path / path)
    assert str(tmp_path) in told.value.remedy
    assert links.resolve(tmp_path / path) == tmp_path / path
    (tmp_path / "srv").unlink()
    (tmp_path / "srv").symlink_to(disk)
    assert inode(tmp_path / path) == (disk / "inbox").stat().st_ino


def test_loop_and_missing_folder_are_errors_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        inode(tmp_path / "loop")
    with pytest.raises(FileNotFoundError):
        inode(tmp_path / "none")
    assert links.resolve(tmp_path / "none") == tmp_path / "none"
