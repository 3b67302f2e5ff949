"""The service: build the parts, run the loop, stop in order.

One thread runs the loop: scan, settle, claim, start, tell. Work runs on the worker's threads, the
model on the engine's. Signal handlers only set flags.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import structlog

from daemon import config as configuration
from daemon import configfile, logs
from daemon.errors import ConfigError, ExitCode, NoPermissionError, ScribedError, TransientError
from daemon.frontend import FrontEnd
from daemon.host import files
from daemon.inbox import Inbox, Scan
from daemon.journal import Journal
from daemon.service.health import LOAD_EXTENSION_S, Health
from daemon.service.intake import Intake
from daemon.service.once import OnceRun
from daemon.service.start_backoff import StartBackoff
from daemon.spool import Claims, Delivery, Failures, Places, Retention, find_unfinished
from daemon.status.faults import Faults
from daemon.status.publisher import StatusPublisher
from daemon.status.targets import StatusFiles, show_waiting
from daemon.worker import Resources, Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.config import Config
    from daemon.engine import Engine
    from daemon.host.systemd import Notifier

_STOP_S = 8.0  # of the ten that a stop may take; the rest is for closing the books
_SWEEP_S = 5.0
# A scan may take a twentieth of the time: with a hundred thousand files waiting it takes 0.3 s.
_SCAN_SHARE = 20
_MIN_SCAN_GAP_S = 0.1

log = structlog.get_logger()


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
        self._config_sha256 = _sha256_of(config_path)
        self._load_engine = load_engine
        self._notifier = notifier
        self._monotonic = monotonic
        self._wake = threading.Event()
        self._is_stopping = threading.Event()
        self._is_reload_wanted = threading.Event()
        self._places = Places(config.folders, config.output.mirror_folders)
        self._inbox = Inbox(config.folders.inbox, config.watch, self._wake.set, monotonic)
        self._faults = Faults()
        self._status_files = StatusFiles(self._faults, monotonic)
        self._is_ready_told = False
        self._next_sweep_s = 0.0

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
        self._inbox.is_once = once
        if not self._await_folders(once=once):
            return ExitCode.OK
        locks = [(files.Lock(path), holds) for path, holds in self._places.locks()]
        try:
            for lock, holds in locks:
                lock.acquire(holds)
            return self._run_locked(once=once)
        finally:
            for lock, _ in locks:
                lock.release()

    def _await_folders(self, *, once: bool) -> bool:
        """Wait until the folders can be used, making nothing in place of a share that was there before.

        Returns:
            False if stopped meanwhile.

        Raises:
            NoPermissionError: waiting would not help.
            TransientError: one cannot be made or is not mounted, and `once` does not wait.
        """
        while not self._is_stopping.is_set():
            try:
                self._places.check_shares()
                self._places.prepare()
            except TransientError as error:
                if once:
                    raise
                self._faults.note("share", error.what, error.remedy)
                show_waiting(self._status_files, self.config, self._faults)
                self._notifier.extend_timeout(LOAD_EXTENSION_S)
                self._notifier.status(str(error))
                self._is_stopping.wait(min(self.config.watch.scan_s, LOAD_EXTENSION_S / 2))
            else:
                self._faults.clear("share")
                return True
        return False

    def _run_locked(self, *, once: bool) -> ExitCode:
        self._places.remember_shares()
        self._journal = Journal(self.config.folders.state)
        try:
            self._build(once=once)
            find_unfinished(self._places, self._journal, self._resources.delivery)
            self._worker.fail_crash_loops(self._journal.recover_in_flight())
            try:
                code = self._loop(OnceRun(self._intake, self._worker) if once else None)
            finally:
                self._shut_down()
        finally:
            self._journal.close()
        return code

    def _build(self, *, once: bool) -> None:
        config, monotonic = self.config, self._monotonic
        self._resources = Resources(
            self._places,
            self._journal,
            Claims(self._places, self._journal),
            Delivery(self._places, self._journal, config.output.mode_bits),
            Failures(self._places, self._journal, config.output.mode_bits),
            self._faults,
            FrontEnd(config.folders.cache),
        )
        self._retention = Retention(self._places, self._journal)
        self._publisher = StatusPublisher(
            self._journal, self._faults, self._notifier, self._resources.counters, monotonic
        )
        self._publisher.config_sha256 = self._config_sha256
        self._worker = Worker(self._resources, config, self._wake.set, monotonic)
        self._intake = Intake(config, self._inbox, self._resources, self._worker, monotonic)
        is_supervised = self._notifier.is_heard and not once
        self._starts = StartBackoff(
            config.folders.state, config.model, is_supervised=is_supervised, monotonic=monotonic
        )
        self._health = Health(self._worker, self._publisher, self._notifier, self._wake.set, monotonic)

    def _loop(self, rounds: OnceRun | None) -> ExitCode:
        next_scan_s = self._monotonic()
        while not self._is_stopping.is_set():
            self._look_after_engine()
            if self._is_reload_wanted.is_set():
                self._reload()
            begun_s = self._monotonic()
            self._try_turn(rounds)
            if not self._health.has_begun and (rounds is None or not rounds.is_over()):
                self._try_load()
            took_s = self._monotonic() - begun_s
            if rounds is not None and rounds.is_over():
                return rounds.exit_code()
            next_scan_s = begun_s + max(self.config.watch.scan_s, _SCAN_SHARE * took_s)
            self._wait(begun_s, took_s, next_scan_s)
        self._starts.forget()
        return ExitCode.INTERRUPTED if rounds is not None else ExitCode.OK

    def _look_after_engine(self) -> None:
        """Say that the model is ready, or end with why there is none.

        Raises:
            EngineUnavailableError, EngineLostError: only a new process can help.
        """
        loss = self._health.find_loss()
        if loss is not None:
            self._starts.fail(loss)
            self._faults.note("engine", loss.what, loss.remedy)  # in STATUS.txt, for those who see no journal
            raise loss
        if not self._is_ready_told and self._worker.engine is not None:
            self._faults.clear("engine")
            self._starts.succeed()
            self._notifier.ready()
            self._is_ready_told = True
            self._worker.start_backoff_of_charged()

    def _try_load(self) -> None:
        """Load the model, or say why that waits: starts before this one have failed."""
        if self._starts.is_due():
            self._starts.begin()
            self._health.begin_load(self._load_engine)
        else:
            what, remedy = self._starts.reason()
            self._faults.note("engine", what, remedy)
            self._publisher.show_step(f"{what} {remedy}")

    def _wait(self, begun_s: float, took_s: float, next_scan_s: float) -> None:
        """Sleep until the next scan, an event, or the first recording that may have settled."""
        soonest_s = self._intake.soonest_s()
        if not self._health.has_begun:
            soonest_s = min(soonest_s, self._starts.left_s())
        next_scan_s = min(next_scan_s, begun_s + max(soonest_s, _MIN_SCAN_GAP_S, _SCAN_SHARE * took_s))
        self._health.heartbeat()
        while not self._wake.wait(max(0.0, min(next_scan_s - self._monotonic(), self._health.heartbeat_s))):
            if self._monotonic() >= next_scan_s:
                break
            self._health.heartbeat()
        # A burst of events is worth one scan, not one for each.
        gap_s = max(_MIN_SCAN_GAP_S, took_s)
        if self._wake.is_set() and not self._is_stopping.is_set():
            self._is_stopping.wait(max(0.0, begun_s + gap_s - self._monotonic()))
        self._wake.clear()

    def _try_turn(self, rounds: OnceRun | None) -> None:
        """Do one turn; a disk or share that fails meanwhile is told, waited for, and never ends the daemon."""
        fault: ScribedError | None = None
        try:
            self._turn(rounds)
        except (TransientError, NoPermissionError) as error:
            fault = error
        except OSError as error:
            remedy = "Look at the disks and shares of scribed's folders."
            fault = TransientError(f"A folder cannot be used: {error.strerror}.", remedy)
        if fault is None:
            self._faults.clear("turn")
        else:
            self._faults.note("turn", fault.what, fault.remedy)
            if rounds is not None:
                rounds.give_up()
        if self._publisher.is_due():  # above all when something is in the way
            self._show("ready" if self._worker.engine is not None else "loading")

    def _turn(self, rounds: OnceRun | None) -> None:
        """Look, clear up, take in."""
        if not self._intake.look():
            if rounds is not None:
                rounds.give_up()
            return
        if self._monotonic() >= self._next_sweep_s:
            self._next_sweep_s = self._monotonic() + _SWEEP_S
            self._worker.flush_pending_marks()
            self._look_at_journal()
            self._resources.failures.sweep()
            self._retention.sweep(self.config.retention)
        self._intake.take_in(None if rounds is None else rounds.admit)

    def _look_at_journal(self) -> None:
        if self._journal.is_standing():
            self._faults.clear("journal")
        else:
            what = "The journal was removed while the service runs: its memory of the past ends with this run."
            self._faults.note("journal", what, "Restart the service; no recording is lost by it.")

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
            self._apply(merged)
            log.info("config.reloaded", needs_restart=list(refused))
            if refused:
                what = f"Changed settings wait for a restart: {', '.join(refused)}."
                self._faults.note("config", what, "Restart the service.")
        if self._is_ready_told:
            self._notifier.ready()

    def _apply(self, config: Config) -> None:
        """Use another configuration for whatever begins from now on."""
        self.config = self._intake.config = config
        self._publisher.config_sha256 = _sha256_of(self._config_path)
        logs.configure(config.logging)
        self._places.is_mirrored = config.output.mirror_folders
        self._resources.delivery.mode = self._resources.failures.mode = config.output.mode_bits
        self._worker.reconfigure(config)
        self._inbox.settings = config.watch

    def _show(self, state: str) -> None:
        try:
            waiting = self._intake.waiting()
        except ScribedError:  # the journal cannot be read, which the publisher finds out and shows
            waiting = ()
        self._publisher.show(
            self.config,
            state,
            arriving=self._intake.arriving(),
            waiting=waiting,
            running=self._worker.running(),
        )

    def _shut_down(self) -> None:
        self._is_stopping.set()
        self._notifier.stopping()
        self._show("draining")
        self._inbox.stop()
        engine = self._worker.engine
        has_ended = self._worker.stop(_STOP_S / 2)
        self._resources.front_end.close()
        if engine is not None:
            engine.close()
        if not has_ended and not self._worker.stop(_STOP_S / 2):
            log.warning("service.work_abandoned", running=[work.name for work in self._worker.running()])
        self._worker.flush_pending_marks()
        self._intake.scan = Scan()
        self._show("stopped")
        log.info("service.stopped")


def _sha256_of(config_path: Path | None) -> str:
    glanced = configfile.glance(config_path)
    return glanced[1] if glanced else ""
