"""Requests that wait for a slot, and which one comes next. Not thread-safe: the scheduler holds a lock."""

from __future__ import annotations

from collections import OrderedDict, deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from daemon.engine.protocol import ChunkResponse
    from daemon.engine.slot_model import PreparedChunk


@dataclass(slots=True, eq=False)
class Request:
    """A chunk and the future its caller holds.

    Attributes:
        job_id: the job the chunk belongs to.
        has_started: the future is marked as running.
        is_suspect: the chunk was running, with others, when something failed that one of them may have caused.
    """

    chunk: PreparedChunk
    job_id: str
    future: Future[ChunkResponse] = field(default_factory=Future)
    has_started: bool = False
    is_suspect: bool = False

    def start(self) -> bool:
        """Mark the future as running; False if the caller has cancelled it. Safe to call again after a failure."""
        if not self.has_started:
            self.has_started = self.future.set_running_or_notify_cancel()
        return self.has_started


class RequestQueue:
    """Requests of all jobs. Jobs take turns, so that none has to wait until another is finished."""

    def __init__(self) -> None:
        self._by_job: OrderedDict[str, deque[Request]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of waiting requests."""
        return sum(len(requests) for requests in self._by_job.values())

    def __iter__(self) -> Iterator[Request]:
        """Iterate over the waiting requests, in no particular order."""
        for requests in self._by_job.values():
            yield from requests

    def add(self, request: Request) -> None:
        """Append a request to those of its job."""
        self._by_job.setdefault(request.job_id, deque()).append(request)

    def put_back(self, requests: Iterable[Request]) -> None:
        """Return requests that failed to the front of the queue, in their order."""
        for request in reversed(list(requests)):
            job_id = request.job_id
            self._by_job.setdefault(job_id, deque()).appendleft(request)
            self._by_job.move_to_end(job_id, last=False)

    def take(self, fits: Callable[[Request], bool]) -> Request | None:
        """Take the next request and move its job to the end of the round. Cancelled requests are dropped.

        Returns:
            None if no request is waiting or the next one does not fit; a later one never overtakes it.
        """
        while self._by_job:
            job_id, requests = next(iter(self._by_job.items()))
            if not requests:
                del self._by_job[job_id]
            elif requests[0].future.cancelled():
                requests.popleft()
            elif not fits(requests[0]):
                return None
            else:
                request = requests.popleft()
                self._by_job.move_to_end(job_id)
                if request.start():
                    return request
        return None

    def take_all(self) -> list[Request]:
        """Take every request, in no particular order."""
        taken = list(self)
        self._by_job.clear()
        return taken
