"""The program of `hooks.delivered`: whether the service can run it, and whether others could change it."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from daemon.cli.check.finding import Finding
from daemon.errors import ExitCode
from daemon.host.programs import PROGRAM_PATH

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from daemon.cli.check.finding import Installation

_MAX_SCRIPT_LINE: Final = 256  # the kernel reads no more of it
# Folders that look different inside the sandbox of the unit.
_HOMES: Final = ("/home", "/root", "/run/user")
_TEMPORARY: Final = ("/tmp", "/var/tmp")  # noqa: S108  # nothing is written there
_ELSEWHERE: Final = "Install it in /usr/local/bin."


def find_programs(installation: Installation) -> tuple[Path, ...]:
    """Return the program of `hooks.delivered` and, if it is a script, its interpreter; nothing if none is set."""
    command = installation.config.hooks.delivered
    if command is None:
        return ()
    found = shutil.which(command[0], path=PROGRAM_PATH) if "/" not in command[0] else command[0]
    program = Path(found or command[0])
    return (program, *_find_interpreter(program))


def check_program(installation: Installation) -> Iterator[Finding]:
    """Check as the service's user that the program exists, is executable, and cannot be changed by others."""
    programs = find_programs(installation)
    faults = [fault for program in programs if (fault := _examine(program)) is not None]
    yield from faults
    if programs and not faults:
        yield Finding("ok", f"hook: {programs[0]}")
    for path in _changeable(programs, installation.config.folders.inbox):
        what = f"hook: others can change {path}, and so run code with the rights of the service"
        yield Finding("warning", what, f"sudo chmod g-w,o-w {path}")


def check_unit(unit: str, facts: Mapping[str, str], installation: Installation) -> Iterator[Finding]:
    """Check that the sandbox of the unit lets the service see and execute the program.

    Args:
        unit: its name.
        facts: its properties NoExecPaths, ExecPaths, ProtectHome and PrivateTmp, as `systemctl show` prints them.
        installation: what is examined.
    """
    for program in find_programs(installation):
        real = Path(os.path.realpath(program))
        hidden = [*(_HOMES if facts["ProtectHome"] not in {"no", ""} else ())]
        hidden += _TEMPORARY if facts["PrivateTmp"] not in {"no", ""} else ()
        if any(real.is_relative_to(folder) for folder in hidden):
            what = f"hook: {unit} hides {real} from the service (ProtectHome, PrivateTmp)"
            yield Finding("fault", what, _ELSEWHERE, ExitCode.NO_PERMISSION)
        elif _depth(real, facts["NoExecPaths"]) > _depth(real, facts["ExecPaths"]):
            remedy = f"{_ELSEWHERE} Or allow it: sudo systemctl edit {unit}, then add: [Service] ExecPaths={real}"
            what = f"hook: {unit} keeps the service from executing {real} (NoExecPaths)"
            yield Finding("fault", what, remedy, ExitCode.NO_PERMISSION)


def _depth(path: Path, listed: str) -> int:
    """Return the number of parts of the longest listed path that contains this one; 0 if none does."""
    folders = (Path(word.lstrip("-+")) for word in listed.split())
    return max((len(folder.parts) for folder in folders if path.is_relative_to(folder)), default=0)


def _examine(program: Path) -> Finding | None:
    try:
        facts = program.stat()
    except PermissionError:
        what = f"hook: the service's user has no access to the folder of {program}"
        return Finding("fault", what, _ELSEWHERE, ExitCode.NO_PERMISSION)
    except OSError:
        where = "" if program.is_absolute() else f" in {PROGRAM_PATH.replace(':', ', ')}"
        what = f"hook: there is no {program}{where}"
        return Finding("fault", what, "Install it, or change hooks.delivered.", ExitCode.BAD_CONFIG)
    if not stat.S_ISREG(facts.st_mode):
        remedy = "Name a program in hooks.delivered."
        return Finding("fault", f"hook: {program} is not a file", remedy, ExitCode.BAD_CONFIG)
    if not os.access(program, os.X_OK):
        is_mount = bool(facts.st_mode & 0o111) and bool(os.statvfs(program).f_flag & os.ST_NOEXEC)
        remedy = "Its file system is mounted noexec. " + _ELSEWHERE if is_mount else f"sudo chmod 0755 {program}"
        return Finding("fault", f"hook: {program} is not executable", remedy, ExitCode.NO_PERMISSION)
    return None


def _find_interpreter(program: Path) -> Iterator[Path]:
    try:
        with program.open("rb") as stream:
            line = stream.readline(_MAX_SCRIPT_LINE)
    except OSError:  # missing, or executable but not readable
        return
    words = line.removeprefix(b"#!").split()
    if line.startswith(b"#!") and words:
        yield Path(os.fsdecode(words[0]))


def _changeable(programs: Iterable[Path], inbox: Path) -> Iterator[Path]:
    """Yield each program, and each of its parent folders, that everyone or the group of the inbox can write to."""
    seen: set[Path] = set()
    members = inbox.stat().st_gid if inbox.is_dir() else None
    for program in programs:
        real = Path(os.path.realpath(program))
        for path in (real, *real.parents):
            try:
                facts = path.stat()
            except OSError:  # reported with the program
                continue
            writers = stat.S_IWOTH | (stat.S_IWGRP if facts.st_gid == members else 0)
            is_sticky = stat.S_ISDIR(facts.st_mode) and bool(facts.st_mode & stat.S_ISVTX)
            if facts.st_mode & writers and not is_sticky and path not in seen:
                seen.add(path)
                yield path
