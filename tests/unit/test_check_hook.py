"""What `scribed check` reports about the program of hooks.delivered."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon.cli.check import hook
from daemon.cli.check.finding import Installation
from daemon.config import Config, Folders
from daemon.config.schema import Hooks
from daemon.errors import ExitCode
from tests.unit.test_programs import write_script

if TYPE_CHECKING:
    from collections.abc import Callable

UNIT = Path(__file__).parents[2] / "systemd" / "scribed.service"


@pytest.fixture
def installed(tmp_path: Path) -> Callable[..., Installation]:
    """Return a maker of installations with this program."""
    tmp_path.chmod(0o755)
    folders = Folders(**{name: tmp_path / name for name in Folders.model_fields})
    folders.inbox.mkdir()

    def make(*command: str | Path) -> Installation:
        delivered = tuple(str(word) for word in command) or None
        return Installation(Config(folders=folders, hooks=Hooks(delivered=delivered)), None)

    return make


def test_without_a_program_there_is_no_finding(installed: Callable[..., Installation]) -> None:
    assert list(hook.check_program(installed())) == []
    assert list(hook.check_unit("scribed.service", facts_of_unit(), installed())) == []


def test_program_that_can_be_run_is_ok(installed: Callable[..., Installation], tmp_path: Path) -> None:
    program = write_script(tmp_path / "file-it", "")
    (found,) = hook.check_program(installed(program, "--new"))
    assert (found.level, found.what) == ("ok", f"hook: {program}")
    (found,) = hook.check_program(installed("sh", "-c", "true"))
    assert found.level == "ok"


@pytest.mark.parametrize(
    ("kind", "what", "code"),
    [
        ("missing", "there is no ", ExitCode.BAD_CONFIG),
        ("not installed", "there is no no-such-program in /usr/local/bin, /usr/bin, /bin", ExitCode.BAD_CONFIG),
        ("folder", " is not a file", ExitCode.BAD_CONFIG),
        ("no x bit", " is not executable", ExitCode.NO_PERMISSION),
        ("no interpreter", "there is no /no/such/interpreter", ExitCode.BAD_CONFIG),
    ],
)
def test_program_that_cannot_be_run_is_a_fault(
    installed: Callable[..., Installation], tmp_path: Path, kind: str, what: str, code: ExitCode
) -> None:
    program: Path | str = tmp_path / "file-it"
    if kind == "not installed":
        program = "no-such-program"
    elif kind == "folder":
        (tmp_path / "file-it").mkdir()
    elif kind != "missing":
        first = "#!/no/such/interpreter -x\n" if kind == "no interpreter" else "#!/bin/sh\n"
        (tmp_path / "file-it").write_text(first)
        (tmp_path / "file-it").chmod(0o755 if kind == "no interpreter" else 0o644)
    (found,) = hook.check_program(installed(program))
    assert (found.level, found.exit_code) == ("fault", code)
    assert what in found.what
    assert found.remedy


def test_program_that_others_can_change_is_a_warning(installed: Callable[..., Installation], tmp_path: Path) -> None:
    folder = tmp_path / "programs"
    folder.mkdir()
    program = write_script(folder / "file-it", "")
    program.chmod(0o775)  # of the group that shares the inbox
    folder.chmod(0o777)
    ok, *warned = hook.check_program(installed(program))
    assert ok.level == "ok"
    assert [(found.level, found.remedy) for found in warned] == [
        ("warning", f"sudo chmod g-w,o-w {path}") for path in (program, folder)
    ]
    folder.chmod(0o1777)  # in a sticky folder no one renames what others own
    os.chown(program, -1, program.stat().st_gid + 1)
    assert [found.level for found in hook.check_program(installed(program))] == ["ok"]


def facts_of_unit() -> dict[str, str]:
    """Return what `systemctl show` prints of our unit."""
    lines = re.findall(r"^(NoExecPaths|ExecPaths|ProtectHome|PrivateTmp)=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert len(lines) == 4
    return dict(lines)


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("/usr/local/bin/file-it", ""),
        ("/bin/sh", ""),
        ("/opt/scribed/bin/file-it", ""),
        ("/opt/other/file-it", "NoExecPaths"),
        ("/etc/scribed/file-it", "NoExecPaths"),
        ("/var/lib/scribed/file-it", "NoExecPaths"),
        ("/home/dora/file-it", "ProtectHome"),
        ("/var/tmp/file-it", "PrivateTmp"),  # noqa: S108  # nothing is there
    ],
)
def test_sandbox_that_keeps_a_program_from_running_is_a_fault(
    installed: Callable[..., Installation], program: str, why: str
) -> None:
    found = list(hook.check_unit("scribed.service", facts_of_unit(), installed(program)))
    assert [fault.exit_code for fault in found] == ([ExitCode.NO_PERMISSION] if why else [])
    assert all(fault.level == "fault" and why in fault.what and "/usr/local/bin" in fault.remedy for fault in found)


def test_drop_in_allows_a_program(installed: Callable[..., Installation]) -> None:
    facts = facts_of_unit()
    facts["ExecPaths"] += " /etc/scribed/file-it"
    assert list(hook.check_unit("scribed.service", facts, installed("/etc/scribed/file-it"))) == []
    facts |= {"ProtectHome": "no", "PrivateTmp": "no", "NoExecPaths": "", "ExecPaths": ""}
    assert list(hook.check_unit("scribed.service", facts, installed("/home/dora/file-it"))) == []
