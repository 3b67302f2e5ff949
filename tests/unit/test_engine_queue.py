from __future__ import annotations

import numpy as np

from daemon.engine.queue import Request, RequestQueue
from daemon.engine.slot_model import PreparedChunk


def make_request(job_id: str, name: int = 0) -> Request:
    return Request(PreparedChunk(np.zeros(name, np.float32), np.zeros(1, np.int64), 1, None), job_id)


def name_of(request: Request) -> tuple[str, int]:
    return request.job_id, len(request.chunk.samples)


def take_all(queue: RequestQueue) -> list[tuple[str, int]]:
    taken = []
    while (request := queue.take(lambda _: True)) is not None:
        taken.append(name_of(request))
    return taken


def test_jobs_take_turns() -> None:
    queue = RequestQueue()
    for number, job_id in enumerate(("a", "a", "a", "a", "b", "c", "c")):
        queue.add(make_request(job_id, number))
    assert take_all(queue) == [("a", 0), ("b", 4), ("c", 5), ("a", 1), ("c", 6), ("a", 2), ("a", 3)]
    assert len(queue) == 0


def test_memo_waits_for_one_request_of_each_job() -> None:
    queue = RequestQueue()
    for _ in range(100):
        queue.add(make_request("meeting"))
    assert queue.take(lambda _: True) is not None
    queue.add(make_request("memo"))
    assert [name_of(request)[0] for _ in range(2) if (request := queue.take(lambda _: True))] == ["meeting", "memo"]


def test_request_that_does_not_fit_is_not_overtaken() -> None:
    queue = RequestQueue()
    for job_id, number in (("a", 9), ("b", 1)):
        queue.add(make_request(job_id, number))
    assert queue.take(lambda request: len(request.chunk.samples) < 5) is None
    assert len(queue) == 2
    assert take_all(queue) == [("a", 9), ("b", 1)]


def test_requests_that_are_put_back_come_first_and_in_order() -> None:
    queue = RequestQueue()
    for job_id, number in (("a", 0), ("b", 1), ("a", 2), ("b", 3)):
        queue.add(make_request(job_id, number))
    started = [request for _ in range(3) if (request := queue.take(lambda _: True)) is not None]
    queue.put_back(started)
    assert take_all(queue) == [("a", 0), ("b", 1), ("a", 2), ("b", 3)]


def test_cancelled_requests_are_dropped() -> None:
    queue = RequestQueue()
    requests = [make_request("a", number) for number in range(3)]
    for request in requests:
        queue.add(request)
    assert requests[0].future.cancel()
    assert requests[2].future.cancel()
    assert take_all(queue) == [("a", 1)]
    assert len(queue) == 0
