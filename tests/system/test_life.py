"""How the service starts, ends, dies and comes back under a real systemd."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from daemon.journal import JOURNAL_NAME
from tests.conftest import SAMPLES
from tests.system.box import PYTHON
from tests.system.unit import TIMEOUT_S, Unit, wait_until, words_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.system.box import Box

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(TIMEOUT_S)]

# Restarts and timeouts as short as they can be; their places in the unit are tested, not their values.
HASTE = "[Service]\nRestartSec=100ms\nWatchdogSec=5s\nTimeoutAbortSec=1s\n"
# A chunk is done every second or two, so the reported progress moves on.
SMALL_CHUNKS = {"max_chunk_s": 8, "overlap_s": 1}
# Ends with 0 once the engine has a chunk of the recording.
AT_ENGINE = """
import sqlite3, sys
query = "SELECT count(*) FROM jobs WHERE is_in_flight = 1 AND has_reached_engine = 1 AND path = ?"
db = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
sys.exit(not db.execute(query, (sys.argv[2].encode(),)).fetchone()[0])
"""
# Holds a write lease on a file: opening it blocks until the lease is released.
HOLD = """
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
fcntl.fcntl(os.open(sys.argv[1], os.O_RDWR), fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
sys.stdin.read()
"""


def test_group_members_see_the_status_of_a_running_and_a_stopped_service(unit: Unit) -> None:
    box = unit.box
    unit.start()
    ready = "scribed ready, model demo on cpu"  # written within a second
    wait_until(lambda: ready in box.do("scribed", "status", user="rita"), "a member of the group sees that it is ready")
    assert unit.show("StatusText") == "idle, 0 waiting, 0 done today"
    unit.stop()
    assert "scribed stopped" in box.do("scribed", "status", user="rita")
    refused = box.run("scribed", "status", user="stranger")
    assert refused.returncode == 77
    assert "add you to the service's group" in refused.stderr


def test_restart_after_any_kind_of_exit_resumes_and_leaves_no_speech_behind(unit: Unit, long: Path) -> None:
    unit.drop_in(HASTE)
    # A kill before the first chunk of a start is charged to a recording that is alone; blame is not shown here.
    unit.configure(retry={"max_attempts": 10}, segment=SMALL_CHUNKS)
    unit.start()
    unit.drop(long, "long.flac")
    pids, done = [], 0.0
    for signal in ("SEGV", "KILL", "STOP"):  # a crash, a kill, a hang, which the watchdog ends
        done = unit.wait_until_in_work("long.flac", beyond=done)
        pids.append(unit.show("MainPID"))
        unit.kill(signal)
        wait_until(lambda: unit.show("MainPID") not in {"0", pids[-1]}, "systemd restarts it")
    document = unit.wait_for("long.flac")
    assert document["complete"] is True
    ends = [entry["UNIT_RESULT"] for entry in unit.entries("_PID=1") if "UNIT_RESULT" in entry]
    assert ends[-3:] == ["signal", "signal", "watchdog"]
    assert find_leftover_speech(unit, document["text"]) == []


def find_leftover_speech(unit: Unit, text: str) -> list[str]:
    """Return files that hold words or audio where none may be left after delivery."""
    box = unit.box
    box.do("journalctl", "--sync")
    phrase = words_of(text)
    assert phrase not in box.do("journalctl", "--output=export")  # whose files are compressed
    places = ["/tmp", "/var/tmp", "/var/log", "/run/log", "/var/lib/scribed", "/var/cache/scribed", "/dev/shm"]  # noqa: S108  # to look whether something is left there
    found = box.run("grep", "--recursive", "--files-with-matches", "--text", "--fixed-strings", phrase, *places)
    left = box.run("find", *places[:2], "/var/cache/scribed", "/var/lib/systemd/coredump", "-type", "f")
    cores = box.run("find", "/", "-xdev", "-maxdepth", "3", "-type", "f", "-name", "core.*", "-newer", unit.config)
    return [*found.stdout.split(), *left.stdout.split(), *cores.stdout.split()]


def test_unit_restarts_after_any_number_of_crashes(unit: Unit) -> None:
    unit.drop_in(HASTE)
    unit.box.do("systemctl", "start", "--no-block", unit.name)
    for n_crashes in range(1, 8):  # systemd's own limit is five
        wait_until(lambda: unit.show("MainPID") != "0" and unit.show("SubState") == "start", "it starts")
        unit.kill("KILL")
        wait_until(lambda n=n_crashes: unit.show("NRestarts") == str(n), "it is restarted")  # type: ignore[misc]  # mypy cannot type a lambda's default
    wait_until(unit.is_active, "it runs")


def test_three_recordings_that_crash_the_service_move_to_failed(unit: Unit, long: Path) -> None:
    """A recording that ends the process itself; what only breaks its decoder does not come so far."""
    unit.drop_in(HASTE)
    unit.configure(retry={"max_attempts": 1})
    poison = [f"poison-{number}.flac" for number in (1, 2, 3)]
    unit.start()
    for name in poison:
        unit.drop(long, name)
        while not kill_in_work(unit, name):  # it may have finished a chunk by then, and with it be forgiven
            pass
    unit.drop(SAMPLES / "memo.wav", "good.wav")
    unit.wait_for("good.wav")
    assert unit.is_active()
    assert int(unit.show("NRestarts")) >= len(poison)
    for name in poison:
        assert "crashed each time" in unit.path("failed", f"{name}.error.txt").read_text()


def kill_in_work(unit: Unit, name: str) -> bool:
    """Crash the process while it transcribes a recording; return whether the recording moved to failed."""
    pid = unit.show("MainPID")
    wait_until(lambda: is_at_engine(unit, name), "the engine has a chunk of it")
    unit.kill("SEGV")
    wait_until(lambda: unit.show("MainPID") not in {"0", pid} and unit.is_active(), "it is ready again")
    return unit.path("failed", name).exists()


def is_at_engine(unit: Unit, name: str) -> bool:
    """Whether the engine has a chunk of a recording: only then is a crash counted against it."""
    journal = f"{unit.folder('state')}/{JOURNAL_NAME}"
    # Within the box: SQLite resolves /proc/PID/root to the root of this machine.
    return unit.box.run(str(PYTHON), "-c", AT_ENGINE, journal, name).returncode == 0


def test_slow_model_load_extends_the_start_timeout(unit: Unit) -> None:
    box = unit.box
    box.do("cp", "-r", f"{package_folder(box)}/demo/model", "/run/slow-model")
    unit.configure(model={"path": "/run/slow-model"})
    unit.drop_in("[Service]\nTimeoutStartSec=10s\n")
    command = box.command(str(PYTHON), "-c", HOLD, "/run/slow-model/model.safetensors")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        box.do("systemctl", "start", "--no-block", unit.name)
        began_us = int(box.path("/proc/uptime").read_text().split(".")[0]) * 1_000_000
        wait_until(lambda: uptime_us(box) > began_us + 12_000_000, "TimeoutStartSec is over")
        assert (unit.show("ActiveState"), unit.show("NRestarts")) == ("activating", "0")
        assert unit.status()["state"] == "loading"
        holder.communicate()  # ends it, and with it the lease
    wait_until(unit.is_active, "it is ready")
    assert unit.show("NRestarts") == "0"


def uptime_us(box: Box) -> int:
    return round(float(box.path("/proc/uptime").read_text().split()[0]) * 1e6)


def package_folder(box: Box) -> str:
    return box.do("/opt/scribed/venv/bin/python", "-c", "import daemon; print(daemon.__path__[0])").strip()


def test_long_recording_resumes_after_a_stop(unit: Unit, long: Path) -> None:
    unit.configure(segment=SMALL_CHUNKS)
    unit.start()
    unit.drop(long, "stopped.flac")
    unit.wait_until_in_work("stopped.flac")
    assert re.fullmatch(r"transcribing stopped\.flac \d+ %, 0 waiting, 0 done today", unit.show("StatusText"))
    unit.box.do("systemctl", "stop", unit.name)
    assert (unit.show("Result"), unit.show("ExecMainStatus")) == ("success", "0")
    assert not unit.path("processed", "stopped.flac").exists()
    unit.start()
    assert unit.wait_for("stopped.flac")["processing"]["attempt"] == 1
    assert unit.entries("SCRIBED_EVENT=job.resumed")


@pytest.mark.parametrize(
    ("config", "code", "said"),
    [
        ("output: {formats: 5}\n", "78", "output.formats"),
        ("folders: {inbox: /opt/inbox}\nmodel: {path: demo}\n", "77", "ReadWritePaths="),
    ],
)
def test_permanent_start_failure_is_not_restarted(unit: Unit, config: str, code: str, said: str) -> None:
    unit.box.do("install", "-d", "-o", "scribed", "-g", "scribed", "-m", "2770", "/opt/inbox")
    unit.drop_in(HASTE)
    unit.box.write(unit.config, config)
    assert unit.box.run("systemctl", "start", unit.name).returncode != 0
    wait_until(lambda: unit.show("ActiveState") == "failed", "systemd gives up")
    assert (unit.show("ExecMainStatus"), unit.show("NRestarts")) == (code, "0")
    messages = [entry["MESSAGE"] for entry in unit.entries("--priority=err", f"_PID={unit.show('ExecMainPID')}")]
    assert any(said in line for line in messages), messages


def test_missing_model_is_reported_and_loaded_when_it_appears(unit: Unit) -> None:
    box, model = unit.box, "/var/lib/scribed/models/new"
    unit.drop_in("[Service]\nRestartSec=2s\n")
    unit.configure(model={"path": model})
    start_in_vain(unit)
    assert unit.show("ExecMainStatus") == "69"
    assert "There is no model" in unit.path("outbox", "STATUS.txt").read_text()
    wait_until(lambda: "The next attempt is at" in unit.show("StatusText"), "the next start waits")
    box.do("systemctl", "stop", unit.name)
    assert (unit.show("Result"), unit.show("ExecMainStatus")) == ("success", "0")

    start_in_vain(unit)  # at once: the stop has set the count back
    wait_until(lambda: "The next attempt is at" in unit.show("StatusText"), "the next start waits")
    box.do("cp", "-r", f"{package_folder(box)}/demo/model", model)
    wait_until(unit.is_active, "it is ready")
    assert unit.show("NRestarts") == "1"
    box.do("rm", "-r", model)


def start_in_vain(unit: Unit) -> None:
    """Start what fails, and let it seem to have failed often: the next start waits for five minutes."""
    assert unit.box.run("systemctl", "start", unit.name, timeout_s=400).returncode != 0
    record = unit.path("state", "starts.json")
    failed = json.loads(record.read_text())
    assert failed["n"] == 1
    record.write_text(json.dumps({**failed, "n": 9}))
