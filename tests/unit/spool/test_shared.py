from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from daemon.errors import NoPermissionError, TransientError
from daemon.host import mounts
from tests.unit.spool.world import (
    World,
    expire,
    tree,
)


def test_folders_are_made_and_claims_are_private(world: World) -> None:
    assert stat.S_IMODE((world.folders.inbox / ".scribed").stat().st_mode) == 0o700


def test_private_folder_open_to_others_is_closed(tmp_path: Path) -> None:
    (tmp_path / "inbox" / ".scribed").mkdir(parents=True)
    (tmp_path / "inbox" / ".scribed").chmod(0o777)
    World(tmp_path).close()
    assert stat.S_IMODE((tmp_path / "inbox" / ".scribed").stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_private_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "inbox" / ".scribed" / "job").mkdir(parents=True)
    os.chown(tmp_path / "inbox" / ".scribed", 65534, 65534)
    with pytest.raises(NoPermissionError, match="another user"):
        World(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_private_folder_on_a_share_owned_by_another_user_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inbox" / ".scribed" / "job").mkdir(parents=True)
    (tmp_path / "inbox" / ".scribed").chmod(0o700)
    os.chown(tmp_path / "inbox" / ".scribed", 65534, 65534)
    real_open = os.open

    def open_on_share(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        fd = real_open(path, flags, mode, dir_fd=dir_fd)
        if flags & os.O_CREAT:
            os.fchown(fd, 65534, 65534)
        return fd

    monkeypatch.setattr(os, "open", open_on_share)  # as CIFS mounted with uid= shows everything
    World(tmp_path).close()
    assert tree(tmp_path / "inbox") == {".scribed/job"}


@pytest.mark.parametrize("kind", ["file", "link"])
def test_file_or_link_in_place_of_the_private_folder_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "inbox").mkdir()
    claims = tmp_path / "inbox" / ".scribed"
    if kind == "link":
        claims.symlink_to(tmp_path)
    else:
        claims.write_bytes(b"")
    with pytest.raises(TransientError, match="not a folder"):
        World(tmp_path)


def test_file_in_place_of_a_configured_folder_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "outbox").write_bytes(b"")
    with pytest.raises(
        TransientError, match=r"outbox is not a folder. Replace it with a folder, or change folders\.outbox"
    ):
        World(tmp_path)


def test_missing_share_is_not_taken_for_an_empty_folder(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job = world.claim()
    top = world.folders.outbox
    monkeypatch.setattr(mounts, "top_of", lambda folder: top if folder == world.folders.outbox else Path("/"))
    world.shared.remember_mounts()
    world.shared.check_mounts()
    monkeypatch.setattr(mounts, "top_of", lambda _: Path("/"))
    for code in (world.shared.check_mounts, lambda: world.deliver(job), lambda: expire(world)):
        with pytest.raises(TransientError, match="outbox folder is not there"):
            code()
    with pytest.raises(TransientError, match=r"shares\.json"):
        world.set_aside(job)
    assert tree(world.folders.outbox) == set()
    (world.folders.state / "shares.json").unlink()  # the remedy that the fault gives
    world.deliver(job)


def test_damaged_list_of_shares_counts_as_missing(world: World) -> None:
    for content in (b"{", b"[]"):
        (world.folders.state / "shares.json").write_bytes(content)
        world.shared.check_mounts()
