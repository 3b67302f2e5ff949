"""Turns at the engine: who gets one, who gives way, how many chunks each may have ahead."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from daemon.worker.places import Places
from tests.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from daemon.worker.places import Place

HOUR_S = 3600.0


@dataclass
class Bench:
    """Places at an engine with some slots, and a clock."""

    n_slots: int = 2
    now_s: float = 0.0
    places: Places = field(init=False)

    def __post_init__(self) -> None:
        engine = ScriptedEngine(max_in_flight=self.n_slots)
        self.places = Places(lambda: engine, lambda: self.now_s)

    def enter(self, audio_s: float, *, is_suspect: bool = False) -> Place:
        return self.places.enter(audio_s, is_suspect=is_suspect)


def has_turn(place: Place) -> bool:
    return place.next_turn().done()


def fill(place: Place, chunk_s: float = 30.0) -> int:
    """Submit as many chunks as a recording may, and return how many that are."""
    n_ahead = 0
    while place.may_submit(n_ahead, n_ahead * chunk_s):
        n_ahead += 1
    return n_ahead


def test_as_many_have_turns_as_there_are_slots_and_the_next_one_follows() -> None:
    bench = Bench(n_slots=2)
    first, second, third = bench.enter(10), bench.enter(10), bench.enter(10)
    assert [has_turn(place) for place in (first, second, third)] == [True, True, False]
    turn = third.next_turn()
    first.leave()
    assert turn.done()
    first.leave()  # twice is once
    assert not has_turn(bench.enter(10))


def test_no_recording_has_a_turn_before_there_is_an_engine() -> None:
    place = Places(lambda: None).enter(10.0, is_suspect=False)
    assert not has_turn(place)
    assert not place.may_submit(0, 0.0)


def test_short_recordings_overtake_long_ones_but_not_for_more_than_a_minute() -> None:
    bench = Bench(n_slots=1)
    first = bench.enter(10)
    long, memo = bench.enter(10 * HOUR_S), bench.enter(10)
    first.leave()
    assert has_turn(memo)
    bench.now_s = 61.0  # the long one has waited for longer than it could be overtaken
    later = bench.enter(10)
    memo.leave()
    assert has_turn(long)
    assert not has_turn(later)


def test_long_recording_gives_way_to_a_memo_and_goes_on_after_it() -> None:
    bench = Bench(n_slots=2)
    longer, long = bench.enter(10 * HOUR_S), bench.enter(5 * HOUR_S)
    assert fill(longer) == 4
    bench.now_s = 2.0
    memo = bench.enter(10)
    assert has_turn(memo)
    assert not longer.may_submit(0, 0.0)
    assert long.may_submit(0, 0.0)
    turn = longer.next_turn()
    assert not turn.done()
    memo.leave()
    assert turn.done()
    assert longer.may_submit(0, 0.0)


def test_turn_lasts_two_seconds_at_least() -> None:
    bench = Bench(n_slots=1)
    long = bench.enter(HOUR_S)
    bench.now_s = 1.0
    memo = bench.enter(10)
    assert not has_turn(memo)
    assert long.may_submit(0, 0.0)
    bench.now_s = 2.0
    assert not long.may_submit(0, 0.0)  # asked between two chunks
    assert has_turn(memo)


def test_recordings_of_similar_length_do_not_give_way_to_each_other() -> None:
    bench = Bench(n_slots=1)
    first = bench.enter(HOUR_S)
    bench.now_s = 60.0
    second = bench.enter(HOUR_S / 2)
    assert not has_turn(second)
    first.note(0.1)
    assert first.may_submit(0, 0.0)


def test_what_is_left_counts_and_not_the_whole_length() -> None:
    bench = Bench(n_slots=1)
    nearly_done = bench.enter(HOUR_S)
    nearly_done.note(0.99)
    bench.now_s = 60.0
    assert not has_turn(bench.enter(30))


def test_one_alone_keeps_the_engine_busy_and_two_share() -> None:
    bench = Bench(n_slots=8)
    alone = bench.enter(HOUR_S)
    assert fill(alone) == 16
    other = bench.enter(HOUR_S)
    assert fill(other) == 8
    assert not alone.may_submit(8, 240.0)  # it has its share, and there is enough in all
    assert alone.may_submit(7, 210.0)


def test_share_that_others_do_not_use_is_free() -> None:
    bench = Bench(n_slots=8)
    long = bench.enter(HOUR_S)
    memos = [bench.enter(10) for _ in range(7)]
    assert all(memo.may_submit(0, 0.0) and memo.may_submit(1, 10.0) for memo in memos)
    assert fill(long) == 9


def test_every_recording_may_have_a_chunk_even_the_longest() -> None:
    bench = Bench(n_slots=4)
    places = [bench.enter(HOUR_S) for _ in range(4)]
    assert [fill(place, chunk_s=300.0) for place in places] == [1, 1, 1, 1]


@pytest.mark.parametrize("n_others", [0, 3])
def test_suspect_has_the_engine_to_itself_until_it_has_finished_a_chunk(n_others: int) -> None:
    bench = Bench(n_slots=4)
    others = [bench.enter(HOUR_S) for _ in range(n_others)]
    for other in others:
        assert other.may_submit(0, 0.0)
        other.may_submit(1, 30.0)
    suspects = [bench.enter(60, is_suspect=True) for _ in range(2)]
    for other in others:  # what the engine has of them is finished first
        assert not has_turn(suspects[0])
        assert not other.may_submit(0, 0.0)
    assert [has_turn(suspect) for suspect in suspects].count(True) == 1
    first, second = sorted(suspects, key=has_turn, reverse=True)
    assert fill(first) == 1
    assert not any(has_turn(other) for other in others)
    first.clear()
    assert not has_turn(second)  # the first one may still have a chunk at the engine
    assert not first.may_submit(0, 0.0)
    assert has_turn(second)
    second.clear()
    assert [has_turn(place) for place in (first, second, *others)].count(True) == min(2 + n_others, 4)
