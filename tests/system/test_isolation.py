"""Nothing leaves the machine, and no dropped file runs on it: properties of the unit, tested from inside."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from daemon.host import sandbox
from tests import escape
from tests.conftest import SAMPLES
from tests.system.box import PYTHON
from tests.system.unit import TIMEOUT_S, Unit, wait_until

if TYPE_CHECKING:
    from tests.system.box import Box

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(TIMEOUT_S)]

# Run in the daemon's place, with the rights of its unit.
PROBE = """
import ctypes, json, os, resource, socket, subprocess, sys
sys.path.insert(0, "/opt/scribed")
from daemon.host.privileges import hide_memory, leave_no_core

def fails(action, *words):
    try:
        action(*words)
    except OSError as error:
        return type(error).__name__
    return ""

def limit_child():
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

open("/srv/scribed/inbox/made", "w").close()
os.rename("/srv/scribed/inbox/made", "/srv/scribed/processed/made")
os.unlink("/srv/scribed/processed/made")
seen = {
    "interfaces": [line.split(":")[0].strip() for line in open("/proc/net/dev")][2:],
    "inet": fails(socket.socket, socket.AF_INET, socket.SOCK_STREAM),
    "inet6": fails(socket.socket, socket.AF_INET6, socket.SOCK_DGRAM),
    "packet": fails(socket.socket, socket.AF_PACKET, socket.SOCK_RAW),
    "netlink": fails(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW),
    "dns": fails(socket.getaddrinfo, "localhost.example.org", 443),
    "connect": fails(socket.create_connection, ("127.0.0.1", 9), 1),
    "dropped program": fails(subprocess.run, ["/srv/scribed/inbox/program"]),
    "program in state": fails(subprocess.run, ["/var/lib/scribed/program"]),
    "cached kernel": fails(subprocess.run, ["/var/cache/scribed/program"]),
    "write to etc": fails(open, "/etc/scribed/probe", "w"),
    "write to the program": fails(open, "/opt/scribed/probe", "w"),
    "homes": fails(os.listdir, "/home") or "".join(os.listdir("/home")),
    "root": fails(os.listdir, "/root"),
    "chmod g+s": fails(os.chmod, "/srv/scribed/inbox/program", 0o2770),
    "processes": [name for name in os.listdir("/proc") if name.isdigit()],
    "own process": str(os.getpid()),
    "child with a limit": subprocess.run([sys.executable, "-c", "pass"], preexec_fn=limit_child).returncode,
    "capabilities": [line.split()[1] for line in open("/proc/self/status") if line.startswith(("CapEff", "CapBnd"))],
}
leave_no_core()
hide_memory()
seen["is dumpable"] = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
seen["core limit"] = resource.getrlimit(resource.RLIMIT_CORE)
import torch
seen["torch threads"] = torch.get_num_threads()
seen["torch product"] = torch.nn.functional.linear(torch.ones(64, 64), torch.ones(64, 64))[0, 0].item()
print(json.dumps(seen))
"""
REFUSED = {"OSError", "PermissionError"}


# Tries to reach a listener that any other process on the machine reaches.
CALL = """
import socket
try:
    socket.create_connection(("127.0.0.1", 4711), 3)
except OSError as error:
    print(type(error).__name__)
else:
    print("reached")
"""
LISTEN = """
import socket, sys
server = socket.create_server(("127.0.0.1", 4711))
print("listening", flush=True)
sys.stdin.read()
"""


def run_inside(box: Box, program: str, changes: str = "") -> str:
    """Run a Python program in the daemon's place, in its unit; return its output."""
    unit = "/etc/systemd/system/scribed-probe.service"
    box.write(unit, box.path("/usr/local/lib/systemd/system/scribed.service").read_text())
    once = "[Service]\nType=oneshot\nWatchdogSec=0\nRestart=no\nRestartForceExitStatus=\n"
    once += "StandardOutput=truncate:/run/probe\nExecStart=\n"
    once += "UnsetEnvironment=OMP_NUM_THREADS\n"  # set for all by the box
    python = "ExecStart=/opt/scribed/venv/bin/python /opt/scribed/share/probe.py\n"
    box.write(f"{unit}.d/probe.conf", once + python + changes)
    box.write("/opt/scribed/share/probe.py", program)
    box.do("systemctl", "daemon-reload")
    started = box.run("systemctl", "start", "scribed-probe.service", timeout_s=400)
    output = box.path("/run/probe").read_text()
    assert started.returncode == 0, box.run("journalctl", "--unit", "scribed-probe").stdout
    box.do("rm", "-r", unit, f"{unit}.d", "/opt/scribed/share/probe.py")
    box.do("systemctl", "daemon-reload")
    return output


@pytest.fixture(scope="module")
def inside(box: Box) -> dict[str, Any]:
    """Return what a program in the daemon's place sees."""
    Unit(box).stop()  # it would take the program as a recording
    folders = ("/srv/scribed/inbox", "/var/lib/scribed", "/var/cache/scribed")
    for folder in folders:
        box.do("install", "-o", "scribed", "-m", "0770", "/bin/true", f"{folder}/program")
    seen: dict[str, Any] = json.loads(run_inside(box, PROBE))
    for folder in folders:
        box.do("rm", f"{folder}/program")
    return seen


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ("PrivateNetwork=no\nIPAddressDeny=\n", "OSError"),  # sockets of these families are refused
        ("RestrictAddressFamilies=\nIPAddressDeny=\n", "ConnectionRefusedError"),  # its loopback is one of its own
        ("RestrictAddressFamilies=\nPrivateNetwork=no\n", "TimeoutError"),  # packets are dropped
        ("RestrictAddressFamilies=\nPrivateNetwork=no\nIPAddressDeny=\n", "reached"),  # no barrier is left
    ],
)
def test_each_of_three_barriers_alone_blocks_the_network(box: Box, changes: str, outcome: str) -> None:
    with subprocess.Popen(
        box.command(str(PYTHON), "-c", LISTEN), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == b"listening\n"
        try:
            assert run_inside(box, CALL, changes).strip() == outcome
        finally:
            listener.communicate()


def test_service_has_no_network(inside: dict[str, Any]) -> None:
    for way in ("inet", "inet6", "packet", "netlink", "connect"):
        assert inside[way] in REFUSED, way
    assert inside["dns"] == "gaierror"
    assert inside["interfaces"] == ["lo"]


def test_dropped_files_cannot_be_executed(inside: dict[str, Any]) -> None:
    assert inside["dropped program"] == "PermissionError"
    assert inside["program in state"] == "PermissionError"
    assert inside["cached kernel"] == ""  # compiled for this machine, in a folder closed to all others


def test_service_sees_and_changes_only_its_own_folders(inside: dict[str, Any]) -> None:
    for way in ("write to etc", "write to the program", "root", "chmod g+s"):
        assert inside[way] in REFUSED, way
    assert inside["homes"] in {"", "PermissionError"}
    assert inside["processes"] == [inside["own process"]]
    assert set(inside["capabilities"]) == {"0" * 16}


def test_crash_leaves_no_core_file(inside: dict[str, Any]) -> None:
    assert inside["is dumpable"] == 0
    assert inside["core limit"] == [1, 1]


def test_torch_and_audio_processes_get_what_they_need(inside: dict[str, Any]) -> None:
    assert inside["torch threads"] == min(len(os.sched_getaffinity(0)), os.cpu_count() or 1)
    assert inside["torch product"] == 64
    assert inside["child with a limit"] == 0


# Run in the daemon's place: a recording takes over a decoder process, which is started as the daemon starts it.
TAKE_OVER = """
import json, os, subprocess, sys
from pathlib import Path
sys.path.append("/mnt/scribed/repository")
from daemon.config import Preprocess
from daemon.errors import JobError
from daemon.frontend import FrontEnd
from daemon.host import sandbox
from tests import escape

cache = Path("/var/cache/scribed")
victim = subprocess.Popen(["sleep", "1000"])
aims = escape.Aims("/var/lib/scribed/secret", "/var/lib/scribed", os.getpid(), victim.pid)
Path(aims.secret).write_text("what was said in confidence")
seen = {"freely": {name: escape.outcome(getattr(Path(aims.secret), name)) for name in ("read_bytes", "stat")}}
sys.executable = str(escape.write_launcher(cache / "launcher", aims))
front_end = FrontEnd(cache, n_processes=1)
try:
    front_end.prepare(cache / "attack.wav", Preprocess(), "silero")
except JobError as error:
    seen["taken over"] = json.loads(error.what)
with front_end.prepare(cache / "memo.wav", Preprocess(), "silero").waveform as waveform:
    seen["samples"] = waveform.n_samples
front_end.close()
victim.kill()
victim.wait()
seen["missing"] = [found.what for found in sandbox.find_missing()]
print(json.dumps(seen))
"""


def test_hostile_code_in_an_audio_process_is_refused_everything_under_the_unit(box: Box) -> None:
    Unit(box).stop()
    shutil.copyfile(SAMPLES / "memo.wav", box.path("/var/cache/scribed/memo.wav"))
    attack = bytearray((SAMPLES / "memo.wav").read_bytes())
    attack[escape.MARK_AT : escape.MARK_AT + len(escape.MARK)] = escape.MARK
    box.path("/var/cache/scribed/attack.wav").write_bytes(attack)
    box.do("chmod", "0644", "/var/cache/scribed/memo.wav", "/var/cache/scribed/attack.wav")
    seen = json.loads(run_inside(box, TAKE_OVER).splitlines()[-1])
    box.do("sh", "-c", "rm -f /var/cache/scribed/*.wav /var/cache/scribed/launcher /var/lib/scribed/secret")
    assert seen["freely"] == {"read_bytes": "done", "stat": "done"}
    assert seen["missing"] == [found.what for found in sandbox.find_missing()]  # the unit withholds none of it
    assert len(seen["taken over"]) > 50
    assert {way: result for way, result in seen["taken over"].items() if result not in escape.REFUSED} == {}
    assert seen["samples"] > 0


# What the daemon may open. Below /etc: the linker, names of users, the time zone, the system's name, our
# configuration. /dev is looked through for GPUs.
EXPECTED = re.compile(
    r"/(usr|lib|lib64|bin|opt/scribed)/|/srv/scribed(/|$)|/var/(lib|cache)/scribed(/|$)"
    r"|/proc/|/sys/|/dev(/(null|urandom|shm|shm/.+))?$|/tmp(/|$)|/var/tmp(/|$)"
    r"|/etc/(ld\.so\.cache|nsswitch\.conf|passwd|group|localtime|os-release|scribed/config\.yaml|mime\.types)$"
)
OPENED = re.compile(r'^\d+ +(?:open|openat|openat2|creat)\((?:(AT_FDCWD|\d+)(?:<([^>]*)>)?, )?"([^"]*)".*?(= -1|$)')


def test_whole_job_uses_no_network_and_opens_only_expected_files(unit: Unit) -> None:
    box = unit.box
    # It stops before exec until strace is attached.
    run = "kill -STOP $$$$; exec /opt/scribed/venv/bin/scribed run --config /etc/scribed/config.yaml"
    unit.drop_in(f"[Service]\nExecStart=\nExecStart=/bin/sh -c '{run}'\nWatchdogSec=0\n")
    box.do("systemctl", "start", "--no-block", unit.name)
    wait_until(lambda: unit.show("MainPID") != "0", "it starts")
    status = box.path(f"/proc/{unit.show('MainPID')}/status")
    wait_until(lambda: "State:\tT" in status.read_text(), "it waits")
    calls = "%network,open,openat,openat2,creat,execve,io_uring_setup"
    trace = ["strace", "-f", "-qq", "-y", "-s", "4096", "-e", f"trace={calls}", "-o", "/run/trace"]
    with subprocess.Popen(box.command(*trace, "-p", unit.show("MainPID"))) as tracer:
        wait_until(lambda: "TracerPid:\t0" not in status.read_text(), "strace is attached")
        unit.kill("CONT")
        wait_until(unit.is_active, "it is ready")
        for sample in ("memo.wav", "voicemail.m4a"):
            unit.drop(SAMPLES / sample, sample)
            unit.wait_for(sample)
        unit.stop()
        tracer.wait(60)
    lines = box.path("/run/trace").read_text(errors="replace").splitlines()
    assert any("execve" in line for line in lines)
    assert sorted({line for line in lines if re.search(r"AF_(?!UNIX)|io_uring_setup", line)}) == []
    peers = {found for line in lines for found in re.findall(r'sun_path="([^"]*)"', line)}
    assert peers <= {"/run/systemd/notify", "/run/systemd/journal/socket", "/var/run/nscd/socket"}
    assert sorted(path for path in opened(lines) if not EXPECTED.match(path)) == []


def opened(lines: list[str]) -> set[str]:
    """Return the full paths that were opened; a call that strace shows as unfinished counts as opened."""
    paths = set()
    for line in lines:
        found = OPENED.match(line)
        if found and found[4] != "= -1":
            folder = "/" if found[1] in (None, "AT_FDCWD") else str(found[2])
            paths.add(os.path.normpath(os.path.join(folder, found[3])))  # noqa: PTH118  # text, not files of this machine
    return paths
