"""Who works on what: a few recordings at a time, what becomes of each, and what is tried again."""

from __future__ import annotations

import math
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from daemon.config import RecordingSettings, read_folder_settings
from daemon.documents import render
from daemon.errors import EngineLostError, JobError, NoPermissionError, ScribedError, StoppedError, TransientError
from daemon.pipeline import Progress, Recording, RunControl, transcribe
from daemon.spool import conclude
from daemon.status import Running
from daemon.status.metrics import Counters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from daemon.config import Config
    from daemon.engine import Engine
    from daemon.frontend import FrontEnd
    from daemon.job import Job
    from daemon.journal import Journal
    from daemon.journal.records import ChunkText
    from daemon.spool import Claims, Delivery, Failures, Places
    from daemon.status.faults import Faults
    from daemon.transcript import Transcript

# Recordings prepared and transcribed side by side. The engine fills its batches from all of them, so
# a memo is not held up by a long recording; more would only take disk for decoded sound.
N_IN_FLIGHT = 4
# However short the configured wait: a disk that is full for hours is not asked ten times a second.
_MIN_BACKOFF_S, _MAX_BACKOFF_S = 1.0, 900.0
_MAX_DOUBLINGS = 30  # beyond it a float would overflow some day, and the bound holds long before
_KILLED = "Every time it was worked on alone, the transcription program came to a sudden end."
_KILLED_REMEDY = "The recording may be damaged: convert it with another program, for instance to FLAC, and try again."
_UNEXPECTED_REMEDY = "Try it again; if that fails too, send the maintainers the log of this job, never the recording."

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Resources:
    """What the worker works with: where things lie, who moves and prepares them, where it is noted and counted."""

    places: Places
    journal: Journal
    claims: Claims
    delivery: Delivery
    failures: Failures
    faults: Faults
    front_end: FrontEnd
    counters: Counters = field(default_factory=Counters)


@dataclass(slots=True)
class _Work:
    """One recording in work; written by its own thread, read by others."""

    job: Job
    started_s: float
    thread: threading.Thread | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    progress: Progress | None = None
    n_chunks: int = 0
    is_suspect: bool = False


class ChangedError(ScribedError):
    """The recording was written to while it was transcribed; it is done again, nothing is charged."""


class Worker:
    """Runs claimed recordings on threads of their own.

    Args:
        desk: folders and journal.
        config: the configuration; `reconfigure` replaces it.
        wake: called from any thread when a place has become free.
        monotonic: seconds that only ever grow.
    """

    def __init__(
        self,
        resources: Resources,
        config: Config,
        wake: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resources = resources
        self._config = config
        self._wake = wake
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._works: dict[str, _Work] = {}
        self._not_before_s: dict[str, float] = {}
        self._n_backoffs: dict[str, int] = {}
        self.engine: Engine | None = None
        self.lost: EngineLostError | None = None
        self.n_failed = 0
        self.n_delivered = 0
        self._changed: list[Job] = []
        self._charged: list[Job] = []
        self._unrested: set[str] = set()  # the journal still takes them for being in flight

    def reconfigure(self, config: Config) -> None:
        """Use another configuration for whatever begins from now on."""
        self._config = config

    def has_room(self) -> bool:
        """Whether a recording that nobody suspects could begin now."""
        with self._lock:
            return self._has_room(is_suspect=False)

    def is_idle(self) -> bool:
        """Whether nothing is in work."""
        with self._lock:
            return not self._works

    def is_alive(self) -> bool:
        """Whether the thread of each recording in work lives."""
        with self._lock:
            return all(work.thread is not None and work.thread.is_alive() for work in self._works.values())

    def is_due(self, job: Job) -> bool:
        """Whether a job's back-off, if it has one, is over."""
        return self._monotonic() >= self._not_before_s.get(job.job_id, 0.0)

    def is_backing_off(self) -> bool:
        """Whether any job waits to be tried again because something outside it is in the way."""
        with self._lock:
            return bool(self._n_backoffs)

    def job_ids(self) -> frozenset[str]:
        """Return the ids of the jobs in work."""
        with self._lock:
            return frozenset(self._works)

    def take_changed(self) -> list[Job]:
        """Return, once, the jobs whose recording was written to in work: they have to settle again."""
        with self._lock:
            changed, self._changed = self._changed, []
        return changed

    def running(self) -> tuple[Running, ...]:
        """Return what is in work, for the status."""
        with self._lock:
            works = list(self._works.values())
        now_s = self._monotonic()
        return tuple(_running(work, now_s) for work in works)

    def start(self, job: Job) -> bool:
        """Begin to work on a job; False where there is no room for it now.

        A suspect is worked on alone: if it ends the process once more, nobody else can be blamed.
        """
        with self._lock:
            if not self._has_room(is_suspect=job.is_suspect) or job.job_id in self._works:
                return False
            work = _Work(job, self._monotonic(), is_suspect=job.is_suspect)
            work.thread = threading.Thread(target=self._run, args=(work,), name=f"job-{job.job_id}")
            self._works[job.job_id] = work
        work.thread.start()
        return True

    def cancel(self, job_id: str) -> bool:
        """Ask for a job to be given back; False if it is not in work."""
        with self._lock:
            work = self._works.get(job_id)
        if work is None:
            return False
        work.cancelled.set()
        return True

    def give_back(self, job: Job) -> None:
        """Set a job that is not in work aside as cancelled."""
        self._cancel(job)

    def stop(self, timeout_s: float) -> bool:
        """Ask all work to end and wait for it; False if some has not ended by then."""
        self._stopping.set()
        end_s = self._monotonic() + timeout_s
        with self._lock:
            threads = [work.thread for work in self._works.values() if work.thread is not None]
        for thread in threads:
            thread.join(max(0.0, end_s - self._monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _has_room(self, *, is_suspect: bool) -> bool:
        if self._stopping.is_set() or self.engine is None or len(self._works) >= N_IN_FLIGHT:
            return False
        return not self._works if is_suspect else not any(work.is_suspect for work in self._works.values())

    def _run(self, work: _Work) -> None:
        """Work on one job to its outcome; the one place where any error is caught."""
        job = work.job
        try:
            self._work_on(work)
        except StoppedError:
            self._stopped(work)
        except ChangedError:
            self._settle(job, "job.changed_in_work")
            with self._lock:
                self._changed.append(job)
        except JobError as error:
            self._set_aside(job, error.what, error.remedy)
        except (TransientError, NoPermissionError) as error:
            self._back_off(job, error)
        except OSError as error:  # a disk or a share failed under our hands
            remedy = "Look at the disks and shares of scribed's folders."
            self._back_off(job, TransientError(f"A file could not be read or written: {error.strerror}.", remedy))
        except EngineLostError as error:
            self._settle(job, "engine.lost")
            self.lost = error
        except Exception as error:
            log.exception("job.attempt_failed", job_id=job.job_id, path=job.path)
            self._charge(job, f"An unexpected error ({type(error).__name__}) came up.", _UNEXPECTED_REMEDY)
        finally:
            with self._lock:
                del self._works[job.job_id]
            self._wake()

    def _work_on(self, work: _Work) -> None:
        job, resources = work.job, self._resources
        if conclude(job, resources.places, resources.journal, resources.delivery, resources.failures):
            self._forget_troubles(job)
            return
        resources.journal.begin(job.job_id)
        before = resources.claims.fingerprint(job)
        settings = self._settings(job)
        transcript = self._transcribe(work, settings)
        if resources.claims.fingerprint(job) != before:
            resources.journal.drop_chunks(job.job_id)
            raise ChangedError("The recording was written to while it was transcribed.")
        self._raise_if_stopped(work)
        documents = render(transcript, settings.output.formats, has_timestamps=settings.output.timestamps)
        resources.delivery.deliver(
            job,
            documents,
            transcript.audio.duration_s,
            transcript.processing.wall_s,
            is_complete=transcript.is_complete,
        )
        self._forget_troubles(job)
        self.n_delivered += 1
        resources.counters.add_delivered(transcript)
        _log_delivery(job, transcript, work.n_chunks)

    def _transcribe(self, work: _Work, settings: RecordingSettings) -> Transcript:
        if self.engine is None:
            raise AssertionError("work begins only when there is an engine")
        job = work.job
        recording = Recording(job.job_id, self._resources.places.audio(job), job.path, settings, job.attempts + 1)
        control = RunControl(
            raise_if_stopped=lambda: self._raise_if_stopped(work),
            progress=lambda progress: self._note_progress(work, progress),
            memory=_JournalMemory(self._resources.journal, job.job_id, lambda: self._note_finished_chunk(work)),
        )
        return transcribe(recording, self._config, self._resources.front_end, self.engine, control)

    def _settings(self, job: Job) -> RecordingSettings:
        outer = RecordingSettings.of(self._config)
        settings, faults = read_folder_settings(self._config.folders.inbox, job.folder, outer)
        key = f"settings of {job.folder}"
        for fault in faults:
            self._resources.faults.note(key, fault, "Until it is mended, the settings of the folder above hold.")
        if not faults:
            self._resources.faults.clear(key)
        return settings.with_hotwords(self._resources.claims.hotwords(job))

    def _raise_if_stopped(self, work: _Work) -> None:
        if work.cancelled.is_set():
            raise StoppedError("The recording was cancelled.")
        if self._stopping.is_set():
            raise StoppedError("The service is stopping.")

    def _note_progress(self, work: _Work, progress: Progress) -> None:
        work.progress = progress
        work.n_chunks += 1

    def _note_finished_chunk(self, work: _Work) -> None:
        """A chunk was transcribed now, not remembered from before: others may run beside it again."""
        if work.is_suspect:
            work.is_suspect = False
            self._wake()

    def _stopped(self, work: _Work) -> None:
        if work.cancelled.is_set():
            self._cancel(work.job)
        else:
            self._settle(work.job, "job.interrupted")

    def _settle(self, job: Job, event: str) -> None:
        """Write down that nothing is in flight any more and nothing is charged."""
        log.info(event, job_id=job.job_id, path=job.path)
        self._rest(job.job_id)

    def _rest(self, job_id: str) -> None:
        try:
            self._resources.journal.rest(job_id)
        except TransientError:  # left so, the next start would take it for a crash and charge it
            with self._lock:
                self._unrested.add(job_id)

    def flush_pending_marks(self) -> None:
        """Write down what could not be written when the work on it ended."""
        with self._lock:
            left = self._unrested - self._works.keys()
            self._unrested.clear()
        for job_id in left:
            self._rest(job_id)

    def _set_aside(self, job: Job, reason: str, remedy: str) -> None:
        with self._backing_off_on_error(job):
            self._resources.failures.set_aside(job, reason, remedy)
            self._forget_troubles(job)
            self.n_failed += 1
            self._resources.counters.add_failed()
            log.warning("job.failed", job_id=job.job_id, path=job.path, reason=reason)

    def _cancel(self, job: Job) -> None:
        with self._backing_off_on_error(job):
            self._resources.failures.cancel(job)
            self._forget_troubles(job)
            log.info("job.cancelled", job_id=job.job_id, path=job.path)

    @contextmanager
    def _backing_off_on_error(self, job: Job) -> Iterator[None]:
        """What cannot be done to a job now is done later."""
        try:
            yield
        except (TransientError, NoPermissionError) as error:
            self._back_off(job, error)

    def fail_crash_loops(self, jobs: tuple[Job, ...]) -> None:
        """Set aside those jobs that were alone at too many unclean ends; others go ahead of the charged."""
        for job in jobs:
            if job.attempts >= self._config.retry.max_attempts:
                self._set_aside(job, _KILLED, _KILLED_REMEDY)
        self._charged = [job for job in self._resources.journal.unfinished() if job.attempts]
        self._not_before_s.update((job.job_id, math.inf) for job in self._charged)

    def start_backoff_of_charged(self) -> None:
        """Begin the back-off of who was charged at the start; called when the model is ready, for a load takes long."""
        for job in self._charged:
            self._delay(job, job.attempts)
        self._charged.clear()

    def _charge(self, job: Job, reason: str, remedy: str) -> None:
        with self._backing_off_on_error(job):
            n_attempts = self._resources.journal.charge(job.job_id)
            if n_attempts >= self._config.retry.max_attempts:
                self._set_aside(job, reason, remedy)
            else:
                self._delay(job, n_attempts)

    def _back_off(self, job: Job, error: ScribedError) -> None:
        """Try again later, for something outside the recording is in the way."""
        log.warning("job.delayed", job_id=job.job_id, path=job.path, what=error.what)
        self._resources.faults.note(job.job_id, error.what, error.remedy)
        with self._lock:
            self._n_backoffs[job.job_id] = self._n_backoffs.get(job.job_id, 0) + 1
        self._delay(job, self._n_backoffs[job.job_id], least_s=_MIN_BACKOFF_S)
        self._rest(job.job_id)

    def _delay(self, job: Job, n_tries: int, least_s: float = 0.0) -> None:
        first_s = max(self._config.retry.backoff_s, least_s)
        delay_s = min(first_s * 2.0 ** min(n_tries - 1, _MAX_DOUBLINGS), _MAX_BACKOFF_S)
        self._not_before_s[job.job_id] = self._monotonic() + delay_s

    def _forget_troubles(self, job: Job) -> None:
        self._resources.faults.clear(job.job_id)
        with self._lock:
            self._n_backoffs.pop(job.job_id, None)
            self._not_before_s.pop(job.job_id, None)


@dataclass(frozen=True, slots=True)
class _JournalMemory:
    """The journal as the pipeline's memory of one job."""

    journal: Journal
    job_id: str
    when_finished: Callable[[], None]

    def recall(self, plan: str) -> Mapping[tuple[int, int], ChunkText]:
        known = self.journal.remembered_chunks(self.job_id, plan)
        if known:
            log.info("job.resumed", job_id=self.job_id, n_chunks=len(known))
        return known

    def remember(self, plan: str, span: tuple[int, int], said: ChunkText) -> None:
        self.journal.remember_chunk(self.job_id, plan, span, said)
        self.when_finished()


def _running(work: _Work, now_s: float) -> Running:
    progress = work.progress
    if progress is None:
        return Running(work.job.path, 0.0, None, None, work.job.job_id)
    wall_s = max(now_s - work.started_s, 1e-3)
    rtfx = round(progress.done * progress.audio_s / wall_s, 1)
    return Running(work.job.path, progress.done, progress.audio_s, rtfx, work.job.job_id)


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
