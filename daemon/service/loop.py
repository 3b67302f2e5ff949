"""The main loop: scan, settle, claim, start, publish the status.

One thread runs it. Recordings are processed on the worker's threads, the model runs on the engine's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from daemon.errors import ExitCode, NoPermissionError, TransientError
from daemon.host import files
from daemon.inbox import Scan
from daemon.service.reload import reload_settings
from daemon.status.hiding import names_in

if TYPE_CHECKING:
    from daemon.config import Config
    from daemon.errors import ScribedError
    from daemon.service.once import OnceRun
    from daemon.service.parts import Parts, Surroundings

_STOP_S: Final = 8.0  # of the ten that a stop may take; the rest is for the last records
_SWEEP_S: Final = 5.0
_HOOK_LOOK_S: Final = 0.25
# A scan may take a twentieth of the time: with 100,000 files waiting, one takes 0.3 s.
_SCAN_SHARE: Final = 20
_MIN_SCAN_GAP_S: Final = 0.1
_DISK_REMEDY: Final = "Check the disks and shares of scribed's folders."

log = structlog.get_logger()


class Loop:
    """Runs an instance whose folders are locked and whose journal is open, until it is stopped.

    Args:
        around: settings, flags, clock and systemd.
        parts: everything the loop works with.
        once: decides what belongs to the run of `scribed once` and when that is over; None to run until stopped.
    """

    def __init__(self, around: Surroundings, parts: Parts, once: OnceRun | None) -> None:
        self._around = around
        self._parts = parts
        self._once = once
        self._flags = around.flags
        self._faults = parts.resources.faults
        self._monotonic = around.monotonic
        self._has_recovered = False
        self._has_reported_ready = False
        self._next_sweep_s = 0.0
        self._next_look_s = 0.0
        self._has_looked = False  # in this turn

    @property
    def _config(self) -> Config:
        return self._around.settings.current

    def run(self) -> ExitCode:
        """Run until stopped, or until `once` is over.

        Raises:
            EngineUnavailableError, EngineLostError: there is no model, or no longer.
        """
        if self._parts.index_keeper is not None:
            self._parts.index_keeper.start()
        self._parts.hooks.start()
        try:
            return self._run()
        finally:
            self._shut_down()

    def _run(self) -> ExitCode:
        parts, once = self._parts, self._once
        while not self._flags.is_stopping.is_set():
            self._check_engine()
            if self._flags.is_reload_wanted.is_set():
                self._reload()
            begun_s = self._monotonic()
            self._try_turn()
            if self._has_reported_ready:
                parts.residency.review()
            self._try_show()
            is_over = once is not None and once.is_over()
            if not parts.holder.has_begun and not is_over:
                self._try_load()
            if once is not None and is_over and self._have_hooks_run():
                return once.exit_code()
            self._wait(begun_s, self._monotonic() - begun_s)
        parts.starts.forget()
        return ExitCode.OK if once is None else ExitCode.INTERRUPTED

    def _have_hooks_run(self) -> bool:
        """Wait until the hook has run for what this run delivered, as far as it can; return False where stopped."""
        while not self._parts.hooks.is_idle(_HOOK_LOOK_S):
            if self._flags.is_stopping.is_set():
                return False
            self._parts.publisher.beat()
        return True

    def _check_engine(self) -> None:
        """Report that the model is ready, or end with the reason why there is none."""
        parts = self._parts
        if (loss := parts.health.find_loss()) is not None:
            parts.starts.fail(loss)
            self._faults.note(
                "engine", loss.what, loss.remedy
            )  # also in STATUS.txt, for people without access to the systemd journal
            raise loss
        if parts.holder.engine is not None and not self._has_reported_ready:
            log.info("engine.ready")
            parts.starts.succeed()
            self._faults.clear("engine")
            self._around.notifier.ready()
            self._has_reported_ready = True
            parts.worker.attempts.release_held_back()

    def _try_load(self) -> None:
        """Load the model, or show why loading waits: earlier starts have failed."""
        starts = self._parts.starts
        if starts.is_due():
            starts.begin()
            self._parts.holder.begin()
        else:
            what, remedy = starts.reason()
            self._faults.note("engine", what, remedy)
            self._parts.publisher.show_step(f"{what} {remedy}")

    def _wait(self, begun_s: float, took_s: float) -> None:
        """Sleep until the next scan, an event, or the first recording that may have settled."""
        health, wake = self._parts.health, self._flags.wake
        soonest_s = self._parts.intake.soonest_s()
        if not self._parts.holder.has_begun:
            soonest_s = min(soonest_s, self._parts.starts.left_s())
        soonest_s = min(soonest_s, self._parts.residency.left_s())
        if self._has_looked:
            self._next_look_s = begun_s + max(self._config.watch.scan_s, _SCAN_SHARE * took_s)
            soonest_s = max(soonest_s, _MIN_SCAN_GAP_S, _SCAN_SHARE * took_s)
            self._next_look_s = min(self._next_look_s, begun_s + soonest_s)
        health.heartbeat(is_ready=self._has_reported_ready)
        while not wake.wait(max(0.0, min(self._next_look_s - self._monotonic(), health.heartbeat_s))):
            if self._monotonic() >= self._next_look_s:
                break
            health.heartbeat(is_ready=self._has_reported_ready)
            self._try_show()
        # A burst of events is worth one scan, not one each.
        if wake.is_set() and not self._flags.is_stopping.is_set():
            gap_s = max(_MIN_SCAN_GAP_S, took_s)
            self._flags.is_stopping.wait(max(0.0, begun_s + gap_s - self._monotonic()))
        wake.clear()

    def _try_turn(self) -> None:
        """Do one turn. A failing disk or share is noted as a fault and never ends the service."""
        try:
            self._turn()
        except (TransientError, NoPermissionError) as error:
            self._note_failed_turn(error)
        except OSError as error:
            fault = TransientError(f"A folder cannot be used: {files.describe_error(error)}.", _DISK_REMEDY)
            self._note_failed_turn(fault, names_in(error, self._config.folders))
        else:
            self._faults.clear("turn")

    def _note_failed_turn(self, fault: ScribedError, names: tuple[str, ...] = ()) -> None:
        self._faults.note("turn", fault.what, fault.remedy, names=names)
        if self._once is not None:
            self._once.give_up()

    def _turn(self) -> None:
        """Scan the inbox, do housekeeping, claim recordings; between scans, claim what the last one found settled."""
        parts = self._parts
        self._has_looked = not self._can_go_on()
        if not self._has_looked:
            self._take_in()
            return
        self._flags.is_look_wanted.clear()
        if not parts.intake.look():
            if self._once is not None:
                self._once.give_up()
            return
        if not self._has_recovered:
            self._recover()
        if self._monotonic() >= self._next_sweep_s:
            self._next_sweep_s = self._monotonic() + _SWEEP_S
            parts.worker.flush_pending_marks()
            self._check_journal()
            self._check_displaced()
            parts.worker.folder_settings.recheck(self._config)
            parts.resources.spool.sweep(self._config.retention)
        self._take_in()

    def _can_go_on(self) -> bool:
        """Whether there is no need to scan now: the last scan found more than could be claimed, and nothing arrived."""
        is_due = self._flags.is_look_wanted.is_set() or self._monotonic() >= self._next_look_s
        return self._has_recovered and not is_due and self._parts.intake.has_more()

    def _take_in(self) -> None:
        self._parts.journal.tidy()
        self._parts.intake.take_in(None if self._once is None else self._once.admit)

    def _recover(self) -> None:
        """Find what an earlier run left behind, and settle what a crash left in flight; tried again until it succeeds.

        Raises:
            NoPermissionError, TransientError: it can be tried again.
        """
        parts = self._parts
        parts.resources.spool.recover()
        parts.worker.recover(parts.journal.recover_in_flight())
        self._has_recovered = True

    def _check_journal(self) -> None:
        journal = self._parts.journal
        if journal.is_in_place():
            self._faults.clear("journal")
        else:
            what = "The journal was deleted while the service runs: its history ends with this run."
            self._faults.note("journal", what, "Restart the service; no recording is lost by it.")
        if put_aside := journal.find_put_aside():
            names = ", ".join(str(path) for path in put_aside)
            what = f"The journal was damaged; history and attempt counters start over. The old ones are in {names}."
            self._faults.note("damaged journal", what, "Check the disk of the state folder, then delete the file.")
        else:
            self._faults.clear("damaged journal")

    def _check_displaced(self) -> None:
        """Name the old inbox while recordings claimed there are unfinished: the configuration no longer shows it."""
        displaced = self._parts.resources.spool.displaced()
        if not displaced:
            self._faults.clear("displaced")
            return
        folders = ", ".join(sorted({str(folder) for _, folder in displaced}))
        what = f"The inbox was changed while {len(displaced)} recording(s) were claimed; they are in {folders}."
        self._faults.note(
            "displaced",
            what,
            "They are processed from there; the service needs access to that folder until they are done.",
        )

    def _reload(self) -> None:
        self._flags.is_reload_wanted.clear()
        notifier = self._around.notifier
        if self._has_reported_ready:  # before it, READY=1 below would end the start
            notifier.reloading()
        reload_settings(self._around.settings, self._around.config_path, self._faults)
        self._parts.hooks.look()
        if self._has_reported_ready:
            notifier.ready()

    def _try_show(self) -> None:
        """Publish the status at most once a second, even if the turn failed."""
        if self._parts.publisher.is_due():
            self._show(self._parts.residency.state)

    def _show(self, state: str) -> None:
        intake, in_progress = self._parts.intake, self._parts.worker.look()
        try:
            waiting = intake.waiting(in_progress)
        except TransientError:  # the journal cannot be read, which the publisher finds out and shows
            waiting = ()
        self._parts.publisher.show(
            self._around.settings, state, arriving=intake.arriving(), waiting=waiting, running=in_progress.running
        )

    def _shut_down(self) -> None:
        parts = self._parts
        self._flags.is_stopping.set()
        self._around.notifier.stopping()
        self._show("draining")
        parts.inbox.stop()
        parts.hooks.stop()
        has_ended = parts.worker.stop(_STOP_S / 2)
        parts.resources.front_end.close()
        parts.holder.close()
        if not has_ended and not parts.worker.stop(_STOP_S / 2):
            log.warning("service.work_abandoned", n_running=len(parts.worker.job_ids()))
        parts.worker.flush_pending_marks()
        parts.hooks.close()
        if parts.index_keeper is not None:
            parts.index_keeper.close(is_once=self._once is not None)
        parts.intake.scan = Scan()
        self._show("stopped")
        log.info("service.stopped")
