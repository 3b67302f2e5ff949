"""The sandbox of decoder processes: its tables, and what it says where the kernel lacks a part of it."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.host import sandbox, seccomp
from tests import escape

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
ROOT = Path(__file__).parents[2]
# Calls that are dangerous in a process which reads hostile files; none may be on the list.
DANGEROUS = """
open openat openat2 creat execve execveat fork vfork socket socketpair connect bind listen accept accept4 ptrace
kill tkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open pidfd_getfd pidfd_send_signal process_vm_readv
process_vm_writev io_uring_setup io_uring_enter bpf mount umount2 add_key keyctl request_key unshare setns
chroot pivot_root memfd_create userfaultfd perf_event_open personality seccomp prctl rename unlink chmod fchmod
mkdir setrlimit setpriority shmget msgget kcmp name_to_handle_at open_by_handle_at
"""


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_numbers_of_system_calls_are_those_of_the_kernel(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip(f"{HEADERS[machine]} is not installed (Debian: linux-libc-dev)")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[machine].read_text())
    real = {name: int(number) for name, number in found}
    real.setdefault("newfstatat", real.get("fstatat", -1))  # its name in the generic table
    known = seccomp.MACHINES[machine]
    assert {name: real.get(name) for name in known.numbers} == known.numbers
    assert real["seccomp"] == known.seccomp


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_no_dangerous_call_is_on_the_list(machine: str) -> None:
    assert set(DANGEROUS.split()) & set(seccomp.MACHINES[machine].numbers) == set()


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_both_machines_allow_what_the_same_code_needs(machine: str) -> None:
    """The generic table of aarch64 leaves out what newer calls replace."""
    replaced = {"poll", "dup2", "time"}
    names = set(seccomp.MACHINES["x86_64"].numbers) - replaced
    assert set(seccomp.MACHINES[machine].numbers) - replaced == names


ASK = """
import sys
from tests import escape
from daemon.host import sandbox, seccomp
escape.be_without(sys.argv[1])
print(*[found.what for found in sandbox.find_missing()], sep="\\n")
print("given up")
print(*[found.what for found in sandbox.give_up_rights()], sep="\\n")
"""


@pytest.mark.skipif(not seccomp.is_available(), reason="it takes seccomp to be without something")
@pytest.mark.parametrize(("lacking", "said"), [("landlock", "Landlock"), ("seccomp", "seccomp")])
def test_protection_the_kernel_lacks_is_named_and_the_other_still_applies(lacking: str, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", ASK, lacking], capture_output=True, text=True, check=True, cwd=ROOT)
    found, _, given_up = done.stdout.partition("given up\n")
    others = len([missing for missing in sandbox.find_missing() if said not in missing.what])
    assert len(found.splitlines()) == 1 + others
    assert said in found
    assert found == given_up


def test_asking_what_is_missing_changes_nothing() -> None:
    before = Path("/proc/self/status").read_text()
    sandbox.find_missing()
    assert re.search(r"Seccomp:\s*\d", before), platform.machine()
    after = Path("/proc/self/status").read_text()
    for line in ("NoNewPrivs", "Seccomp", "Seccomp_filters"):
        assert re.findall(rf"^{line}:.*$", before, re.MULTILINE) == re.findall(rf"^{line}:.*$", after, re.MULTILINE)
    assert escape.outcome(lambda: Path("/proc/self/status").read_text()) == "done"
