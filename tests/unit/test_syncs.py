"""Syncs of a folder that threads share."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from daemon.host import syncs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAIT_S = 300.0  # only to find out what hangs, however busy the machine


class Disk:
    """Counts syncs, and holds the first one up until it may end."""

    def __init__(self) -> None:
        self.n_begun = 0
        self.n_failing = 0
        self.has_begun = threading.Event()
        self.may_end = threading.Event()

    def sync(self, fd: int) -> None:
        self.n_begun += 1
        number = self.n_begun
        self.has_begun.set()
        assert self.may_end.wait(WAIT_S)
        if number <= self.n_failing:
            raise OSError
        os.fsync(fd)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def share(folder: int, disk: Disk, n_threads: int) -> list[bool]:
    """Sync from one thread, and from more while that sync is in progress; return which succeeded."""
    succeeded: list[bool] = []

    def run() -> None:
        try:
            syncs.sync_shared(folder, disk.sync)
        except OSError:
            succeeded.append(False)
        else:
            succeeded.append(True)

    threads = [threading.Thread(target=run) for _ in range(n_threads)]
    threads[0].start()
    assert disk.has_begun.wait(WAIT_S)
    for thread in threads[1:]:
        thread.start()
    (shared,) = syncs._folders.values()
    while shared.n_users < n_threads:
        threading.Event().wait(0.001)
    with shared.changed:  # all of them wait
        disk.may_end.set()
    for thread in threads:
        thread.join()
    return succeeded


def test_threads_that_wait_need_one_more_sync_and_no_thread_trusts_one_that_had_begun(folder: int) -> None:
    disk = Disk()
    assert share(folder, disk, 5) == [True] * 5
    assert disk.n_begun == 2
    assert syncs._folders == {}


def test_thread_that_waited_for_a_sync_that_failed_syncs_itself(folder: int) -> None:
    disk = Disk()
    disk.n_failing = 2
    assert sorted(share(folder, disk, 3)) == [False, False, True]
    assert disk.n_begun == 3


def test_two_folders_are_synced_at_the_same_time(folder: int, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = os.open(tmp_path / "other", os.O_RDONLY | os.O_DIRECTORY)
    disk = Disk()
    first = threading.Thread(target=syncs.sync_shared, args=(folder, disk.sync))
    first.start()
    assert disk.has_begun.wait(WAIT_S)
    syncs.sync_shared(other, os.fsync)  # it does not wait for the first one
    disk.may_end.set()
    first.join()
    os.close(other)
