"""The worker: takes claimed recordings through two stages, preparation and transcription, to their outcome."""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from daemon.decode import SAMPLE_RATE_HZ, stored_bytes
from daemon.errors import StoppedError
from daemon.evaluation import CurveReader
from daemon.host import files
from daemon.host.turns import Turns
from daemon.pipeline import Recording, RunControl, prepare, transcribe_prepared
from daemon.worker.attempts import Attempts
from daemon.worker.crew import Crew
from daemon.worker.delivering import Delivering
from daemon.worker.evidence import JournalMemory, WatchedEngine
from daemon.worker.folder_settings import FolderSettings
from daemon.worker.outcomes import Outcomes
from daemon.worker.places import Places
from daemon.worker.preparation import Preparation, count_decoders
from daemon.worker.runs import LONG_BYTES, Run, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from concurrent.futures import Future
    from contextlib import AbstractContextManager
    from typing import Any

    from daemon.config import Settings
    from daemon.job import Job
    from daemon.status import Running
    from daemon.transcript import Transcript
    from daemon.worker.resources import Resources

# Recordings that wait for a decoder, are decoded, or wait for the engine: enough that it never waits for them.
MAX_AHEAD: Final = 64
# Among them, what may take minutes to decode leaves room for what does not.
MAX_LONG_AHEAD: Final = 32
# These threads assemble, write and sync documents. They wait for the disk most of the time, and several share a sync.
_N_DELIVERING: Final = 8
_DECODED: Final = frozenset({Stage.PREPARED, Stage.TRANSCRIBING})
_BEGUN: Final = frozenset({Stage.PREPARING, Stage.TRANSCRIBING})

log = structlog.get_logger()


@dataclass(slots=True)
class RoomAhead:
    """How many more recordings may begin, and how many of them may be long."""

    n: int
    n_long: int

    def has(self, n_bytes: int) -> bool:
        """Return whether there is room for a recording of this size."""
        return self.n > 0 and (n_bytes <= LONG_BYTES or self.n_long > 0)

    def take(self, n_bytes: int) -> bool:
        """Use up room for a recording of this size; return False if there is none for it."""
        if not self.has(n_bytes):
            return False
        self.n -= 1
        self.n_long -= n_bytes > LONG_BYTES
        return True


@dataclass(frozen=True, slots=True)
class InProgress:
    """All runs at one moment.

    Attributes:
        running: those that are being decoded, or of which the engine has had a chunk.
        waiting: paths of those that wait for a decoder or, decoded, for the engine.
        job_ids: of all.
    """

    running: tuple[Running, ...]
    waiting: tuple[str, ...]
    job_ids: frozenset[str]


class Worker:
    """Runs claimed recordings.

    A run passes from stage to stage and holds a thread only while there is something to compute or to write.

    Args:
        resources: folders, journal, front end and engine.
        settings: the current configuration.
        wake: called from any thread when a run has ended, or another one may begin.
        monotonic: clock in seconds, injectable for tests.
        n_decoders: how many recordings are decoded at the same time; None for one per core.

    Attributes:
        attempts: counts and delays the attempts at each job.
        folder_settings: reads what folders of the inbox set for their recordings.
    """

    def __init__(
        self,
        resources: Resources,
        settings: Settings,
        wake: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
        n_decoders: int | None = None,
    ) -> None:
        self.attempts = Attempts(resources.journal, lambda: settings.current.retry, monotonic)
        self.folder_settings = FolderSettings(resources.faults)
        self._outcomes = Outcomes(resources, settings, self.attempts)
        self._resources = resources
        self._settings = settings
        self._wake = wake
        self._monotonic = monotonic
        self._changed = threading.Condition()  # guards the runs; notified at the end of each
        self._runs: dict[str, Run] = {}
        self._ahead: set[Run] = set()  # those of which the engine has never had a chunk
        self._long_ahead: set[Run] = set()  # the long ones among them
        self._isolated: Run | None = None  # one that was isolated when it began
        self._is_stopping = threading.Event()
        self._places = Places(lambda: resources.engines.engine, monotonic)
        self._preparation = Preparation(self._prepare, self._may_store, n_decoders or count_decoders())
        self._crew = Crew(_N_DELIVERING, "deliver")
        self._turns = Turns()
        self._curves = CurveReader(settings.current.folders.state)
        self._delivering = Delivering(resources)

    @property
    def n_delivered(self) -> int:
        """How many recordings were delivered since the start."""
        return self._outcomes.n_delivered

    @property
    def n_failed(self) -> int:
        """How many recordings moved to failed since the start, without cancelled ones."""
        return self._outcomes.n_failed

    # What runs

    def accept(self, job: Job) -> None:
        """Fix the configuration of a newly claimed job: a later reload does not change it."""
        self._settings.pin(job.job_id)

    def room(self) -> RoomAhead:
        """Return how many recordings that are no suspects could begin now."""
        with self._changed:
            return self._room()

    def is_idle(self) -> bool:
        """Whether nothing is running."""
        with self._changed:
            return not self._runs

    def is_alive(self) -> bool:
        """Whether every run will end: no thread has met an error that it could not deal with."""
        return not (self._preparation.is_broken or self._crew.is_broken)

    def job_ids(self) -> frozenset[str]:
        """Return the ids of the running jobs."""
        with self._changed:
            return frozenset(self._runs)

    def decoded(self) -> frozenset[str]:
        """Return the ids of the running jobs whose audio is on the disk."""
        return frozenset(run.job.job_id for run in self._list() if run.stage in _DECODED)

    def take_changed(self) -> list[Job]:
        """Return, once, the jobs whose recording changed while it was being transcribed: they must settle again."""
        return self._outcomes.take_changed()

    def look(self) -> InProgress:
        """Return the runs, for the status; each is in one list."""
        now_s = self._monotonic()
        runs = [(run, run.stage) for run in self._list()]
        return InProgress(
            running=tuple(run.show(now_s) for run, stage in runs if stage in _BEGUN),
            waiting=tuple(run.job.path for run, stage in runs if stage not in _BEGUN),
            job_ids=frozenset(run.job.job_id for run, _ in runs),
        )

    def start(self, job: Job, n_bytes: int = 0) -> bool:
        """Begin to process a job; return False where there is no room for it now.

        A suspect shares the engine with no other recording, and one that is isolated runs alone: if the service
        crashes once more, no other can be the cause.

        Args:
            job: the job.
            n_bytes: size of its recording, by which short ones go ahead; 0 if unknown.
        """
        self.accept(job)
        with self._changed:
            if job.job_id in self._runs or (self._runs and job.is_isolated) or not self._room().take(n_bytes):
                return False
            run = Run(job, self._settings.of(job.job_id), n_bytes, self._monotonic(), is_suspect=job.is_suspect)
            self._runs[job.job_id] = run
            self._ahead.add(run)
            if run.is_long:
                self._long_ahead.add(run)
            self._isolated = run if job.is_isolated else None
        self._preparation.add(run)
        return True

    def cancel(self, job: Job) -> None:
        """Cancel a job: a running one ends within moments, a waiting one moves to failed at once."""
        with self._changed:
            run = self._runs.get(job.job_id)
        if run is None:
            self._outcomes.cancel(job)
        else:
            run.is_cancelled.set()
            self._hurry(run)

    def stop(self, timeout_s: float) -> bool:
        """Ask all runs to end and wait for them; return False if some have not ended by then."""
        self._is_stopping.set()
        for run in self._list():
            self._hurry(run)
        with self._changed:
            has_ended = self._changed.wait_for(lambda: not self._runs, timeout_s)
        if has_ended:
            self._preparation.close()
            self._crew.close()
        return has_ended

    def flush_pending_marks(self) -> None:
        """Record what could not be recorded when a run ended."""
        self._outcomes.flush_pending_marks(self.job_ids())

    def recover(self, crashed: tuple[Job, ...]) -> None:
        """After a crash, fail recordings that crash the service each time; other suspects wait for the rest."""
        for job in crashed:
            if self.attempts.has_used_up(job):
                self._outcomes.fail_crashed(job)
        unfinished = self._resources.journal.unfinished()
        for job in unfinished:
            self.accept(job)
        self.attempts.hold_back(unfinished)

    def _list(self) -> list[Run]:
        with self._changed:
            return list(self._runs.values())

    def _room(self) -> RoomAhead:
        if self._is_stopping.is_set() or self._resources.engines.engine is None:
            return RoomAhead(0, 0)
        if self._isolated is not None and self._isolated.is_suspect:
            return RoomAhead(0, 0)
        return RoomAhead(MAX_AHEAD - len(self._ahead), MAX_LONG_AHEAD - len(self._long_ahead))

    def _leave_ahead(self, run: Run) -> None:
        self._ahead.discard(run)
        self._long_ahead.discard(run)

    def _may_store(self) -> bool:
        """Whether another long recording may be decoded: those that wait take no more of the disk than it has left."""
        waiting_s = sum(
            prepared.stored_s
            for run in self._list()
            if run.stage is Stage.PREPARED and (prepared := run.prepared) is not None
        )
        if not waiting_s:
            return True
        try:
            n_free = files.free_bytes(self._settings.current.folders.cache)
        except OSError:  # decoding finds out, and says what is wrong
            return True
        return waiting_s * stored_bytes(SAMPLE_RATE_HZ) <= n_free

    def _hurry(self, run: Run) -> None:
        """Have a run look at once whether it is to end; one that is being decoded looks by itself."""
        if self._preparation.withdraw(run):
            self._crew.do(self._give_up, run)
        elif run.stage is not Stage.PREPARING:
            self._crew.do(self._advance, run)

    def _turn_of(self, run: Run) -> AbstractContextManager[None]:
        """Return the context in which a thread works on a run; what may take seconds keeps no other waiting."""
        return nullcontext() if run.is_long else self._turns.taken()

    def _raise_if_stopped(self, run: Run) -> None:
        if run.is_cancelled.is_set():
            raise StoppedError("The recording was cancelled.")
        if self._is_stopping.is_set():
            raise StoppedError("The service is stopping.")

    # The first stage

    def _prepare(self, run: Run) -> None:
        """Prepare a recording; this and `_advance` are the only places that catch every error."""
        try:
            self._raise_if_stopped(run)
            with self._turn_of(run):
                is_concluded = self._try_prepare(run)
        except Exception as error:  # noqa: BLE001  # it becomes the outcome of the job
            self._end(run, error)
            return
        if is_concluded:
            self._end(run)
        elif run.pending is not None and run.pending.done():
            self._advance(run)  # it has a place at the engine already, so no other thread has to begin
        else:
            self._await(run)

    def _try_prepare(self, run: Run) -> bool:
        """Prepare a recording; return True if an earlier run had done all the work on it."""
        job, resources = run.job, self._resources
        run.started_s = self._monotonic()
        claim = resources.spool.take_up(job)
        if claim is None:
            self._outcomes.forget(job)
            return True
        control = RunControl(lambda: self._raise_if_stopped(run), run.note, self._memory_of(run))
        with claim:
            resources.journal.begin(job.job_id)
            run.fingerprint = claim.fingerprint
            run.settings = self.folder_settings.of(job.folder, run.config).with_hotwords(claim.hotwords)
            recording = Recording(job.job_id, claim.audio, job.path, run.settings, job.attempts + 1)
            run.prepared = prepare(recording, run.config, resources.front_end, control)
        run.place = self._places.enter(run.prepared.audio_s, is_suspect=run.is_suspect and not job.is_isolated)
        run.pending = run.place.next_turn()
        run.stage = Stage.PREPARED
        return False

    def _memory_of(self, run: Run) -> JournalMemory:
        return JournalMemory(self._resources.journal, run.job.job_id, lambda: self._clear_suspicion(run))

    def _clear_suspicion(self, run: Run) -> None:
        """Let others run at the same time again: a chunk was transcribed now, not recalled from before."""
        if run.is_suspect:
            run.is_suspect = False
            if run.place is not None:
                run.place.clear()
            self._wake()

    # The second stage

    def _advance(self, run: Run) -> None:
        """Go on with a prepared recording as far as possible without waiting."""
        with run.working, self._turn_of(run):
            if run.job.job_id not in self._runs:  # it has ended meanwhile
                return
            try:
                self._raise_if_stopped(run)
                transcript = self._step(run)
                if transcript is not None:
                    self._deliver(run, transcript)
            except Exception as error:  # noqa: BLE001  # it becomes the outcome of the job
                self._end(run, error)
            else:
                if transcript is not None:
                    self._end(run)

    def _step(self, run: Run) -> Transcript | None:
        """Return the transcript, or None while it has to wait for something; then it goes on by itself."""
        if run.pending is None or not run.pending.done():
            return None
        if run.steps is None:
            run.steps = self._begin(run)
        try:
            run.pending = next(run.steps)
        except StopIteration as end:
            transcript: Transcript = end.value
            return transcript
        self._await(run)
        return None

    def _await(self, run: Run) -> None:
        """Have a thread go on with a recording when what it waits for is done."""
        if run.pending is not None:
            run.pending.add_done_callback(lambda _: self._crew.do(self._advance, run))

    def _begin(self, run: Run) -> Generator[Future[Any], None, Transcript]:
        engine = self._resources.engines.engine
        if engine is None or run.prepared is None:
            raise AssertionError("a run begins only when there is an engine, and this one is prepared")
        control = RunControl(
            raise_if_stopped=lambda: self._raise_if_stopped(run),
            progress=run.note,
            memory=self._memory_of(run),
            calibration=self._curves.read(engine.identity),
            pace=run.place,
            warn=lambda what: self._outcomes.note_skipped(run.job, what),
        )
        watched = WatchedEngine(engine, self._resources.journal, run.job.job_id)
        steps = transcribe_prepared(run.prepared, run.config, watched, control)
        with self._changed:
            run.stage = Stage.TRANSCRIBING
            self._leave_ahead(run)
        self._preparation.go_on()
        self._wake()  # another one may be claimed
        return steps

    def _deliver(self, run: Run, transcript: Transcript) -> None:
        delivered = self._delivering.deliver(run, transcript, lambda: self._raise_if_stopped(run))
        self._outcomes.note_delivered(run.job, delivered, run.n_chunks)

    def _end(self, run: Run, error: Exception | None = None) -> None:
        """Take a run out, and do what the error calls for that ended it."""
        job = run.job
        try:
            run.release()
            if error is not None:
                self._outcomes.handle(job, error, is_cancelled=run.is_cancelled.is_set())
        except Exception:
            log.exception("job.outcome_failed", job_id=job.job_id, path=job.path)
            self.attempts.back_off(job.job_id)
        finally:
            self._delivering.forget(job.job_id)
            with self._changed:
                del self._runs[job.job_id]
                self._leave_ahead(run)
                self._isolated = None if self._isolated is run else self._isolated
                self._changed.notify_all()
            self._preparation.go_on()
            self._wake()

    def _give_up(self, run: Run) -> None:
        """End a run that was still queued."""
        try:
            self._raise_if_stopped(run)
        except StoppedError as error:
            self._end(run, error)
