"""One recording in progress: where it is between its claim and its outcome."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

from daemon.status import Running

if TYPE_CHECKING:
    from collections.abc import Generator
    from concurrent.futures import Future
    from typing import Any

    from daemon.config import Config, RecordingSettings
    from daemon.job import Fingerprint, Job
    from daemon.pipeline import PreparedRecording, Progress
    from daemon.transcript import Transcript
    from daemon.worker.places import Place

# A larger file may take minutes to decode; one of this size is a minute and a half of a CD, or two hours of a call.
LONG_BYTES: Final = 16 << 20


class Stage(Enum):
    """How far a run is.

    QUEUED: waits for a decoder.
    PREPARING: is decoded, cleaned, and its speech is found.
    PREPARED: waits for a place at the engine for the first time.
    TRANSCRIBING: the engine has chunks of it, or had some before others took its place; then it is delivered.
    """

    QUEUED = "queued"
    PREPARING = "preparing"
    PREPARED = "prepared"
    TRANSCRIBING = "transcribing"


@dataclass(slots=True, eq=False)
class Run:
    """One recording in progress. The thread that works on it writes; others read.

    Attributes:
        job: the job, as the journal knew it at the start.
        config: the configuration of its claim.
        n_bytes: size of the recording.
        since_s: when it began to wait for a decoder, on the worker's clock.
        started_s: when its preparation began.
        stage: how far it is.
        is_suspect: it was in flight at a crash and has finished no chunk since.
        is_cancelled: its user no longer wants it.
        fingerprint: of the recording before it was read.
        settings: that apply to it; None before it is prepared.
        prepared: its audio, while there is any.
        place: its place among those that share the engine.
        steps: the second stage of the pipeline; None before it begins.
        pending: what `steps` waits for.
        progress: how much of it is transcribed.
        n_chunks: how many chunks have text.
        working: held while a thread advances it.
    """

    job: Job
    config: Config
    n_bytes: int
    since_s: float
    started_s: float = 0.0
    stage: Stage = Stage.QUEUED
    is_suspect: bool = False
    is_cancelled: threading.Event = field(default_factory=threading.Event)
    fingerprint: Fingerprint | None = None
    settings: RecordingSettings | None = None
    prepared: PreparedRecording | None = None
    place: Place | None = None
    steps: Generator[Future[Any], None, Transcript] | None = None
    pending: Future[Any] | None = None
    progress: Progress | None = None
    n_chunks: int = 0
    working: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_long(self) -> bool:
        """Whether to expect that decoding takes long."""
        return self.n_bytes > LONG_BYTES

    def note(self, progress: Progress) -> None:
        """Record that another chunk has its text."""
        self.progress = progress
        self.n_chunks += 1
        if self.place is not None:
            self.place.note(progress.done)

    def leave_engine(self) -> None:
        """Give up its place, and chunks that the engine has not begun."""
        if self.steps is not None:
            self.steps.close()
        if self.place is not None:
            self.place.leave()

    def release(self) -> None:
        """Give up what it holds: its place, chunks that the engine has not begun, and its audio."""
        self.leave_engine()
        if self.prepared is not None:
            self.prepared.close()
            self.prepared = None

    def show(self, now_s: float) -> Running:
        """Return it for the status."""
        progress = self.progress
        if progress is None:
            return Running(self.job.path, 0.0, None, None, self.job.job_id)
        wall_s = max(now_s - self.started_s, 1e-3)
        rtfx = round(progress.done * progress.audio_s / wall_s, 1)
        return Running(self.job.path, progress.done, progress.audio_s, rtfx, self.job.job_id)
