"""How the work on a job ends: delivered, failed, cancelled, or left for another try."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import structlog

from daemon.display import shortened, shown_name
from daemon.errors import (
    ChangedError,
    EngineLostError,
    JobError,
    NoPermissionError,
    ScribedError,
    StoppedError,
    TransientError,
)
from daemon.host import files
from daemon.journal.records import Reason
from daemon.worker.attempts import MAX_EARLY_CRASHES

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from daemon.config import Settings
    from daemon.job import Job
    from daemon.transcript import Transcript
    from daemon.worker.attempts import Attempts
    from daemon.worker.resources import Resources

_CRASHED: Final = "The service crashed each time it processed this recording on its own."
_CRASHED_EARLY: Final = f"The service crashed {MAX_EARLY_CRASHES} times in a row while it decoded this recording alone."
_CRASHED_REMEDY: Final = (
    "The recording may be damaged: convert it with another program, for instance to FLAC, and try again."
)
_UNEXPECTED_REMEDY: Final = "Try again. If it fails again, send the maintainers this job's log, never the recording."
_DISK_REMEDY: Final = "Check the disks and shares of scribed's folders."
SKIPPED: Final = "corrections"
"""The key of the fault that a correction was skipped."""
_SKIPPED_REMEDY: Final = "Simplify the rule and reload the service. The notes of the transcript name the rule, too."
_SKIPPED_SHOWN_S: Final = 86_400.0
_MAX_SKIPPED_CHARS: Final = 300

log = structlog.get_logger()


class Outcomes:
    """Takes each job to its outcome. Any thread may call.

    Args:
        resources: folders, journal and faults.
        settings: the current configuration.
        attempts: counts and delays the attempts at each job.
    """

    def __init__(self, resources: Resources, settings: Settings, attempts: Attempts) -> None:
        self._resources = resources
        self._settings = settings
        self._attempts = attempts
        self._lock = threading.Lock()
        self._changed: list[Job] = []
        self._unrested: set[str] = set()  # the journal still has them in flight
        self._n_delivered = 0
        self._n_failed = 0

    @property
    def n_delivered(self) -> int:
        """How many recordings were delivered since the start."""
        return self._n_delivered

    @property
    def n_failed(self) -> int:
        """How many recordings moved to failed since the start, without cancelled ones."""
        return self._n_failed

    def take_changed(self) -> list[Job]:
        """Return, once, the jobs whose recording changed while it was being transcribed."""
        with self._lock:
            changed, self._changed = self._changed, []
        return changed

    def handle(self, job: Job, error: Exception, *, is_cancelled: bool) -> None:
        """Do what an error calls for that ended the work on a job.

        Args:
            job: the job.
            error: any error.
            is_cancelled: whether the job's user no longer wants it.
        """
        match error:
            case StoppedError() if is_cancelled:
                self.cancel(job)
            case StoppedError():
                self._rest_logged(job, "job.interrupted")
            case ChangedError():
                self._rest_logged(job, "job.changed_while_running")
                with self._lock:
                    self._changed.append(job)
            case JobError():
                self._fail(job, error.what, error.remedy)
            case TransientError() | NoPermissionError():
                self._back_off(job, error)
            case OSError():  # a disk or a share failed during the run
                what = f"A file could not be read or written: {files.describe_error(error)}."
                self._back_off(job, TransientError(what, _DISK_REMEDY))
            case EngineLostError():
                self._rest_logged(job, "engine.lost")
                self._resources.engines.lose(error)
            case _:
                log.error("job.attempt_failed", job_id=job.job_id, path=job.path, exc_info=error)
                self._charge(job, f"Unexpected error ({type(error).__name__}).", _UNEXPECTED_REMEDY)

    def note_delivered(self, job: Job, transcript: Transcript, n_chunks: int) -> None:
        """Record that a transcript was delivered."""
        self.forget(job)
        with self._lock:
            self._n_delivered += 1
        self._resources.counters.add_delivered(transcript)
        log.info(
            "job.delivered",
            job_id=job.job_id,
            path=job.path,
            audio_s=round(transcript.audio.duration_s, 1),
            wall_s=round(transcript.processing.wall_s, 1),
            rtfx=round(transcript.processing.rtfx, 1),
            n_chunks=n_chunks,
            attempt=transcript.processing.attempt,
            is_complete=transcript.is_complete,
        )

    def note_skipped(self, job: Job, what: str) -> None:
        """Show for a day that something in the configuration could not be done for a job; its transcript says so too.

        Args:
            job: the job.
            what: a clause, such as "correction 1 (x) was skipped in one segment: it took too long".
        """
        name = shown_name(job.path, self._settings.current.logging.names)
        what = f"In {name}, {shortened(what, _MAX_SKIPPED_CHARS)}."
        self._resources.faults.note(SKIPPED, what, _SKIPPED_REMEDY, _SKIPPED_SHOWN_S, names=(name,))

    def cancel(self, job: Job) -> None:
        """Move a job's recording to failed, because its user asked for it."""
        with self._backing_off_on_error(job):
            self._resources.spool.cancel(job)
            self.forget(job)
            log.info("job.cancelled", job_id=job.job_id, path=job.path)

    def fail_crashed(self, job: Job) -> None:
        """Move a recording to failed that has crashed the service each time."""
        is_early = job.n_early_crashes >= MAX_EARLY_CRASHES
        self._fail(job, _CRASHED_EARLY if is_early else _CRASHED, _CRASHED_REMEDY)

    def forget(self, job: Job) -> None:
        """Forget what was kept for a job that has ended."""
        self._resources.faults.clear(job.job_id)
        self._attempts.forget(job.job_id)
        self._settings.unpin(job.job_id)

    def flush_pending_marks(self, running: Container[str]) -> None:
        """Record what could not be recorded when a run ended, except for jobs that run again."""
        with self._lock:
            pending = [job_id for job_id in self._unrested if job_id not in running]
            self._unrested.clear()
        for job_id in pending:
            self._rest(job_id)

    def _rest_logged(self, job: Job, event: str) -> None:
        log.info(event, job_id=job.job_id, path=job.path)
        self._rest(job.job_id)

    def _rest(self, job_id: str) -> None:
        """Record that the job is no longer in flight; if that cannot be written now, it is written later."""
        try:
            self._resources.journal.rest(job_id)
        except TransientError:  # if it stayed in flight, the next start would count it as a crash
            with self._lock:
                self._unrested.add(job_id)

    def _fail(self, job: Job, reason: str, remedy: str) -> None:
        with self._backing_off_on_error(job):
            self._resources.spool.set_aside(job, Reason(reason, remedy))
            self.forget(job)
            with self._lock:
                self._n_failed += 1
            self._resources.counters.add_failed()
            log.warning("job.failed", job_id=job.job_id, path=job.path, reason=reason)

    def _charge(self, job: Job, reason: str, remedy: str) -> None:
        with self._backing_off_on_error(job):
            if self._attempts.charge(job.job_id):
                self._fail(job, reason, remedy)

    @contextmanager
    def _backing_off_on_error(self, job: Job) -> Iterator[None]:
        try:
            yield
        except (TransientError, NoPermissionError) as error:
            self._back_off(job, error)

    def _back_off(self, job: Job, error: ScribedError) -> None:
        """Try again later, because of a problem that the recording did not cause."""
        log.warning("job.delayed", job_id=job.job_id, path=job.path, what=error.what)
        self._resources.faults.note(job.job_id, error.what, error.remedy, names=(f"/{job.path}",))
        self._attempts.back_off(job.job_id)
        self._rest(job.job_id)
