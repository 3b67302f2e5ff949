"""`scribed retry`, `cancel` and `forget`: what can be done to single recordings."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from daemon.cli import config_option
from daemon.display import printable
from daemon.errors import AlreadyRunningError, ExitCode, NoPermissionError, ScribedError, UsageError
from daemon.host import files
from daemon.host.privileges import become_owner
from daemon.job import JobState
from daemon.journal import JOURNAL_NAME, Journal
from daemon.spool import Failures, Places
from daemon.status import is_running
from daemon.status.faults import Faults
from daemon.status.publisher import show_stopped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def retry(names: list[str], option: Path | None, *, is_all: bool) -> int:
    """Move failed recordings back into the inbox and say where they are."""
    if bool(names) == is_all:
        raise UsageError("Name the recordings to retry, or say --all.")
    with _opened(option) as (places, journal, mode):
        failures = Failures(places, journal, mode)
        moved = failures.retry_all() if is_all else ()
        for name in names:
            found = failures.retry(name)
            if not found:
                _complain(f"There is no failed recording called {name}.")
            moved += found
        failures.sweep()
    for path in moved:
        sys.stdout.write(f"{printable(str(path))}\n")
    is_short = not is_all and len(moved) < len(names)
    return ExitCode.SOME_FAILED if is_short else ExitCode.OK


def cancel(name: str, option: Path | None) -> int:
    """Have a claimed recording moved to failed; by the daemon where it runs, else here."""
    with _opened(option) as (places, journal, mode):
        jobs = [
            job
            for job in journal.unfinished()
            if job.state is not JobState.DELIVERED and name in {job.name, job.path, job.job_id}
        ]
        if not jobs:
            raise ScribedError(f"No recording called {name} is claimed.", "`scribed status` shows what is.")
        for job in jobs:
            journal.cancel(job.job_id)
        lock, holds = places.locks()[0]
        try:
            own = files.Lock(lock)
            own.acquire(holds)
        except AlreadyRunningError:
            sys.stdout.write(f"{name} will be moved to failed in a moment.\n")
            return ExitCode.OK
        try:
            for job in jobs:
                Failures(places, journal, mode).cancel(job)
        finally:
            own.release()
    sys.stdout.write(f"{name} is in {places.folders.failed}.\n")
    return ExitCode.OK


def forget(name: str, option: Path | None) -> int:
    """Erase what the journal knows of past jobs of this name."""
    config, _ = config_option.read(option)
    with _opened(option) as (_, journal, _):
        if any(name in {job.name, job.path} for job in journal.unfinished()):
            raise ScribedError(f"{name} is not done yet.", "Cancel it first, or wait until it is done.")
        outcomes = journal.named(name)
        if not outcomes:
            raise ScribedError(f"Nothing is remembered of a recording called {name}.")
        for outcome in outcomes:
            journal.forget(outcome.job.job_id)
        if not is_running(config.folders.state):  # a daemon that runs writes it again by itself
            show_stopped(config, journal, Faults())
    sys.stdout.write(f"Erased {len(outcomes)} past job(s) called {name}.\n")
    return ExitCode.OK


@contextmanager
def _opened(option: Path | None) -> Iterator[tuple[Places, Journal, int]]:
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
        yield Places(config.folders, config.output.mirror_folders), journal, config.output.mode_bits
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
