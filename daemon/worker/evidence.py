"""What the journal records while a job runs: that the engine has a chunk of it, and the text of each finished one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from daemon.engine import ChunkRequest, ChunkResponse, Engine
    from daemon.journal import Journal
    from daemon.journal.records import ChunkText
    from daemon.transcript import ModelIdentity

log = structlog.get_logger()


@dataclass(slots=True)
class WatchedEngine:
    """The engine as one job sees it: the journal learns of its first chunk before the engine gets it.

    A crash is charged to a recording only with this evidence; decoding, which comes before, is another process.
    """

    engine: Engine
    journal: Journal
    job_id: str
    _has_reached: bool = False

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is."""
        return self.engine.identity

    @property
    def max_in_flight(self) -> int:
        """How many chunks keep the engine busy."""
        return self.engine.max_in_flight

    def submit(self, chunk: ChunkRequest, /) -> Future[ChunkResponse]:
        """Queue a chunk.

        Raises:
            TransientError: the journal cannot be written.
        """
        if not self._has_reached:
            self.journal.reach_engine(self.job_id)
            self._has_reached = True
        return self.engine.submit(chunk)

    def fit_hotwords(self, hotwords: tuple[str, ...], /) -> tuple[tuple[str, ...], int]:
        """Return the leading hotwords that fit the model's context, and how many were left out."""
        return self.engine.fit_hotwords(hotwords)

    def is_alive(self) -> bool:
        """Whether the engine works."""
        return self.engine.is_alive()

    def close(self) -> None:
        """Do nothing: the engine serves other jobs too."""


@dataclass(frozen=True, slots=True)
class JournalMemory:
    """The journal as the pipeline's memory of one job.

    Attributes:
        when_finished: called after each chunk that was transcribed now, not recalled.
    """

    journal: Journal
    job_id: str
    when_finished: Callable[[], None]

    def recall(self, resume_key: str) -> Mapping[tuple[int, int], ChunkText]:
        """Return the texts of finished chunks by (start, stop) in samples that were written under the same key."""
        known = self.journal.remembered_chunks(self.job_id, resume_key)
        if known:
            log.info("job.resumed", job_id=self.job_id, n_chunks=len(known))
        return known

    def remember(self, resume_key: str, span: tuple[int, int], said: ChunkText) -> None:
        """Keep the text of one chunk."""
        self.journal.remember_chunk(self.job_id, resume_key, span, said)
        self.when_finished()
