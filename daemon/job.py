"""The job: one claimed recording, and the states it goes through."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class JobState(StrEnum):
    """How far a job is; a recording goes through the states in this order and ends in one of the last two.

    CLAIMED: in `inbox/.scribed/<job_id>/`, waiting or running.
    DELIVERING: its stem is reserved, and documents may be in the outbox.
    DELIVERED: all documents are in the outbox; the audio may still have to move.
    DONE: the audio is in `processed`.
    FAILED: the audio is in `failed`, with the reason next to it.
    """

    CLAIMED = "claimed"
    DELIVERING = "delivering"
    DELIVERED = "delivered"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What distinguishes one version of a file from another without reading it."""

    device: int
    inode: int
    n_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Job:
    """One claimed recording.

    Attributes:
        job_id: sorts by time of the claim, such as "20260131T093000-1f2e3d".
        path: where the recording was within the inbox, with "/" between folders.
        claimed_at: ISO 8601, UTC.
        attempts: failed attempts charged to this recording so far.
        is_suspect: it was in flight at a crash and has finished no chunk since.
        is_isolated: and it was in flight at an earlier crash too, or alone: it must run alone.
        n_early_crashes: crashes in a row at which it was alone and the engine had no chunk of it yet.
    """

    job_id: str
    path: str
    claimed_at: str
    state: JobState = JobState.CLAIMED
    attempts: int = 0
    is_suspect: bool = False
    n_early_crashes: int = 0
    is_isolated: bool = False

    @property
    def name(self) -> str:
        """The recording's own name."""
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """The sub-folder of the inbox it came from, "" for the inbox itself."""
        return self.path.rpartition("/")[0]
