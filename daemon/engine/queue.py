"""Requests that wait for the model, and which of them go together next. No thread, no lock."""

from __future__ import annotations

from collections import OrderedDict, deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from daemon.engine.protocol import Piece, PieceText

# Pieces in one batch are at most this many times as long as one another: a row costs as much as the
# longest, so that at worst half of the work is padding, and a memo does not wait for a long answer.
_MAX_LENGTH_RATIO: Final = 2.0


@dataclass(slots=True, eq=False)
class Request:
    """A piece and the future its caller holds."""

    piece: Piece
    future: Future[PieceText] = field(default_factory=Future)
    has_begun: bool = False

    def begin(self) -> bool:
        """Take it up; False where the caller has cancelled it. Safe to ask again after a failed batch."""
        if not self.has_begun:
            self.has_begun = self.future.set_running_or_notify_cancel()
        return self.has_begun


class RequestQueue:
    """Requests of all jobs. Each batch is led by the next job's oldest request, so no job waits for another to end."""

    def __init__(self) -> None:
        self._by_job: OrderedDict[str, deque[Request]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many wait."""
        return sum(len(requests) for requests in self._by_job.values())

    def add(self, request: Request) -> None:
        """Put a request behind those of its job."""
        self._by_job.setdefault(request.piece.job_id, deque()).append(request)

    def put_back(self, requests: Iterable[Request]) -> None:
        """Put requests of a batch that failed ahead of all others, in their order."""
        for request in reversed(list(requests)):
            job_id = request.piece.job_id
            self._by_job.setdefault(job_id, deque()).appendleft(request)
            self._by_job.move_to_end(job_id, last=False)

    def take_batch(self, max_pieces: int, max_padded_s: float) -> list[Request]:
        """Take the requests which go together next; empty where none waits.

        The next job's oldest request leads; the others, one from each job in turn, are of similar
        length. Requests whose callers have cancelled them vanish.

        Args:
            max_pieces: at most so many.
            max_padded_s: their number times the longest is at most so much; a lone one may exceed it.
        """
        self._drop_cancelled()
        if not self._by_job:
            return []
        leader_id = next(iter(self._by_job))
        batch = [self._by_job[leader_id].popleft()]
        self._by_job.move_to_end(leader_id)
        batch += self._take_similar(batch[0].piece.duration_s, max_pieces, max_padded_s)
        self._drop_empty()
        return [request for request in batch if request.begin()]

    def take_all(self) -> list[Request]:
        """Take everything, in no particular order."""
        taken = [request for requests in self._by_job.values() for request in requests]
        self._by_job.clear()
        return taken

    def _take_similar(self, leader_s: float, max_pieces: int, max_padded_s: float) -> list[Request]:
        taken: list[Request] = []
        shortest_s = longest_s = leader_s
        laps = [deque(requests) for requests in self._by_job.values()]
        while laps:
            for waiting in laps:
                if not waiting:
                    continue
                request = waiting.popleft()
                low_s = min(shortest_s, request.piece.duration_s)
                high_s = max(longest_s, request.piece.duration_s)
                n_pieces = len(taken) + 2
                if n_pieces > max_pieces:
                    return taken
                if high_s <= _MAX_LENGTH_RATIO * low_s and n_pieces * high_s <= max_padded_s:
                    shortest_s, longest_s = low_s, high_s
                    self._by_job[request.piece.job_id].remove(request)
                    taken.append(request)
            laps = [waiting for waiting in laps if waiting]
        return taken

    def _drop_cancelled(self) -> None:
        for job_id, requests in self._by_job.items():
            if any(request.future.cancelled() for request in requests):
                self._by_job[job_id] = deque(request for request in requests if not request.future.cancelled())
        self._drop_empty()

    def _drop_empty(self) -> None:
        for job_id in [job_id for job_id, requests in self._by_job.items() if not requests]:
            del self._by_job[job_id]
