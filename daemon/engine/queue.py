"""Requests that wait for a slot, and which of them comes next. No thread, no lock."""

from __future__ import annotations

from collections import OrderedDict, deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from daemon.engine.protocol import ChunkResponse
    from daemon.engine.qwen3_asr.model import PreparedChunk


@dataclass(slots=True, eq=False)
class Request:
    """A piece and the future its caller holds.

    Attributes:
        job_id: whose piece it is.
        is_suspect: it was in work when something failed that one of several pieces has caused.
    """

    piece: PreparedChunk
    job_id: str
    future: Future[ChunkResponse] = field(default_factory=Future)
    has_begun: bool = False
    is_suspect: bool = False

    def begin(self) -> bool:
        """Take it up; False where the caller has cancelled it. Safe to ask again after a failure."""
        if not self.has_begun:
            self.has_begun = self.future.set_running_or_notify_cancel()
        return self.has_begun


class RequestQueue:
    """Requests of all jobs. Jobs take turns, so that none waits for another to end."""

    def __init__(self) -> None:
        self._by_job: OrderedDict[str, deque[Request]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many wait."""
        return sum(len(requests) for requests in self._by_job.values())

    def __iter__(self) -> Iterator[Request]:
        """Iterate over all that wait, in no particular order."""
        for requests in self._by_job.values():
            yield from requests

    def add(self, request: Request) -> None:
        """Put a request behind those of its job."""
        self._by_job.setdefault(request.job_id, deque()).append(request)

    def put_back(self, requests: Iterable[Request]) -> None:
        """Put requests whose work failed ahead of all others, in their order."""
        for request in reversed(list(requests)):
            job_id = request.job_id
            self._by_job.setdefault(job_id, deque()).appendleft(request)
            self._by_job.move_to_end(job_id, last=False)

    def take(self, fits: Callable[[Request], bool]) -> Request | None:
        """Take the request whose turn it is; its job is then the last in the round.

        Returns:
            None where none waits, or where the next one does not fit: nobody overtakes it. What was
            cancelled vanishes.
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
                if request.begin():
                    return request
        return None

    def take_all(self) -> list[Request]:
        """Take everything, in no particular order."""
        taken = list(self)
        self._by_job.clear()
        return taken
