"""The first stage: how many recordings are decoded at a time, and in which order."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon.config import Config, Folders
from daemon.job import Job
from daemon.worker.preparation import Preparation
from daemon.worker.runs import LONG_BYTES, Run, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT_S = 300.0  # only to find out what hangs, however busy the machine
CONFIG = Config(folders=Folders(**{name: Path("/nowhere") / name for name in Folders.model_fields}))


@dataclass
class Bench:
    """A stage whose preparations end when `finish` lets them."""

    begun: list[Run] = field(default_factory=list)
    let_go: set[str] = field(default_factory=set)
    changed: threading.Condition = field(default_factory=threading.Condition)
    has_disk: bool = True
    stage: Preparation = field(init=False)

    def __post_init__(self) -> None:
        self.stage = Preparation(self.prepare, lambda: self.has_disk, 2)

    def prepare(self, run: Run) -> None:
        with self.changed:
            self.begun.append(run)
            self.changed.notify_all()
            self.changed.wait_for(lambda: run.job.job_id in self.let_go, WAIT_S)

    def add(self, name: str, n_bytes: int = 1000, since_s: float = 0.0) -> Run:
        run = Run(Job(name, f"{name}.wav", "2026-01-01T00:00:00Z"), CONFIG, n_bytes, since_s)
        self.stage.add(run)
        return run

    def finish(self, *names: str) -> None:
        with self.changed:
            self.let_go |= set(names)
            self.changed.notify_all()

    def wait_for(self, *names: str) -> None:
        """Wait until exactly these have begun, in any order."""
        with self.changed:
            assert self.changed.wait_for(lambda: {run.job.job_id for run in self.begun} == set(names), WAIT_S), [
                run.job.job_id for run in self.begun
            ]

    def wait_for_last(self, name: str) -> None:
        """Wait until this one has begun after all others."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.begun[-1].job.job_id == name, WAIT_S)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.finish(*"abcdefgh")
    made.stage.close()
    made.stage._crew._pool.shutdown(wait=True)


def test_as_many_are_prepared_as_there_are_decoders(bench: Bench) -> None:
    runs = [bench.add(name, since_s=second) for second, name in enumerate("abcd")]
    bench.wait_for("a", "b")
    assert [run.stage for run in runs] == [Stage.PREPARING, Stage.PREPARING, Stage.QUEUED, Stage.QUEUED]
    bench.finish("b")
    bench.wait_for("a", "b", "c")


def test_short_recording_gets_a_decoder_more_while_all_have_long_ones(bench: Bench) -> None:
    for name in "abc":
        bench.add(name, LONG_BYTES + 1)
    bench.wait_for("a", "b")
    bench.add("d")
    bench.add("e")
    bench.wait_for("a", "b", "d")
    bench.finish("d")
    bench.wait_for("a", "b", "d", "e")
    bench.finish("e", "a")
    bench.wait_for("a", "b", "c", "d", "e")


def test_short_ones_get_no_decoder_more_among_short_ones(bench: Bench) -> None:
    bench.add("a", LONG_BYTES + 1)
    bench.add("b")
    bench.wait_for("a", "b")
    late = bench.add("c")
    assert late.stage is Stage.QUEUED


def test_long_recordings_wait_for_room_on_the_disk_and_short_ones_do_not(bench: Bench) -> None:
    bench.has_disk = False
    bench.add("a", LONG_BYTES + 1)
    bench.add("b")
    bench.wait_for("b")
    bench.has_disk = True
    bench.stage.go_on()
    bench.wait_for("a", "b")


def test_long_recording_is_overtaken_for_a_minute_at_most(bench: Bench) -> None:
    bench.add("a")
    bench.add("b")
    bench.wait_for("a", "b")
    bench.add("c", 10 * LONG_BYTES, since_s=0.0)
    bench.add("d", since_s=50.0)
    bench.add("e", since_s=70.0)
    for done, then in (("a", "d"), ("d", "c")):
        bench.finish(done)
        bench.wait_for_last(then)
    bench.finish("b")
    bench.wait_for(*"abcde")


def test_queued_recording_is_withdrawn_once(bench: Bench) -> None:
    first = bench.add("a")
    bench.add("b")
    bench.wait_for("a", "b")
    queued = bench.add("c")
    assert bench.stage.withdraw(queued)
    assert not bench.stage.withdraw(queued)
    assert not bench.stage.withdraw(first)  # it has begun


def test_error_that_escapes_is_noticed_and_the_others_go_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not bench.stage.is_broken

    def fail(run: Run) -> None:
        bench.prepare(run)
        if run.job.job_id == "a":
            raise ZeroDivisionError

    monkeypatch.setattr(bench.stage, "_prepare", fail)
    bench.finish("a")
    bench.add("a")
    bench.add("b")
    bench.add("c")
    bench.wait_for("a", "b", "c")
    assert bench.stage.is_broken
