"""`scribed retry`, `cancel` and `forget`: what can be done to single recordings."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from daemon.cli import config_option
from daemon.display import printable
from daemon.errors import AlreadyRunningError, ExitCode, NoPermissionError, ScribedError, UsageError
from daemon.host.privileges import become_owner
from daemon.job import JobState
from daemon.journal import JOURNAL_NAME, Journal
from daemon.spool import SharedFolders, Spool
from daemon.status import is_running
from daemon.status.faults import Faults
from daemon.status.publisher import show_stopped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from daemon.config import Config


def retry(names: list[str], option: Path | None, *, is_all: bool) -> int:
    """Move failed recordings back into the inbox and say where they are."""
    if bool(names) == is_all:
        raise UsageError("Name the recordings to retry, or say --all.")
    moved: list[Path] = []
    has_problem = False
    with _opened(option) as (spool, config):
        for name in (None,) if is_all else names:
            done = spool.retry(name)
            moved += done.moved
            has_problem |= bool(done.problems)
            for problem in done.problems:
                _complain(printable(str(problem)))
            if name is not None and not done.moved and not done.problems:
                _complain(f"There is no failed recording called {printable(name)}.")
                has_problem = True
        spool.sweep(config.retention)
    for path in moved:
        sys.stdout.write(f"{printable(str(path))}\n")
    return ExitCode.SOME_FAILED if has_problem else ExitCode.OK


def cancel(name: str, option: Path | None) -> int:
    """Have a claimed recording moved to failed; by the daemon where it runs, else here."""
    with _opened(option) as (spool, config):
        jobs = [
            job
            for job in spool.journal.unfinished()
            if job.state is not JobState.DELIVERED and name in {job.name, job.path, job.job_id}
        ]
        if not jobs:
            raise ScribedError(f"No recording called {name} is claimed.", "`scribed status` shows what is.")
        for job in jobs:
            spool.journal.cancel(job.job_id)
        try:
            with spool.shared.locked():
                for job in jobs:
                    spool.cancel(job)
        except AlreadyRunningError:
            sys.stdout.write(f"{name} will be moved to failed in a moment.\n")
            return ExitCode.OK
    sys.stdout.write(f"{name} is in {config.folders.failed}.\n")
    return ExitCode.OK


def forget(name: str, option: Path | None) -> int:
    """Erase what the journal knows of past jobs of this name."""
    with _opened(option) as (spool, config):
        n_erased = spool.erase(name)
        if n_erased == 0:
            raise ScribedError(f"Nothing is remembered of a recording called {name}.")
        if not is_running(config.folders.state):  # a running daemon rewrites it by itself
            show_stopped(config, spool.journal, Faults())
    sys.stdout.write(f"Erased {n_erased} past job(s) called {name}.\n")
    return ExitCode.OK


@contextmanager
def _opened(option: Path | None) -> Iterator[tuple[Spool, Config]]:
    """Open the journal as its owner; the daemon may run meanwhile."""
    config, _ = config_option.read(option)
    state = config.folders.state
    become_owner(state)
    try:
        has_journal = (state / JOURNAL_NAME).exists()
    except PermissionError as error:
        remedy = "Run this as root, or as the service's user."
        raise NoPermissionError(f"You may not use {state}.", remedy) from error
    if not has_journal:
        raise ScribedError(f"There is no journal in {state}.", "Has the service ever run with this configuration?")
    with _explained(state):
        journal = Journal(state)
    try:
        yield Spool(SharedFolders(config.folders), journal, lambda: config.output), config
    finally:
        journal.close()


@contextmanager
def _explained(state: Path) -> Iterator[None]:
    try:
        yield
    except (PermissionError, ScribedError) as error:
        remedy = "Run this as root, or as the service's user."
        raise NoPermissionError(f"You may not use the journal in {state}.", remedy) from error


def _complain(line: str) -> None:
    sys.stderr.write(f"scribed: {line}\n")
