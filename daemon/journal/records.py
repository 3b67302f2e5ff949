"""What the journal remembers of a job, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from daemon.job import Job

_COARSEST_TIME_NS: Final = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Roots:
    """The shared folders that a job uses. They stay with it when the configuration changes."""

    inbox: Path
    outbox: Path
    processed: Path
    failed: Path

    def as_text(self) -> dict[str, str]:
        """Return the path of each folder by its name."""
        return {name: str(getattr(self, name)) for name in ("inbox", "outbox", "processed", "failed")}


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
class FileStamp:
    """What identifies a file that was moved out of the inbox: its size, and its mtime, which every move keeps."""

    n_bytes: int
    mtime_ns: int

    def matches(self, other: FileStamp | None) -> bool:
        """Whether both are of the same file; a share may store coarse times (SMB 100 ns, FAT two seconds)."""
        if other is None or other.n_bytes != self.n_bytes:
            return False
        return abs(other.mtime_ns - self.mtime_ns) < _COARSEST_TIME_NS


@dataclass(frozen=True, slots=True)
class Stamps:
    """The stamps of a recording and of its hotwords; None for what is not there."""

    audio: FileStamp | None = None
    hotwords: FileStamp | None = None


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """A file in processed or failed: its name there, and its stamp."""

    name: str
    stamp: FileStamp


@dataclass(frozen=True, slots=True)
class ArchivedJob:
    """What a job left in processed or failed: the folder in there, the audio, and hotwords if there were any.

    `roots` is None for a job of a version that did not record them.
    """

    job_id: str
    folder: str
    files: tuple[ArchivedFile, ...]
    roots: Roots | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What the history says of a transcript.

    Attributes:
        audio_s: seconds of audio.
        wall_s: seconds it took.
        is_complete: whether it covers all speech.
        sha256: of the recording.
        duplicate_of: id of the first job with the same recording.
    """

    audio_s: float
    wall_s: float
    is_complete: bool
    sha256: str | None = None
    duplicate_of: str | None = None


@dataclass(frozen=True, slots=True)
class ChunkText:
    """The model's text for one chunk; `is_finished` is False where the model did not stop by itself."""

    text: str
    language: str | None
    is_finished: bool


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a recording moves to failed, and what its owner can do."""

    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class FailedPlace:
    """Where a recording goes within failed: the folder, "" for failed itself, and its name there."""

    folder: str
    name: str


@dataclass(frozen=True, slots=True)
class SecondLook:
    """A look at a recording after its delivery: it may have grown, because its writer was not seen to close it.

    Attributes:
        job: the job.
        n_bytes: how long the recording was when it was transcribed.
        n_again: how often it was transcribed again because of such a look.
        documents: the sha256 of each delivered document by its name.
    """

    job: Job
    n_bytes: int
    n_again: int
    documents: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DueHook:
    """A delivery after which a program is still to run.

    Attributes:
        hook_id: grows with each delivery.
        job: what was delivered.
        document: path of the JSON document, as it was delivered.
    """

    hook_id: int
    job: Job
    document: str


@dataclass(frozen=True, slots=True)
class PastJob:
    """How a past job ended."""

    job: Job
    finished_at: str
    reason: str | None
    remedy: str | None
    audio_s: float | None
    wall_s: float | None
    audio_path: str | None  # within processed or failed
    is_complete: bool | None
    roots: Roots | None = None
