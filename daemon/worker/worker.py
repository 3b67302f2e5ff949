"""The worker: runs claimed recordings side by side and takes each to its outcome."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import structlog

from daemon.config import RecordingSettings, read_folder_settings
from daemon.display import shown_name
from daemon.documents import render
from daemon.errors import EngineLostError, JobError, NoPermissionError, ScribedError, StoppedError, TransientError
from daemon.evaluation import read_curve
from daemon.host import files
from daemon.journal.records import Reason, Result
from daemon.pipeline import Progress, Recording, RunControl, transcribe
from daemon.status import Running
from daemon.worker.attempts import MAX_EARLY_CRASHES, Attempts
from daemon.worker.evidence import JournalMemory, WatchedEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon.config import Config, Settings
    from daemon.engine import Engine
    from daemon.job import Job
    from daemon.transcript import Transcript
    from daemon.worker.resources import Resources

# Recordings prepared and transcribed side by side. The engine fills its batches from all of them, so a memo does not
# wait for a long recording; more would only take disk space for decoded audio.
_MIN_IN_FLIGHT: Final = 4
# A recording of four minutes has eight chunks: with fewer recordings, large engines would idle on short ones.
_CHUNKS_EACH: Final = 8
_CRASHED: Final = "The service crashed each time it processed this recording on its own."
_CRASHED_EARLY: Final = f"The service crashed {MAX_EARLY_CRASHES} times in a row while it decoded this recording alone."
_CRASHED_REMEDY: Final = (
    "The recording may be damaged: convert it with another program, for instance to FLAC, and try again."
)
_UNEXPECTED_REMEDY: Final = "Try again. If it fails again, send the maintainers this job's log, never the recording."
_DISK_REMEDY: Final = "Check the disks and shares of scribed's folders."

log = structlog.get_logger()


def recordings_in_flight(engine: Engine) -> int:
    """Return how many recordings are processed side by side with this engine."""
    return max(_MIN_IN_FLIGHT, engine.max_in_flight // _CHUNKS_EACH)


class ChangedError(ScribedError):
    """The recording changed while it was being transcribed; it is transcribed again, and no attempt is charged."""


@dataclass(slots=True)
class _Run:
    """One recording in progress; written by its own thread, read by others."""

    job: Job
    config: Config
    started_s: float
    thread: threading.Thread | None = None
    is_cancelled: threading.Event = field(default_factory=threading.Event)
    progress: Progress | None = None
    n_chunks: int = 0
    is_suspect: bool = False


class Worker:
    """Runs claimed recordings, each on its own thread.

    Args:
        resources: folders, journal, front end and engine.
        settings: the current configuration.
        wake: called from any thread when a run has ended.
        monotonic: clock in seconds, injectable for tests.

    Attributes:
        attempts: counts and delays the attempts at each job.
    """

    def __init__(
        self,
        resources: Resources,
        settings: Settings,
        wake: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.attempts = Attempts(resources.journal, lambda: settings.current.retry, monotonic)
        self._resources = resources
        self._settings = settings
        self._wake = wake
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._is_stopping = threading.Event()
        self._runs: dict[str, _Run] = {}
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

    def accept(self, job: Job) -> None:
        """Fix the configuration of a newly claimed job: a later reload does not change it."""
        self._settings.pin(job.job_id)

    def has_room(self) -> bool:
        """Whether a recording that is no suspect could begin now."""
        with self._lock:
            return self._has_room(is_suspect=False)

    def is_idle(self) -> bool:
        """Whether nothing is running."""
        with self._lock:
            return not self._runs

    def is_alive(self) -> bool:
        """Whether the threads of all runs are alive."""
        with self._lock:
            return all(run.thread is not None and run.thread.is_alive() for run in self._runs.values())

    def job_ids(self) -> frozenset[str]:
        """Return the ids of the running jobs."""
        with self._lock:
            return frozenset(self._runs)

    def take_changed(self) -> list[Job]:
        """Return, once, the jobs whose recording changed while it was being transcribed: they must settle again."""
        with self._lock:
            changed, self._changed = self._changed, []
        return changed

    def running(self) -> tuple[Running, ...]:
        """Return the runs, for the status."""
        with self._lock:
            runs = list(self._runs.values())
        now_s = self._monotonic()
        return tuple(_running(run, now_s) for run in runs)

    def start(self, job: Job) -> bool:
        """Begin to process a job; return False where there is no room for it now.

        A suspect runs alone: if the service crashes once more, no other recording can be the cause.
        """
        self.accept(job)
        with self._lock:
            if not self._has_room(is_suspect=job.is_suspect) or job.job_id in self._runs:
                return False
            run = _Run(job, self._settings.of(job.job_id), self._monotonic(), is_suspect=job.is_suspect)
            run.thread = threading.Thread(target=self._run, args=(run,), name=f"job-{job.job_id}")
            self._runs[job.job_id] = run
        run.thread.start()
        return True

    def cancel(self, job: Job) -> None:
        """Cancel a job: a running one ends within moments, a waiting one moves to failed at once."""
        with self._lock:
            run = self._runs.get(job.job_id)
        if run is not None:
            run.is_cancelled.set()
        else:
            self._cancel(job)

    def stop(self, timeout_s: float) -> bool:
        """Ask all runs to end and wait for them; return False if some have not ended by then."""
        self._is_stopping.set()
        end_s = self._monotonic() + timeout_s
        with self._lock:
            threads = [run.thread for run in self._runs.values() if run.thread is not None]
        for thread in threads:
            thread.join(max(0.0, end_s - self._monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _has_room(self, *, is_suspect: bool) -> bool:
        engine = self._resources.engines.engine
        if self._is_stopping.is_set() or engine is None or len(self._runs) >= recordings_in_flight(engine):
            return False
        return not self._runs if is_suspect else not any(run.is_suspect for run in self._runs.values())

    def _run(self, run: _Run) -> None:
        """Take one job to its outcome; the only place that catches every error."""
        job = run.job
        try:
            self._process(run)
        except StoppedError:
            self._end_stopped(run)
        except ChangedError:
            self._rest_logged(job, "job.changed_while_running")
            with self._lock:
                self._changed.append(job)
        except JobError as error:
            self._fail(job, error.what, error.remedy)
        except (TransientError, NoPermissionError) as error:
            self._back_off(job, error)
        except OSError as error:  # a disk or a share failed during the run
            what = f"A file could not be read or written: {files.describe_error(error)}."
            self._back_off(job, TransientError(what, _DISK_REMEDY))
        except EngineLostError as error:
            self._rest_logged(job, "engine.lost")
            self._resources.engines.lose(error)
        except Exception as error:
            log.exception("job.attempt_failed", job_id=job.job_id, path=job.path)
            self._charge(job, f"Unexpected error ({type(error).__name__}).", _UNEXPECTED_REMEDY)
        finally:
            with self._lock:
                del self._runs[job.job_id]
            self._wake()

    def _process(self, run: _Run) -> None:
        job, resources = run.job, self._resources
        if resources.spool.conclude(job):
            self._forget(job)
            return
        resources.journal.begin(job.job_id)
        before = resources.spool.fingerprint(job)
        settings = self._recording_settings(run)
        transcript = self._transcribe(run, settings)
        if resources.spool.fingerprint(job) != before:
            resources.journal.drop_chunks(job.job_id)
            raise ChangedError("The recording changed while it was being transcribed.")
        self._raise_if_stopped(run)
        if (note := resources.spool.explain_second_set(job)) is not None:
            transcript = replace(transcript, audio=transcript.audio.with_note(note))
        documents = render(
            transcript,
            settings.output.formats,
            has_timestamps=settings.output.timestamps,
            audio_folders=[resources.spool.audio_folder(job)],
        )
        result = Result(transcript.audio.duration_s, transcript.processing.wall_s, transcript.is_complete)
        resources.spool.deliver(job, documents, result)
        self._forget(job)
        with self._lock:
            self._n_delivered += 1
        resources.counters.add_delivered(transcript)
        _log_delivery(job, transcript, run.n_chunks)

    def _transcribe(self, run: _Run, settings: RecordingSettings) -> Transcript:
        job, resources = run.job, self._resources
        engine = resources.engines.engine
        if engine is None:
            raise AssertionError("a run begins only when there is an engine")
        control = RunControl(
            raise_if_stopped=lambda: self._raise_if_stopped(run),
            progress=lambda progress: _note_progress(run, progress),
            memory=JournalMemory(resources.journal, job.job_id, lambda: self._clear_suspicion(run)),
            calibration=read_curve(run.config.folders.state, engine.identity),
        )
        watched = WatchedEngine(engine, resources.journal, job.job_id)
        with resources.spool.audio(job) as audio:
            recording = Recording(job.job_id, audio, job.path, settings, job.attempts + 1)
            return transcribe(recording, run.config, resources.front_end, watched, control)

    def _recording_settings(self, run: _Run) -> RecordingSettings:
        """Return the settings of a recording: of its claim, of its folder, and its own hotwords."""
        job, faults = run.job, self._resources.faults
        outer = RecordingSettings.of(run.config)
        names = run.config.logging.names
        settings, broken = read_folder_settings(
            run.config.folders.inbox, job.folder, outer, lambda folder: shown_name(folder, names)
        )
        key = f"settings of {job.folder}"
        for fault in broken:
            faults.note(key, fault, "Until it is fixed, the settings of the folder above apply.")
        if not broken:
            faults.clear(key)
        return settings.with_hotwords(self._resources.spool.hotwords(job))

    def _raise_if_stopped(self, run: _Run) -> None:
        if run.is_cancelled.is_set():
            raise StoppedError("The recording was cancelled.")
        if self._is_stopping.is_set():
            raise StoppedError("The service is stopping.")

    def _clear_suspicion(self, run: _Run) -> None:
        """Let others run at the same time again: a chunk was transcribed now, not recalled from before."""
        if run.is_suspect:
            run.is_suspect = False
            self._wake()

    def _end_stopped(self, run: _Run) -> None:
        if run.is_cancelled.is_set():
            self._cancel(run.job)
        else:
            self._rest_logged(run.job, "job.interrupted")

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

    def flush_pending_marks(self) -> None:
        """Record what could not be recorded when a run ended."""
        with self._lock:
            pending = self._unrested - self._runs.keys()
            self._unrested.clear()
        for job_id in pending:
            self._rest(job_id)

    def _fail(self, job: Job, reason: str, remedy: str) -> None:
        with self._backing_off_on_error(job):
            self._resources.spool.set_aside(job, Reason(reason, remedy))
            self._forget(job)
            with self._lock:
                self._n_failed += 1
            self._resources.counters.add_failed()
            log.warning("job.failed", job_id=job.job_id, path=job.path, reason=reason)

    def _cancel(self, job: Job) -> None:
        with self._backing_off_on_error(job):
            self._resources.spool.cancel(job)
            self._forget(job)
            log.info("job.cancelled", job_id=job.job_id, path=job.path)

    @contextmanager
    def _backing_off_on_error(self, job: Job) -> Iterator[None]:
        try:
            yield
        except (TransientError, NoPermissionError) as error:
            self._back_off(job, error)

    def recover(self, crashed: tuple[Job, ...]) -> None:
        """After a crash, fail recordings that crash the service each time; other suspects wait for the rest."""
        for job in crashed:
            if self.attempts.has_used_up(job):
                is_early = job.n_early_crashes >= MAX_EARLY_CRASHES
                self._fail(job, _CRASHED_EARLY if is_early else _CRASHED, _CRASHED_REMEDY)
        unfinished = self._resources.journal.unfinished()
        for job in unfinished:
            self.accept(job)
        self.attempts.hold_back(unfinished)

    def _charge(self, job: Job, reason: str, remedy: str) -> None:
        with self._backing_off_on_error(job):
            if self.attempts.charge(job.job_id):
                self._fail(job, reason, remedy)

    def _back_off(self, job: Job, error: ScribedError) -> None:
        """Try again later, because of a problem that the recording did not cause."""
        log.warning("job.delayed", job_id=job.job_id, path=job.path, what=error.what)
        self._resources.faults.note(job.job_id, error.what, error.remedy)
        self.attempts.back_off(job.job_id)
        self._rest(job.job_id)

    def _forget(self, job: Job) -> None:
        """Forget what was kept for a job that has ended."""
        self._resources.faults.clear(job.job_id)
        self.attempts.forget(job.job_id)
        self._settings.unpin(job.job_id)


def _note_progress(run: _Run, progress: Progress) -> None:
    run.progress = progress
    run.n_chunks += 1


def _running(run: _Run, now_s: float) -> Running:
    progress = run.progress
    if progress is None:
        return Running(run.job.path, 0.0, None, None, run.job.job_id)
    wall_s = max(now_s - run.started_s, 1e-3)
    rtfx = round(progress.done * progress.audio_s / wall_s, 1)
    return Running(run.job.path, progress.done, progress.audio_s, rtfx, run.job.job_id)


def _log_delivery(job: Job, transcript: Transcript, n_chunks: int) -> None:
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
