"""The daemon: build the parts, run the loop, stop in order.

One thread runs the loop: scan, settle, claim, start, tell. Work runs on the worker's threads, the
model on the engine's. Signal handlers only set flags.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from daemon import config as configuration
from daemon import files, logs
from daemon.board import Board, Faults
from daemon.display import shown_name
from daemon.errors import (
    ConfigError,
    EngineUnavailableError,
    ExitCode,
    NoPermissionError,
    ScribedError,
    TransientError,
)
from daemon.frontend import FrontEnd
from daemon.inbox import Inbox, Scan
from daemon.journal import Journal
from daemon.spool import Claims, Delivery, Failures, Places, Retention, find_unfinished, is_error_note
from daemon.worker import Desk, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from daemon.config import Config
    from daemon.engine import Engine
    from daemon.inbox import Arrival
    from daemon.job import Fingerprint, Job
    from daemon.status import Fault
    from daemon.systemd import Notifier

_STOP_S = 8.0  # of the ten that a stop may take; the rest is for closing the books
_SWEEP_S = 5.0
# Asked for again and again while the model loads, from slow disks too; what takes longer hangs. As long as this,
# because libraries that load for the first time hold Python's lock, and with it the loop that asks.
_LOAD_EXTENSION_S = 300.0
_MAX_LOAD_S = 1800.0
# Signs of life between two scans that lie far apart.
_PULSE_S = 10.0
# A scan may take a twentieth of the time: with a hundred thousand files waiting it takes 0.3 s.
_SCAN_SHARE = 20
_MIN_SCAN_GAP_S = 0.1

log = structlog.get_logger()


@dataclass(slots=True)
class _Settling:
    """A claimed recording that changed after it had settled, waiting to be quiet once more."""

    job: Job
    fingerprint: Fingerprint
    since_s: float


class Service:
    """One instance: its folders, its model, its loop.

    Args:
        config: the configuration.
        config_path: where SIGHUP finds a new one, or None for the defaults.
        load_engine: loads the model; called on a thread of its own with a function that takes
            a line on how far it is.
        notifier: tells systemd how we are.
        monotonic: seconds that only ever grow.
    """

    def __init__(
        self,
        config: Config,
        config_path: Path | None,
        load_engine: Callable[[Callable[[str], None]], Engine],
        notifier: Notifier,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self._config_path = config_path
        self._load_engine = load_engine
        self._notifier = notifier
        self._monotonic = monotonic
        self._wake = threading.Event()
        self._is_stopping = threading.Event()
        self._is_reload_wanted = threading.Event()
        self._places = Places(config.folders, config.output.mirror_folders)
        self._inbox = Inbox(config.folders.inbox, config.watch, self._wake.set, monotonic)
        self._faults = Faults()
        self._settling: dict[str, _Settling] = {}
        self._refused: dict[str, Fingerprint] = {}  # what `unsupported: ignore` leaves where it is
        self._loading: threading.Thread | None = None
        self._load_error: ScribedError | None = None
        self._load_ends_s = 0.0
        self._is_ready_told = False
        self._next_sweep_s = 0.0
        self._scan = Scan()
        self._pulse_s = min(_PULSE_S, notifier.watchdog_interval_s or _PULSE_S)

    # Called by signal handlers: flags only

    def stop(self) -> None:
        """Ask the loop to end in order; it returns within ten seconds."""
        self._is_stopping.set()
        self._wake.set()

    def reload(self) -> None:
        """Ask the loop to read the configuration again."""
        self._is_reload_wanted.set()
        self._wake.set()

    # The life of the service

    def run(self, *, once: bool = False) -> ExitCode:
        """Run until stopped; with `once`, until what is in the inbox now is done.

        Raises:
            AlreadyRunningError, NoPermissionError, TransientError: it cannot start.
            EngineUnavailableError, EngineLostError: there is no model, or no longer.
        """
        if not self._await_shares(once=once):
            return ExitCode.OK
        self._places.prepare()
        locks = [(files.Lock(path), holds) for path, holds in self._places.locks()]
        try:
            for lock, holds in locks:
                lock.acquire(holds)
            return self._run_locked(once=once)
        finally:
            for lock, _ in locks:
                lock.release()

    def _await_shares(self, *, once: bool) -> bool:
        """Wait for the shares that were there before, making nothing in their place; False if stopped meanwhile.

        Raises:
            TransientError: one is not there, and `once` does not wait.
        """
        while not self._is_stopping.is_set():
            try:
                self._places.check_shares()
            except TransientError as error:
                if once:
                    raise
                self._faults.note("share", error.what, error.remedy)
                self._notifier.extend_timeout(_LOAD_EXTENSION_S)
                self._notifier.status(str(error))
                self._is_stopping.wait(self.config.watch.scan_s)
            else:
                self._faults.clear("share")
                return True
        return False

    def _run_locked(self, *, once: bool) -> ExitCode:
        self._places.remember_shares()
        self._journal = Journal(self.config.folders.state)
        try:
            mode = self.config.output.mode_bits
            self._desk = Desk(
                self._places,
                self._journal,
                Claims(self._places, self._journal),
                Delivery(self._places, self._journal, mode),
                Failures(self._places, self._journal, mode),
                self._faults,
                FrontEnd(self.config.folders.cache),
            )
            self._retention = Retention(self._places, self._journal)
            self._board = Board(self._journal, self._faults, self._notifier, self._desk.tally, self._monotonic)
            self._worker = Worker(self._desk, self.config, self._wake.set, self._monotonic)
            find_unfinished(self._places, self._journal, self._desk.delivery)
            self._worker.set_aside_killers(self._journal.recover_in_flight())
            try:
                code = self._loop(_Round(self) if once else None)
            finally:
                self._shut_down()
        finally:
            self._journal.close()
        return code

    def _load(self) -> None:
        """Load the model on a thread of its own, so that arrivals are seen meanwhile."""
        try:
            engine = self._load_engine(self._tell_loading)
        except ScribedError as error:
            self._load_error = error
        else:
            self._board.show_model(engine.identity.name, engine.identity.device)
            self._worker.engine = engine
        self._wake.set()

    def _tell_loading(self, line: str) -> None:
        self._board.show_step(line)
        log.info("engine.loading", step=line)

    def _loop(self, rounds: _Round | None) -> ExitCode:
        next_scan_s = self._monotonic()
        while not self._is_stopping.is_set():
            self._raise_lost()
            if not self._is_ready_told and self._worker.engine is not None:
                self._notifier.ready()
                self._is_ready_told = True
                self._worker.let_others_go_first()
            if self._is_reload_wanted.is_set():
                self._reload()
            begun_s = self._monotonic()
            self._try_tick(rounds)
            if self._loading is None and (rounds is None or not rounds.is_over()):
                self._loading = threading.Thread(target=self._load, name="engine-loading", daemon=True)
                self._load_ends_s = begun_s + _MAX_LOAD_S
                self._loading.start()
            took_s = self._monotonic() - begun_s
            if rounds is not None and rounds.is_over():
                return rounds.exit_code()
            next_scan_s = begun_s + max(self.config.watch.scan_s, _SCAN_SHARE * took_s)
            self._wait(begun_s, took_s, next_scan_s)
        return ExitCode.INTERRUPTED if rounds is not None else ExitCode.OK

    def _wait(self, begun_s: float, took_s: float, next_scan_s: float) -> None:
        """Sleep until the next scan, an event, or the first recording that may have settled."""
        soonest_s = min((arriving.left_s for arriving in self._scan.arriving), default=math.inf)
        if self._settling:
            soonest_s = min(soonest_s, self.config.watch.settle_s / 4)
        next_scan_s = min(next_scan_s, begun_s + max(soonest_s, _MIN_SCAN_GAP_S, _SCAN_SHARE * took_s))
        self._pulse()
        while not self._wake.wait(max(0.0, min(next_scan_s - self._monotonic(), self._pulse_s))):
            if self._monotonic() >= next_scan_s:
                break
            self._pulse()
        # A burst of events is worth one scan, not one for each.
        gap_s = max(_MIN_SCAN_GAP_S, took_s)
        if self._wake.is_set() and not self._is_stopping.is_set():
            self._is_stopping.wait(max(0.0, begun_s + gap_s - self._monotonic()))
        self._wake.clear()

    def _pulse(self) -> None:
        """Tell systemd that all parts live: this loop, which watches, the engine and the workers."""
        engine = self._worker.engine
        if engine is None:  # the first WATCHDOG=1 would arm the watchdog, whose limit is none for a load
            if self._monotonic() < self._load_ends_s:
                self._notifier.extend_timeout(_LOAD_EXTENSION_S)
        elif engine.is_alive() and self._worker.is_alive():
            self._notifier.watchdog()

    def _raise_lost(self) -> None:
        has_load_ended = self._loading is not None and not self._loading.is_alive()
        engine = self._worker.engine
        lost = self._load_error or self._worker.lost
        if lost is None and engine is None and has_load_ended:  # by an error that nobody expected
            lost = EngineUnavailableError("The model's loading came to a sudden end.", "The log says where.")
        if lost is None and engine is not None and not engine.is_alive() and self._worker.is_idle():
            lost = EngineUnavailableError("The model does not answer any more.", "The service starts anew by itself.")
        if lost is not None:
            self._faults.note("engine", lost.what, lost.remedy)  # in STATUS.txt, for those who see no journal
            raise lost

    def _try_tick(self, rounds: _Round | None) -> None:
        """Do one turn; a disk or share that fails meanwhile is told, waited for, and never ends the daemon."""
        try:
            self._tick(rounds)
            if self._board.is_due():
                self._show("ready" if self._worker.engine is not None else "loading")
        except (TransientError, NoPermissionError) as error:
            self._give_up("turn", error, rounds)
        except OSError as error:
            remedy = "Look at the disks and shares of scribed's folders."
            self._give_up("turn", TransientError(f"A folder cannot be used: {error.strerror}.", remedy), rounds)
        else:
            self._faults.clear("turn")

    def _give_up(self, key: str, error: ScribedError, rounds: _Round | None) -> None:
        """Tell what keeps this turn from being done; a round of `once` ends with it."""
        self._faults.note(key, error.what, error.remedy)
        if rounds is not None:
            rounds.give_up()

    def _tick(self, rounds: _Round | None) -> None:
        """Do one turn: look, clear up, let settle, start what is claimed, claim what has settled."""
        try:
            self._places.check_shares()
            self._faults.clear("share")
        except TransientError as error:
            self._scan = Scan()
            self._give_up("share", error, rounds)
            return
        try:
            self._scan = self._inbox.scan()
            self._faults.clear("inbox")
        except OSError as error:
            self._scan = Scan()
            self._faults.note("inbox", f"The inbox cannot be listed: {error.strerror}.", "Is its disk or share there?")
        self._sweep()
        self._look_at_unreadable()
        for job_id in self._journal.cancelled():
            self._cancel(job_id)
        self._let_settle()
        is_free = self._start_claimed()
        settled = rounds.admit(self._scan) if rounds is not None else self._scan.settled
        if is_free:
            self._claim_all(settled)

    def _claim_all(self, settled: Iterable[Arrival]) -> None:
        """Claim as many recordings as there is room for; one that cannot be claimed holds no other up."""
        fault: ScribedError | None = None
        for arrival in settled:
            if not self._worker.has_room():
                break
            try:
                self._claim(arrival)
            except (NoPermissionError, TransientError) as error:
                fault = fault or error
        if fault is not None:
            self._faults.note("claim", fault.what, fault.remedy)
        else:
            self._faults.clear("claim")

    def _sweep(self) -> None:
        """Remove error notes whose recording has gone on: from failed, and from the inbox."""
        for path in self._scan.error_notes:
            note = self.config.folders.inbox / path
            if is_error_note(note):
                with suppress(OSError):  # it may lie in a folder that is closed to us; then it stays
                    note.unlink(missing_ok=True)
        if self._monotonic() >= self._next_sweep_s:
            self._next_sweep_s = self._monotonic() + _SWEEP_S
            self._worker.close_books()
            self._look_at_journal()
            self._desk.failures.sweep()
            self._retention.sweep(self.config.retention)

    def _look_at_journal(self) -> None:
        if self._journal.is_standing():
            self._faults.clear("journal")
        else:
            what = "The journal was removed while the service runs: its memory of the past ends with this run."
            self._faults.note("journal", what, "Restart the service; no recording is lost by it.")

    def _look_at_unreadable(self) -> None:
        names = [shown_name(path, self.config.logging.names) for path in self._scan.unreadable]
        if names:
            what = f"{len(names)} recording(s) in the inbox may not be read, the first is {names[0]}."
            self._faults.note("unreadable", what, "Give the service's user read permission on them.")
        else:
            self._faults.clear("unreadable")

    def _let_settle(self) -> None:
        for job in self._worker.take_changed():
            self._settle_again(job)
        for settling in list(self._settling.values()):
            try:
                fingerprint = self._desk.claims.fingerprint(settling.job)
            except ScribedError:
                del self._settling[settling.job.job_id]  # gone: the start finds out and undoes the claim
                continue
            if fingerprint != settling.fingerprint:
                settling.fingerprint, settling.since_s = fingerprint, self._monotonic()
            elif self._monotonic() - settling.since_s >= self.config.watch.settle_s:
                del self._settling[settling.job.job_id]

    def _waiting_jobs(self) -> list[Job]:
        """Return claimed jobs that are neither in work nor settling, suspects ahead, the least charged first."""
        in_work = self._worker.job_ids()
        jobs = [
            job for job in self._journal.unfinished() if job.job_id not in in_work and job.job_id not in self._settling
        ]
        return sorted(jobs, key=lambda job: (not job.is_suspect, job.attempts, job.claimed_at, job.job_id))

    def _start_claimed(self) -> bool:
        """Start what has been claimed; False where a suspect waits to be alone: nothing else begins ahead of it."""
        for job in self._waiting_jobs():
            if self._worker.is_due(job) and not self._worker.start(job) and job.is_suspect:
                return False
        return True

    def _claim(self, arrival: Arrival) -> None:
        if self.is_refused(arrival):
            return
        claim = self._desk.claims.claim(arrival)
        if claim is None:
            return
        job, is_same = claim
        if is_same:
            self._worker.start(job)
        else:
            self._settle_again(job)

    def _settle_again(self, job: Job) -> None:
        with suppress(ScribedError):  # gone: the start finds out and undoes the claim
            self._settling[job.job_id] = _Settling(job, self._desk.claims.fingerprint(job), self._monotonic())

    def _cancel(self, job_id: str) -> None:
        if self._worker.cancel(job_id):
            return
        job = self._journal.find(job_id)
        if job is not None:
            self._settling.pop(job_id, None)
            self._worker.give_back(job)

    def _reload(self) -> None:
        self._is_reload_wanted.clear()
        if self._is_ready_told:  # else READY=1 below would end the start
            self._notifier.reloading()
        try:
            merged, refused = configuration.reload(self.config, self._config_path)
        except ConfigError as error:
            log.warning("config.refused", faults=list(error.faults), what=error.what)
            self._faults.note("config", "The changed configuration is broken; the old one holds.", error.what)
        else:
            self._faults.clear("config")
            fixed = {"mode": self.config.output.mode, "mirror_folders": self.config.output.mirror_folders}
            refused += tuple(f"output.{key}" for key, value in fixed.items() if getattr(merged.output, key) != value)
            merged = merged.model_copy(update={"output": merged.output.model_copy(update=fixed)})
            self.config = merged
            logs.configure(merged.logging)
            self._worker.reconfigure(merged)
            self._inbox.settings = merged.watch
            log.info("config.reloaded", needs_restart=list(refused))
            if refused:
                what = f"Changed settings wait for a restart: {', '.join(refused)}."
                self._faults.note("config", what, "Restart the service.")
        if self._is_ready_told:
            self._notifier.ready()

    def _show(self, state: str) -> None:
        settling = (settling.job.path for settling in self._settling.values())
        claimed = (job.path for job in self._waiting_jobs())
        settled = (arrival.path for arrival in self._scan.settled if arrival.path not in self._refused)
        self._board.show(
            self.config,
            state,
            arriving=(*(arriving.path for arriving in self._scan.arriving), *settling),
            waiting=(*claimed, *settled),
            running=self._worker.running(),
        )

    def _shut_down(self) -> None:
        self._is_stopping.set()
        self._notifier.stopping()
        self._show("draining")
        self._inbox.stop()
        engine = self._worker.engine
        has_ended = self._worker.stop(_STOP_S / 2)
        self._desk.front_end.close()
        if engine is not None:
            engine.close()
        if not has_ended and not self._worker.stop(_STOP_S / 2):
            log.warning("service.work_abandoned", running=[work.name for work in self._worker.running()])
        self._worker.close_books()
        self._scan = Scan()
        self._show("stopped")
        log.info("service.stopped")

    # What `once` asks of us

    @property
    def worker(self) -> Worker:
        """The worker, once `run` has begun."""
        return self._worker

    def is_refused(self, arrival: Arrival) -> bool:
        """Whether `unsupported: ignore` leaves this file where it is."""
        if self.config.watch.unsupported != "ignore":
            return False
        if self._refused.get(arrival.path) != arrival.fingerprint:
            if self._desk.front_end.is_recording(self.config.folders.inbox / arrival.path):
                return False
            self._refused[arrival.path] = arrival.fingerprint
        return True

    def has_claimed_work(self) -> bool:
        """Whether any claimed recording is not at its end."""
        return bool(self._journal.unfinished()) or not self._worker.is_idle()

    def claim_fault(self) -> Fault | None:
        """Return what keeps recordings from being claimed, if anything does."""
        standing = map(self._faults.find, ("share", "turn", "inbox", "claim"))
        return next((fault for fault in standing if fault is not None), None)


class _Round:
    """One round of `scribed once`: what is in the inbox at its beginning, and no more."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._expected: set[str] | None = None
        self._ends_s = 0.0
        self._left: dict[str, str] = {}
        self._is_over = False

    def admit(self, scan: Scan) -> list[Arrival]:
        """Return the settled recordings of this round, and see whether it is over."""
        service = self._service
        now_s = time.monotonic()
        if self._expected is None:
            self._expected = {a.path for a in scan.settled} | {a.path for a in scan.arriving}
            self._ends_s = now_s + service.config.watch.settle_s + 2 * service.config.watch.scan_s
        settled = [a for a in scan.settled if a.path in self._expected and not service.is_refused(a)]
        arriving = {a.path: a.reason for a in scan.arriving if a.path in self._expected}
        if now_s >= self._ends_s:
            self._left = arriving
        is_waiting_for_more = bool(arriving) and now_s < self._ends_s
        has_nothing_to_claim = not settled or service.claim_fault() is not None
        has_worked_off = not service.has_claimed_work() or service.worker.is_backing_off()
        self._is_over = not is_waiting_for_more and has_nothing_to_claim and has_worked_off and service.worker.is_idle()
        return settled

    def give_up(self) -> None:
        """End the round with what is in work: nothing more can be done now."""
        self._is_over = self._service.worker.is_idle()

    def is_over(self) -> bool:
        """Whether everything of this round is done, failed, or cannot be done now."""
        return self._is_over

    def exit_code(self) -> ExitCode:
        """Name what was left and return how the round ended."""
        for path, reason in sorted(self._left.items()):
            log.warning("once.left_in_inbox", path=path, reason=reason)
        worker = self._service.worker
        log.info("once.finished", n_delivered=worker.n_delivered, n_failed=worker.n_failed, n_left=len(self._left))
        if self._service.claim_fault() is not None or worker.is_backing_off():
            return ExitCode.CANNOT_WRITE
        return ExitCode.SOME_FAILED if worker.n_failed else ExitCode.OK
