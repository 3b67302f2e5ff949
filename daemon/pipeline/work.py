"""What the pipeline works on, and how its caller follows and stops the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from daemon.config import RecordingSettings
    from daemon.evaluation import StoredCurve
    from daemon.frontend import Prepared
    from daemon.journal.records import ChunkText
    from daemon.transcript import Source


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
class PreparedRecording:
    """A recording between the two stages: decoded, cleaned, its speech found. Its audio takes disk space until closed.

    Attributes:
        started_at: when its preparation began, ISO 8601 in UTC.
        took_s: seconds that the preparation took.
    """

    recording: Recording
    source: Source
    sound: Prepared
    started_at: str
    took_s: float

    @property
    def audio_s(self) -> float:
        """Length in seconds."""
        return max(stream.waveform.duration_s for stream in self.sound.streams)

    @property
    def stored_s(self) -> float:
        """Seconds of audio that its streams take on the disk together."""
        return sum(stream.waveform.stored_s for stream in self.sound.streams)

    def close(self) -> None:
        """Give up the audio."""
        self.sound.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give up the audio."""
        self.close()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a recording is: the share of its time that is done, 0 to 1, and its length in seconds."""

    done: float
    audio_s: float


class Pace(Protocol):
    """How fast a recording may submit its chunks, where several share an engine."""

    def may_submit(self, n_ahead: int, ahead_s: float) -> bool:
        """Whether it may submit another chunk.

        Args:
            n_ahead: chunks of this recording that are submitted and not done.
            ahead_s: seconds of audio in them.
        """

    def next_turn(self) -> Future[None]:
        """Return a future that is done when `may_submit` is worth asking again; it was refused with nothing ahead."""


@dataclass(frozen=True, slots=True)
class RunControl:
    """How the caller follows and stops the work.

    Attributes:
        raise_if_stopped: called often; raises StoppedError to stop the work.
        progress: called after each chunk.
        memory: keeps finished chunks.
        calibration: the curve of the confidence in words, None to leave the model's own probabilities.
        pace: how fast chunks may be submitted; None where the recording has the engine to itself.
        warn: called with a clause that says which setting could not be applied.
    """

    raise_if_stopped: Callable[[], None]
    progress: Callable[[Progress], None]
    memory: ChunkMemory
    calibration: StoredCurve | None = None
    pace: Pace | None = None
    warn: Callable[[str], None] = lambda _: None
