from __future__ import annotations

import functools
import json
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import pytest

from tests.unit.spool.crashes import crash_in
from tests.unit.spool.world import (
    AUDIO,
    MTIME_NS,
    WORDS,
    World,
    expire,
    lose_journal,
    tree,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.inbox import Arrival
    from daemon.job import Job


def everything(world: World) -> dict[str, set[str]]:
    return {name: tree(getattr(world.folders, name)) for name in ("inbox", "outbox", "processed", "failed")}


DELIVERED = {
    "inbox": {".scribed", "team"},
    "outbox": {"team/talk.txt", "team/talk.json"},
    "processed": {"team/talk.wav", "team/talk.hotwords.txt"},
    "failed": set[str](),
}
FAILED = {
    "inbox": {".scribed", "team"},
    "outbox": set[str](),
    "processed": set[str](),
    "failed": {"team/talk.wav", "team/talk.hotwords.txt", "team/talk.wav.error.txt"},
}


def live(world: World, arrival: Arrival | None, end: Callable[[World, Job], object]) -> None:
    """Do what the service does from its start on: conclude, work on what is left, claim what has arrived."""
    for job in world.spool.recover():
        if not world.spool.conclude(job):
            end(world, replace(job))
    if arrival is not None and (world.folders.inbox / arrival.path).exists():
        claimed = world.spool.claim(arrival)
        assert claimed is not None
        end(world, claimed.job)


def deliver_end(mark: str) -> Callable[[World, Job], object]:
    return lambda world, job: world.deliver(job, mark)


def fail_end(_: str) -> Callable[[World, Job], object]:
    return lambda world, job: world.set_aside(job)


WAYS = {"delivered": (deliver_end, DELIVERED), "failed": (fail_end, FAILED)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("moves", ["on one disk", "to another disk"])
@pytest.mark.parametrize("journal", ["kept", "lost"])
def test_crash_at_any_step_loses_and_doubles_nothing(
    fast: Path, tmp_path: Path, way: str, moves: str, journal: str
) -> None:
    end, expected = WAYS[way]
    for at in count(1):
        root, far = fast / str(at), tmp_path / str(at) if moves == "to another disk" else None
        world = World(root, far)
        arrival = world.drop("team/talk.wav", hotwords=WORDS)
        is_crashed = crash_in(world, functools.partial(live, world, arrival, end("1")), at)
        world.close()
        if journal == "lost":
            lose_journal(world)
        later = World(root, far)
        live(later, arrival, end("2"))
        assert everything(later) == expected, f"after a crash at step {at}"
        check_ends(later, at)
        if journal == "kept":  # else the memory of the past is gone, and what is in no record stays
            assert later.journal.count_hooks() == (way == "delivered"), f"after a crash at step {at}"
            expire(later)
            assert tree(later.folders.processed) | tree(later.folders.failed) <= {"team"}, f"step {at}"
        later.close()
        if not is_crashed:
            break
    assert at > 25  # the harness counts what it should


def check_ends(world: World, at: int) -> None:
    audio = next(path for path in (*world.folders.processed.rglob("*.wav"), *world.folders.failed.rglob("*.wav")))
    assert (audio.read_bytes(), audio.stat().st_mtime_ns) == (AUDIO, MTIME_NS), at
    assert audio.with_name("talk.hotwords.txt").read_bytes() == WORDS
    assert world.spool.recover() == ()
    texts = list(world.folders.outbox.rglob("*.txt"))
    for text in texts:  # both documents are of one making
        mark = json.loads(text.with_suffix(".json").read_bytes())["mark"]
        assert text.read_bytes() == f"words{mark}\n".encode()


@pytest.mark.parametrize("way", WAYS)
def test_crash_during_recovery_loses_nothing(fast: Path, tmp_path: Path, way: str) -> None:
    end, expected = WAYS[way]
    for first in count(3, 6):
        is_first_crashed = False
        for second in count(1, 4):
            root = fast / f"{first}-{second}"
            world = World(root, tmp_path / root.name)
            arrival = world.drop("team/talk.wav", hotwords=WORDS)
            is_first_crashed = crash_in(world, functools.partial(live, world, arrival, end("1")), first)
            world.close()
            world = World(root, tmp_path / root.name)
            is_crashed = crash_in(world, functools.partial(live, world, arrival, end("2")), second)
            world.close()
            world = World(root, tmp_path / root.name)
            live(world, arrival, end("3"))
            assert everything(world) == expected, f"after crashes at steps {first} and {second}"
            check_ends(world, first)
            world.close()
            if not is_crashed:
                break
        if not is_first_crashed:
            break
