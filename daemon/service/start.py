"""The start: waits until the folders, their locks and the journal can be used."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from daemon.errors import TransientError
from daemon.journal import Journal
from daemon.service.health import TIMEOUT_EXTENSION_S
from daemon.status.targets import StatusFiles, show_waiting

if TYPE_CHECKING:
    from daemon.service.parts import Surroundings
    from daemon.spool import SharedFolders
    from daemon.status.faults import Faults


class Start:
    """Opens what one instance needs before it can work.

    Args:
        around: settings, flags and systemd.
        shared: the folders.
        faults: where it is noted what the start waits for.
    """

    def __init__(self, around: Surroundings, shared: SharedFolders, faults: Faults) -> None:
        self._settings = around.settings
        self._notifier = around.notifier
        self._flags = around.flags
        self._shared = shared
        self._faults = faults
        self._status_files = StatusFiles(faults, around.monotonic)

    def open(self, held: ExitStack, *, once: bool) -> Journal | None:
        """Take the locks and open the journal, waiting for a missing share or a full disk; `held` releases them.

        Returns:
            the journal, or None if stopped meanwhile.

        Raises:
            AlreadyRunningError: another instance holds one of the folders.
            NoPermissionError, NewerVersionError: waiting would not help.
            TransientError: a folder cannot be used now, and `once` does not wait.
        """
        while not self._flags.is_stopping.is_set():
            with ExitStack() as attempt:
                try:
                    journal = self._try_open(attempt)
                except TransientError as error:
                    if once:
                        raise
                    fault = error
                else:
                    held.push(attempt.pop_all())
                    self._faults.clear("start")
                    return journal
            self._wait(fault)
        return None

    def _try_open(self, attempt: ExitStack) -> Journal:
        """Open everything, making no folder in place of a share that was there before."""
        self._shared.check_mounts()
        self._shared.prepare()
        attempt.enter_context(self._shared.locked())
        self._shared.remember_mounts()
        journal = Journal(self._settings.current.folders.state)
        attempt.callback(journal.close)
        return journal

    def _wait(self, fault: TransientError) -> None:
        self._faults.note("start", fault.what, fault.remedy)
        self._notifier.extend_timeout(TIMEOUT_EXTENSION_S)
        self._notifier.status(str(fault))
        show_waiting(self._status_files, self._settings.current, self._faults)
        self._flags.is_stopping.wait(min(self._settings.current.watch.scan_s, TIMEOUT_EXTENSION_S / 2))
