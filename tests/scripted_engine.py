"""An engine with scripted results, to test what its callers do with them."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from daemon.engine import ChunkRequest, ChunkResponse, Fallback
from daemon.errors import StoppedError
from daemon.transcript import ModelIdentity

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class ScriptedEngine:
    """Writes the number of each request.

    Attributes:
        longest_s: longer chunks stay unfinished.
        error: raised instead for every request after the first `n_good`.
        is_held: whether results wait until `release`.
        write: gives the text of a request instead of its number.
    """

    longest_s: float = 1000.0
    error: Exception | None = None
    n_good: int = 0
    is_held: bool = False
    write: Callable[[ChunkRequest], str] | None = None
    pieces: list[ChunkRequest] = field(default_factory=list)
    identity: ModelIdentity = field(default_factory=lambda: ModelIdentity("scripted", "0", "float32", "cpu"))
    max_in_flight: int = 2
    fallbacks: tuple[Fallback, ...] = ()
    n_late_builds: int = 0
    is_unloaded: bool = False
    held: list[tuple[Future[ChunkResponse], ChunkResponse, str]] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def submit(self, piece: ChunkRequest) -> Future[ChunkResponse]:
        future: Future[ChunkResponse] = Future()
        with self.lock:
            self.pieces.append(piece)
            words = self.write(piece) if self.write else f"piece{len(self.pieces)}"
            text = ChunkResponse(words, "English", is_finished=piece.duration_s <= self.longest_s)
            if self.error is not None and len(self.pieces) > self.n_good:
                future.set_exception(self.error)
            elif self.is_held:
                self.held.append((future, text, piece.job_id))
            else:
                future.set_result(text)
        self.asked.set()
        return future

    def release(self) -> None:
        """Give all waiting results, and hold no more."""
        with self.lock:
            self.is_held = False
            held, self.held = self.held, []
        for future, text, _ in held:
            if future.set_running_or_notify_cancel():
                future.set_result(text)

    def finish(self, job_id: str) -> None:
        """Give the waiting results of one job, and go on holding."""
        with self.lock:
            done = [one for one in self.held if one[2] == job_id]
            self.held = [one for one in self.held if one[2] != job_id]
        for future, text, _ in done:
            if future.set_running_or_notify_cancel():
                future.set_result(text)

    def fit_hotwords(self, hotwords: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
        return hotwords[:2], max(0, len(hotwords) - 2)

    def count_late_builds(self) -> int:
        return self.n_late_builds

    def is_alive(self) -> bool:
        return True

    def unload(self) -> None:
        self.is_unloaded = True

    def close(self) -> None:
        with self.lock:
            held, self.held = self.held, []
        for future, _, _ in held:
            if future.set_running_or_notify_cancel():
                future.set_exception(StoppedError("closed"))
