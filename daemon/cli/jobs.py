"""`scribed retry`, `cancel` and `forget`: what can be done to single recordings."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from daemon.cli import config_option
from daemon.cli.names import choose
from daemon.display import escape
from daemon.errors import AlreadyRunningError, ExitCode, NoPermissionError, ScribedError, TransientError, UsageError
from daemon.host.privileges import become_owner
from daemon.inbox import Arrival, Inbox, fingerprint_of
from daemon.job import JobState
from daemon.journal import JOURNAL_NAME, Journal
from daemon.search import SearchIndex
from daemon.spool import SharedFolders, Spool
from daemon.status import is_running, read_status
from daemon.status.faults import Faults
from daemon.status.publisher import show_stopped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from daemon.config import Config
    from daemon.job import Job

_OWNER_ONLY: Final = "Run this as root, or as the service's user."
_SEE_STATUS: Final = "See `scribed status`."


def retry(names: list[str], option: Path | None, *, is_all: bool) -> int:
    """Move failed recordings back into the inbox and print where they are.

    Args:
        names: names or paths of failed recordings; where one is ambiguous, nothing is moved.
        option: the configuration file, None for the usual places.
        is_all: whether all failed recordings are retried.
    """
    if bool(names) == is_all:
        raise UsageError("Specify one or more recordings, or use --all.")
    has_problem = False
    with _opened(option) as (spool, config):
        paths = [None] if is_all else _choose_failed(spool, config, names)
        for name, path in zip(names or [""], paths, strict=True):
            if not is_all and path is None:
                _complain(f"No failed recording called {escape(name)} found. {_SEE_STATUS}")
                has_problem = True
                continue
            done = spool.retry(path, is_path=True)
            for problem in done.problems:
                _complain(escape(str(problem)))
            for moved in done.moved:
                sys.stdout.write(f"{escape(str(moved))}\n")
            has_problem |= bool(done.problems)
        spool.sweep_failures()
    return ExitCode.SOME_FAILED if has_problem else ExitCode.OK


def cancel(name: str, option: Path | None) -> int:
    """Have a waiting or running recording moved to failed: by the daemon if it runs, otherwise here.

    Args:
        name: its name, its path within the inbox, or its job id.
        option: the configuration file, None for the usual places.
    """
    with _opened(option) as (spool, config):
        job = _find_job(spool, config, name)
        spool.journal.cancel(job.job_id)
        shown = escape(job.path)
        try:
            with spool.shared.locked():
                spool.cancel(job)
        except AlreadyRunningError:
            sys.stdout.write(f"{shown} will be moved to {escape(str(config.folders.failed))} in a moment.\n")
            return ExitCode.OK
    sys.stdout.write(f"{shown} was moved to {escape(str(config.folders.failed))}.\n")
    return ExitCode.OK


def forget(name: str, option: Path | None) -> int:
    """Erase what the state folder remembers about a recording that is done or failed.

    Args:
        name: its name, or its path within the inbox.
        option: the configuration file, None for the usual places.
    """
    shown = escape(name)
    with _opened(option) as (spool, config):
        past = spool.journal.named(name.rpartition("/")[2])
        unfinished = [job.path for job in spool.journal.unfinished()]
        path = choose(name, [*(one.job.path for one in past), *unfinished], _roots(config))
        if path in unfinished:
            raise ScribedError(f"{shown} is not finished.", "Cancel it first, or wait until it is done.")
        chosen = name if path is None else path
        job_ids = [one.job.job_id for one in past if one.job.path == chosen or path is None]
        n_erased = _erase(spool, chosen, {one.job.path for one in past})
        n_erased = max(n_erased, _forget_words(config, job_ids, chosen))
        if n_erased == 0:
            raise ScribedError(f"No record of {shown} found.", _SEE_STATUS)
        if not is_running(config.folders.state):  # a running daemon rewrites it by itself
            show_stopped(config, spool.journal, Faults())
    sys.stdout.write(f"Erased {n_erased} record(s) of {shown}.\n")
    return ExitCode.OK


def _erase(spool: Spool, path: str, same_name: set[str]) -> int:
    """Erase the past jobs of one path, and no others of the same name."""
    if "/" in path or same_name <= {path}:
        return spool.erase(path)
    jobs = [past.job for past in spool.journal.named(path) if past.job.path == path]
    for job in jobs:
        spool.journal.forget(job.job_id)
    return len(jobs)


def _forget_words(config: Config, job_ids: list[str], path: str) -> int:
    """Erase the words of a recording from the search index, if there is one; return how many transcripts there were."""
    try:
        index = SearchIndex(config.folders.state, is_made=False)
    except FileNotFoundError:
        return 0
    except sqlite3.DatabaseError as error:
        remedy = "Delete it; the service makes it again from the transcripts."
        raise ScribedError(f"The search index in {config.folders.state} is damaged: {error}.", remedy) from error
    try:
        return index.forget(job_ids, path)
    finally:
        index.close()


def _choose_failed(spool: Spool, config: Config, names: list[str]) -> list[str | None]:
    failed = spool.failed()
    return [choose(name, failed, (config.folders.failed,)) for name in names]


def _find_job(spool: Spool, config: Config, name: str) -> Job:
    """Return the job of a recording; one that still waits in the inbox is claimed for that.

    Raises:
        ScribedError: there is none, or it is not cancellable.
        UsageError: the name is ambiguous.
    """
    jobs = [job for job in spool.journal.unfinished() if job.state is not JobState.DELIVERED]
    by_id = [job for job in jobs if job.job_id == name]
    if by_id:
        return by_id[0]
    found = Inbox(config.folders.inbox, lambda: config.watch.model_copy(update={"mode": "poll"})).scan()
    in_inbox = [*(arrival.path for arrival in found.settled), *(arriving.path for arriving in found.arriving)]
    path = choose(name, [*(job.path for job in jobs), *in_inbox], _roots(config))
    if path is None:
        raise ScribedError(f"{escape(name)} is not queued or in progress.", _SEE_STATUS)
    same = [job for job in jobs if job.path == path]
    if len(same) > 1:
        ids = ", ".join(job.job_id for job in same)
        raise UsageError(
            f"{len(same)} recordings at {escape(path)} are in progress.", f"Name one by its job id: {ids}."
        )
    if same:
        return same[0]
    if is_running(config.folders.state) and path in read_status(config.folders.state)["queue"]["arriving"]:
        remedy = "Wait until it is complete, or delete it from the inbox."
        raise ScribedError(f"{escape(path)} is still arriving.", remedy)
    return _claim(spool, config, path)


def _claim(spool: Spool, config: Config, path: str) -> Job:
    """Claim a recording from the inbox, unless the daemon does so at the same moment."""
    with spool.arrived(path) as audio:
        arrival = Arrival(path, fingerprint_of(audio.lstat()))
    claim = spool.claim(arrival)
    if claim is not None:
        return claim.job
    by_daemon = [job for job in spool.journal.unfinished() if job.path == path]
    if not by_daemon:
        raise ScribedError(f"{escape(path)} is no longer in {escape(str(config.folders.inbox))}.", _SEE_STATUS)
    return by_daemon[-1]


def _roots(config: Config) -> tuple[Path, ...]:
    return config.folders.inbox, config.folders.failed, config.folders.processed


@contextmanager
def _opened(option: Path | None) -> Iterator[tuple[Spool, Config]]:
    """Open the journal as its owner; the daemon may be running."""
    config, _ = config_option.read(option)
    state = config.folders.state
    become_owner(state)
    try:
        has_journal = (state / JOURNAL_NAME).exists()
    except PermissionError as error:
        raise NoPermissionError(f"You have no permission to use {state}.", _OWNER_ONLY) from error
    if not has_journal:
        raise ScribedError(f"There is no journal in {state}.", "Has the service ever run with this configuration?")
    with _explained(state):
        journal = Journal(state)
    try:
        yield Spool(SharedFolders(config.folders), journal, lambda _: config.output, looks_again=False), config
    finally:
        journal.close()


@contextmanager
def _explained(state: Path) -> Iterator[None]:
    try:
        yield
    except (PermissionError, NoPermissionError, TransientError) as error:
        if os.access(state / JOURNAL_NAME, os.R_OK | os.W_OK):
            raise
        raise NoPermissionError(f"You have no permission to use the journal in {state}.", _OWNER_ONLY) from error


def _complain(line: str) -> None:
    sys.stderr.write(f"scribed: {line}\n")
