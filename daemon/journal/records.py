"""What the journal remembers of a job, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daemon.job import Job

_COARSEST_TIME_NS = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Reservation:
    """The names a job has for its outcome.

    Attributes:
        folder: within outbox and processed, "" for these themselves.
        stem: of the documents, without their ending.
        audio_name: of the audio.
    """

    folder: str
    stem: str
    audio_name: str


@dataclass(frozen=True, slots=True)
class Look:
    """What a file that is put away is known by: its size, and its time stamp, which every move keeps."""

    n_bytes: int
    mtime_ns: int

    def is_like(self, other: Look | None) -> bool:
        """Whether the other is the same; a share may keep times coarsely (SMB 100 ns, FAT two seconds)."""
        if other is None or other.n_bytes != self.n_bytes:
            return False
        return abs(other.mtime_ns - self.mtime_ns) < _COARSEST_TIME_NS


@dataclass(frozen=True, slots=True)
class Looks:
    """How a recording and the hotwords beside it look; None for what is not there."""

    audio: Look | None = None
    hotwords: Look | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that was put away: its name, and how it looked."""

    name: str
    look: Look


@dataclass(frozen=True, slots=True)
class PutAway:
    """What a job left in processed or failed: the folder in there, the audio, and hotwords if there were any."""

    job_id: str
    folder: str
    files: tuple[Kept, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What is told of a transcript in the history: its length, how long it took, whether it is whole."""

    audio_s: float
    wall_s: float
    is_complete: bool


@dataclass(frozen=True, slots=True)
class ChunkText:
    """What the model said to one chunk; `is_finished` is False where it came to no end."""

    text: str
    language: str | None
    is_finished: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a past job ended."""

    job: Job
    finished_at: str
    reason: str | None
    remedy: str | None
    audio_s: float | None
    wall_s: float | None
    audio_path: str | None  # within processed or failed
    is_complete: bool | None
