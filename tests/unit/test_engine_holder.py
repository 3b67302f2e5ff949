"""The engine from its loading to its loss, and the health of the service around it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from daemon.errors import EngineLostError, EngineUnavailableError
from daemon.service.engine_holder import EngineHolder
from tests.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT_S = 300.0  # only to find out what hangs, however busy the machine


@dataclass(slots=True)
class Bench:
    """A holder whose loading ends as the test says, with a clock that is set by hand."""

    result: ScriptedEngine | Exception
    now_s: float = 0.0
    woken: threading.Event = field(default_factory=threading.Event)
    steps: list[str] = field(default_factory=list)
    announced: list[object] = field(default_factory=list)
    holder: EngineHolder = field(init=False)

    def __post_init__(self) -> None:
        self.holder = EngineHolder(
            self._load, self.steps.append, self.announced.append, self.woken.set, lambda: self.now_s
        )

    def _load(self, report: Callable[[str], None]) -> ScriptedEngine:
        report("Reading the model.")
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def load(self) -> None:
        self.holder.begin()
        assert self.woken.wait(WAIT_S)


def test_engine_is_announced_and_held_once_it_is_loaded() -> None:
    engine = ScriptedEngine()
    bench = Bench(engine)
    assert bench.holder.engine is None
    assert not bench.holder.has_begun
    bench.load()
    assert bench.holder.has_begun
    assert bench.holder.engine is engine
    assert bench.announced == [engine]
    assert bench.steps == ["Reading the model."]
    assert bench.holder.find_loss() is None


def test_failed_load_gives_its_reason() -> None:
    error = EngineUnavailableError("There is no model.", "Fetch it.")
    bench = Bench(error)
    bench.load()
    assert bench.holder.engine is None
    assert bench.holder.find_loss() is error


def test_lost_engine_gives_its_reason() -> None:
    bench = Bench(ScriptedEngine())
    bench.load()
    error = EngineLostError("The GPU is gone.")
    bench.holder.lose(error)
    assert bench.holder.find_loss() is error


def test_load_has_a_limit() -> None:
    bench = Bench(ScriptedEngine())
    bench.now_s = 1e6
    assert bench.holder.is_within_limit()  # it has not begun
    bench.load()
    assert bench.holder.is_within_limit()
    bench.now_s += 1801
    assert not bench.holder.is_within_limit()


def test_closing_without_an_engine_does_nothing() -> None:
    Bench(ScriptedEngine()).holder.close()
