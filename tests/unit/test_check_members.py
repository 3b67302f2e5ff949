"""`scribed check` makes a folder in the inbox as a member would, and says what is wrong with it."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon.cli.check.finding import Finding, Installation
from daemon.cli.check.members import check_member_folders
from daemon.config import Config, Folders

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a member of any group")

SERVICE, GROUP, NOBODY = 54321, 54322, 65534
# linux/posix_acl_xattr.h: tags of entries, and the id of those that have none.
USER_OBJ, USER, GROUP_OBJ, GROUP_TAG, MASK, OTHER, NO_ID = 1, 2, 4, 8, 16, 32, 0xFFFFFFFF


@pytest.fixture
def root() -> Iterator[Path]:
    """Return a folder that other users can reach; those of pytest are closed."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def installation(root: Path) -> Installation:
    paths = {name: root / name for name in Folders.model_fields}
    for folder in paths.values():
        folder.mkdir()
        os.chown(folder, SERVICE, GROUP)
        folder.chmod(0o2770)
    return Installation(Config(folders=Folders(**paths)), None)


def set_default_acl(folder: Path) -> None:
    """Do what `setfacl -m d:u:54321:rwx,d:g:54322:rwx` does."""
    entries = (
        (USER_OBJ, 7, NO_ID),
        (USER, 7, SERVICE),
        (GROUP_OBJ, 7, NO_ID),
        (GROUP_TAG, 7, GROUP),
        (MASK, 7, NO_ID),
        (OTHER, 0, NO_ID),
    )
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(folder, "system.posix_acl_default", acl)


def look(installation: Installation) -> Finding:
    before = sorted(installation.config.folders.inbox.iterdir())
    (finding,) = check_member_folders(installation)
    assert sorted(installation.config.folders.inbox.iterdir()) == before, "something was left behind"
    return finding


def test_folders_of_members_are_named_unusable_without_a_default_acl_and_usable_with_it(
    installation: Installation,
) -> None:
    inbox = installation.config.folders.inbox
    found = look(installation)
    assert found.level == "warning"
    assert f"cannot use those that members make in {inbox}" in found.what
    entries = f"u:{SERVICE}:rwX,g:{GROUP}:rwX,d:u:{SERVICE}:rwx,d:g:{GROUP}:rwx"
    assert found.remedy == f"sudo setfacl -R -m {entries} {inbox} (package acl)"
    set_default_acl(inbox)
    assert look(installation).level == "ok"


def test_inbox_in_which_members_cannot_make_folders_is_a_warning(installation: Installation) -> None:
    inbox = installation.config.folders.inbox
    inbox.chmod(0o2750)
    found = look(installation)
    assert (found.level, found.remedy) == ("warning", f"sudo chmod 2770 {inbox}")


def test_user_who_is_not_root_learns_the_same(installation: Installation) -> None:
    inbox = installation.config.folders.inbox
    for folder in (inbox, installation.config.folders.state):
        os.chown(folder, NOBODY, NOBODY)
    inbox.chmod(0o2770)
    os.seteuid(NOBODY)
    try:
        assert look(installation).level == "warning"
        os.seteuid(0)
        set_default_acl(inbox)
        os.seteuid(NOBODY)
        assert look(installation).level == "ok"
    finally:
        os.seteuid(0)


def test_file_system_without_acls_gets_another_remedy(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, _name: str) -> bytes:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)

    monkeypatch.setattr(os, "getxattr", refuse)
    assert look(installation).remedy == (
        "Its file system has no ACLs: let members work with umask 007, or see /opt/scribed/share/shares.md."
    )


def test_missing_folders_are_left_to_the_other_check(installation: Installation) -> None:
    installation.config.folders.inbox.rmdir()
    assert list(check_member_folders(installation)) == []
