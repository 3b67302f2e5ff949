"""Nothing leaves the machine, under systemd or not: what a command asks the kernel for."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

from tests.conftest import SAMPLES

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.test_daemon import MakeInstance


def test_no_library_tries_to_reach_the_network(make_instance: MakeInstance, tmp_path: Path) -> None:
    instance, trace = make_instance(), tmp_path / "trace"
    strace = ["strace", "--follow-forks", "--seccomp-bpf", "--quiet=all", "--trace=%network,execve,io_uring_setup"]
    command = instance.command("transcribe", str(SAMPLES / "memo.wav"))
    done = subprocess.run([*strace, f"--output={trace}", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    lines = trace.read_text().splitlines()
    assert "execve" in lines[0]
    assert [line for line in lines if re.search(r"AF_INET|AF_PACKET|io_uring", line)] == []
