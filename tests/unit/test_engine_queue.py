from __future__ import annotations

from daemon.engine.queue import Request, RequestQueue
from tests.tiny_model import make_piece


def lead(queue: RequestQueue, max_pieces: int = 4) -> list[tuple[str, float]]:
    return [(r.piece.job_id, r.piece.duration_s) for r in queue.take_batch(max_pieces, max_pieces * 30)]


def test_a_memo_does_not_wait_for_a_long_recording() -> None:
    queue = RequestQueue()
    for _ in range(100):
        queue.add(Request(make_piece(30, job_id="meeting")))
    assert {job_id for job_id, _ in lead(queue)} == {"meeting"}
    queue.add(Request(make_piece(5, job_id="memo")))
    assert [job_id for batch in (lead(queue), lead(queue)) for job_id, _ in batch].count("memo") == 1


def test_jobs_share_a_batch_in_turn() -> None:
    queue = RequestQueue()
    for job_id in ("a", "a", "a", "a", "b", "c", "c"):
        queue.add(Request(make_piece(20, job_id=job_id)))
    assert [job_id for job_id, _ in lead(queue)] == ["a", "b", "c", "a"]
    assert [job_id for job_id, _ in lead(queue)] == ["c", "a", "a"]
    assert len(queue) == 0
    assert lead(queue) == []


def test_a_batch_holds_pieces_of_similar_length() -> None:
    queue = RequestQueue()
    for duration_s in (30, 4, 28, 5, 15, 29):
        queue.add(Request(make_piece(duration_s)))
    assert lead(queue) == [("a", 30), ("a", 28), ("a", 15), ("a", 29)]
    assert lead(queue) == [("a", 4), ("a", 5)]


def test_longer_pieces_make_a_smaller_batch() -> None:
    queue = RequestQueue()
    for _ in range(3):
        queue.add(Request(make_piece(60)))
    queue.add(Request(make_piece(300)))
    assert [len(lead(queue)) for _ in range(4)] == [2, 1, 1, 0]


def test_a_batch_put_back_comes_first_and_in_order() -> None:
    queue = RequestQueue()
    for job_id, duration_s in (("a", 20), ("b", 21), ("a", 22), ("b", 23)):
        queue.add(Request(make_piece(duration_s, job_id=job_id)))
    batch = queue.take_batch(3, 90)
    queue.put_back(batch)
    assert lead(queue, 8) == [("a", 20), ("b", 21), ("a", 22), ("b", 23)]


def test_cancelled_pieces_vanish() -> None:
    queue = RequestQueue()
    requests = [Request(make_piece(20)) for _ in range(3)]
    for request in requests:
        queue.add(request)
    assert requests[0].future.cancel()
    assert requests[2].future.cancel()
    assert queue.take_batch(8, 240) == [requests[1]]
    assert len(queue) == 0
