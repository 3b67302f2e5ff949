"""One life of the service's spool, on real folders."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.config import Folders, Output, RetentionSettings
from daemon.host.folders import Folder
from daemon.inbox import Arrival, fingerprint_of
from daemon.journal import JOURNAL_NAME, Journal
from daemon.journal.records import Reason, Result
from daemon.spool import LOCK_NAME, PRIVATE_FOLDER, SharedFolders, Spool
from daemon.spool.error_notes import is_error_note
from daemon.spool.names import hotwords_name

if TYPE_CHECKING:
    from daemon.job import Job

AUDIO, WORDS = b"RIFF audio", b"Bessel\nChebyshev\n"
MTIME_NS = 1_000_000_000_123_456_789
REASON = Reason("It is not audio.", "Record it again.")
RESULT = Result(audio_s=12.5, wall_s=1.5, is_complete=True)


@dataclass(slots=True)
class NotedHook:
    """A hook that is set and notes what it hears."""

    added: list[str] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def is_set(self) -> bool:
        return True

    def add(self, job: Job) -> None:
        self.added.append(job.path)

    def leave_out(self, job: Job, reason: str) -> None:
        self.left_out.append((job.path, reason))


class World:
    """All that is built at a start of the service, on folders that may have a past.

    Args:
        root: where the folders are.
        elsewhere: where processed and failed are, None for `root`.
        output: the section of the configuration, None for mode 0640.
        looks_again: as for Spool.
        changed: other paths of single folders.
    """

    def __init__(
        self,
        root: Path,
        elsewhere: Path | None = None,
        *,
        output: Output | None = None,
        looks_again: bool = True,
        changed: dict[str, Path] | None = None,
    ) -> None:
        far = elsewhere or root
        paths = {name: root / name for name in ("inbox", "outbox", "state", "cache")}
        paths |= {name: far / name for name in ("processed", "failed")}
        self.folders = Folders(**(paths | (changed or {})))
        self.shared = SharedFolders(self.folders)
        self.shared.prepare()
        self.journal = Journal(self.folders.state)
        section = output or Output(mode="0640")
        self.hook = NotedHook()
        self.spool = Spool(self.shared, self.journal, lambda _: section, looks_again=looks_again, hook=self.hook)
        self.spool._claims.check_room = lambda: None  # type: ignore[method-assign] # a small /dev/shm is room enough here

    def drop(self, path: str = "talk.wav", content: bytes = AUDIO, hotwords: bytes | None = None) -> Arrival:
        target = self.folders.inbox / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        os.utime(target, ns=(MTIME_NS, MTIME_NS))
        if hotwords is not None:
            target.with_name(hotwords_name(target.name)).write_bytes(hotwords)
        return self.arrival(path)

    def arrival(self, path: str = "talk.wav") -> Arrival:
        return Arrival(path, fingerprint_of((self.folders.inbox / path).lstat()))

    def claim(self, path: str = "talk.wav", content: bytes = AUDIO, hotwords: bytes | None = None) -> Job:
        claim = self.spool.claim(self.drop(path, content, hotwords))
        assert claim is not None
        return claim.job

    def claim_folder(self, job: Job) -> Path:
        return self.folders.inbox / PRIVATE_FOLDER / job.job_id

    def audio(self, job: Job) -> Path:
        return self.claim_folder(job) / job.name

    def hotwords(self, job: Job) -> tuple[str, ...]:
        with self.spool.opened(job) as claim:
            return claim.hotwords

    def deliver(self, job: Job, mark: str = "") -> str:
        """Deliver documents of the job and return their stem."""
        return self.spool.deliver(job, documents(job, mark), RESULT).stem

    def set_aside(self, job: Job, reason: Reason = REASON) -> None:
        self.spool.set_aside(job, reason)

    def retry(self, name: str | None = None) -> tuple[Path, ...]:
        done = self.spool.retry(name)
        assert done.problems == ()
        return done.moved

    def sweep(self, now: datetime | None = None, processed_days: int = 0, failed_days: int = 0) -> None:
        self.spool.sweep(RetentionSettings(processed_days=processed_days, failed_days=failed_days), now)

    def close(self) -> None:
        self.journal.close()


def documents(job: Job, mark: str = "") -> dict[str, bytes]:
    facts = {
        "job_id": job.job_id,
        "mark": mark,
        "complete": True,
        "audio": {"duration_s": 12.5},
        "processing": {"wall_s": 1.5},
    }
    return {"txt": f"words{mark}\n".encode(), "json": json.dumps(facts).encode()}


def tree(folder: Path) -> set[str]:
    """Return every file below a folder, with the folders that have none; without the lock of a private folder."""
    found = {
        str(Path(root, name).relative_to(folder))
        for root, folders, names in os.walk(folder)
        for name in (*names, *(name for name in folders if not any(Path(root, name).iterdir())))
    }
    lock = f"{PRIVATE_FOLDER}/{LOCK_NAME}"
    return {PRIVATE_FOLDER if path == lock else path for path in found} - (
        {PRIVATE_FOLDER} if any(path.startswith(f"{PRIVATE_FOLDER}/") and path != lock for path in found) else set()
    )


def is_note(path: Path) -> bool:
    """Whether a file is an error note of ours."""
    with Folder.open(path.parent) as folder:
        return is_error_note(folder, path.name)


def lose_journal(world: World) -> None:
    for path in world.folders.state.glob(f"{JOURNAL_NAME}*"):
        path.unlink()


def expire(world: World, after_days: int = 2, processed_days: int = 2, failed_days: int = 2) -> None:
    """Do what is done so many days later."""
    later = datetime.now(UTC) + timedelta(days=after_days, minutes=1)
    world.sweep(later, processed_days, failed_days)
    world.sweep(later)
