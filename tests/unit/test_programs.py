"""Programs of the administrator: their arguments and environment, and that no process of them is left."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from daemon.host.programs import Ended, ProgramEnd, run_program

if TYPE_CHECKING:
    from pathlib import Path

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "WORD": "a b"}
# Writes what it was given to the file that its first argument names.
REPORT = """\
import fcntl, json, os, sys

def is_open(fd):
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        return False
    return True

seen = {
    "argv": sys.argv[1:],
    "environment": dict(os.environ),
    "open": [fd for fd in range(4096) if is_open(fd)],
    "streams": [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)],
    "folder": os.getcwd(),
    "leads": [os.getpgrp() == os.getpid(), os.getsid(0) == os.getpid()],
}
with open(sys.argv[1], "w") as stream:
    json.dump(seen, stream)
"""


def run(
    *command: str | Path, timeout_s: float = 600, stop: threading.Event | None = None, grace_s: float = 600
) -> ProgramEnd:
    return run_program([str(word) for word in command], ENVIRONMENT, timeout_s, stop or threading.Event(), grace_s)


def write_script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_program_gets_its_arguments_and_environment_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "report.py").write_text(REPORT)
    with (tmp_path / "secret").open("w") as secret, (tmp_path / "other").open("w") as other:
        for stream in (secret, other):
            os.set_inheritable(stream.fileno(), True)  # noqa: FBT003  # it takes no keywords
        words = ["$(id)", "a b", "", "-x", "\u4f1a\u8bae.json"]
        assert run(sys.executable, "-I", tmp_path / "report.py", tmp_path / "seen", *words) == ProgramEnd(
            Ended.ITSELF, 0
        )
    seen = json.loads((tmp_path / "seen").read_text())
    assert seen["argv"] == [str(tmp_path / "seen"), *words]
    assert {name: value for name, value in seen["environment"].items() if name != "LC_CTYPE"} == ENVIRONMENT
    assert seen["open"] == [0, 1, 2]
    assert seen["streams"] == ["/dev/null"] * 3
    assert seen["folder"] == "/"
    assert seen["leads"] == [True, True]


def test_exit_code_or_signal_is_returned() -> None:
    assert run("sh", "-c", "exit 3") == ProgramEnd(Ended.ITSELF, 3)
    assert run("sh", "-c", "kill -TERM $$") == ProgramEnd(Ended.ITSELF, -15)


@pytest.mark.parametrize(
    ("script", "how"),
    [
        ('sleep 1000 <"$1" & sleep 1000 <"$1" & wait', Ended.TIMEOUT),
        ('trap "" TERM HUP INT; sh -c "trap \\"\\" TERM HUP INT; sleep 1000" <"$1"; sleep 1000', Ended.TIMEOUT),
        ('sleep 1000 <"$1" & exit 0', Ended.ITSELF),
    ],
    ids=["children", "deaf to signals", "left in the background"],
)
def test_nothing_of_its_process_group_outlives_it(tmp_path: Path, script: str, how: Ended) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    ours = os.open(pipe, os.O_RDWR)  # so that no one waits for the other end
    reader = os.open(pipe, os.O_RDONLY)
    try:
        end = run(write_script(tmp_path / "program", script.replace("<", "3>")), pipe, timeout_s=1)
        assert end.how is how
        os.close(ours)
        assert os.read(reader, 1) == b""  # all who could write to it are gone; else this waits
    finally:
        os.close(reader)


def test_stop_kills_it_after_its_grace() -> None:
    stop = threading.Event()
    stop.set()
    assert run("sleep", "1000", stop=stop, grace_s=0).how is Ended.STOPPED
    assert run("sh", "-c", "exit 4", stop=stop) == ProgramEnd(Ended.ITSELF, 4)
    assert run("sleep", "1000", timeout_s=0.2, stop=stop).how is Ended.TIMEOUT


def test_program_that_cannot_be_started_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run(tmp_path / "missing")
    (tmp_path / "closed").write_text("#!/bin/sh\n")
    with pytest.raises(PermissionError):
        run(tmp_path / "closed")
    (tmp_path / "broken").write_text("#!/no/such/interpreter\n")
    (tmp_path / "broken").chmod(0o755)
    with pytest.raises(FileNotFoundError):
        run(tmp_path / "broken")
