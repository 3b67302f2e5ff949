"""Threads that work on recordings give up their turn for whatever they wait for."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.host.turns import Turns

if TYPE_CHECKING:
    import pytest

    from tests.unit.spool.world import World

WAIT_S = 20.0  # only to find out what hangs, however busy the machine


class CountedTurns(Turns):
    """Turns that count the threads which had to go on without theirs."""

    n_missed = 0

    def take(self) -> bool:
        has_turn = super().take()
        self.n_missed += not has_turn
        return has_turn


def test_no_turn_is_kept_during_a_sync(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns(patience_s=0.0)
    kept: list[str] = []
    synced: list[str] = []
    sync = os.fsync
    with ThreadPoolExecutor(1) as pool:

        def watch(fd: int) -> None:
            path = str(Path(f"/proc/self/fd/{fd}").readlink())
            synced.append(path)
            if pool.submit(turns.take).result(WAIT_S):
                turns.give_up()
            else:
                kept.append(path)
            sync(fd)

        delivered, failed = world.claim("new/talk.wav", hotwords=b"Bessel\n"), world.claim("new/noise.wav")
        monkeypatch.setattr(os, "fsync", watch)
        with turns.taken():
            world.spool.opened(delivered).__exit__(None, None, None)
            world.deliver(delivered)
            world.set_aside(failed)
    assert len(synced) > 5
    assert kept == []


def test_recordings_that_fail_together_do_not_keep_the_turn_from_each_other(world: World) -> None:
    turns = CountedTurns(patience_s=WAIT_S)
    jobs = [world.claim(f"{number}.wav") for number in range(12)]
    all_begun = threading.Barrier(4)

    def work(number: int) -> None:
        all_begun.wait(WAIT_S)
        for job in jobs[number::4]:
            with turns.taken():
                world.set_aside(job)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work, number) for number in range(4)]:
            future.result(6 * WAIT_S)
    assert len(world.journal.failures()) == 12
    assert turns.n_missed == 0


def test_thread_that_waits_to_erase_texts_gives_up_its_turn(world: World) -> None:
    turns = Turns(patience_s=WAIT_S)
    has_turn = threading.Event()
    job = world.claim()
    world.journal._holds_deleted = True

    def tidy() -> None:
        with turns.taken():
            has_turn.set()
            world.journal.tidy()

    def take_a_turn() -> bool:
        has_turn.wait(WAIT_S)
        return turns.take()

    with ThreadPoolExecutor(2) as pool:
        with world.journal._lock:
            tidied = pool.submit(tidy)
            assert pool.submit(take_a_turn).result(3 * WAIT_S)
            turns.give_up()
        tidied.result(WAIT_S)
    assert world.journal.find(job.job_id) is not None
