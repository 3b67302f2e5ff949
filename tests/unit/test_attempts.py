"""Attempts: when a job is due, and when its attempts are used up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from daemon.config import Retry
from daemon.job import Job
from daemon.journal import Journal
from daemon.worker import MAX_EARLY_CRASHES, Attempts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLAIMED_AT = "2026-01-31T09:30:00.000Z"


@dataclass(slots=True)
class Bench:
    """Attempts with a clock that is set by hand."""

    journal: Journal
    retry: Retry = field(default_factory=lambda: Retry(max_attempts=3, backoff_s=30))
    now_s: float = 1000.0
    attempts: Attempts = field(init=False)

    def __post_init__(self) -> None:
        self.attempts = Attempts(self.journal, lambda: self.retry, lambda: self.now_s)

    def delay_s(self, job_id: str) -> float:
        """Return how long a job is delayed from now, to half a second, and let that time pass."""
        begun_s = self.now_s
        while not self.attempts.is_due(job_id):
            self.now_s += 0.5
            assert self.now_s < begun_s + 10_000
        return self.now_s - begun_s


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    journal = Journal(tmp_path)
    for name in ("a", "b"):
        journal.add(Job(name, f"{name}.wav", CLAIMED_AT))
    yield Bench(journal)
    journal.close()


def test_unknown_job_is_due(bench: Bench) -> None:
    assert bench.attempts.is_due("a")
    assert not bench.attempts.is_backing_off()


def test_charges_delay_longer_each_time_until_attempts_are_used_up(bench: Bench) -> None:
    assert not bench.attempts.charge("a")
    assert bench.delay_s("a") == 30
    assert not bench.attempts.charge("a")
    assert bench.delay_s("a") == 60
    assert bench.attempts.charge("a")
    assert not bench.attempts.is_backing_off()  # that is for what something else is in the way of
    assert bench.attempts.is_due("b")


def test_back_off_doubles_up_to_a_quarter_of_an_hour_and_charges_nothing(bench: Bench) -> None:
    delays_s = []
    for _ in range(8):
        bench.attempts.back_off("a")
        delays_s.append(bench.delay_s("a"))
    assert delays_s == [30, 60, 120, 240, 480, 900, 900, 900]
    job = bench.journal.find("a")
    assert job is not None
    assert job.attempts == 0


def test_configured_back_off_of_an_hour_is_not_shortened(bench: Bench) -> None:
    bench.retry = Retry(backoff_s=3600)
    bench.attempts.back_off("a")
    assert bench.delay_s("a") == 3600
    bench.attempts.back_off("a")
    assert bench.delay_s("a") == 3600


def test_back_off_waits_a_second_where_none_is_configured(bench: Bench) -> None:
    bench.retry = Retry(backoff_s=0)
    bench.attempts.back_off("a")
    assert bench.delay_s("a") == 1


def test_forgotten_job_is_due_and_starts_over(bench: Bench) -> None:
    for _ in range(3):
        bench.attempts.back_off("a")
    bench.attempts.forget("a")
    assert bench.attempts.is_due("a")
    assert not bench.attempts.is_backing_off()
    bench.attempts.back_off("a")
    assert bench.delay_s("a") == 30


def test_reloaded_retry_settings_apply_to_the_next_delay(bench: Bench) -> None:
    bench.attempts.back_off("a")
    bench.retry = Retry(max_attempts=1, backoff_s=5)
    assert bench.delay_s("a") == 30
    assert bench.attempts.charge("a")
    bench.attempts.back_off("b")
    assert bench.delay_s("b") == 5


def test_jobs_that_crashed_the_service_are_held_back_until_released(bench: Bench) -> None:
    jobs = [Job("a", "a.wav", CLAIMED_AT, attempts=1), Job("b", "b.wav", CLAIMED_AT, n_early_crashes=2)]
    bench.attempts.hold_back([*jobs, Job("c", "c.wav", CLAIMED_AT, is_suspect=True)])
    bench.now_s += 1e9
    assert [bench.attempts.is_due(job_id) for job_id in "abc"] == [False, False, True]
    bench.attempts.release_held_back()
    assert bench.delay_s("a") == 30
    assert bench.delay_s("b") == 30  # after the 30 that passed for a
    bench.attempts.release_held_back()  # nothing is held back any more
    assert bench.attempts.is_due("a")


@pytest.mark.parametrize(
    ("n_attempts", "n_early", "has_used_up"),
    [(0, 0, False), (2, 9, False), (3, 0, True), (0, MAX_EARLY_CRASHES, True)],
)
def test_attempts_are_used_up_by_charges_or_by_ten_early_crashes(
    bench: Bench, n_attempts: int, n_early: int, *, has_used_up: bool
) -> None:
    job = Job("a", "a.wav", CLAIMED_AT, attempts=n_attempts, n_early_crashes=n_early)
    assert bench.attempts.has_used_up(job) == has_used_up


def test_thousands_of_attempts_overflow_nothing(bench: Bench) -> None:
    for _ in range(5000):
        bench.attempts.back_off("a")
    assert math.isclose(bench.delay_s("a"), 900)
