"""A few threads that take on work as it comes."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, ParamSpec

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")

log = structlog.get_logger()


class Crew:
    """A pool of threads whose work has to deal with every error by itself.

    Args:
        n_threads: the most threads; each starts when there is work for it.
        name: of the threads.
    """

    def __init__(self, n_threads: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix=name)
        self._is_broken = False

    @property
    def is_broken(self) -> bool:
        """Whether an error came out of some work, so that what it was about will never end."""
        return self._is_broken

    def do(self, work: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have a thread do this; after `close` nothing is done any more."""
        with suppress(RuntimeError):  # closed
            self._pool.submit(self._run, functools.partial(work, *args, **kwargs))

    def close(self) -> None:
        """Let the threads end when they have done what is waiting."""
        self._pool.shutdown(wait=False)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException:
            self._is_broken = True
            log.exception("worker.broken")
            raise
