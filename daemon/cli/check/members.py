"""What members of the group may do: whether folders that they make in the inbox can be used by the service."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import secrets
import stat
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from daemon.cli.check.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from daemon.cli.check.finding import Installation

_UMASK: Final = 0o022  # of nearly everyone, and it takes the group's right to write
_NOBODY: Final = 65534
_DEFAULT_ACL: Final = "system.posix_acl_default"


@dataclass(frozen=True, slots=True)
class _User:
    """Who a command runs as; ids of None are those of this process."""

    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] | None = None

    def can(self, *words: str | Path) -> bool:
        """Run a command as this user, with the usual umask; return whether it succeeded."""
        done = subprocess.run(  # noqa: S603  # mkdir, rmdir and test, on a folder that we name
            words,
            user=self.uid,
            group=self.gid,
            extra_groups=self.groups,
            umask=_UMASK,
            capture_output=True,
            check=False,
        )
        return done.returncode == 0


def check_member_folders(installation: Installation) -> Iterator[Finding]:
    """Make a folder in the inbox as a member of its group would, and look whether the service may use it."""
    folders = installation.config.folders
    if not folders.inbox.is_dir() or not folders.state.is_dir():  # reported with the folders
        return
    facts = folders.inbox.stat()
    is_root = os.geteuid() == 0
    member = _find_member(facts.st_gid) if is_root else _User()
    # Hidden, so that the service does not look into it.
    made = folders.inbox / f".check-{secrets.token_hex(8)}"
    if not member.can("mkdir", made):
        if is_root:
            what = (
                f"sub-folders: members of the group {_group_name(facts.st_gid)} cannot make folders in {folders.inbox}"
            )
            yield Finding("warning", what, f"sudo chmod 2770 {folders.inbox}")
        return
    try:
        service = _find_owner(folders.state) if is_root else _User()
        is_usable = (
            _is_open_to_group(made, facts.st_gid)
            if service.uid in {None, member.uid}
            else service.can("test", "-w", made, "-a", "-x", made)
        )
    finally:
        member.can("rmdir", made)
    if is_usable:
        yield Finding("ok", f"sub-folders: the service can use those that members make in {folders.inbox}")
    else:
        what = (
            f"sub-folders: the service cannot use those that members make in {folders.inbox} with the usual umask (022)"
        )
        yield Finding("warning", what, _find_remedy(folders.inbox, folders.state, facts.st_gid))


def _find_member(gid: int) -> _User:
    """Return a member of the group, or where none is listed a user without rights whom we put into it."""
    with suppress(KeyError):
        for name in grp.getgrgid(gid).gr_mem:
            with suppress(KeyError):
                account = pwd.getpwnam(name)
                if account.pw_uid:
                    return _User(account.pw_uid, account.pw_gid, (gid,))
    return _User(_NOBODY, _NOBODY, (gid,))


def _find_owner(state: Path) -> _User:
    """Return the service's user, the owner of the state folder."""
    facts = state.stat()
    groups = [facts.st_gid]
    with suppress(KeyError):
        groups = os.getgrouplist(pwd.getpwuid(facts.st_uid).pw_name, facts.st_gid)
    return _User(facts.st_uid, facts.st_gid, tuple(groups))


def _is_open_to_group(folder: Path, gid: int) -> bool:
    """Whether the group may do all in a folder, as far as its mode tells."""
    facts = folder.lstat()
    return facts.st_mode & stat.S_IRWXG == stat.S_IRWXG and facts.st_gid == gid


def _find_remedy(inbox: Path, state: Path, gid: int) -> str:
    """Return the command that gives the inbox a default ACL, or what to do where there are no ACLs."""
    try:
        os.getxattr(inbox, _DEFAULT_ACL)
    except OSError as error:
        if error.errno != errno.ENODATA:
            return "Its file system has no ACLs: let members work with umask 007, or see /opt/scribed/share/shares.md."
    user, group = _user_name(state.stat().st_uid), _group_name(gid)
    entries = f"u:{user}:rwX,g:{group}:rwX,d:u:{user}:rwx,d:g:{group}:rwx"
    return f"sudo setfacl -R -m {entries} {inbox} (package acl)"


def _user_name(uid: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)


def _group_name(gid: int) -> str:
    with suppress(KeyError):
        return grp.getgrgid(gid).gr_name
    return str(gid)
