"""What the service reports to systemd while its parts work, hang or load: a real service, an engine that can hang."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import threading
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import soundfile

from daemon.config import Config, Folders, ModelSettings, Watch
from daemon.host import files
from daemon.host.systemd import Notifier
from daemon.journal import JOURNAL_NAME
from daemon.service import engine_holder
from daemon.service.loop import Loop
from daemon.service.service import Service
from daemon.spool import second_look
from tests import media
from tests.conftest import SAMPLES
from tests.integration.instance import FOLDERS, wait_until
from tests.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.engine import LoadedEngine


@dataclass(slots=True)
class HangingEngine(ScriptedEngine):
    is_hanging: bool = False
    may_unload: threading.Event = field(default_factory=threading.Event)

    def unload(self) -> None:
        assert self.may_unload.wait(60)

    def is_alive(self) -> bool:
        return not self.is_hanging


class Harness:
    """A service on a thread, and what it reports to systemd."""

    def __init__(self, root: Path, scan_s: float, *, is_loaded: bool, idle_unload_min: float = 0) -> None:
        for name in FOLDERS:
            (root / name).mkdir(exist_ok=True)
        self.heard: list[str] = []
        self.engine = HangingEngine()
        self.may_load = threading.Event()
        if is_loaded:
            self.may_load.set()
        self._address = str(root / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self._address)
        self._listener = threading.Thread(target=self._listen)
        folders = Folders.model_validate({name: root / name for name in FOLDERS})
        model = ModelSettings(idle_unload_min=idle_unload_min)
        config = Config(folders=folders, watch=Watch(settle_s=0.5, scan_s=scan_s), model=model)
        (root / "config.yaml").write_text(f"folders: {{inbox: {root}/inbox}}\n")
        self.service = Service(config, root / "config.yaml", self._load, Notifier(self._address, 0.2))
        self._thread = threading.Thread(target=self.service.run)
        self._listener.start()
        self._thread.start()

    def _load(self, _report: Callable[[str], None]) -> LoadedEngine:
        self.may_load.wait(60)
        return self.engine

    def _listen(self) -> None:
        while message := self._socket.recv(4096):
            self.heard.extend(message.decode().split("\n"))

    def wait_for(self, line: str) -> None:
        """Wait until this line is sent, from now on."""
        n_before = len(self.heard)
        wait_until(lambda: line in self.heard[n_before:], f"{line} is sent")

    def reload(self) -> None:
        """Reload, and wait until that is done: a whole turn of the loop."""
        n_before = self.heard.count("READY=1")
        self.service.flags.reload()
        wait_until(lambda: self.heard.count("READY=1") > n_before, "the reload is sent")

    def close(self) -> None:
        self.may_load.set()
        self.engine.may_unload.set()
        self.engine.is_hanging = False
        self.engine.release()
        self.service.flags.stop()
        self._thread.join()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ending:
            ending.sendto(b"", self._address)
        self._listener.join()
        self._socket.close()


@pytest.fixture
def make_harness(tmp_path: Path) -> Iterator[Callable[..., Harness]]:
    made: list[Harness] = []

    def make(scan_s: float, *, is_loaded: bool = True, idle_unload_min: float = 0) -> Harness:
        made.append(Harness(tmp_path, scan_s, is_loaded=is_loaded, idle_unload_min=idle_unload_min))
        return made[0]

    yield make
    for harness in made:
        harness.close()


def test_watchdog_is_not_fed_while_the_model_hangs(make_harness: Callable[..., Harness], tmp_path: Path) -> None:
    harness = make_harness(0.2)
    harness.engine.is_held = True
    shutil.copyfile(SAMPLES / "memo.wav", tmp_path / "inbox/memo.wav")
    assert harness.engine.asked.wait(60)
    harness.wait_for("WATCHDOG=1")
    harness.engine.is_hanging = True
    harness.reload()  # so that a turn which began before it hung is over
    n_before = len(harness.heard)
    harness.reload()
    harness.reload()
    assert "WATCHDOG=1" not in harness.heard[n_before:]
    harness.engine.is_hanging = False
    harness.wait_for("WATCHDOG=1")


def test_watchdog_is_fed_between_scans_that_are_far_apart(make_harness: Callable[..., Harness]) -> None:
    harness = make_harness(3600)
    wait_until(lambda: "READY=1" in harness.heard, "it is ready")
    for _ in range(3):
        harness.wait_for("WATCHDOG=1")


def test_watchdog_is_not_fed_before_the_start_is_reported(
    make_harness: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch
) -> None:
    show = Loop._try_show
    may_load = threading.Event()

    def load_within_this_turn(loop: Loop) -> None:
        if loop._parts.holder.has_begun:
            may_load.set()
            wait_until(lambda: loop._parts.holder.engine is not None, "the model is loaded")
        show(loop)

    monkeypatch.setattr(Loop, "_try_show", load_within_this_turn)
    harness = make_harness(0.2, is_loaded=False)
    assert may_load.wait(60)
    harness.may_load.set()
    wait_until(lambda: "WATCHDOG=1" in harness.heard, "the watchdog is fed")
    assert "READY=1" in harness.heard[: harness.heard.index("WATCHDOG=1")]


def test_reload_while_the_model_loads_does_not_end_the_start(make_harness: Callable[..., Harness]) -> None:
    harness = make_harness(0.2, is_loaded=False)
    harness.service.flags.reload()
    for _ in range(3):
        harness.wait_for("EXTEND_TIMEOUT_USEC=300000000")
    assert not {"READY=1", "RELOADING=1", "WATCHDOG=1"} & set(harness.heard)
    harness.may_load.set()
    wait_until(lambda: "READY=1" in harness.heard, "it is ready")


def test_watchdog_is_fed_while_the_idle_model_is_unloaded_and_loaded_again(
    make_harness: Callable[..., Harness], tmp_path: Path
) -> None:
    harness = make_harness(0.2, idle_unload_min=0.01)
    wait_until(lambda: "READY=1" in harness.heard, "it is ready")
    harness.may_load.clear()
    wait_until(lambda: "engine-unloading" in {thread.name for thread in threading.enumerate()}, "it is being unloaded")
    for _ in range(3):
        harness.wait_for("WATCHDOG=1")
    harness.reload()
    harness.engine.may_unload.set()
    wait_until(lambda: status_of(tmp_path)["state"] == "idle", "it is unloaded")
    shutil.copyfile(SAMPLES / "memo.wav", tmp_path / "inbox/memo.wav")
    wait_until(lambda: status_of(tmp_path)["state"] == "loading", "it is being loaded again")
    n_before = len(harness.heard)
    for _ in range(3):
        harness.wait_for("WATCHDOG=1")
    harness.reload()
    assert "EXTEND_TIMEOUT_USEC=300000000" not in harness.heard[n_before:]
    harness.may_load.set()
    wait_until((tmp_path / "processed" / "memo.wav").exists, "it is delivered")


@pytest.mark.parametrize("when", ["unloading", "loading"])
def test_stop_does_not_wait_for_a_model_that_is_unloaded_or_loaded_again(
    make_harness: Callable[..., Harness], tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_holder, "_CLOSE_S", 0.5)
    harness = make_harness(0.2, idle_unload_min=0.01)
    wait_until(lambda: "READY=1" in harness.heard, "it is ready")
    harness.may_load.clear()
    if when == "loading":
        harness.engine.may_unload.set()
        wait_until(lambda: status_of(tmp_path)["state"] == "idle", "it is unloaded")
        shutil.copyfile(SAMPLES / "memo.wav", tmp_path / "inbox/memo.wav")
    wait_until(lambda: f"engine-{when}" in {thread.name for thread in threading.enumerate()}, "it has begun")
    harness.service.flags.stop()
    wait_until(lambda: status_of(tmp_path)["state"] == "stopped", "it stops")
    assert status_of(tmp_path)["faults"] == []


def status_of(root: Path) -> dict[str, Any]:
    status: dict[str, Any] = json.loads((root / "state" / "status.json").read_text())
    return status


def test_each_recording_is_in_exactly_one_list(make_harness: Callable[..., Harness], tmp_path: Path) -> None:
    harness = make_harness(0.2)
    harness.engine.is_held = True
    names = {f"memo{number}.wav" for number in range(12)}
    for name in names:
        shutil.copyfile(SAMPLES / "memo.wav", tmp_path / "inbox" / name)
    assert harness.engine.asked.wait(60)
    for _ in range(20):  # while they are claimed and begun
        queue = status_of(tmp_path)["queue"]
        running = [running["name"] for running in queue["running"]]
        listed = [*queue["arriving"], *queue["waiting"], *running]
        assert len(listed) == len(set(listed))
        text = (tmp_path / "outbox" / "STATUS.txt").read_text()
        assert all(text.count(f"  {name}") <= 1 for name in names)
        threading.Event().wait(0.1)
    assert running
    assert set(listed) == names


def test_recording_whose_audio_does_not_fit_on_the_disk_waits_with_a_reason(
    make_harness: Callable[..., Harness], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service keeps 256 MiB free; there are 4 more, and the long recording is ten minutes, or 19 MB of audio."""
    n_free = [(256 + 4) << 20]
    monkeypatch.setattr(files, "free_bytes", lambda _folder: n_free[0])
    make_harness(0.2)
    inbox, outbox = tmp_path / "inbox", tmp_path / "outbox"
    media.ffmpeg("-f", "lavfi", "-i", "sine=r=8000:d=600", "-c:a", "pcm_alaw", "-f", "wav", inbox / "long.wav.part")
    (inbox / "long.wav.part").rename(inbox / "long.wav")
    shutil.copyfile(SAMPLES / "memo.wav", inbox / "memo.wav")
    wait_until((outbox / "memo.json").exists, "the short one is delivered")
    wait_until(lambda: "the audio of long.wav may take" in (outbox / "STATUS.txt").read_text(), "the reason is shown")
    status = status_of(tmp_path)
    assert status["queue"]["waiting"] == ["long.wav"]
    assert [fault["what"] for fault in status["faults"]] == [
        f"The disk of {tmp_path}/cache has less than the 275 MiB left that the audio of long.wav may take."
    ]
    assert (inbox / "long.wav").exists()
    n_free[0] = 1 << 40
    wait_until((outbox / "long.json").exists, "it is delivered when there is room")
    wait_until(lambda: not status_of(tmp_path)["faults"], "nothing is wrong any more")


def test_fault_in_each_turn_of_the_loop_is_shown(make_harness: Callable[..., Harness], tmp_path: Path) -> None:
    """Nothing can be taken in any more; that must not keep the reason out of the status."""
    harness = make_harness(0.2)
    wait_until(lambda: "READY=1" in harness.heard, "it is ready")
    with closing(sqlite3.connect(tmp_path / "state" / JOURNAL_NAME)) as db:
        db.execute("ALTER TABLE jobs RENAME TO gone")
    wait_until(lambda: "The journal cannot be read" in (tmp_path / "outbox/STATUS.txt").read_text(), "it is shown")
    wait_until(lambda: status_of(tmp_path)["faults"], "it is shown in status.json too")
    wait_until(lambda: any("needs attention: " in line for line in harness.heard), "systemd receives it")
    with closing(sqlite3.connect(tmp_path / "state" / JOURNAL_NAME)) as db:
        db.execute("ALTER TABLE gone RENAME TO jobs")
    wait_until(lambda: not status_of(tmp_path)["faults"], "it is gone again")


def test_heartbeat_is_renewed_while_idle(make_harness: Callable[..., Harness], tmp_path: Path) -> None:
    harness = make_harness(3600)
    wait_until(lambda: "READY=1" in harness.heard, "it is ready")
    wait_until(lambda: status_of(tmp_path)["state"] == "ready", "it is shown")
    first = status_of(tmp_path)["alive_at"]
    wait_until(lambda: status_of(tmp_path)["alive_at"] > first, "it is renewed")


@pytest.mark.parametrize("is_edited", [False, True])
def test_recording_that_grows_after_its_delivery_is_transcribed_again(
    make_harness: Callable[..., Harness], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_edited: bool
) -> None:
    monkeypatch.setattr(second_look, "LOOK_AFTER_S", 2.0)
    (tmp_path / "inbox").mkdir(exist_ok=True)
    samples, rate_hz = soundfile.read(SAMPLES / "memo.wav", dtype="int16")
    soundfile.write(tmp_path / "inbox" / "talk.au", samples[: 2 * rate_hz], rate_hz)  # its close cannot be seen
    with (tmp_path / "inbox" / "talk.au").open("r+b") as stream:
        stream.seek(8)
        stream.write(b"\xff" * 4)  # of unknown length, as a recorder writes it
    make_harness(0.2)
    document = tmp_path / "outbox" / "talk.json"
    wait_until((tmp_path / "processed" / "talk.au").exists, "it is delivered", 40)
    assert json.loads(document.read_text())["audio"]["duration_s"] == pytest.approx(2.0, abs=0.1)
    if is_edited:
        (tmp_path / "outbox" / "talk.txt").write_text("corrected by hand")
    stem = "talk.au" if is_edited else "talk"
    document = tmp_path / "outbox" / f"{stem}.json"
    with (tmp_path / "processed" / "talk.au").open("ab") as stream:
        stream.write(bytes(4 * rate_hz))  # two seconds more
    wait_until(
        lambda: document.exists() and json.loads(document.read_text())["audio"]["duration_s"] > 3.5,
        "the whole recording is delivered",
        40,
    )
    names = {path.name for path in (tmp_path / "outbox").glob("talk*")}
    assert names == {"talk.json", "talk.txt", f"{stem}.json", f"{stem}.txt"}
    explanations = [note for note in json.loads(document.read_text())["audio"]["notes"] if "talk.txt" in note]
    assert len(explanations) == is_edited  # why there are two sets
