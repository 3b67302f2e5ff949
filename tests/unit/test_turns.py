"""Turns of threads that mostly wait."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from daemon.host.turns import Turns, waiting

WAIT_S = 300.0  # only to find out what hangs, however busy the machine


def test_threads_work_one_at_a_time() -> None:
    turns = Turns(patience_s=WAIT_S)
    working: set[int] = set()
    met: list[set[int]] = []

    def work() -> None:
        for _ in range(500):
            with turns.taken():
                working.add(threading.get_ident())
                met.append(set(working))
                working.discard(threading.get_ident())
                with waiting():
                    pass

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work) for _ in range(4)]:
            future.result(WAIT_S)
    assert len(met) == 2000
    assert all(len(together) == 1 for together in met)


def test_thread_with_the_turn_keeps_others_out_until_it_waits() -> None:
    turns = Turns(patience_s=WAIT_S)
    order: list[str] = []
    other_has_begun, other_is_done = threading.Event(), threading.Event()

    def other() -> None:
        other_has_begun.set()
        with turns.taken():
            order.append("other")
        other_is_done.set()

    thread = threading.Thread(target=other)
    with turns.taken():
        thread.start()
        assert other_has_begun.wait(WAIT_S)
        order.append("first")
        with waiting():
            assert other_is_done.wait(WAIT_S)
        order.append("first again")
    thread.join(WAIT_S)
    assert order == ["first", "other", "first again"]


def test_turn_inside_a_turn_changes_nothing() -> None:
    turns = Turns(patience_s=WAIT_S)
    with ThreadPoolExecutor(1) as pool:
        with turns.taken():
            with turns.taken(), waiting(), waiting():
                assert pool.submit(lambda: _work(turns)).result(WAIT_S) == "worked"
            outside = pool.submit(lambda: _work(turns))
            assert not outside.done()  # the outer turn goes on
        assert outside.result(WAIT_S) == "worked"


def test_thread_goes_on_without_its_turn_when_it_has_waited_long_enough() -> None:
    turns = Turns(patience_s=0.01)
    with turns.taken(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: _work(turns)).result(WAIT_S) == "worked"
    assert _work(turns) == "worked"


def test_one_long_piece_of_work_is_waited_for_once() -> None:
    turns = Turns(patience_s=0.01)
    with ThreadPoolExecutor(1) as pool:
        with turns.taken():
            assert not pool.submit(turns.take).result(WAIT_S)
            turns.patience_s = threading.TIMEOUT_MAX
            assert not pool.submit(turns.take).result(WAIT_S)
            assert not pool.submit(turns.take).result(WAIT_S)
        assert pool.submit(turns.take).result(WAIT_S)
        later = pool.submit(turns.take)  # the next turn is waited for again
        assert not later.done()
        turns.give_up()
        assert later.result(WAIT_S)


def test_turn_is_given_up_after_an_error() -> None:
    turns = Turns(patience_s=WAIT_S)
    with pytest.raises(OSError, match="disk"), turns.taken(), waiting():
        raise OSError("disk")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: _work(turns)).result(WAIT_S) == "worked"


def test_thread_without_a_turn_may_wait() -> None:
    with waiting(), waiting():
        pass


def _work(turns: Turns) -> str:
    with turns.taken():
        return "worked"
