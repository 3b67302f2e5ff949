"""The back-off between failed starts, with a clock that is set by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from daemon import checkpoint
from daemon.config import ModelSettings
from daemon.errors import EngineUnavailableError
from daemon.service.start_backoff import StartBackoff

if TYPE_CHECKING:
    from pathlib import Path

LOSS = EngineUnavailableError("There is no model.", "Fetch it.")


@dataclass(slots=True)
class World:
    """A state folder, a model's folder, and a clock; each `start` is another process of the same machine."""

    root: Path
    now_s: float = 1000.0

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def record(self) -> Path:
        return self.root / "starts.json"

    def start(self, *, is_supervised: bool = True) -> StartBackoff:
        settings = ModelSettings.model_validate({"path": str(self.model)})
        return StartBackoff(self.root, settings, is_supervised=is_supervised, monotonic=lambda: self.now_s)

    def wait(self, starts: StartBackoff) -> float:
        """Ask until it is due, as the loop does; return how long that took."""
        begun_s = self.now_s
        while not starts.is_due():
            self.now_s += starts.left_s()
        return self.now_s - begun_s

    def fail(self) -> float:
        """Let a start fail; return how long it waited before loading."""
        starts = self.start()
        waited_s = self.wait(starts)
        starts.begin()
        starts.fail(LOSS)
        return waited_s


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_waits_grow_up_to_five_minutes(world: World) -> None:
    # systemd waits five seconds of its own before each.
    assert [world.fail() for _ in range(10)] == [0, 0, 5, 15, 35, 75, 155, 295, 295, 295]


def test_waiting_start_gives_the_reason_of_the_last_failure(world: World) -> None:
    world.fail()
    world.fail()
    what, remedy = world.start().reason()
    assert what == "There is no model."
    assert remedy.startswith("Fetch it. The next attempt is at ")


def test_new_model_ends_the_wait_once_it_is_completely_copied(world: World) -> None:
    for _ in range(8):
        world.fail()
    starts = world.start()
    assert not starts.is_due()
    shutil.copytree(checkpoint.find_folder("demo"), world.model)
    for n_bytes in (1, 2, 3):  # another file grows between the looks
        (world.model / "more").write_bytes(b"." * n_bytes)
        world.now_s += starts.left_s()
        assert not starts.is_due()
    assert world.wait(starts) <= 2 * 2


def test_model_changed_between_two_starts_is_loaded_at_once(world: World) -> None:
    for _ in range(8):
        world.fail()
    world.model.mkdir()
    assert world.wait(world.start()) <= 2 * 2


@pytest.mark.parametrize("how", ["ready", "stopped"])
def test_good_start_or_deliberate_stop_forgets_failed_starts(world: World, how: str) -> None:
    for _ in range(8):
        world.fail()
    starts = world.start()
    if how == "ready":
        world.wait(starts)
        starts.begin()
        starts.succeed()
    else:
        starts.forget()
    assert world.wait(world.start()) == 0
    assert not world.record.exists()


def test_start_that_ends_without_a_reason_counts_too(world: World) -> None:
    for _ in range(3):  # killed for lack of memory while the model loads
        starts = world.start()
        world.wait(starts)
        starts.begin()
    starts = world.start()
    assert starts.reason()[0] == "The service ended before the model was ready, 3 time(s) in a row."
    assert world.wait(starts) == 15


def test_model_lost_soon_after_the_start_counts_and_one_lost_much_later_does_not(world: World) -> None:
    for ready_s, waited_s in ((1, 0), (1, 0), (1, 5), (600, 15), (1, 0), (1, 5)):
        starts = world.start()
        assert world.wait(starts) == waited_s
        starts.begin()
        starts.succeed()
        world.now_s += ready_s
        starts.fail(LOSS)


@pytest.mark.parametrize("harm", ["", "[]", '{"n": 3}', "boot", "count"])
def test_damaged_record_or_one_from_before_the_boot_delays_nothing(world: World, harm: str) -> None:
    for _ in range(8):
        world.fail()
    record = json.loads(world.record.read_text())
    changed = {"boot": {**record, "boot_id": "another"}, "count": {**record, "n": "8"}}.get(harm)
    world.record.write_text(json.dumps(changed) if changed else harm)
    assert world.wait(world.start()) == 0


def test_unsupervised_service_waits_for_nothing_and_writes_nothing(world: World) -> None:
    for _ in range(8):
        starts = world.start(is_supervised=False)
        assert starts.is_due()
        starts.begin()
        starts.fail(LOSS)
    assert not world.record.exists()


def test_record_that_cannot_be_written_does_not_hide_the_reason(world: World) -> None:
    world.record.mkdir()  # nothing can be renamed over a folder
    assert world.fail() == 0
    assert world.start().is_due()
