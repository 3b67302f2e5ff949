"""What the service reports to systemd while its parts work, hang or load: a real service, an engine that can hang."""

from __future__ import annotations

import shutil
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from daemon.config import Config, Folders, Watch
from daemon.host.systemd import Notifier
from daemon.service.service import Service
from tests.conftest import SAMPLES
from tests.integration.instance import FOLDERS, wait_until
from tests.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.engine import Engine


@dataclass(slots=True)
class HangingEngine(ScriptedEngine):
    is_hanging: bool = False

    def is_alive(self) -> bool:
        return not self.is_hanging


class Harness:
    """A service on a thread, and what it reports to systemd."""

    def __init__(self, root: Path, scan_s: float, *, is_loaded: bool) -> None:
        for name in FOLDERS:
            (root / name).mkdir()
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
        config = Config(folders=folders, watch=Watch(settle_s=0.5, scan_s=scan_s))
        (root / "config.yaml").write_text(f"folders: {{inbox: {root}/inbox}}\n")
        self.service = Service(config, root / "config.yaml", self._load, Notifier(self._address, 0.2))
        self._thread = threading.Thread(target=self.service.run)
        self._listener.start()
        self._thread.start()

    def _load(self, _report: Callable[[str], None]) -> Engine:
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

    def make(scan_s: float, *, is_loaded: bool = True) -> Harness:
        made.append(Harness(tmp_path, scan_s, is_loaded=is_loaded))
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


def test_reload_while_the_model_loads_does_not_end_the_start(make_harness: Callable[..., Harness]) -> None:
    harness = make_harness(0.2, is_loaded=False)
    harness.service.flags.reload()
    for _ in range(3):
        harness.wait_for("EXTEND_TIMEOUT_USEC=300000000")
    assert not {"READY=1", "RELOADING=1", "WATCHDOG=1"} & set(harness.heard)
    harness.may_load.set()
    wait_until(lambda: "READY=1" in harness.heard, "it is ready")
