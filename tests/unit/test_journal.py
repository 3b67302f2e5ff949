from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon.errors import ExitCode, NewerVersionError, TransientError
from daemon.host.clock import now
from daemon.job import Job, JobState
from daemon.journal import JOURNAL_NAME, Journal, database
from daemon.journal import journal as journal_module
from daemon.journal.records import ArchivedFile, ChunkText, FailedPlace, FileStamp, Reason, Reservation, Result

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULT = Result(12.5, 1.5, is_complete=True)
PLACE = Reservation("team", "talk", "talk.wav")
WORD = "velociraptor"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path)
    yield opened
    opened.close()


def reopen(journal: Journal, folder: Path) -> Journal:
    journal.close()
    return Journal(folder)


def make_job(job_id: str = "1", path: str = "talk.wav") -> Job:
    return Job(job_id, path, f"2026-01-31T09:30:0{len(job_id)}.000Z")


def added(journal: Journal, *job_ids: str) -> None:
    for job_id in job_ids:
        journal.add(make_job(job_id, f"{job_id}.wav"))


def raw_bytes(folder: Path) -> bytes:
    """Return every byte that any file in the folder holds."""
    return b"".join(path.read_bytes() for path in folder.iterdir())


def the(journal: Journal, job_id: str = "1") -> Job:
    job = journal.find(job_id)
    assert job is not None
    return job


# Unfinished jobs


def test_job_survives_reopening_in_every_state(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add(make_job(path="team/talk.wav"))
    assert reopened_state(journal, tmp_path) is JobState.CLAIMED
    journal = Journal(tmp_path)
    journal.reserve("1", PLACE, {"talk.txt": "aa", "talk.json": "bb"}, RESULT)
    assert reopened_state(journal, tmp_path) is JobState.DELIVERING
    journal = Journal(tmp_path)
    assert journal.reservation("1") == PLACE
    assert list(journal.documents("1").items()) == [("talk.txt", "aa"), ("talk.json", "bb")]
    journal.commit_delivery("1")
    assert reopened_state(journal, tmp_path) is JobState.DELIVERED
    journal = Journal(tmp_path)
    assert journal.reservation("1") == PLACE
    assert journal.documents("1") == {}
    assert [job.job_id for job in journal.unfinished()] == ["1"]
    journal.finish("1")
    assert reopened_state(journal, tmp_path) is JobState.DONE
    journal = Journal(tmp_path)
    assert journal.unfinished() == ()
    (past,) = journal.recent(10)
    assert (past.job.path, past.audio_s, past.wall_s, past.is_complete) == ("team/talk.wav", 12.5, 1.5, True)
    assert past.finished_at <= now()
    journal.close()


def reopened_state(journal: Journal, folder: Path) -> JobState:
    journal = reopen(journal, folder)
    state = the(journal).state
    journal.close()
    return state


def test_documents_are_listed_in_the_order_they_were_recorded(journal: Journal) -> None:
    added(journal, "1")
    names = ["talk.txt", "talk.srt", "talk.vtt", "talk.json"]
    journal.reserve("1", PLACE, dict.fromkeys(names, "00"), RESULT)
    assert list(journal.documents("1")) == names
    journal.reserve("1", PLACE, {"talk (2).json": "11"}, RESULT)
    assert list(journal.documents("1")) == ["talk (2).json"]


def test_reservations_of_other_jobs_are_listed_until_they_finish(journal: Journal) -> None:
    added(journal, "1", "22", "333")
    journal.reserve("1", PLACE, {}, RESULT)
    journal.reserve("22", Reservation("", "memo", "memo.wav"), {}, RESULT)
    journal.commit_delivery("22")
    assert set(journal.reserved_by_others("333")) == {PLACE, Reservation("", "memo", "memo.wav")}
    assert journal.reserved_by_others("1") == (Reservation("", "memo", "memo.wav"),)
    journal.finish("22")
    assert journal.reserved_by_others("333") == (PLACE,)


def test_first_job_with_a_recording_is_found_whatever_came_later(journal: Journal) -> None:
    added(journal, "1", "22", "333")
    assert journal.find_first_with("aa", "1") is None
    journal.reserve("22", PLACE, {}, replace(RESULT, sha256="aa", duplicate_of="1"))  # 1 is not that far yet
    assert journal.find_first_with("aa", "1") is None
    assert journal.find_first_with("aa", "333") == "1"
    journal.reserve("1", Reservation("", "memo", "memo.wav"), {}, replace(RESULT, sha256="aa"))
    for job_id in ("22", "333"):
        assert journal.find_first_with("aa", job_id) == "1"
    assert journal.find_first_with("bb", "333") is None


def test_job_can_be_added_twice_and_its_claim_be_forgotten(journal: Journal) -> None:
    added(journal, "1")
    journal.charge("1")
    added(journal, "1")
    assert the(journal).attempts == 1
    journal.forget_claim("1")
    assert journal.find("1") is None


def test_unfinished_jobs_are_sorted_by_claim_time(journal: Journal) -> None:
    added(journal, "333", "1", "22")
    assert [job.job_id for job in journal.unfinished()] == ["1", "22", "333"]


def test_cancelled_job_is_listed_until_delivered_or_failed(journal: Journal) -> None:
    added(journal, "1", "22")
    journal.cancel("1")
    assert journal.cancelled() == ("1",)
    journal.reserve("1", PLACE, {}, RESULT)
    assert journal.cancelled() == ("1",)
    journal.commit_delivery("1")
    assert journal.cancelled() == ()  # its transcript is delivered: too late
    journal.cancel("22")
    journal.fail("22")
    assert journal.cancelled() == ()


# Attempts


def test_crash_is_charged_to_the_only_job_in_flight_once_the_engine_had_a_chunk(
    journal: Journal, tmp_path: Path
) -> None:
    added(journal, "1", "22")
    journal.begin("1")
    journal.reach_engine("1")
    journal = reopen(journal, tmp_path)
    (job,) = journal.recover_in_flight()
    assert (job.job_id, job.attempts, job.is_suspect) == ("1", 1, True)
    assert (the(journal, "22").attempts, the(journal, "22").is_suspect) == (0, False)
    assert journal.recover_in_flight() == ()
    journal.begin("1")
    journal.reach_engine("1")
    journal = reopen(journal, tmp_path)
    assert [job.attempts for job in journal.recover_in_flight()] == [2]
    journal.close()


def test_crash_while_decoding_is_counted_but_not_charged(journal: Journal, tmp_path: Path) -> None:
    added(journal, "1")
    for n_crashes in range(1, 4):
        journal.begin("1")  # and killed before the engine had any chunk
        journal = reopen(journal, tmp_path)
        (job,) = journal.recover_in_flight()
        assert (job.attempts, job.n_early_crashes, job.is_suspect) == (0, n_crashes, True)
    journal.begin("1")
    journal.reach_engine("1")
    (job,) = journal.recover_in_flight()
    assert (job.attempts, job.n_early_crashes) == (1, 0)  # no longer in a row
    journal.begin("1")  # what an earlier run of the work had reached is no evidence
    (job,) = journal.recover_in_flight()
    assert (job.attempts, job.n_early_crashes) == (1, 1)
    journal.close()


def test_crash_with_several_jobs_in_flight_charges_none(journal: Journal, tmp_path: Path) -> None:
    added(journal, "1", "22", "333")
    journal.begin("1")
    journal.reach_engine("1")
    journal.begin("22")
    journal = reopen(journal, tmp_path)
    in_flight = [(job.attempts, job.n_early_crashes, job.is_suspect) for job in journal.recover_in_flight()]
    assert in_flight == [(0, 0, True), (0, 0, True)]
    assert not the(journal, "333").is_suspect
    journal.close()


def test_orderly_stop_charges_nothing(journal: Journal, tmp_path: Path) -> None:
    added(journal, "1")
    journal.begin("1")
    journal.rest("1")
    journal = reopen(journal, tmp_path)
    assert journal.recover_in_flight() == ()
    assert not the(journal).is_suspect
    journal.close()


def test_finished_chunk_resets_the_counters(journal: Journal) -> None:
    added(journal, "1")
    for is_submitted in (True, False):
        journal.begin("1")
        if is_submitted:
            journal.reach_engine("1")
        journal.recover_in_flight()
    assert (the(journal).attempts, the(journal).n_early_crashes, the(journal).is_suspect) == (1, 1, True)
    journal.remember_chunk("1", "plan", (0, 16_000), ChunkText(WORD, "English", is_finished=True))
    assert (the(journal).attempts, the(journal).n_early_crashes, the(journal).is_suspect) == (0, 0, False)


def test_charge_is_counted_and_ends_the_flight(journal: Journal) -> None:
    added(journal, "1")
    journal.begin("1")
    assert [journal.charge("1"), journal.charge("1")] == [1, 2]
    assert journal.recover_in_flight() == ()


@pytest.mark.parametrize("end", ["commit", "finish", "fail"])
def test_finished_job_is_not_in_flight(journal: Journal, end: str) -> None:
    added(journal, "1")
    journal.begin("1")
    getattr(journal, {"commit": "commit_delivery"}.get(end, end))("1")
    assert journal.recover_in_flight() == ()


# Chunks


def test_chunks_are_recalled_only_with_the_same_plan(journal: Journal, tmp_path: Path) -> None:
    added(journal, "1", "22")
    said = {(0, 16_000): ChunkText("one", "English", is_finished=True), (16_000, 20_000): ChunkText("", None, False)}  # noqa: FBT003  # a field, not a flag
    for span, text in said.items():
        journal.remember_chunk("1", "plan", span, text)
    journal = reopen(journal, tmp_path)
    assert journal.remembered_chunks("1", "plan") == said
    assert journal.remembered_chunks("1", "other plan") == {}
    assert journal.remembered_chunks("22", "plan") == {}
    journal.remember_chunk("1", "other plan", (0, 16_000), ChunkText("new", None, is_finished=True))
    assert list(journal.remembered_chunks("1", "plan")) == [(16_000, 20_000)]
    journal.drop_chunks("1")
    assert journal.remembered_chunks("1", "other plan") == {}
    journal.close()


@pytest.mark.parametrize("end", ["commit", "fail", "drop", "forget", "forget claim"])
def test_texts_are_erased_from_disk_when_the_job_ends(journal: Journal, tmp_path: Path, end: str) -> None:
    added(journal, "1", "22")
    for number in range(40):  # several pages, and overflow pages
        journal.remember_chunk("1", "p", (number, number + 1), ChunkText(f"{WORD} " * 200, None, is_finished=True))
    journal.remember_chunk("1", "p", (0, 1), ChunkText(f"{WORD} again", None, is_finished=True))
    assert WORD.encode() in raw_bytes(tmp_path)  # or the test could not fail
    getattr(journal, {"commit": "commit_delivery", "drop": "drop_chunks"}.get(end, end.replace(" ", "_")))("1")
    if end == "forget claim":
        journal.close()
    assert WORD.encode() not in raw_bytes(tmp_path)


def test_forgotten_names_are_erased_from_disk(journal: Journal, tmp_path: Path) -> None:
    journal.add(make_job(path=f"{WORD}.wav"))
    journal.reserve("1", Reservation("", WORD, f"{WORD}.wav"), {f"{WORD}.txt": "00"}, RESULT)
    journal.commit_delivery("1")
    journal.finish("1")
    assert WORD.encode() in raw_bytes(tmp_path)
    journal.forget("1")
    assert WORD.encode() not in raw_bytes(tmp_path)


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with each sync of a file that Python makes."""
    made, sync = list[int](), os.fsync

    def count(fd: int) -> None:
        made.append(fd)
        sync(fd)

    monkeypatch.setattr(os, "fsync", count)
    return made


def test_only_what_a_power_cut_must_not_undo_is_synced(journal: Journal, syncs: list[int]) -> None:
    added(journal, "1")
    journal.reach_engine("1")
    assert len(syncs) == 2
    journal.begin("1")
    journal.rest("1")
    journal.remember_chunk("1", "plan", (0, 10), ChunkText(WORD, None, is_finished=True))
    journal.reserve("1", PLACE, {"talk.json": "bb"}, RESULT)
    assert len(syncs) == 2
    journal.settle()
    journal.settle()  # it is done already
    assert len(syncs) == 3
    journal.commit_delivery("1")
    journal.finish("1")
    assert len(syncs) == 4


def test_threads_that_commit_at_the_same_time_share_a_sync(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end, made, sync = threading.Event(), list[int](), os.fsync

    def wait_and_sync(fd: int) -> None:
        made.append(fd)
        may_end.wait(20)
        sync(fd)

    monkeypatch.setattr(os, "fsync", wait_and_sync)
    threads = [threading.Thread(target=added, args=(journal, str(number))) for number in range(6)]
    for number, thread in enumerate(threads):
        thread.start()
        while journal._n_written <= number:  # the first one is syncing, the others wait
            threading.Event().wait(0.001)
    may_end.set()
    for thread in threads:
        thread.join()
    assert len(made) == 2
    assert len(journal.unfinished()) == 6


def test_texts_are_erased_once_a_second_at_most(tmp_path: Path) -> None:
    now_s = [100.0]
    journal = Journal(tmp_path, lambda: now_s[0])
    for job_id in ("1", "22"):
        added(journal, job_id)
        journal.remember_chunk(job_id, "plan", (0, 10), ChunkText(f"{WORD}{job_id}", None, is_finished=True))
        journal.commit_delivery(job_id)
    assert f"{WORD}1".encode() not in raw_bytes(tmp_path)
    now_s[0] += 0.9
    journal.tidy()
    assert f"{WORD}22".encode() in raw_bytes(tmp_path)
    now_s[0] += 0.2
    journal.tidy()
    assert WORD.encode() not in raw_bytes(tmp_path)
    journal.close()


def test_texts_that_a_crash_left_in_the_log_are_erased(tmp_path: Path) -> None:
    now_s, folder, crashed = [100.0], tmp_path / "state", tmp_path / "crashed"
    folder.mkdir()
    journal = Journal(folder, lambda: now_s[0])
    for job_id in ("1", "22"):
        added(journal, job_id)
        journal.remember_chunk(job_id, "plan", (0, 10), ChunkText(WORD, None, is_finished=True))
        journal.commit_delivery(job_id)
    shutil.copytree(folder, crashed)
    journal.close()
    assert WORD.encode() in raw_bytes(crashed)
    later = Journal(crashed, lambda: now_s[0])
    later.tidy()
    assert WORD.encode() not in raw_bytes(crashed)
    later.close()


def test_journal_files_are_private(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        journal = Journal(tmp_path)
        added(journal, "1")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        journal.close()
    finally:
        os.umask(umask)
    assert modes == dict.fromkeys((JOURNAL_NAME, f"{JOURNAL_NAME}-wal", f"{JOURNAL_NAME}-shm"), 0o600)


# Hooks


def test_hook_waits_with_the_delivery_until_it_has_run(journal: Journal, tmp_path: Path) -> None:
    added(journal, "1", "22", "333")
    for job_id in ("22", "1"):
        assert journal.commit_delivery(job_id, tmp_path / os.fsdecode(b"caf\xe9.json"))
    journal.commit_delivery("333")
    journal.finish("22")
    journal = reopen(journal, tmp_path)
    first = journal.next_hook()
    assert first is not None
    assert (first.job.job_id, os.fsencode(first.document)) == ("22", os.fsencode(tmp_path) + b"/caf\xe9.json")
    journal.drop_hook(first.hook_id)
    second = journal.next_hook()
    assert second is not None
    assert second.job.job_id == "1"
    journal.drop_hook(first.hook_id)  # a second time: it is not the next one's number
    assert journal.count_hooks() == 1
    journal.drop_hook(second.hook_id)
    assert journal.next_hook() is None
    journal.commit_delivery("1", tmp_path / "again.json")
    third = journal.next_hook()
    assert third is not None
    assert third.hook_id > second.hook_id
    journal.close()


def test_hook_is_forgotten_with_its_job(journal: Journal, tmp_path: Path) -> None:
    added(journal, "1", "22")
    for job_id in ("1", "22"):
        journal.commit_delivery(job_id, tmp_path / f"{WORD}{job_id}.json")
        journal.finish(job_id)
    assert f"{WORD}1".encode() in raw_bytes(tmp_path)
    journal.erase("1.wav")
    assert journal.count_hooks() == 1
    assert f"{WORD}1".encode() not in raw_bytes(tmp_path)
    assert journal.drop_hooks() == 1
    assert journal.drop_hooks() == 0


def test_queue_of_hooks_is_bounded_and_a_full_one_delivers_all_the_same(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "MAX_HOOKS", 2)
    added(journal, "1", "22", "333")
    kept = [journal.commit_delivery(job_id, tmp_path / "a.json") for job_id in ("1", "22", "333")]
    assert kept == [True, True, False]
    assert journal.count_hooks() == 2
    assert the(journal, "333").state is JobState.DELIVERED


# Failures and past jobs


def test_failure_is_planned_then_listed_until_forgotten(journal: Journal) -> None:
    added(journal, "1", "22")
    assert journal.planned_failure("1") is None
    journal.plan_failure("1", Reason("It is not audio.", "Record again."), FailedPlace("team", "1 (2).wav"))
    assert journal.planned_failure("1") == Reason("It is not audio.", "Record again.")
    assert journal.failures() == ()
    journal.fail("1")
    (past,) = journal.failures()
    assert (past.job.job_id, past.reason, past.remedy) == ("1", "It is not audio.", "Record again.")
    assert past.audio_path == "team/1 (2).wav"
    journal.forget("1")
    assert journal.failures() == ()


def test_past_jobs_are_found_by_name_or_path(journal: Journal) -> None:
    paths = ["talk.wav", "team/talk.wav", "team/bigtalk.wav", "memo.wav"]
    for number, path in enumerate(paths, 1):
        journal.add(make_job("x" * number, path))
        journal.finish("x" * number)
    journal.add(make_job("waiting", "talk.wav"))

    def found(name: str) -> set[str]:
        return {past.job.path for past in journal.named(name)}

    assert found("talk.wav") == {"talk.wav", "team/talk.wav"}
    assert found("team/talk.wav") == {"team/talk.wav"}
    assert found("alk.wav") == set()
    assert len(journal.named("talk.wav")) == 2


def test_recent_jobs_come_latest_first_and_are_counted_by_day(journal: Journal) -> None:
    added(journal, "1", "22", "333")
    for job_id in ("22", "1", "333"):
        journal.finish(job_id)
    assert {past.job.job_id for past in journal.recent(2)} <= {"1", "22", "333"}
    assert len(journal.recent(2)) == 2
    assert journal.recent(3) == tuple(sorted(journal.recent(3), key=lambda past: past.finished_at, reverse=True))
    assert journal.done_since("2026-01-01T00:00:00.000Z") == 3
    assert journal.done_since("9999") == 0


@pytest.mark.parametrize("name", [b"caf\xe9.wav", b"a\nb.wav", "m\u00fcll \U0001f600.wav".encode(), b"-rf.wav"])
def test_any_file_name_is_kept_byte_for_byte(tmp_path: Path, name: bytes) -> None:
    path = f"team/{os.fsdecode(name)}"
    journal = Journal(tmp_path)
    journal.add(make_job(path=path))
    place = Reservation("team", os.fsdecode(name[:-4]), os.fsdecode(name))
    journal.reserve("1", place, {os.fsdecode(name): "00"}, RESULT)
    journal = reopen(journal, tmp_path)
    assert the(journal).path == path
    assert os.fsencode(the(journal).name) == name
    assert journal.reservation("1") == place
    assert list(journal.documents("1")) == [os.fsdecode(name)]
    journal.commit_delivery("1")
    journal.finish("1")
    assert len(journal.named(os.fsdecode(name))) == 1
    journal.close()


@pytest.mark.parametrize("how", ["alone", "whole", "replaced"])
def test_deleted_journal_is_noticed_and_works_until_closed(tmp_path: Path, how: str) -> None:
    journal = Journal(tmp_path)
    added(journal, "1")
    assert journal.is_in_place()
    for path in tmp_path.glob(JOURNAL_NAME if how == "alone" else f"{JOURNAL_NAME}*"):
        path.unlink()
    if how == "replaced":  # as by a command that makes its own
        Journal(tmp_path).close()
    assert not journal.is_in_place()
    added(journal, "22")
    journal.drop_chunks("1")
    assert [job.job_id for job in journal.unfinished()] == ["1", "22"]
    journal.close()
    later = Journal(tmp_path)  # whatever is left of its write-ahead log belongs to nothing any more
    assert later.unfinished() == ()
    added(later, "333")
    later = reopen(later, tmp_path)
    assert [job.job_id for job in later.unfinished()] == ["333"]
    later.close()


# When things go wrong


@pytest.mark.parametrize("version", range(1, 8))
def test_journal_of_an_earlier_version_is_upgraded(tmp_path: Path, version: int) -> None:
    db = sqlite3.connect(tmp_path / JOURNAL_NAME)
    db.executescript(f"{' '.join(database._STEPS[:version])} PRAGMA user_version = {version};")
    db.execute("INSERT INTO jobs (job_id, path, claimed_at, state) VALUES ('1', x'61', '2026', 'claimed')")
    db.commit()
    db.close()
    journal = Journal(tmp_path)
    try:
        assert [job.path for job in journal.unfinished()] == ["a"]
        kept = ArchivedFile("a.wav", FileStamp(1, 2)), ArchivedFile("a.hotwords.txt", FileStamp(3, 4))
        journal.finish("1", *kept)
        (known,) = journal.archived_before(JobState.DONE, "9999", 10)
        assert known.files == kept
        journal.forget_audio("1")
        assert journal.archived_before(JobState.DONE, "9999", 10) == ()
        assert journal.next_hook() is None
        journal.commit_delivery("1", Path("/out/a.json"))
        assert [due.document for due in [journal.next_hook()] if due is not None] == ["/out/a.json"]
    finally:
        journal.close()


def damage(path: Path, kind: str) -> None:
    if kind == "no database":
        path.write_bytes(b"not a database at all " * 1000)
        return
    content = bytearray(path.read_bytes())
    content[8192:20480] = os.urandom(12288)  # what a failing disk leaves; the header still stamps right
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["no database", "torn pages"])
def test_damaged_journal_is_put_aside_without_the_texts_of_chunks(tmp_path: Path, kind: str) -> None:
    journal = Journal(tmp_path)
    for number in range(300):
        journal.add(make_job(f"{number}", f"{number}.wav"))
        text = f"{WORD} " * 20
        journal.remember_chunk(f"{number}", "p", (number, number + 1), ChunkText(text, None, is_finished=True))
    journal.close()
    damage(tmp_path / JOURNAL_NAME, kind)
    journal = Journal(tmp_path)
    assert journal.unfinished() == ()
    added(journal, "1")
    (aside,) = journal.find_put_aside()
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    assert WORD.encode() not in raw_bytes(tmp_path)
    with closing(sqlite3.connect(aside)) as db:
        kept = [row[0] for row in db.execute("SELECT path FROM jobs")]
    assert bool(kept) == (kind == "torn pages")  # what lies on both sides of the damage can still be read
    journal.close()


def test_erase_removes_a_name_from_damaged_journals_too(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(300):
        journal.add(make_job(f"{number}", f"{number}.wav"))
    journal.add(make_job("named", f"team/{WORD}.wav"))
    journal.close()
    damage(tmp_path / JOURNAL_NAME, "torn pages")
    (tmp_path / f"{JOURNAL_NAME}.damaged-20200101T000000").write_bytes(b"kept by an earlier version " * 1000)
    journal = Journal(tmp_path)
    journal.add(make_job("again", f"{WORD}.wav"))
    journal.finish("again")
    assert WORD.encode() in raw_bytes(tmp_path)
    assert journal.erase(f"{WORD}.wav") == 2
    assert WORD.encode() not in raw_bytes(tmp_path)
    assert journal.erase(f"{WORD}.wav") == 0
    journal.close()


@pytest.mark.parametrize("is_crashed", [False, True])
def test_journal_of_a_newer_version_is_refused_and_left_untouched(tmp_path: Path, *, is_crashed: bool) -> None:
    Journal(tmp_path).close()
    path = tmp_path / JOURNAL_NAME
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
        if is_crashed:  # then the version is in the write-ahead log alone
            shutil.copytree(tmp_path, tmp_path / "crashed")
    folder = tmp_path / "crashed" if is_crashed else tmp_path
    path = folder / JOURNAL_NAME
    before = {
        name: (folder / name).read_bytes()
        for name in (JOURNAL_NAME, f"{JOURNAL_NAME}-wal")
        if is_crashed or name == JOURNAL_NAME
    }
    with pytest.raises(NewerVersionError, match="was written by a newer version of scribed") as raised:
        Journal(folder)
    assert raised.value.exit_code is ExitCode.BAD_CONFIG
    assert "Install that version again" in raised.value.remedy
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert list(folder.glob("*damaged*")) == []


def test_threads_can_share_a_journal(journal: Journal) -> None:
    added(journal, *"abcd")
    failed: list[BaseException] = []

    def work(job_id: str) -> None:
        try:
            for number in range(25):
                said = ChunkText(f"{job_id}{number}", None, is_finished=True)
                journal.remember_chunk(job_id, "p", (number, number + 1), said)
                journal.begin(job_id)
                assert len(journal.remembered_chunks(job_id, "p")) == number + 1
        except BaseException as error:  # noqa: BLE001  # shown by the test's own thread
            failed.append(error)

    threads = [threading.Thread(target=work, args=(job_id,)) for job_id in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert {len(journal.remembered_chunks(job_id, "p")) for job_id in "abcd"} == {25}


def test_two_processes_can_share_a_journal(journal: Journal, tmp_path: Path) -> None:
    other = Journal(tmp_path)  # as `scribed cancel` has while the daemon runs
    added(journal, "1")
    other.cancel("1")
    assert journal.cancelled() == ("1",)
    other.close()
    journal.rest("1")


def test_journal_that_cannot_be_created_or_opened_is_a_transient_error(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="journal cannot be created"):
        Journal(tmp_path / "nowhere")
    (tmp_path / JOURNAL_NAME).mkdir()
    with pytest.raises(TransientError, match="journal cannot be opened"):
        Journal(tmp_path)


def test_bugs_are_not_reported_as_disk_errors(journal: Journal) -> None:
    with pytest.raises(sqlite3.IntegrityError):  # a chunk of a job that does not exist
        journal.remember_chunk("unknown", "p", (0, 1), ChunkText("", None, is_finished=True))
    added(journal, "1")
    assert the(journal).attempts == 0


_FILL_THE_DISK = """
import json, resource, sys
from pathlib import Path
from daemon.errors import ExitCode, NewerVersionError, TransientError
from daemon.job import Job
from daemon.journal import Journal
from daemon.journal.records import ChunkText

journal = Journal(Path(sys.argv[1]))
journal.add(Job("1", "talk.wav", "2026"))
said = ChunkText("x" * 10_000, None, True)
journal.remember_chunk("1", "p", (0, 1), said)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    for number in range(1, 100):
        journal.remember_chunk("1", "p", (number, number + 1), said)
except TransientError as error:
    message = str(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.remember_chunk("1", "p", (number, number + 1), said)
print(json.dumps([message, number, len(journal.remembered_chunks("1", "p"))]))
journal.close()
"""


def test_full_disk_is_a_transient_error_and_writes_resume(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FILL_THE_DISK, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    message, failed_at, n_remembered = json.loads(done.stdout)
    assert message.startswith("The journal cannot be written: ")
    assert "Check the state folder" in message
    assert n_remembered == failed_at + 1  # all before the fault, and the one after it
    journal = Journal(tmp_path)
    assert len(journal.remembered_chunks("1", "p")) == n_remembered
    journal.close()


def test_journal_whose_creation_a_crash_interrupted_is_rolled_back_and_used(tmp_path: Path) -> None:
    program = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('PRAGMA cache_size = 1')\n"  # so that it writes into the file before the commit
        "db.execute('BEGIN')\n"
        "db.execute('CREATE TABLE jobs (job_id TEXT)')\n"
        "db.executemany('INSERT INTO jobs VALUES (?)', [('x' * 1000,)] * 100)\n"
        "os._exit(0)\n"
    )
    path = tmp_path / JOURNAL_NAME
    path.touch(mode=0o600)
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    assert path.with_name(f"{JOURNAL_NAME}-journal").stat().st_size > 0
    assert path.stat().st_size > 0
    journal = Journal(tmp_path)
    assert journal.unfinished() == ()
    journal.close()
    assert [found.name for found in tmp_path.glob("*damaged*")] == []
