from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daemon.cli import status_view
from daemon.config import Config, Settings
from daemon.config.schema import Folders, Logging, Metrics, Output
from daemon.display import conceal_paths, escape, shown_name
from daemon.errors import ScribedError
from daemon.host.systemd import Notifier
from daemon.inbox import Arriving, FolderFault, Scan, WatchShortage
from daemon.job import Job
from daemon.journal import Journal
from daemon.status import (
    SNAPSHOT_NAME,
    STATUS_NAME,
    Delivered,
    Failed,
    Fault,
    Model,
    Running,
    Snapshot,
    as_dict,
    is_running,
    read_status,
    render_status_txt,
)
from daemon.status.arrival_faults import report_scan
from daemon.status.faults import Faults
from daemon.status.heartbeat import judge, sign_of_life
from daemon.status.metrics import Counters
from daemon.status.publisher import StatusPublisher, show_stopped
from daemon.status.targets import StatusFiles, show_waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDERS = ("inbox", "outbox", "processed", "failed", "state", "cache")
ODD = os.fsdecode(b"caf\xe9\n\x1b[31m.wav")
DUE_S = 1769851812.3  # 2026-01-31T09:30:13Z, rounded up
BUSY = Snapshot(
    state="ready",
    updated_at="2026-01-31T09:30:00.000Z",
    model=Model("Qwen3-ASR-1.7B-hf", "cuda:0", "2026-01-31T09:00:00Z"),
    arriving=(
        Arriving("slow.wav", 7, "still being written"),
        Arriving("new.wav", 5, "arrived a moment ago", 12.3, DUE_S),
    ),
    waiting=("next.wav", ODD),
    running=(Running("talk.wav", 0.25, 60.0, 12.5, "job-1"), Running("begun.wav", 0.0, None, None)),
    done_today=7,
    recent=(
        Delivered("done.wav", "2026-01-31T09:29:00Z", 60.0, 5.0, complete=True),
        Delivered("holes.wav", "2026-01-31T09:28:00Z", 60.0, 5.0, complete=False),
        Delivered("old.wav", "2026-01-30T18:27:00Z", None, None, complete=None),
    ),
    failed=(Failed("zip.mp3", "It is not audio.", 1, "job-2"),),
    n_failed=1,
    faults=(Fault("The disk of /srv/outbox is full.", "2026-01-31T09:20:00Z", "Free some space."),),
)


NOW = datetime.fromisoformat("2026-01-31T09:30:05Z")


@pytest.fixture(autouse=True)
def _in_india(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set a time zone that shows every confusion with UTC: its day begins at 18:30 of the day before."""
    monkeypatch.setenv("TZ", "IST-5:30")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def config(tmp_path: Path) -> Config:
    for name in FOLDERS:
        (tmp_path / name).mkdir()
    return Config(folders=Folders.model_validate({name: tmp_path / name for name in FOLDERS}))


def with_sections(config: Config, **sections: object) -> Config:
    return config.model_copy(update=sections)


def read_json(config: Config) -> dict[str, Any]:
    status: dict[str, Any] = json.loads((config.folders.state / SNAPSHOT_NAME).read_text())
    return status


def read_text(config: Config) -> str:
    return (config.folders.outbox / STATUS_NAME).read_text()


# The schema


def test_json_has_what_the_contract_names() -> None:
    status = as_dict(BUSY)
    assert status["schema"] == "scribed.status/1"
    assert status["state"] == "ready"
    assert status["model"] == {"name": "Qwen3-ASR-1.7B-hf", "device": "cuda:0", "loaded_at": "2026-01-31T09:00:00Z"}
    queue = status["queue"]
    assert queue["arriving"] == ["slow.wav", "new.wav"]
    assert queue["arriving_details"] == [
        {"name": "slow.wav", "bytes": 7, "reason": "still being written", "due_at": None},
        {"name": "new.wav", "bytes": 5, "reason": "arrived a moment ago", "due_at": "2026-01-31T09:30:13Z"},
    ]
    running = {"name": "talk.wav", "progress": 0.25, "audio_s": 60.0, "rtfx": 12.5, "job_id": "job-1"}
    assert queue["running"][0] == running
    assert status["done_today"] == 7
    assert [done["name"] for done in status["recent"]] == ["done.wav", "holes.wav", "old.wav"]
    assert status["failed"] == [{"name": "zip.mp3", "reason": "It is not audio.", "attempts": 1, "job_id": "job-2"}]
    assert set(status["faults"][0]) == {"what", "since", "remedy"}
    assert as_dict(Snapshot("loading", ""))["model"] == {"name": None, "device": None, "loaded_at": None}


def test_long_lists_are_cut_and_counts_are_complete() -> None:
    names = tuple(f"{number}.wav" for number in range(250))
    failed = tuple(Failed(name, "", 1) for name in names[:100])
    arriving = tuple(Arriving(name, 1, "") for name in names)
    busy = replace(BUSY, waiting=names, arriving=arriving, failed=failed, n_failed=1100)
    status = as_dict(busy)
    queue = status["queue"]
    assert (len(queue["waiting"]), queue["n_waiting"], queue["n_arriving"], status["n_failed"]) == (100, 250, 250, 1100)
    text = render_status_txt(busy, shows_names=True, names="full", now=NOW)
    assert text.count("and 150 more") == 2
    assert "and 1000 more" in text
    assert "250 arriving, 250 waiting, 2 being transcribed, 7 done today, 1100 failed." in text


# STATUS.txt


def test_status_txt_shows_queue_results_and_problems() -> None:
    assert render_status_txt(BUSY, shows_names=True, names="full", now=NOW) == (
        "scribed is running.\n"
        "2 arriving, 2 waiting, 2 being transcribed, 7 done today, 1 failed.\n"
        "\n"
        "NEEDS ATTENTION since today 14:50: The disk of /srv/outbox is full.\n"
        "  What to do: Free some space.\n"
        "\n"
        "Being transcribed:\n"
        "  talk.wav  [#####...............] 25%, less than a minute left\n"
        "  begun.wav  [....................] 0%\n"
        "\n"
        "Waiting for their turn:\n"
        "  next.wav\n"
        "  caf\\xe9\\n\\x1b[31m.wav\n"
        "\n"
        "Arriving (claimed when complete):\n"
        "  slow.wav: still being written\n"
        "  new.wav: arrived a moment ago; claimed at 15:00:13 if it does not change\n"
        "\n"
        "Done today:\n"
        "  done.wav  today 14:59\n"
        "  holes.wav  today 14:58  (parts of the speech are missing)\n"
        "  and 5 more\n"
        "\n"
        "Failed (the .error.txt file next to each recording in the failed folder says what to do):\n"
        "  zip.mp3: It is not audio.\n"
        "\n"
        "Done before:\n"
        "  old.wav  yesterday 23:57\n"
        "\n"
        "Last updated Saturday 31 January 2026, 15:00 IST.\n"
    )


def test_status_of_a_stopped_service_has_dates_that_stay_right() -> None:
    text = render_status_txt(replace(BUSY, state="stopped"), shows_names=True, names="full", now=NOW)
    assert "done.wav  31 January 2026 14:59\n" in text
    assert "since 31 January 2026 14:50: " in text
    assert "today 1" not in text


def test_status_txt_is_written_again_when_the_day_changes(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    files, path = StatusFiles(Faults()), config.folders.outbox / STATUS_NAME
    for zone, is_written in (("EARLY-14", True), ("EARLY-14", False), ("LATE+12", True)):  # 26 hours apart
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        path.write_text("unchanged")
        files.show(config, replace(BUSY, faults=()))
        assert (path.read_text() != "unchanged") == is_written


@pytest.mark.parametrize("state", ["waiting", "loading", "ready", "idle", "draining", "stopped"])
def test_every_state_has_a_description(state: str) -> None:
    assert render_status_txt(Snapshot(state, ""), shows_names=True, names="full", now=NOW).startswith("scribed is ")


def test_status_of_counts_names_no_recording() -> None:
    text = render_status_txt(BUSY, shows_names=False, names="full", now=NOW)
    assert ".wav" not in text
    assert ".mp3" not in text
    assert "NEEDS ATTENTION" in text


def test_hashed_names_name_no_recording() -> None:
    failed = (Failed("ward/zip.mp3", "zip.mp3 is not audio; see ward/zip.mp3.", 1),)
    text = render_status_txt(replace(BUSY, failed=failed), shows_names=True, names="hashed", now=NOW)
    assert ".wav" not in text
    assert ".mp3" not in text
    assert "ward" not in text
    assert text.count("name:") == 10 + 2


def test_no_name_can_break_the_status(config: Config) -> None:
    """A fault may name a file whose name is not text; that must not end the service."""
    hostile = replace(
        BUSY,
        arriving=(Arriving(ODD, 1, "still empty"),),
        faults=(Fault(f"{ODD} cannot be read.", "", f"Look at {ODD}."),),
        failed=(Failed(ODD, f"{ODD} is broken.", 1),),
        recent=(Delivered(ODD, "", None, None, complete=True),),
        running=(Running(ODD, 0.5, None, None),),
    )
    StatusFiles(Faults()).show(config, hostile)
    assert read_status(config.folders.state)["queue"]["arriving"] == ["caf\\xe9\n\x1b[31m.wav"]
    text = render_status_txt(hostile, shows_names=True, names="full", now=NOW).encode().decode()
    assert "\x1b" not in text
    assert text.count("caf\\xe9\\n\\x1b[31m.wav") == 8


# Faults


def test_fault_of_what_has_happened_is_shown_for_its_time() -> None:
    now_s = [100.0]
    faults = Faults(lambda: now_s[0])
    faults.note("stays", "A disk is full.", "Free some space.")
    faults.note("passes", "A program failed.", "Run it by hand.", 60)
    now_s[0] += 59
    faults.note("passes", "A program failed again.", "Run it by hand.", 60)
    now_s[0] += 59
    assert [fault.what for fault in faults.standing()] == ["A disk is full.", "A program failed again."]
    now_s[0] += 1
    assert [fault.what for fault in faults.standing()] == ["A disk is full."]
    faults.note("passes", "A program failed.", "Run it by hand.", 60)
    faults.note("passes", "It can never be run.", "Replace it.")
    now_s[0] += 1000
    assert len(faults.standing()) == 2


# Names in faults


ROOTS = ("/srv/in", "/srv/out")


@pytest.mark.parametrize(
    ("text", "known", "expected"),
    [
        ("/srv/out/Ward 7/Doe is not writable.", ("Ward 7/Doe/a.wav",), "/srv/out/{Ward 7/Doe} is not writable."),
        ("Give it /srv/out/Ward 7.", ("Ward 7/a.wav",), "Give it /srv/out/{Ward 7}."),
        ("/srv/out/a.wave is gone.", ("a.wav",), "/srv/out/{a.wave is gone}."),
        ("/srv/in is full. See /srv/in/x y z. Then go on.", (), "/srv/in is full. See /srv/in/{x y z}. Then go on."),
        ("/srv/in/.scribed belongs to another user.", (), "/srv/in/.scribed belongs to another user."),
        ("/srv/in/.scribed/2026-1f/a b.wav is gone.", ("a b.wav",), "/srv/in/.scribed/2026-1f/{a b.wav} is gone."),
        ("/srv/in/a.wav and /srv/out/a.wav differ.", ("a.wav",), "/srv/in/{a.wav} and /srv/out/{a.wav} differ."),
        ("/srv/inside/a.wav is elsewhere.", ("a.wav",), "/srv/inside/a.wav is elsewhere."),
    ],
)  # fmt: skip
def test_names_below_shared_folders_are_hidden(text: str, known: tuple[str, ...], expected: str) -> None:
    for name in ("Ward 7/Doe", "Ward 7", "x y z", "a b.wav", "a.wav", "a.wave is gone"):
        expected = expected.replace(f"{{{name}}}", shown_name(name, "hashed"))
    assert conceal_paths(text, ROOTS, known) == expected


def test_hashed_names_hold_for_sub_folders_in_faults_status_line_and_log(
    config: Config, caplog: pytest.LogCaptureFixture, make_publisher: Callable[[Config], Publisher]
) -> None:
    config = with_sections(config, logging=Logging(names="hashed"))
    publisher = make_publisher(config)
    publisher.show(arriving=(Arriving("Ward 7/Doe, Jane/a.wav", 1, "still empty"),))
    what = f"The transcript could not be written: {config.folders.outbox}/Ward 7/Doe, Jane is not writable."
    publisher.faults.note("claim", what, f"Give write permission on {config.folders.outbox}/Ward 7/Doe, Jane.")
    report_scan(publisher.faults, Scan(faults=(FolderFault("Ward 7/Roe", "Stale file handle"),)), "hashed")
    report_scan(publisher.faults, Scan(unreadable=("Ward 7/closed",)), "hashed")
    publisher.show()
    shown = [read_text(config), json.dumps(read_json(config)["faults"]), *publisher.lines(), caplog.text]
    assert all("Ward" not in text and "Doe" not in text and "Roe" not in text for text in shown), shown
    assert "is not writable" in shown[0]


@pytest.mark.parametrize(
    "name", ["a\x1b[31m.wav", "a\nb", "a\rb", "\u202egpj.wav", "\u2066x", "\x9b31m", "\udcff", "\x7f", "\u2028"]
)
def test_escaped_text_cannot_reach_a_terminal(name: str) -> None:
    shown = escape(name)
    assert shown.isprintable()
    assert escape(shown) == shown
    shown.encode()


# Faults of a scan


def test_faults_of_a_scan_appear_and_clear() -> None:
    faults = Faults()
    report_scan(faults, Scan(unreadable=("a.wav", "b.wav")), "full")
    (fault,) = faults.standing()
    assert fault.what == "The service has no permission to read a.wav in the inbox and 1 more."
    found = tuple(FolderFault(f"team{number}/{'x' * 300}", "Stale file handle") for number in range(8))
    report_scan(faults, Scan(faults=found), "full")
    told = [fault.what for fault in faults.standing()]
    assert len(told) == 6
    assert sum("Stale file handle" in what for what in told) == 5
    assert "3 more folders in the inbox cannot be used." in told
    assert max(map(len, told)) < 250
    report_scan(faults, Scan(faults=found[:1]), "full")
    assert [fault.what[:6] for fault in faults.standing()] == ["team0/"]
    report_scan(faults, Scan(), "full")
    assert faults.standing() == ()


def test_watch_shortage_names_the_sysctl_and_the_file_for_it() -> None:
    faults = Faults()
    report_scan(faults, Scan(shortage=WatchShortage(12, "fs.inotify.max_user_watches", 8192, 524288)), "full")
    (fault,) = faults.standing()
    assert "12 folders of the inbox" in fault.what
    assert "`sysctl fs.inotify.max_user_watches=524288`" in fault.remedy
    assert "/etc/sysctl.d/" in fault.remedy
    report_scan(faults, Scan(), "full")
    assert faults.standing() == ()


# The heartbeat


def test_status_of_a_running_daemon_is_shown_and_its_files_have_their_modes(config: Config) -> None:
    StatusFiles(Faults()).show(config, BUSY)
    assert stat.S_IMODE((config.folders.state / SNAPSHOT_NAME).stat().st_mode) == 0o640
    assert stat.S_IMODE((config.folders.outbox / STATUS_NAME).stat().st_mode) == 0o660
    status = read_status(config.folders.state)
    assert (status["state"], status["faults"], is_running(config.folders.state)) == (
        "ready", as_dict(BUSY)["faults"][:0], True,
    )  # fmt: skip
    assert status["queue"]["arriving_details"][0]["remaining_s"] is None
    assert status["queue"]["arriving_details"][1]["remaining_s"] == 0.0  # long ago
    assert abs(time.time() - datetime.fromisoformat(status["alive_at"]).timestamp()) < 60


_WRITE_AND_WAIT = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, str(Path.cwd()))
from daemon.status.heartbeat import sign_of_life
path = Path(sys.argv[1])
status = json.loads(path.read_text())
path.write_text(json.dumps(status | sign_of_life()))
print("written", flush=True)
time.sleep(600)
"""


@pytest.fixture
def other(config: Config) -> Iterator[subprocess.Popen[str]]:
    """Another process that has written the status as its own."""
    StatusFiles(Faults()).show(config, BUSY)
    path = config.folders.state / SNAPSHOT_NAME
    command = [sys.executable, "-c", _WRITE_AND_WAIT, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    with process:
        yield process
        process.kill()


def test_status_left_by_a_crash_shows_stopped_at_once_and_nothing_running(
    config: Config, other: subprocess.Popen[str]
) -> None:
    assert read_status(config.folders.state)["state"] == "ready"
    other.send_signal(signal.SIGKILL)
    other.wait()
    status = read_status(config.folders.state)
    assert (status["state"], status["queue"]["running"]) == ("stopped", [])
    assert status["queue"]["waiting"] == ["talk.wav", "begun.wav", "next.wav", "caf\\xe9\n\x1b[31m.wav"]
    assert status["queue"]["n_waiting"] == 4
    assert status["faults"][-1]["what"] == "The service is not running, and it did not shut down cleanly."
    assert not is_running(config.folders.state)


def test_another_process_with_the_pid_of_a_dead_daemon_is_not_the_daemon(config: Config) -> None:
    StatusFiles(Faults()).show(config, BUSY)
    status = read_json(config)
    assert judge(status).is_alive
    status["process"]["started"] -= 1
    assert not judge(status).is_alive


def test_daemon_that_hangs_is_named(config: Config) -> None:
    StatusFiles(Faults()).show(config, BUSY)
    status = read_json(config)
    status["process"]["boottime_s"] -= 75
    (config.folders.state / SNAPSHOT_NAME).write_text(json.dumps(status))
    found = read_status(config.folders.state)
    assert found["state"] == "ready"
    assert "has not reported for 75 seconds" in found["faults"][-1]["what"]


@pytest.mark.parametrize(
    ("process", "alive_at", "is_alive"),
    [
        ({"pid_namespace": 1}, "2001-01-01T00:00:00Z", True),  # the clock was set: the time since the boot counts
        ({"pid_namespace": 1, "boottime_s": -1e6}, None, False),
        ({"boot_id": "another"}, None, True),  # read over a share, from another machine
        ({"boot_id": "another"}, "2001-01-01T00:00:00Z", False),
        ({"boot_id": "another"}, "2101-01-01T00:00:00Z", False),
        ({"boot_id": "another"}, "no time", False),
        ({"boottime_s": None}, None, False),
    ],
)
def test_heartbeat_from_another_machine_counts_by_its_age(
    process: dict[str, Any], alive_at: str | None, *, is_alive: bool
) -> None:
    status = sign_of_life()
    status["process"] |= process
    if alive_at is not None:
        status["alive_at"] = alive_at
    assert judge(status).is_alive is is_alive


@pytest.mark.parametrize("status", [{}, {"process": 1}, {"alive_at": 5}, {"process": {}, "alive_at": None}])
def test_status_without_a_heartbeat_means_no_running_daemon(status: dict[str, Any]) -> None:
    assert not judge(status).is_alive


def test_heartbeat_is_renewed_every_ten_seconds_and_no_more_often(config: Config) -> None:
    clock = Clock()
    files = StatusFiles(Faults(), clock)
    files.beat()  # nothing to renew yet
    files.show(config, BUSY)
    path = config.folders.state / SNAPSHOT_NAME
    first = path.stat().st_ino, read_json(config)["alive_at"]
    clock.now_s += 9.9
    files.beat()
    assert (path.stat().st_ino, read_json(config)["alive_at"]) == first
    clock.now_s += 0.1
    files.beat()
    renewed = read_json(config)
    assert path.stat().st_ino != first[0]
    assert renewed["alive_at"] > first[1]
    assert {key: value for key, value in renewed.items() if key not in {"alive_at", "process"}} == (
        as_dict(BUSY) | {"updated_at": renewed["updated_at"], "faults": []}
    )


# What cannot be read


def test_status_before_the_first_start_is_stopped(tmp_path: Path) -> None:
    status = read_status(tmp_path)
    assert status["state"] == "stopped"
    assert [status[key] for key in ("updated_at", "alive_at", "process", "config_sha256")] == [None] * 4


def test_missing_state_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScribedError, match=r"nowhere/state does not exist. If the service has run"):
        read_status(tmp_path / "nowhere" / "state")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"schema": "other/1"}', b"\xff\xfe"])
def test_damaged_status_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SNAPSHOT_NAME).write_bytes(content)
    with pytest.raises(ScribedError, match=r"status.json is damaged. It is written again"):
        read_status(tmp_path)


_READ_AS_OTHER = """
import os, sys
from pathlib import Path
from daemon.errors import ScribedError
from daemon.status import read_status
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(int(sys.argv[2])), os.setuid(65534)
try:
    print(read_status(Path(sys.argv[1]))["state"])
except ScribedError as error:
    print(int(error.exit_code), error)
"""


def read_as_other(state: Path, group: int = 65534) -> str:
    command = [sys.executable, "-c", _READ_AS_OTHER, str(state), str(group)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that others may enter, as they may not enter pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize("closed", [".", SNAPSHOT_NAME])
def test_missing_permission_error_says_whom_to_ask(open_folder: Path, closed: str) -> None:
    (open_folder / SNAPSHOT_NAME).write_text(json.dumps(as_dict(BUSY) | sign_of_life()))
    (open_folder / closed).chmod(0)
    told = read_as_other(open_folder)
    (open_folder / closed).chmod(0o700)
    assert told.startswith("77 You have no permission to read")
    assert "add you to the service's group" in told


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take on a group")
@pytest.mark.parametrize("state", ["ready", "stopped"])
def test_member_of_the_group_reads_the_status_without_any_lock(open_folder: Path, config: Config, state: str) -> None:
    files = StatusFiles(Faults())
    files.show(config, replace(BUSY, state=state))
    path = open_folder / SNAPSHOT_NAME
    (config.folders.state / SNAPSHOT_NAME).rename(path)
    os.chown(open_folder, 0, 12345)
    os.chown(path, 0, 12345)
    open_folder.chmod(0o750)
    assert read_as_other(open_folder, 12345).strip() == state
    assert read_as_other(open_folder, 12346).startswith("77 ")


# The publisher


class Publisher:
    """A publisher with a clock, a journal, and a list of what it reports to systemd."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.clock = Clock()
        self.faults = Faults()
        address = str(config.folders.cache / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)  # noqa: FBT003  # its only parameter
        self.journal = Journal(config.folders.state)
        self.it = StatusPublisher(self.journal, self.faults, Notifier(address, 0.0), Counters(), self.clock)

    def show(self, state: str = "ready", **parts: Any) -> None:  # noqa: ANN401  # as the publisher takes them
        self.clock.now_s += 20
        self.it.show(Settings(self.config), state, **({"arriving": (), "waiting": (), "running": ()} | parts))

    def lines(self) -> list[str]:
        lines = []
        while True:
            try:
                lines.append(self._socket.recv(65536).decode())
            except BlockingIOError:
                return lines

    def close(self) -> None:
        self._socket.close()
        self.journal.close()


@pytest.fixture
def make_publisher() -> Iterator[Callable[[Config], Publisher]]:
    made: list[Publisher] = []

    def make(config: Config) -> Publisher:
        made.append(Publisher(config))
        return made[-1]

    yield make
    for publisher in made:
        publisher.close()


def block(path: Path) -> None:
    """Put a folder where a file has to be written: a fault that root cannot pass over either."""
    path.unlink(missing_ok=True)
    path.mkdir()


@pytest.mark.parametrize("broken", ["status.json", "STATUS.txt", "The metrics file"])
def test_target_that_cannot_be_written_is_a_fault_in_the_others(
    config: Config, tmp_path: Path, broken: str, make_publisher: Callable[[Config], Publisher]
) -> None:
    config = with_sections(config, metrics=Metrics(textfile=tmp_path / "scribed.prom"))
    paths = {
        "status.json": config.folders.state / SNAPSHOT_NAME,
        "STATUS.txt": config.folders.outbox / STATUS_NAME,
        "The metrics file": tmp_path / "scribed.prom",
    }
    publisher = make_publisher(config)
    publisher.show()
    block(paths[broken])
    publisher.show(waiting=("a.wav",))
    publisher.show(waiting=("a.wav",))
    told = f"{broken} cannot be written: Is a directory."
    if broken != "status.json":
        assert [fault["what"] for fault in read_json(config)["faults"]] == [told]
        assert read_json(config)["queue"]["waiting"] == ["a.wav"]
    if broken != "STATUS.txt":
        assert told in read_text(config)
        assert "a.wav" in read_text(config)
    if broken != "The metrics file":
        assert "scribed_faults 1\n" in paths["The metrics file"].read_text()
    assert any(told in line for line in publisher.lines())

    paths[broken].rmdir()
    publisher.show(waiting=("a.wav",))  # without any change it is tried again
    publisher.show(waiting=("a.wav",))
    assert read_json(config)["faults"] == []
    assert "NEEDS ATTENTION" not in read_text(config)
    assert "scribed_faults 0\n" in paths["The metrics file"].read_text()
    for folder in (config.folders.state, config.folders.outbox, tmp_path):
        assert not list(folder.glob(".scribed-status-*"))


def test_full_state_disk_is_shown_in_status_txt(config: Config, make_publisher: Callable[[Config], Publisher]) -> None:
    """A real disk of 512 KiB, filled to the last byte."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(config.folders.state)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        publisher = make_publisher(config)
        publisher.show()
        with suppress(OSError), (config.folders.state / "filler").open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))
        publisher.show(waiting=("a.wav",))
        assert "status.json cannot be written: No space left on device." in read_text(config)
        assert "a.wav" in read_text(config)
        (config.folders.state / "filler").unlink()
        publisher.show(waiting=("a.wav",))
        assert "NEEDS ATTENTION" not in read_text(config)
    finally:
        subprocess.run(["umount", "--lazy", config.folders.state], capture_output=True, check=False)


def test_journal_that_cannot_be_read_is_a_fault_and_the_rest_is_shown(
    config: Config, make_publisher: Callable[[Config], Publisher]
) -> None:
    publisher = make_publisher(config)
    publisher.show()
    publisher.journal._db.execute("DROP TABLE jobs")
    publisher.show(waiting=("a.wav",))
    assert "The journal cannot be read" in read_text(config)
    assert "a.wav" in read_text(config)


def test_status_txt_is_not_written_through_a_link(config: Config, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    (config.folders.outbox / STATUS_NAME).symlink_to(target)
    StatusFiles(Faults()).show(config, BUSY)
    assert target.read_text() == "precious"
    assert not (config.folders.outbox / STATUS_NAME).is_symlink()
    assert "scribed is running" in read_text(config)


@pytest.mark.parametrize("place", ["inbox/figures", "elsewhere"])
def test_metrics_file_follows_links_only_outside_the_shared_folders(
    config: Config, tmp_path: Path, place: str, make_publisher: Callable[[Config], Publisher]
) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / place).symlink_to(tmp_path / "private")
    config = with_sections(config, metrics=Metrics(textfile=tmp_path / place / "scribed.prom"))
    publisher = make_publisher(config)
    publisher.show()
    is_shared = place.startswith("inbox")
    assert (tmp_path / "private" / "scribed.prom").exists() is not is_shared
    assert ("is a symbolic link. Links inside the shared folders are never followed." in read_text(config)) is is_shared


def test_leftovers_of_a_crash_are_removed_at_the_start(config: Config, tmp_path: Path) -> None:
    leftover, link = config.folders.outbox / ".scribed-status-1", config.folders.outbox / ".scribed-status-2"
    leftover.write_text("x")
    link.symlink_to(tmp_path)
    StatusFiles(Faults()).show(config, BUSY)
    assert not leftover.exists()
    assert link.is_symlink()  # not ours


def test_status_txt_can_be_off(config: Config) -> None:
    config = with_sections(config, output=Output(status_file="off"))
    StatusFiles(Faults()).show(config, BUSY)
    assert list(config.folders.outbox.iterdir()) == []


def test_unchanged_status_is_not_written_again(config: Config) -> None:
    clock = Clock()
    files = StatusFiles(Faults(), clock)
    snapshot = replace(BUSY, faults=())
    files.show(config, snapshot)
    before = [
        path.stat().st_ino for path in (config.folders.state / SNAPSHOT_NAME, config.folders.outbox / STATUS_NAME)
    ]
    only_time = tuple(replace(arriving, left_s=arriving.left_s - 1) for arriving in snapshot.arriving)
    files.show(config, replace(snapshot, arriving=only_time))
    after = [path.stat().st_ino for path in (config.folders.state / SNAPSHOT_NAME, config.folders.outbox / STATUS_NAME)]
    assert before == after


def fail(journal: Journal, number: int) -> None:
    job_id = f"20260131T0930{number:04}-x"
    journal._db.execute(
        "INSERT INTO jobs (job_id, path, claimed_at, state, finished_at) VALUES (?, ?, ?, 'failed', ?)",
        (job_id, f"{number}.wav".encode(), "2026-01-31T09:30:00Z", "2026-01-31T09:31:00Z"),
    )


def test_1100_failures_are_counted_and_100_listed(
    config: Config, make_publisher: Callable[[Config], Publisher]
) -> None:
    publisher = make_publisher(config)
    for number in range(1100):
        fail(publisher.journal, number)
    publisher.show()
    status = read_json(config)
    assert (status["n_failed"], len(status["failed"])) == (1100, 100)
    assert "1100 failed." in read_text(config)
    assert "and 1000 more" in read_text(config)


def test_recording_that_ended_meanwhile_is_in_one_list(
    config: Config, make_publisher: Callable[[Config], Publisher]
) -> None:
    publisher = make_publisher(config)
    fail(publisher.journal, 1)
    ended = Running("1.wav", 1.0, None, None, "20260131T09300001-x")
    publisher.show(running=(ended, replace(ended, name="2.wav", job_id="other")))
    assert [running["name"] for running in read_json(config)["queue"]["running"]] == ["2.wav"]
    assert [failed["name"] for failed in read_json(config)["failed"]] == ["1.wav"]


def test_status_of_a_stopped_service_can_be_written_from_the_journal(
    config: Config, make_publisher: Callable[[Config], Publisher]
) -> None:
    publisher = make_publisher(config)
    fail(publisher.journal, 1)
    publisher.journal.add(Job("20260131T093002-y", "held.wav", "2026-01-31T09:30:00Z"))
    publisher.show("stopped")
    assert "1.wav" in read_text(config)
    publisher.journal.forget("20260131T09300001-x")
    show_stopped(config, publisher.journal, Faults())
    assert "1.wav" not in read_text(config)
    assert "held.wav" in read_text(config)
    status = read_status(config.folders.state)
    assert (status["state"], status["failed"], status["queue"]["waiting"]) == ("stopped", [], ["held.wav"])


def test_waiting_for_a_folder_is_shown_without_a_journal(config: Config) -> None:
    faults = Faults()
    faults.note("share", "Nothing is mounted at /srv.", "Mount it.")
    show_waiting(StatusFiles(faults), config, faults)
    assert read_status(config.folders.state)["state"] == "waiting"
    assert read_text(config).startswith("scribed is waiting for one of its folders.")
    assert "Nothing is mounted at /srv." in read_text(config)


def test_second_instance_that_waits_does_not_overwrite_the_status_of_the_first(
    config: Config, other: subprocess.Popen[str]
) -> None:
    faults = Faults()
    show_waiting(StatusFiles(faults), config, faults)
    assert read_json(config)["process"]["pid"] == other.pid
    assert read_status(config.folders.state)["state"] == "ready"


# What `scribed status` prints


def test_terminal_shows_reasons_remaining_time_and_complete_counts_and_no_escape_sequence(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = replace(
        BUSY,
        arriving=(Arriving(ODD, 1, "still empty", 300.0, time.time() + 300), *BUSY.arriving),
        failed=tuple(Failed(f"\x1b]0;owned\x07{number}.wav", "a\nb", 1) for number in range(100)),
        n_failed=1100,
        model=Model("\x1b[31mred", "cpu", ""),
    )
    faults = Faults()
    faults.note("x", f"{ODD} cannot be read.", "Look at it.")
    StatusFiles(faults).show(config, hostile)
    status_view.show(lambda: read_status(config.folders.state), is_watched=False)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "still empty" in shown
    assert "still being written" in shown
    assert re.search(r"5:0[01]|4:5\d", shown)  # due_at is a whole second, rounded up
    assert "and 1090 more" in shown
