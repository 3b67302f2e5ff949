"""The engine from its loading to its loss, and the health of the service around it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from daemon.errors import EngineLostError, EngineUnavailableError
from daemon.service.engine_holder import EngineHolder, Phase
from tests.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT_S = 300.0  # only to find out what hangs, however busy the machine


@dataclass(slots=True)
class Bench:
    """A holder whose loading ends as the test says, with a clock that is set by hand."""

    result: ScriptedEngine | Exception
    now_s: float = 0.0
    may_load: threading.Event = field(default_factory=threading.Event)
    woken: threading.Event = field(default_factory=threading.Event)
    steps: list[str] = field(default_factory=list)
    announced: list[object] = field(default_factory=list)
    holder: EngineHolder = field(init=False)

    def __post_init__(self) -> None:
        self.may_load.set()
        self.holder = EngineHolder(
            self._load, self.steps.append, self.announced.append, self.woken.set, lambda: self.now_s
        )

    def _load(self, report: Callable[[str], None]) -> ScriptedEngine:
        report("Reading the model.")
        assert self.may_load.wait(WAIT_S)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def load(self) -> None:
        self.do(self.holder.begin)

    def do(self, begin: Callable[[], None]) -> None:
        """Begin something, and wait for its end."""
        self.woken.clear()
        begin()
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
    bench.may_load.clear()
    bench.holder.begin()
    assert bench.holder.is_within_limit()
    bench.now_s += 1801
    assert not bench.holder.is_within_limit()
    bench.may_load.set()
    assert bench.woken.wait(WAIT_S)
    assert bench.holder.is_within_limit()


def test_closing_without_an_engine_does_nothing() -> None:
    Bench(ScriptedEngine()).holder.close()


# Unloading, and loading again


@dataclass(slots=True)
class SlowToUnload(ScriptedEngine):
    may_end: threading.Event = field(default_factory=threading.Event)

    def unload(self) -> None:
        assert self.may_end.wait(WAIT_S)


@dataclass(slots=True)
class Dead(ScriptedEngine):
    def unload(self) -> None:
        raise EngineLostError("The GPU is gone.")


def test_engine_is_unloaded_and_loaded_again() -> None:
    first, second = ScriptedEngine(), ScriptedEngine()
    bench = Bench(first)
    bench.load()
    phases = [bench.holder.phase]
    bench.do(bench.holder.unload)
    phases.append(bench.holder.phase)
    assert first.is_unloaded
    assert bench.holder.engine is None
    bench.result = second
    bench.do(bench.holder.load_again)
    phases.append(bench.holder.phase)
    assert bench.holder.engine is second
    assert phases == [Phase.LOADED, Phase.UNLOADED, Phase.LOADED]
    assert bench.announced == [first, None, second]
    assert bench.holder.find_loss() is None


def test_nothing_can_begin_to_use_an_engine_that_is_being_unloaded() -> None:
    engine = SlowToUnload(n_late_builds=3)
    bench = Bench(engine)
    bench.load()
    assert bench.holder.count_late_builds() == 3
    bench.woken.clear()
    bench.holder.unload()
    try:
        assert bench.holder.engine is None
        assert bench.holder.count_late_builds() == 0
        assert bench.holder.phase is Phase.UNLOADING
        assert bench.holder.is_within_limit()
        bench.now_s = 121
        assert not bench.holder.is_within_limit()
    finally:
        engine.may_end.set()
    assert bench.woken.wait(WAIT_S)
    assert bench.holder.is_within_limit()
    assert bench.holder.find_loss() is None


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (EngineUnavailableError("There is no model.", "Fetch it."), "There is no model. Fetch it."),
        (MemoryError(), "Loading the model failed unexpectedly (MemoryError). See the log for the reason."),
    ],
)
def test_failure_to_load_again_is_not_a_loss_and_keeps_no_memory(error: Exception, what: str) -> None:
    bench = Bench(ScriptedEngine())
    bench.load()
    bench.do(bench.holder.unload)
    bench.result = error
    for _ in range(2):
        bench.do(bench.holder.load_again)
        assert bench.holder.find_loss() is None
        assert bench.holder.phase is Phase.UNLOADED
        failure = bench.holder.take_failure()
        assert failure is not None
        assert str(failure) == what
        assert failure.__traceback__ is None
        assert bench.holder.take_failure() is None
    bench.result = ScriptedEngine()
    bench.do(bench.holder.load_again)
    assert bench.holder.engine is bench.result


def test_device_that_is_lost_while_unloading_or_loading_again_is_a_loss() -> None:
    bench = Bench(Dead())
    bench.load()
    bench.do(bench.holder.unload)
    assert str(bench.holder.find_loss()) == "The GPU is gone."
    bench = Bench(ScriptedEngine())
    bench.load()
    bench.do(bench.holder.unload)
    bench.result = EngineLostError("The GPU is gone.")
    bench.do(bench.holder.load_again)
    assert str(bench.holder.find_loss()) == "The GPU is gone."


def test_thread_that_cannot_be_started_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    engine = ScriptedEngine()
    bench = Bench(engine)
    bench.load()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        bench.holder.unload()
    assert bench.holder.engine is engine
    assert bench.holder.find_loss() is None
    bench.do(bench.holder.unload)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        bench.holder.load_again()
    assert "can't start new thread" in str(bench.holder.take_failure())
    assert bench.holder.find_loss() is None
    bench.do(bench.holder.load_again)
    assert bench.holder.engine is engine
