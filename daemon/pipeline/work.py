"""What the pipeline works on, and how its caller follows and stops the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from daemon.config import RecordingSettings
    from daemon.evaluation import StoredCurve
    from daemon.journal.records import ChunkText


class ChunkMemory(Protocol):
    """Where the texts of finished chunks survive the process."""

    def recall(self, resume_key: str) -> Mapping[tuple[int, int], ChunkText]:
        """Return the texts by (start, stop) in samples that were written under the same key."""

    def remember(self, resume_key: str, span: tuple[int, int], said: ChunkText) -> None:
        """Keep the text of one chunk."""


class Forgetful:
    """The memory of work that is never resumed, such as that of `scribed transcribe`."""

    def recall(self, resume_key: str) -> Mapping[tuple[int, int], ChunkText]:
        """Return nothing."""
        del resume_key
        return {}

    def remember(self, resume_key: str, span: tuple[int, int], said: ChunkText) -> None:
        """Keep nothing."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording to transcribe.

    Attributes:
        audio: where the file lies now, or a descriptor of it.
        path: where it was dropped within the inbox, or its name.
        attempt: 1 for the first one.
    """

    job_id: str
    audio: Path | int
    path: str
    settings: RecordingSettings
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a recording is: the share of its time that is done, 0 to 1, and its length in seconds."""

    done: float
    audio_s: float


@dataclass(frozen=True, slots=True)
class RunControl:
    """How the caller follows and stops the work.

    Attributes:
        raise_if_stopped: called often; raises StoppedError to stop the work.
        progress: called after each chunk.
        memory: keeps finished chunks.
        calibration: the curve of the confidence in words, None to leave the model's own probabilities.
    """

    raise_if_stopped: Callable[[], None]
    progress: Callable[[Progress], None]
    memory: ChunkMemory
    calibration: StoredCurve | None = None
