"""The hook: runs the program of `hooks.delivered` after each delivery, one at a time, at least once."""

from __future__ import annotations

import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from daemon.display import escape, shown_name
from daemon.errors import ScribedError
from daemon.host import files
from daemon.host.folders import Folder, LinkInTheWayError
from daemon.host.programs import PROGRAM_PATH, Ended, ProgramEnd, run_program

if TYPE_CHECKING:
    from collections.abc import Mapping

    from daemon.config import Settings
    from daemon.config.schema import Hooks
    from daemon.job import Job
    from daemon.journal import Journal
    from daemon.journal.records import DueHook
    from daemon.spool import SharedFolders
    from daemon.status.faults import Faults
    from daemon.status.metrics import Counters

_STOP_S: Final = 4.0  # of the eight seconds in which the service stops
_JOIN_S: Final = 6.0
_RETRY_S: Final = 15.0
# A failed run is not repeated, so its fault is shown for a day.
_SHOWN_S: Final = 86_400.0
_FAILED: Final = "hook: failed"
_NOT_STARTED: Final = "hook: not started"
_LEFT_OUT: Final = "hook: left out"

log = structlog.get_logger()


class HookRunner:
    """Runs the hook on a thread of its own, so that no recording waits for it.

    The queue is in the journal: a delivery is added by the transaction that commits it, and removed when the program
    has exited or timed out. A run that a crash or a stop of the service interrupts is repeated; one that fails is not.

    Args:
        settings: the current configuration.
        journal: has the queue.
        shared: the folders; while one of their shares is not mounted, the hook waits.
        faults: shows failures of the program.
        counters: figures since the start.
    """

    def __init__(
        self, settings: Settings, journal: Journal, shared: SharedFolders, faults: Faults, counters: Counters
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._shared = shared
        self._faults = faults
        self._counters = counters
        self._is_stopping = threading.Event()
        self._wanted = threading.Event()
        self._idle = threading.Event()
        self._lock = threading.Lock()  # guards `_wanted` and `_idle` together
        self._has_run: set[int] = set()  # but the journal could not record it yet
        self._hooks = settings.current.hooks
        self._thread = threading.Thread(target=self._run, name="hook")

    def is_set(self) -> bool:
        """Whether there is a program to run."""
        return self._settings.current.hooks.delivered is not None

    def add(self, job: Job) -> None:
        """Report that the journal has one more delivery for it."""
        del job
        self.look()

    def leave_out(self, job: Job, reason: str) -> None:
        """Report that the program will not run for a delivery, and why."""
        log.warning("hook.left_out", job_id=job.job_id, path=job.path, reason=reason)
        self._counters.add_hook(is_failed=True)
        name = self._show(job)
        what = f"The program of hooks.delivered is not run for {name}: {reason}."
        remedy = "Run it by hand. The log names each such recording (SCRIBED_EVENT=hook.left_out)."
        self._faults.note(_LEFT_OUT, what, remedy, _SHOWN_S, names=(name,))

    def look(self) -> None:
        """Wake the thread, so that it checks the queue and the configuration."""
        with self._lock:
            self._idle.clear()
            self._wanted.set()

    def start(self) -> None:
        """Start the thread, with what an earlier run of the service left in the queue."""
        self._thread.start()

    def is_idle(self, timeout_s: float) -> bool:
        """Wait at most this long; return whether there is nothing to run, or nothing that can be run now."""
        return self._idle.wait(timeout_s)

    def stop(self) -> None:
        """Start no more programs, and kill the running one after a few seconds; `close` waits for that."""
        self._is_stopping.set()
        self._wanted.set()

    def close(self) -> None:
        """Stop, and wait until the thread has ended."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        wait_s: float | None = None
        while not self._is_stopping.is_set():
            self._wanted.clear()
            try:
                wait_s = None if self._work_through() else _RETRY_S
            except ScribedError as error:  # the status shows what is wrong with the journal
                log.warning("hook.delayed", what=error.what)
                wait_s = _RETRY_S
            except Exception:
                log.exception("hook.broken")
                wait_s = _RETRY_S
            with self._lock:
                if not self._wanted.is_set():
                    self._idle.set()
            if not self._is_stopping.is_set():
                self._wanted.wait(wait_s)

    def _work_through(self) -> bool:
        """Run the program for all waiting deliveries; return False if it has to be tried again later."""
        while not self._is_stopping.is_set():
            self._record_runs()
            hooks = self._follow_settings()
            if hooks.delivered is None:
                return True
            due = self._journal.next_hook()
            if due is None:
                return True
            if self._is_away() or not self._run_one(due, hooks.delivered, hooks.timeout_s):
                return False
        return False

    def _record_runs(self) -> None:
        for hook_id in tuple(self._has_run):
            self._journal.drop_hook(hook_id)
            self._has_run.discard(hook_id)

    def _follow_settings(self) -> Hooks:
        """Return the settings; clear the faults of the old program if there is a new one."""
        hooks = self._settings.current.hooks
        if hooks != self._hooks:
            self._hooks = hooks
            for key in (_FAILED, _NOT_STARTED, _LEFT_OUT):
                self._faults.clear(key)
        if hooks.delivered is None and (n_dropped := self._journal.drop_hooks()):
            log.warning("hook.queue_dropped", n_deliveries=n_dropped, reason="hooks.delivered is not set any more")
        return hooks

    def _is_away(self) -> bool:
        """Whether a share is not mounted; the main loop reports it."""
        try:
            self._shared.check_mounts()
        except ScribedError:
            return True
        return False

    def _run_one(self, due: DueHook, program: tuple[str, ...], timeout_s: float) -> bool:
        """Run the program for one delivery; return False if that has to be tried again."""
        if (reason := self._find_obstacle(due)) is not None:
            self._has_run.add(due.hook_id)
            self.leave_out(due.job, reason)
            return True
        log.debug("hook.started", job_id=due.job.job_id, path=due.job.path)
        try:
            end = run_program(
                (*program, due.document), _environment(due), timeout_s, self._is_stopping, grace_s=_STOP_S
            )
        except OSError as error:
            what = f"The program of hooks.delivered cannot be started ({error.strerror}): {escape(program[0])}."
            remedy = "`sudo scribed check` says why. Deliveries wait for it, and the service keeps trying."
            self._faults.note(_NOT_STARTED, what, remedy)
            return False
        self._faults.clear(_NOT_STARTED)
        if end.how is Ended.STOPPED:
            log.info("hook.interrupted", job_id=due.job.job_id, path=due.job.path)
            return False
        self._has_run.add(due.hook_id)
        self._report(due.job, end, timeout_s)
        self._record_runs()
        return True

    def _find_obstacle(self, due: DueHook) -> str | None:
        """Return why a document is not passed to the program, or None: members can replace any file with a link.

        A missing document is passed on: the program may need only its name.

        Raises:
            TransientError: it cannot be looked at now.
        """
        roots, document = self._journal.roots(due.job.job_id) or self._shared.roots, Path(due.document)
        folder = document.parent.relative_to(roots.outbox).as_posix() if document.parent != roots.outbox else ""
        with files.explained("A delivered document cannot be looked at", roots.outbox):
            try:
                with Folder.open(roots.outbox) as outbox, outbox.descend(folder) as opened:
                    facts = opened.find(document.name)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except LinkInTheWayError:
                return "its folder was replaced by a link"
            except PermissionError:  # a member's own folder: other deliveries do not wait for it
                return "the service has no access to its folder"
        return None if facts is None or stat.S_ISREG(facts.st_mode) else "its json document is not a file any more"

    def _report(self, job: Job, end: ProgramEnd, timeout_s: float) -> None:
        """Count a finished run, and show its failure; it is not repeated."""
        if end.how is Ended.ITSELF and end.code == 0:
            log.info("hook.finished", job_id=job.job_id, path=job.path)
            self._counters.add_hook(is_failed=False)
            return
        reason = f"exit code {end.code}" if end.code >= 0 else f"ended by signal {-end.code}"
        if end.how is Ended.TIMEOUT:
            reason = f"killed after {timeout_s:g} s"
        log.warning("hook.failed", job_id=job.job_id, path=job.path, reason=reason)
        self._counters.add_hook(is_failed=True)
        name = self._show(job)
        what = f"The program of hooks.delivered failed for {name}: {reason}."
        remedy = "It is not repeated: run it by hand. The log names each failure (SCRIBED_EVENT=hook.failed)."
        self._faults.note(_FAILED, what, remedy, _SHOWN_S, names=(name,))

    def _show(self, job: Job) -> str:
        return shown_name(job.path, self._settings.current.logging.names)


def _environment(due: DueHook) -> Mapping[str, str]:
    return {"PATH": PROGRAM_PATH, "LANG": "C.UTF-8", "SCRIBED_JOB_ID": due.job.job_id}
