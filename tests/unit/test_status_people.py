"""Times, durations and progress as people read them."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from daemon.status.people import bar, is_on_day_of, say_clock, say_fully, say_left, say_when

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime.fromisoformat("2026-03-01T12:00:00Z")


@pytest.fixture(autouse=True)
def _in_new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "EST5EDT,M3.2.0,M11.1.0")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("2026-03-01T11:05:00.123Z", "today 6:05"),
        ("2026-03-01T04:59:59Z", "yesterday 23:59"),
        ("2026-03-01T05:00:00Z", "today 0:00"),
        ("2026-02-28T04:59:00Z", "27 February 23:59"),
        ("2025-12-31T17:00:00Z", "31 December 2025 12:00"),
        ("2025-07-01T16:00:00Z", "1 July 2025 12:00"),  # summer time
        ("", "an unknown time"),
        (None, "an unknown time"),
        ("soon", "an unknown time"),
    ],
)
def test_times_are_local_and_relative_to_today(when: str | None, said: str) -> None:
    assert say_when(when, NOW) == said


def test_time_that_is_read_later_has_its_whole_date() -> None:
    assert say_when("2026-03-01T11:05:00Z", None) == "1 March 2026 6:05"
    assert say_fully(NOW) == "Sunday 1 March 2026, 7:00 EST"
    assert say_clock("2026-03-01T11:05:09Z") == "6:05:09"


def test_days_are_local() -> None:
    assert is_on_day_of("2026-03-01T05:00:00Z", NOW)
    assert not is_on_day_of("2026-03-01T04:59:59Z", NOW)
    assert not is_on_day_of("", NOW)


@pytest.mark.parametrize(
    ("progress", "audio_s", "rtfx", "said"),
    [
        (0.5, 3600.0, 10.0, "about 3 min left"),
        (0.25, 36_000.0, 2.0, "about 3 h 45 min left"),
        (0.5, 7200.0, 1.0, "about 1 h 0 min left"),
        (0.9, 60.0, 10.0, "less than a minute left"),
        (1.0, 60.0, 10.0, "less than a minute left"),
        (0.0, 60.0, 10.0, ""),
        (0.5, None, None, ""),
        (0.5, 60.0, 0.0, ""),
    ],
)
def test_time_left_follows_from_the_speed_so_far(
    progress: float, audio_s: float | None, rtfx: float | None, said: str
) -> None:
    assert say_left(progress, audio_s, rtfx) == said


def test_bar_is_never_longer_than_its_width() -> None:
    assert [bar(progress, 4) for progress in (-1.0, 0.0, 0.5, 1.0, 2.0)] == [
        "[....]", "[....]", "[##..]", "[####]", "[####]"
    ]  # fmt: skip
