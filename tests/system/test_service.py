"""The installed service under a real systemd: people use it, it dies and comes back, administrators rule it."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.conftest import SAMPLES
from tests.integration.test_daemon import make_long
from tests.system.box import PYTHON
from tests.system.unit import FOLDERS, TIMEOUT_S, Unit, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.system.box import Box

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(TIMEOUT_S)]

# Restarts and timeouts as short as they can be; their places in the unit are tested, not their values.
HASTE = "[Service]\nRestartSec=100ms\nWatchdogSec=5s\nTimeoutAbortSec=1s\n"
# Holds a write lease on a file: whoever opens it waits until the lease is given up.
HOLD = """
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
fcntl.fcntl(os.open(sys.argv[1], os.O_RDWR), fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
sys.stdin.read()
"""


def words_of(text: str) -> str:
    """Return the beginning of a transcript: nothing but that recording has these words in a row."""
    words = text.split()
    assert len(words) >= 6, text
    return " ".join(words[:6])


def test_one_drops_another_collects_and_a_stranger_sees_nothing(running: Unit) -> None:
    box = running.box
    running.drop(SAMPLES / "memo.wav", "between-people.wav", user="dora")
    document = running.wait_for("between-people.wav")
    outbox = running.folder("outbox")
    assert box.do("cat", f"{outbox}/between-people.txt", user="rita").split() == document["text"].split()
    assert "between-people.wav" in box.do("cat", f"{outbox}/STATUS.txt", user="rita")
    for folder in (*FOLDERS, "state", "cache"):
        assert box.run("ls", running.folder(folder), user="stranger").returncode != 0
    owner = box.do("stat", "--format=%U:%G:%a", f"{outbox}/between-people.txt").strip()
    assert owner == "scribed:scribed:660"
    box.do("rm", f"{outbox}/between-people.txt", f"{outbox}/between-people.json", user="rita")


def test_a_move_stays_a_rename_under_the_unit(running: Unit, tmp_path: Path) -> None:
    """Mounts of its own for each folder would make every move a copy (EXDEV)."""
    make_long(tmp_path / "renamed.flac", 1)
    running.drop(tmp_path / "renamed.flac", "renamed.flac")
    inode = running.path("inbox", "renamed.flac").stat().st_ino
    running.wait_for("renamed.flac")
    assert running.path("processed", "renamed.flac").stat().st_ino == inode


def test_journalctl_selects_by_job_and_by_priority_and_never_shows_text(running: Unit, tmp_path: Path) -> None:
    (tmp_path / "text.mp3").write_bytes(b"these are words and not sound\n" * 100)
    running.drop(tmp_path / "text.mp3", "no-sound.mp3")
    running.drop(SAMPLES / "memo.wav", "logged.wav")
    document = running.wait_for("logged.wav")
    wait_until(lambda: running.path("failed", "no-sound.mp3").exists(), "the other is set aside")

    job = running.entries(f"SCRIBED_JOB_ID={document['job_id']}")
    assert [entry["SCRIBED_EVENT"] for entry in job if entry["SCRIBED_EVENT"].startswith("job.")][-1] == "job.delivered"
    assert {entry["SCRIBED_PATH"] for entry in job if "SCRIBED_PATH" in entry} == {"logged.wav"}
    assert float(job[-1]["SCRIBED_RTFX"]) > 0
    warned = running.entries("--priority=warning", "SCRIBED_PATH=no-sound.mp3")
    assert [(entry["SCRIBED_EVENT"], entry["PRIORITY"]) for entry in warned] == [("job.failed", "4")]
    everything = running.box.do("journalctl", "--output=export")
    assert words_of(document["text"]) not in everything


def test_group_members_see_the_status_of_a_running_and_of_a_stopped_service(unit: Unit) -> None:
    box = unit.box
    unit.start()
    ready = "scribed ready, model demo on cpu"  # written within a second
    wait_until(lambda: ready in box.do("scribed", "status", user="rita"), "a member of the group sees that it is ready")
    assert unit.show("StatusText") == "idle, 0 waiting, 0 done today"
    unit.stop()
    assert "scribed stopped" in box.do("scribed", "status", user="rita")
    refused = box.run("scribed", "status", user="stranger")
    assert refused.returncode == 77
    assert "member of the service's group" in refused.stderr


def test_whatever_ends_it_a_restart_goes_on_and_leaves_no_speech_behind(unit: Unit, tmp_path: Path) -> None:
    unit.drop_in(HASTE)
    # A kill before the first chunk of a start is charged to a recording that is alone; blame is not shown here.
    unit.configure(retry={"max_attempts": 10})
    unit.start()
    make_long(tmp_path / "long.flac", 3)
    unit.drop(tmp_path / "long.flac", "long.flac")
    pids, done = [], 0.0
    for signal in ("SEGV", "KILL", "STOP"):  # a crash, a kill, a hang, which the watchdog ends
        done = unit.wait_until_in_work("long.flac", beyond=done)
        pids.append(unit.show("MainPID"))
        unit.kill(signal)
        wait_until(lambda: unit.show("MainPID") not in {"0", pids[-1]}, "systemd starts it anew")
    document = unit.wait_for("long.flac")
    assert document["complete"] is True
    ends = [entry["UNIT_RESULT"] for entry in unit.entries("_PID=1") if "UNIT_RESULT" in entry]
    assert ends[-3:] == ["signal", "signal", "watchdog"]
    assert find_speech(unit, document["text"]) == []


def find_speech(unit: Unit, text: str) -> list[str]:
    """Return files that hold what was said, or sound, where none may be once a recording is delivered."""
    box = unit.box
    box.do("journalctl", "--sync")
    phrase = words_of(text)
    places = ["/tmp", "/var/tmp", "/var/log", "/run/log", "/var/lib/scribed", "/var/cache/scribed", "/dev/shm"]  # noqa: S108 - to look whether something is left there
    found = box.run("grep", "--recursive", "--files-with-matches", "--text", "--fixed-strings", phrase, *places)
    left = box.run("find", *places[:2], "/var/cache/scribed", "/var/lib/systemd/coredump", "-type", "f")
    cores = box.run("find", "/", "-xdev", "-maxdepth", "3", "-type", "f", "-name", "core.*", "-newer", unit.config)
    return [*found.stdout.split(), *left.stdout.split(), *cores.stdout.split()]


def test_no_number_of_crashes_leaves_the_unit_dead(unit: Unit) -> None:
    unit.drop_in(HASTE)
    unit.box.do("systemctl", "start", "--no-block", unit.name)
    for n_crashes in range(1, 8):  # systemd's own limit is five
        wait_until(lambda: unit.show("MainPID") != "0" and unit.show("SubState") == "start", "it starts")
        unit.kill("KILL")
        wait_until(lambda n=n_crashes: unit.show("NRestarts") == str(n), "it is started anew")  # type: ignore[misc]  # mypy cannot type a lambda's default
    wait_until(unit.is_active, "it runs")


def test_a_load_may_take_longer_than_systemd_allows_a_start(unit: Unit) -> None:
    box = unit.box
    box.do("cp", "-r", f"{package_folder(box)}/demo/model", "/run/slow-model")
    unit.configure(model={"path": "/run/slow-model"})
    unit.drop_in("[Service]\nTimeoutStartSec=15s\n")
    command = box.command(str(PYTHON), "-c", HOLD, "/run/slow-model/model.safetensors")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        box.do("systemctl", "start", "--no-block", unit.name)
        began_us = int(box.path("/proc/uptime").read_text().split(".")[0]) * 1_000_000
        wait_until(lambda: uptime_us(box) > began_us + 20_000_000, "TimeoutStartSec is over")
        assert (unit.show("ActiveState"), unit.show("NRestarts")) == ("activating", "0")
        assert unit.status()["state"] == "loading"
        holder.communicate()  # ends it, and with it the lease
    wait_until(unit.is_active, "it is ready")
    assert unit.show("NRestarts") == "0"


def uptime_us(box: Box) -> int:
    return round(float(box.path("/proc/uptime").read_text().split()[0]) * 1e6)


def package_folder(box: Box) -> str:
    return box.do("/opt/scribed/venv/bin/python", "-c", "import daemon; print(daemon.__path__[0])").strip()


def test_reload_takes_a_good_configuration_and_outlives_a_bad_one(running: Unit) -> None:
    box, pid = running.box, running.show("MainPID")
    running.configure(output={"formats": ["srt", "json"]})
    box.do("systemctl", "reload", running.name)
    wait_until(lambda: running.entries("SCRIBED_EVENT=config.reloaded", f"_PID={pid}"), "it is applied")
    running.drop(SAMPLES / "memo.wav", "as-subtitles.wav")
    running.wait_for("as-subtitles.wav")
    assert running.path("outbox", "as-subtitles.srt").exists()

    box.write(running.config, "output: {formats: parchment}\n")
    box.do("systemctl", "reload", running.name)
    wait_until(lambda: running.entries("SCRIBED_EVENT=config.refused", f"_PID={pid}"), "it is refused")
    wait_until(lambda: running.status()["faults"], "the status tells of it")
    assert running.is_active()
    assert running.show("MainPID") == pid
    running.configure()
    box.do("systemctl", "reload", running.name)
    wait_until(lambda: not running.status()["faults"], "all is well again")


def test_stopped_within_a_long_recording_it_goes_on_from_there(unit: Unit, tmp_path: Path) -> None:
    unit.start()
    make_long(tmp_path / "stopped.flac", 2)
    unit.drop(tmp_path / "stopped.flac", "stopped.flac")
    unit.wait_until_in_work("stopped.flac")
    unit.box.do("systemctl", "stop", unit.name)
    assert (unit.show("Result"), unit.show("ExecMainStatus")) == ("success", "0")
    assert not unit.path("processed", "stopped.flac").exists()
    unit.start()
    assert unit.wait_for("stopped.flac")["processing"]["attempt"] == 1
    assert unit.entries("SCRIBED_EVENT=job.resumed")


def test_two_instances_work_side_by_side(running: Unit) -> None:
    box, court = running.box, Unit(running.box, "court")
    folders = [court.folder(name) for name in FOLDERS]
    box.do("install", "-d", "-o", "scribed", "-g", "scribed", "-m", "2770", "/srv/scribed-court", *folders)
    court.configure()
    try:
        court.start()
        court.drop(SAMPLES / "memo.wav", "hearing.wav")
        running.drop(SAMPLES / "memo.wav", "letter.wav")
        assert court.wait_for("hearing.wav")["text"] == running.wait_for("letter.wav")["text"]
        assert not running.path("outbox", "hearing.json").exists()
        assert not court.path("outbox", "letter.json").exists()
    finally:
        court.stop()


@pytest.mark.parametrize(
    ("config", "code", "said"),
    [
        ("output: {formats: 5}\n", "78", "output.formats"),
        ("folders: {inbox: /opt/inbox}\nmodel: {path: demo}\n", "77", "ReadWritePaths="),
    ],
)
def test_what_another_try_cannot_mend_is_said_once_and_not_tried_again(
    unit: Unit, config: str, code: str, said: str
) -> None:
    unit.box.do("install", "-d", "-o", "scribed", "-g", "scribed", "-m", "2770", "/opt/inbox")
    unit.drop_in(HASTE)
    unit.box.write(unit.config, config)
    assert unit.box.run("systemctl", "start", unit.name).returncode != 0
    wait_until(lambda: unit.show("ActiveState") == "failed", "systemd gives up")
    assert (unit.show("ExecMainStatus"), unit.show("NRestarts")) == (code, "0")
    told = [entry["MESSAGE"] for entry in unit.entries("--priority=err", f"_PID={unit.show('ExecMainPID')}")]
    assert any(said in line for line in told), told


def test_a_missing_model_is_tried_again_until_it_is_there(unit: Unit) -> None:
    unit.drop_in(HASTE)
    unit.configure(model={"path": "/var/lib/scribed/models/new"})
    assert unit.box.run("systemctl", "start", unit.name, timeout_s=400).returncode != 0
    assert unit.show("ExecMainStatus") == "69"
    assert "There is no model" in unit.path("outbox", "STATUS.txt").read_text()
    source = f"{package_folder(unit.box)}/demo/model"
    unit.box.do("cp", "-r", source, "/var/lib/scribed/models/new")
    wait_until(unit.is_active, "it is ready")
    unit.box.do("rm", "-r", "/var/lib/scribed/models/new")


def test_installed_again_it_keeps_and_removed_it_leaves_what_belongs_to_people(unit: Unit) -> None:
    box = unit.box
    unit.start()
    unit.drop(SAMPLES / "memo.wav", "kept.wav")
    unit.wait_for("kept.wav")
    config = box.path(unit.config).read_text()
    assert "runs on with the old version" in box.install()
    assert unit.is_active()

    assert "Kept: /srv/scribed" in box.uninstall()
    for gone in ("/opt/scribed", "/usr/local/bin/scribed", "/usr/local/lib/systemd/system/scribed.service"):
        assert not box.path(gone).exists()
    assert "scribed.service" not in box.do("systemctl", "list-unit-files")
    assert box.path(unit.config).read_text() == config
    assert unit.path("outbox", "kept.json").exists()
    assert unit.path("processed", "kept.wav").exists()
    assert unit.path("state", "journal.sqlite3").exists()
    box.do("id", "scribed")

    box.do("make", "-C", "/run/source", "uninstall")  # nothing left to remove is no error
    box.install()
    assert box.path(unit.config).read_text() == config
    unit.start()
    assert unit.status()["recent"][0]["name"] == "kept.wav"


def test_check_says_whether_the_installation_is_ready(unit: Unit) -> None:
    box = unit.box
    unit.start()
    box.do("systemctl", "enable", unit.name)
    told = box.do("scribed", "check", "--deep", timeout_s=400)
    for line in (
        "scribed.service: active, enabled",
        "scribed.service: exposure 0.5",
        "network: the service has none",
        "group scribed: dora, rita",
        "model: digest",
        "test: demo on cpu as float32 heard",
    ):
        assert re.search(f"^ok +{re.escape(line)}", told, re.MULTILINE), told
    assert "fault" not in told
    unit.drop_in("[Service]\nPrivateNetwork=no\nProtectSystem=no\n")
    unit.configure(folders={"inbox": "/opt/inbox"})
    box.do("install", "-d", "-o", "scribed", "-g", "scribed", "-m", "2770", "/opt/inbox")
    spoilt = box.run("scribed", "check")
    assert spoilt.returncode == 77
    assert "fault   scribed.service: may not write to the inbox /opt/inbox" in spoilt.stdout
    assert "exposure 0.5" not in spoilt.stdout
    box.do("systemctl", "disable", unit.name)


def test_a_packager_gets_files_below_destdir_and_nothing_else(box: Box) -> None:
    places = ("/etc/systemd/system", "/usr/lib/systemd/system", "/usr/lib/sysusers.d", "/usr/lib/tmpfiles.d", "/srv")
    before = box.do("find", *places)
    box.install("/run/package")
    assert box.do("find", *places) == before
    script = box.path("/run/package/opt/scribed/venv/bin/scribed").read_text()
    assert script.startswith("#!/opt/scribed/venv/bin/python")
    assert "/run/package" not in script + box.path("/run/package/opt/scribed/venv/pyvenv.cfg").read_text()
    files = box.do("find", "/run/package", "-not", "-path", "/run/package/opt/scribed/venv/*", "-not", "-type", "d")
    assert {line.removeprefix("/run/package/") for line in files.splitlines()} >= {
        "usr/lib/systemd/system/scribed.service",
        "usr/lib/systemd/system/scribed@.service",
        "usr/lib/sysusers.d/scribed.conf",
        "usr/lib/tmpfiles.d/scribed.conf",
        "usr/local/bin/scribed",
        "opt/scribed/share/config.example.yaml",
        "opt/scribed/share/examples/folders.conf",
    }


def test_a_decoder_that_is_killed_does_not_end_the_service(running: Unit) -> None:
    """As the kernel does it to the greediest process when memory is short; OOMPolicy=stop would end them all."""
    box, pid = running.box, running.show("MainPID")
    running.drop(SAMPLES / "memo.wav", "before-the-kill.wav")
    running.wait_for("before-the-kill.wav")
    processes = box.do("cat", f"/sys/fs/cgroup{running.show('ControlGroup')}/cgroup.procs").split()
    decoders = [process for process in processes if process != pid]
    assert decoders
    box.do("kill", "-KILL", *decoders)
    running.drop(SAMPLES / "memo.wav", "after-the-kill.wav")
    assert running.wait_for("after-the-kill.wav")["complete"] is True
    assert running.show("MainPID") == pid
    assert running.show("OOMPolicy") == "continue"
