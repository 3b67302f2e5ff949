"""When the model is unloaded and loaded again, with a clock that is set by hand and loads that end as the test says."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from daemon.config import ModelSettings
from daemon.errors import EngineUnavailableError, TransientError
from daemon.host.systemd import Notifier
from daemon.journal import Journal
from daemon.service.engine_holder import EngineHolder, Phase
from daemon.service.load_delay import LoadDelay
from daemon.service.residency import Residency
from daemon.status.faults import Faults
from daemon.status.metrics import Counters
from daemon.status.publisher import StatusPublisher
from tests.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.engine import LoadedEngine

WAIT_S = 300.0  # only to find out what hangs, however busy the machine
IDLE_S = 600.0


@dataclass(slots=True)
class Bench:
    """A residency over a real holder."""

    root: Path
    journal: Journal
    idle_s: float = IDLE_S
    now_s: float = 1000.0
    needed: bool | Exception = False
    failure: Exception | None = None
    n_loads: int = 0
    faults: Faults = field(default_factory=Faults)
    woken: threading.Event = field(default_factory=threading.Event)
    holder: EngineHolder = field(init=False)
    residency: Residency = field(init=False)

    def __post_init__(self) -> None:
        publisher = StatusPublisher(self.journal, self.faults, Notifier(), Counters())
        self.holder = EngineHolder(self._load, lambda _: None, lambda _: None, self.woken.set, lambda: self.now_s)
        settings = ModelSettings.model_validate({"path": str(self.root / "model")})
        delay = LoadDelay(settings, lambda: self.now_s)
        self.residency = Residency(
            self.holder, self._is_needed, publisher, self.faults, delay, self.idle_s, lambda: self.now_s
        )
        self.holder.begin()
        assert self.woken.wait(WAIT_S)

    def _load(self, _report: Callable[[str], None]) -> LoadedEngine:
        self.n_loads += 1
        if self.failure is not None:
            raise self.failure
        return ScriptedEngine()

    def _is_needed(self) -> bool:
        if isinstance(self.needed, Exception):
            raise self.needed
        return self.needed

    def review(self) -> Phase:
        """Review once, wait for the end of what that has begun, and return where the engine is."""
        self.woken.clear()
        self.residency.review()
        if self.holder.phase in {Phase.LOADING, Phase.UNLOADING}:
            assert self.woken.wait(WAIT_S)
        return self.holder.phase

    def run_for(self, seconds: float) -> Phase:
        """Review as often as the loop would, for so many seconds."""
        end_s = self.now_s + seconds
        while self.review() is not Phase.UNLOADED and self.now_s < end_s:
            self.now_s += min(self.residency.left_s(), end_s - self.now_s, 60.0)
        return self.holder.phase


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    journal = Journal(tmp_path)
    yield lambda **options: Bench(tmp_path, journal, **options)
    journal.close()


def test_model_is_unloaded_after_the_time_without_work_and_loaded_for_the_next_recording(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench()
    assert bench.residency.state == "ready"
    assert bench.review() is Phase.LOADED
    assert bench.residency.left_s() == IDLE_S
    bench.now_s += IDLE_S - 1
    assert bench.review() is Phase.LOADED
    bench.now_s += 1
    assert bench.review() is Phase.UNLOADED
    assert bench.residency.state == "idle"
    assert bench.residency.left_s() == math.inf
    bench.now_s += 1e6
    assert bench.review() is Phase.UNLOADED
    bench.needed = True
    assert bench.review() is Phase.LOADED
    assert bench.residency.state == "ready"
    assert bench.n_loads == 2


def test_work_starts_the_time_again(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    bench.run_for(IDLE_S - 1)
    bench.needed = True
    assert bench.run_for(3 * IDLE_S) is Phase.LOADED
    bench.needed = False
    assert bench.run_for(IDLE_S - 1) is Phase.LOADED
    assert bench.run_for(2) is Phase.UNLOADED


def test_model_stays_where_no_time_is_set(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(idle_s=math.inf)
    assert bench.run_for(1e5) is Phase.LOADED
    assert bench.residency.left_s() == math.inf


def test_nothing_changes_while_it_is_unknown_whether_there_is_work(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    bench.needed = TransientError("The journal cannot be read.")
    assert bench.run_for(5 * IDLE_S) is Phase.LOADED
    bench.needed = False
    assert bench.run_for(2 * IDLE_S) is Phase.UNLOADED
    bench.needed = TransientError("The journal cannot be read.")
    assert bench.review() is Phase.UNLOADED


def test_failure_to_load_again_is_a_fault_with_its_remedy_and_tried_again_later_each_time(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench()
    bench.run_for(2 * IDLE_S)
    bench.needed = True
    bench.failure = EngineUnavailableError("The memory of the GPU is taken.", "Free memory there.")
    waits_s = []
    for _ in range(8):
        assert bench.review() is Phase.UNLOADED  # the attempt
        assert bench.review() is Phase.UNLOADED  # the failure is noted
        assert bench.residency.state == "loading"
        (fault,) = bench.faults.standing()
        assert fault.what == "The memory of the GPU is taken."
        assert fault.remedy.startswith("Free memory there. Recordings wait. The next attempt is at ")
        n_before, began_s = bench.n_loads, bench.now_s
        while bench.review() is Phase.UNLOADED and bench.n_loads == n_before:
            bench.now_s += max(bench.residency.left_s(), 0.1)
        waits_s.append(bench.now_s - began_s)
    assert waits_s == pytest.approx([5, 10, 20, 40, 80, 160, 300, 300], abs=0.5)
    assert bench.holder.find_loss() is None
    bench.failure = None
    bench.needed = False  # given up by its user meanwhile: the fault must not stay
    bench.review()
    bench.now_s += 301
    assert bench.review() is Phase.LOADED
    bench.review()
    assert bench.faults.standing() == ()
    assert bench.residency.state == "ready"
    assert bench.run_for(2 * IDLE_S) is Phase.UNLOADED


def test_model_that_reappears_is_loaded_within_seconds(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    bench.run_for(2 * IDLE_S)
    bench.needed = True
    bench.failure = EngineUnavailableError("There is no model.", "Fetch it.")
    for _ in range(8):
        bench.review()
        bench.review()
        bench.now_s += 300
    bench.review()
    bench.failure = None
    (bench.root / "model").mkdir()
    began_s = bench.now_s
    while bench.review() is Phase.UNLOADED:
        bench.now_s += bench.residency.left_s()
    assert bench.now_s - began_s <= 2 * 2
