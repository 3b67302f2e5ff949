from __future__ import annotations

import numpy as np

from daemon.engine.queue import Request, RequestQueue
from daemon.engine.qwen3_asr.model import PreparedChunk
from daemon.engine.qwen3_asr.prompt import PromptFrame


def request(job_id: str, name: int = 0) -> Request:
    return Request(PreparedChunk(np.zeros(name, np.float32), PromptFrame((), ()), 1, 1, None), job_id)


def name_of(one: Request) -> tuple[str, int]:
    return one.job_id, len(one.piece.samples)


def take_all(queue: RequestQueue) -> list[tuple[str, int]]:
    taken = []
    while (one := queue.take(lambda _: True)) is not None:
        taken.append(name_of(one))
    return taken


def test_jobs_take_turns() -> None:
    queue = RequestQueue()
    for number, job_id in enumerate(("a", "a", "a", "a", "b", "c", "c")):
        queue.add(request(job_id, number))
    assert take_all(queue) == [("a", 0), ("b", 4), ("c", 5), ("a", 1), ("c", 6), ("a", 2), ("a", 3)]
    assert len(queue) == 0


def test_a_memo_waits_for_one_turn_of_each_job() -> None:
    queue = RequestQueue()
    for _ in range(100):
        queue.add(request("meeting"))
    assert queue.take(lambda _: True) is not None
    queue.add(request("memo"))
    assert [name_of(one)[0] for _ in range(2) if (one := queue.take(lambda _: True))] == ["meeting", "memo"]


def test_nobody_overtakes_the_one_whose_turn_it_is() -> None:
    queue = RequestQueue()
    for job_id, number in (("a", 9), ("b", 1)):
        queue.add(request(job_id, number))
    assert queue.take(lambda one: len(one.piece.samples) < 5) is None
    assert len(queue) == 2
    assert take_all(queue) == [("a", 9), ("b", 1)]


def test_what_is_put_back_comes_first_and_in_order() -> None:
    queue = RequestQueue()
    for job_id, number in (("a", 0), ("b", 1), ("a", 2), ("b", 3)):
        queue.add(request(job_id, number))
    begun = [one for _ in range(3) if (one := queue.take(lambda _: True)) is not None]
    queue.put_back(begun)
    assert take_all(queue) == [("a", 0), ("b", 1), ("a", 2), ("b", 3)]


def test_cancelled_requests_vanish() -> None:
    queue = RequestQueue()
    requests = [request("a", number) for number in range(3)]
    for one in requests:
        queue.add(one)
    assert requests[0].future.cancel()
    assert requests[2].future.cancel()
    assert take_all(queue) == [("a", 1)]
    assert len(queue) == 0
