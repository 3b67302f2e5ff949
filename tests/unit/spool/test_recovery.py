from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from daemon.host.folders import Folder
from daemon.job import JobState
from daemon.journal.records import FailedPlace
from daemon.spool.claims import remove_claim
from tests.unit.spool.crashes import crash_in
from tests.unit.spool.world import (
    REASON,
    WORDS,
    World,
    lose_journal,
    tree,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_existing_json_proves_delivery_when_the_journal_is_lost(world: World, tmp_path: Path) -> None:
    (world.folders.outbox / "talk.json").write_bytes(b'{"job_id": "another"}')
    os.mkfifo(world.folders.outbox / "talk.wav (2).json")  # it must not be waited for
    job = world.claim()
    crash_in(world, lambda: world.deliver(job), at_commit=True)
    (world.claim_folder(job) / ".claim.json").write_text('{"path": "talk.wav", "claimed_at": "2026"}')
    world.close()
    lose_journal(world)
    later = World(tmp_path)
    (left,) = later.spool.recover()
    assert left.state is JobState.DELIVERED
    assert later.spool.conclude(left)
    assert tree(later.folders.processed) == {"talk.wav"}
    assert later.journal.recent(1)[0].audio_s == 12.5
    later.close()


def test_claim_without_its_note_is_recovered_from_its_files(world: World, tmp_path: Path) -> None:
    job = world.claim("team/talk.wav", hotwords=WORDS)
    (world.claim_folder(job) / ".claim.json").write_bytes(b"torn")
    world.close()
    lose_journal(world)
    later = World(tmp_path)
    (left,) = later.spool.recover()
    assert (left.job_id, left.path) == (job.job_id, "talk.wav")
    assert not later.spool.conclude(left)
    assert later.hotwords(left) == ("Bessel", "Chebyshev")
    assert later.deliver(left) == "talk"
    later.close()


@pytest.mark.parametrize("end", ["delivered", "failed"])
def test_emptied_claim_that_a_power_cut_brings_back_is_removed(world: World, tmp_path: Path, end: str) -> None:
    """Even where the documents have been fetched by then: otherwise it would be taken for a lost delivery."""
    job = world.claim(hotwords=WORDS)
    note = (world.claim_folder(job) / ".claim.json").read_bytes()
    if end == "delivered":
        world.deliver(job)
        (world.folders.outbox / "talk.json").unlink()
    else:
        world.set_aside(job)
    world.close()
    world.claim_folder(job).mkdir()
    (world.claim_folder(job) / ".claim.json").write_bytes(note)
    before = tree(tmp_path)
    later = World(tmp_path)
    assert later.spool.recover() == ()
    assert before - tree(tmp_path) == {f"inbox/.scribed/{job.job_id}/.claim.json"}
    assert len(later.journal.named("talk.wav")) == 1
    later.close()


def test_recovered_jobs_keep_their_odd_names(world: World, tmp_path: Path) -> None:
    path = os.fsdecode(b"team\xff/caf\xe9\n.wav")
    job = world.claim(path)
    world.close()
    lose_journal(world)
    later = World(tmp_path)
    assert [(left.job_id, left.path) for left in later.spool.recover()] == [(job.job_id, path)]
    later.close()


def test_claim_whose_audio_was_removed_is_undone(world: World) -> None:
    job = world.claim(hotwords=WORDS)
    world.audio(job).unlink()
    assert world.spool.conclude(job)
    assert tree(world.folders.inbox) == {".scribed", "talk.hotwords.txt"}
    assert world.spool.recover() == ()


def test_inbox_that_was_removed_with_its_claims_ends_their_jobs(world: World) -> None:
    job = world.claim()
    shutil.rmtree(world.folders.inbox)
    world.folders.inbox.mkdir()
    world.shared.make_claims()
    assert world.spool.conclude(job)
    assert world.spool.recover() == ()
    assert world.claim() is not None


def test_claim_that_still_holds_audio_is_never_removed(world: World) -> None:
    job = world.claim()
    with Folder.open(world.folders.inbox / ".scribed") as claims, pytest.raises(OSError, match="not empty"):
        remove_claim(claims, job.job_id)
    assert world.audio(job).exists()
    assert (world.claim_folder(job) / ".claim.json").exists()


def test_planned_failure_is_carried_out_after_a_crash(world: World) -> None:
    job = world.claim()
    world.journal.plan_failure(job.job_id, REASON, FailedPlace("", "talk.wav"))
    assert world.spool.conclude(job)
    assert tree(world.folders.failed) == {"talk.wav", "talk.wav.error.txt"}
    assert REASON.what in (world.folders.failed / "talk.wav.error.txt").read_text()
