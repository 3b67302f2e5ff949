"""The worker takes each job to its outcome: delivered, failed, retried, cancelled."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from daemon.config import Config, Folders, Output, Retry, SegmentSettings, Settings, Transcribe, Watch
from daemon.errors import EngineLostError, JobError, TransientError
from daemon.inbox import Arrival, Inbox, fingerprint_of
from daemon.job import JobState
from daemon.journal import Journal
from daemon.service.intake import Intake
from daemon.spool import PRIVATE_FOLDER, SharedFolders, Spool
from daemon.status import Snapshot
from daemon.status.faults import Faults
from daemon.status.hiding import without_names
from daemon.text.corrections import Correction
from daemon.worker import MAX_EARLY_CRASHES, Resources, Worker, count_places, worker
from daemon.worker.runs import Stage
from tests.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.frontend import FrontEnd
    from daemon.job import Job

RATE_HZ = 16_000
WAIT_S = 300.0  # only to find out what hangs, however busy the machine
LOOK_S = 0.05


@dataclass(slots=True)
class FixedEngine:
    """Where the worker finds its engine: always the same one."""

    engine: ScriptedEngine
    losses: list[EngineLostError] = field(default_factory=list)

    def lose(self, error: EngineLostError) -> None:
        self.losses.append(error)


@dataclass(slots=True)
class Bench:
    """A worker on real folders with a clock of its own."""

    settings: Settings
    engine: ScriptedEngine
    resources: Resources
    worker: Worker
    woken: threading.Event
    now_s: list[float] = field(default_factory=lambda: [0.0])

    @property
    def config(self) -> Config:
        return self.settings.current

    def change(self, **sections: object) -> None:
        """Put other sections into force, as a reload does."""
        self.settings.swap(self.config.model_copy(update=sections))

    def is_due(self, job: Job) -> bool:
        return self.worker.attempts.is_due(job.job_id)

    def crash(self, job: Job, *, has_reached_engine: bool) -> Job:
        """Leave a job in flight, as a crash does, and return it as the next start finds it."""
        self.resources.journal.begin(job.job_id)
        if has_reached_engine:
            self.resources.journal.reach_engine(job.job_id)
        (found,) = self.resources.journal.recover_in_flight()
        return found

    def claim(self, name: str = "talk.wav", duration_s: float = 3.0) -> Job:
        """Drop a tone and claim it."""
        path = self.config.folders.inbox / name
        times = np.arange(int(duration_s * RATE_HZ)) / RATE_HZ
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * 440 * times), RATE_HZ)
        claimed = self.resources.spool.claim(Arrival(name, fingerprint_of(path.stat())))
        assert claimed is not None
        assert not claimed.has_changed
        self.worker.accept(claimed.job)
        return claimed.job

    def audio(self, job: Job) -> Path:
        return self.config.folders.inbox / PRIVATE_FOLDER / job.job_id / job.name

    def run(self, job: Job) -> Job | None:
        """Work on a job to its outcome and return what the journal says of it."""
        fresh = self.resources.journal.find(job.job_id)
        assert fresh is not None
        assert self.worker.start(fresh)
        self.wait(self.worker.is_idle)
        return self.resources.journal.find(job.job_id)

    def wait(self, is_true: Callable[[], bool]) -> None:
        for _ in range(int(WAIT_S / LOOK_S)):
            if is_true():
                return
            self.woken.wait(LOOK_S)
            self.woken.clear()
        raise TimeoutError

    def wait_for_jobs(self, n_jobs: int) -> None:
        """Wait until the engine has got chunks of so many jobs."""
        self.wait(lambda: len({piece.job_id for piece in self.engine.pieces}) == n_jobs)

    def wait_until_cleared(self, job_id: str) -> None:
        self.wait(lambda: not the(self, job_id).is_suspect)

    def count_ahead(self) -> int:
        """Return how many recordings are decoded and wait for the engine."""
        return sum(run.stage is Stage.PREPARED for run in self.worker._runs.values())

    def names(self, folder: str) -> list[str]:
        root: Path = getattr(self.config.folders, folder)
        return sorted(path.name for path in root.iterdir() if path.is_file())


@pytest.fixture
def bench(tmp_path: Path, front_end: FrontEnd) -> Iterator[Bench]:
    folders = Folders(**{name: tmp_path / name for name in Folders.model_fields})
    config = Config(
        folders=folders,
        segment=SegmentSettings(vad="off", max_chunk_s=10, overlap_s=2),
        retry=Retry(max_attempts=2, backoff_s=30),
    )
    shared = SharedFolders(folders)
    shared.prepare()
    journal = Journal(folders.state)
    engine = ScriptedEngine()
    settings = Settings(config)
    spool = Spool(shared, journal, lambda job_id: settings.of(job_id).output)
    resources = Resources(spool, journal, Faults(), front_end, FixedEngine(engine))
    woken, now_s = threading.Event(), [0.0]
    worker = Worker(resources, settings, woken.set, lambda: now_s[0])
    yield Bench(settings, engine, resources, worker, woken, now_s)
    engine.release()
    assert worker.stop(WAIT_S)
    journal.close()


def test_recording_is_delivered(bench: Bench) -> None:
    done = bench.run(bench.claim())
    assert done is not None
    assert done.state is JobState.DONE
    assert bench.names("outbox") == ["talk.json", "talk.txt"]
    assert bench.names("processed") == ["talk.wav"]
    assert bench.worker.n_delivered == 1


def test_correction_that_times_out_is_shown_for_a_day_and_in_the_transcript(bench: Bench) -> None:
    slow = Correction(r"(a|aa)+$", "x", is_regex=True)
    bench.change(transcribe=Transcribe(corrections=(Correction("b", "c"), slow)))
    bench.engine.write = lambda _: "a" * 60 + "b"
    done = bench.run(bench.claim())
    assert done is not None
    assert done.state is JobState.DONE
    (fault,) = bench.resources.faults.standing()
    note = "correction 2 ((a|aa)+$) was skipped in one segment: it took too long, or made the text too long"
    assert fault.what == f"In talk.wav, {note}."
    assert note in json.loads((bench.config.folders.outbox / "talk.json").read_text())["audio"]["notes"]
    bench.run(bench.claim("secret.wav"))
    found = Snapshot("ready", "", faults=bench.resources.faults.standing())
    assert found.faults[0].what.startswith("In secret.wav, ")
    (hidden,) = without_names(found, bench.config).faults
    assert "secret" not in hidden.what
    assert note in hidden.what


def test_job_error_moves_recording_to_failed_without_retry(bench: Bench) -> None:
    bench.engine.error = JobError("It is broken.", "Mend it.")
    failed = bench.run(bench.claim())
    assert failed is not None
    assert failed.state is JobState.FAILED
    assert bench.names("failed") == ["talk.wav", "talk.wav.error.txt"]
    assert "It is broken." in (bench.config.folders.failed / "talk.wav.error.txt").read_text()
    assert bench.worker.n_failed == 1


def test_unexpected_error_is_retried_until_attempts_are_used_up(bench: Bench) -> None:
    bench.engine.error = ZeroDivisionError("surprise")
    job = bench.claim()
    once = bench.run(job)
    assert once is not None
    assert (once.state, once.attempts) == (JobState.CLAIMED, 1)
    assert not bench.is_due(job)
    bench.now_s[0] += 30
    assert bench.is_due(job)
    twice = bench.run(job)
    assert twice is not None
    assert twice.state is JobState.FAILED
    note = (bench.config.folders.failed / "talk.wav.error.txt").read_text()
    assert "ZeroDivisionError" in note
    assert "surprise" not in note  # an error's text may quote the recording


def test_recalled_chunks_do_not_reset_the_attempt_counter(bench: Bench) -> None:
    """Otherwise a recording that always fails at the same place would be retried forever."""
    bench.engine.error, bench.engine.n_good = ZeroDivisionError("surprise"), 1
    job = bench.claim(duration_s=25.0)
    once = bench.run(job)
    assert once is not None
    assert once.attempts == 1
    bench.now_s[0] += 30
    twice = bench.run(job)
    assert twice is not None
    assert twice.state is JobState.FAILED


def test_transient_error_backs_off_without_charge_and_shows_a_fault(bench: Bench) -> None:
    bench.engine.error = TransientError("The disk is full.", "Free some space.")
    job = bench.claim()
    for n_times in range(1, 5):
        waiting = bench.run(job)
        assert waiting is not None
        assert (waiting.state, waiting.attempts) == (JobState.CLAIMED, 0)
        assert not bench.is_due(job)
        bench.now_s[0] += min(30 * 2 ** (n_times - 1), 900)
        assert bench.is_due(job)
    assert [fault.what for fault in bench.resources.faults.standing()] == ["The disk is full."]
    assert bench.worker.attempts.is_backing_off()
    bench.engine.error = None
    done = bench.run(job)
    assert done is not None
    assert done.state is JobState.DONE
    assert bench.resources.faults.standing() == ()
    assert not bench.worker.attempts.is_backing_off()


def test_back_off_has_a_lower_and_an_upper_bound(bench: Bench) -> None:
    bench.change(retry=Retry(backoff_s=0))
    bench.engine.error = TransientError("The disk is full.", "Free some space.")
    job = bench.claim()
    waits_s = []
    for _ in range(14):
        left = bench.run(job)
        assert left is not None
        before_s = bench.now_s[0]
        while not bench.is_due(left):
            bench.now_s[0] += 0.5
        waits_s.append(bench.now_s[0] - before_s)
    assert waits_s[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits_s[-1] == 900.0


def test_lost_engine_is_reported_and_nothing_is_charged(bench: Bench) -> None:
    bench.engine.error = EngineLostError("The GPU is gone.")
    waiting = bench.run(bench.claim())
    assert waiting is not None
    assert (waiting.state, waiting.attempts) == (JobState.CLAIMED, 0)
    engines = bench.resources.engines
    assert isinstance(engines, FixedEngine)
    assert [str(error) for error in engines.losses] == ["The GPU is gone."]
    assert bench.resources.journal.recover_in_flight() == ()


def test_recording_written_to_while_running_settles_again(bench: Bench) -> None:
    bench.engine.is_held = True
    job = bench.claim()
    assert bench.worker.start(job)
    assert bench.engine.asked.wait(WAIT_S)
    with bench.audio(job).open("ab") as stream:
        stream.write(b"more")
    bench.engine.release()
    bench.wait(bench.worker.is_idle)
    assert [changed.job_id for changed in bench.worker.take_changed()] == [job.job_id]
    assert bench.worker.take_changed() == []
    waiting = bench.resources.journal.find(job.job_id)
    assert waiting is not None
    assert (waiting.state, waiting.attempts) == (JobState.CLAIMED, 0)
    assert bench.names("outbox") == []


def test_cancelled_running_job_moves_to_failed_with_its_reason(bench: Bench) -> None:
    bench.engine.is_held = True
    job = bench.claim()
    assert bench.worker.start(job)
    assert bench.engine.asked.wait(WAIT_S)
    bench.worker.cancel(job)
    bench.wait(bench.worker.is_idle)
    assert bench.names("failed") == ["talk.wav", "talk.wav.error.txt"]
    assert "cancelled" in (bench.config.folders.failed / "talk.wav.error.txt").read_text()


def test_stop_leaves_the_recording_claimed_and_nothing_in_flight(bench: Bench) -> None:
    bench.engine.is_held = True
    job = bench.claim()
    assert bench.worker.start(job)
    assert bench.engine.asked.wait(WAIT_S)
    assert bench.worker.stop(WAIT_S)
    assert bench.resources.journal.recover_in_flight() == ()
    assert bench.audio(job).exists()
    assert not bench.worker.start(job)  # nothing begins any more


def test_end_of_a_run_that_could_not_be_recorded_is_recorded_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the next start would take a full disk under the journal for a crash."""
    bench.engine.error = TransientError("The disk is full.", "Free some space.")
    job, journal = bench.claim(), bench.resources.journal

    def refuse(_: str) -> None:
        raise TransientError("The journal cannot be written.")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "rest", refuse)
        bench.run(job)
        bench.worker.flush_pending_marks()
    bench.worker.flush_pending_marks()
    assert journal.recover_in_flight() == ()


def test_recording_charged_for_a_crash_lets_others_go_first(bench: Bench) -> None:
    job, other = bench.claim("a.wav"), bench.claim("b.wav")
    charged = bench.crash(job, has_reached_engine=True)
    bench.worker.recover(())  # it was charged some starts ago
    bench.now_s[0] += 1000  # the model takes its time
    assert not bench.is_due(charged)
    assert bench.is_due(other)
    bench.worker.attempts.release_held_back()
    assert not bench.is_due(charged)
    bench.now_s[0] += 30
    assert bench.is_due(charged)


def test_suspect_runs_alone_until_it_has_finished_a_chunk(bench: Bench) -> None:
    suspect, innocent = bench.claim("suspect.wav"), bench.claim("innocent.wav")
    recovered = bench.crash(suspect, has_reached_engine=True)
    assert recovered.is_suspect
    assert recovered.attempts == 1
    bench.engine.is_held = True
    assert bench.worker.start(recovered)
    assert bench.engine.asked.wait(WAIT_S)
    assert not bench.worker.room().take(0)
    assert not bench.worker.start(innocent)
    bench.engine.release()
    bench.wait(bench.worker.is_idle)
    assert bench.names("processed") == ["suspect.wav"]
    assert bench.worker.start(innocent)
    bench.wait(bench.worker.is_idle)


def test_recordings_in_transcription_and_ahead_of_it_are_limited(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "MAX_AHEAD", 3)
    bench.engine.is_held = True
    jobs = [bench.claim(f"{number}.wav") for number in range(6)]
    n_places = count_places(bench.engine)
    for number, job in enumerate(jobs[:5]):
        assert bench.worker.start(job)
        if number < n_places:
            bench.wait_for_jobs(number + 1)
    assert not bench.worker.start(jobs[5])
    bench.wait(lambda: bench.count_ahead() == 3)
    assert {piece.job_id for piece in bench.engine.pieces} == {job.job_id for job in jobs[:n_places]}
    in_progress = bench.worker.look()
    assert in_progress.job_ids == {job.job_id for job in jobs[:5]}
    assert {shown.name for shown in in_progress.running} == {job.name for job in jobs[:n_places]}
    assert set(in_progress.waiting) == {job.name for job in jobs[n_places:5]}
    bench.engine.release()
    bench.wait(bench.worker.is_idle)
    assert bench.worker.n_delivered == 5


def test_memo_is_delivered_while_long_recordings_take_all_places(bench: Bench) -> None:
    bench.engine.is_held = True
    long = [bench.claim(f"long{number}.wav", duration_s=300.0) for number in range(count_places(bench.engine))]
    for job in long:
        assert bench.worker.start(job)
    bench.wait_for_jobs(len(long))
    bench.now_s[0] += 10
    memo = bench.claim("memo.wav")
    assert bench.worker.start(memo)
    bench.wait(lambda: bench.engine.pieces[-1].job_id == memo.job_id)
    bench.engine.finish(memo.job_id)
    bench.wait(lambda: memo.job_id not in bench.worker.job_ids())
    assert bench.names("processed") == ["memo.wav"]
    assert bench.worker.job_ids() == {job.job_id for job in long}
    bench.engine.release()
    bench.wait(bench.worker.is_idle)
    assert bench.names("processed") == ["long0.wav", "long1.wav", "memo.wav"]


def test_suspects_are_prepared_together_and_transcribed_one_at_a_time(bench: Bench) -> None:
    for name in ("a.wav", "b.wav", "c.wav"):
        bench.resources.journal.begin(bench.claim(name, duration_s=25.0).job_id)
    suspects = bench.resources.journal.recover_in_flight()
    assert all(job.is_suspect and not job.is_isolated for job in suspects)
    bench.engine.is_held = True
    for job in suspects:
        assert bench.worker.start(job)
    bench.wait(lambda: bench.count_ahead() == 2)
    for n_cleared in range(
        1, 4
    ):  # each has one chunk at the engine, and no other recording has any, until that is done
        bench.wait_for_jobs(n_cleared)
        suspect = bench.engine.pieces[-1].job_id
        assert [piece.job_id for piece in bench.engine.pieces].count(suspect) == 1
        bench.engine.finish(suspect)
        bench.wait_until_cleared(suspect)
    bench.engine.release()
    bench.wait(bench.worker.is_idle)
    assert bench.names("processed") == ["a.wav", "b.wav", "c.wav"]


def test_suspect_in_flight_at_a_second_crash_runs_alone(bench: Bench) -> None:
    first, second = bench.claim("a.wav"), bench.claim("b.wav")
    for _ in range(2):
        for job in (first, second):
            bench.resources.journal.begin(job.job_id)
        suspects = bench.resources.journal.recover_in_flight()
    assert [(job.is_isolated, job.attempts) for job in suspects] == [(True, 0), (True, 0)]
    bench.engine.is_held = True
    assert bench.worker.start(suspects[0])
    assert not bench.worker.start(suspects[1])
    assert not bench.worker.room().take(0)
    bench.engine.release()
    bench.wait(bench.worker.is_idle)
    assert bench.run(second) is not None
    assert bench.names("processed") == ["a.wav", "b.wav"]


def the(bench: Bench, job_id: str) -> Job:
    job = bench.resources.journal.find(job_id)
    assert job is not None
    return job


def test_waiting_recordings_end_at_once_when_they_are_cancelled_or_the_service_stops(
    bench: Bench,
) -> None:
    bench.engine.is_held = True
    jobs = [bench.claim(f"{number}.wav") for number in range(6)]
    for job in jobs:
        assert bench.worker.start(job)
    bench.wait(lambda: len(bench.engine.pieces) == 2)
    submitted = {piece.job_id for piece in bench.engine.pieces}
    waiting = next(job for job in jobs if job.job_id not in submitted)
    bench.worker.cancel(waiting)
    bench.wait(lambda: waiting.job_id not in bench.worker.job_ids())
    assert bench.names("failed") == [waiting.name, f"{waiting.name}.error.txt"]
    assert bench.worker.stop(WAIT_S)
    assert bench.resources.journal.recover_in_flight() == ()
    assert len(bench.resources.journal.unfinished()) == 5


def test_claim_broken_off_by_a_crash_is_repeated_with_its_hotwords(bench: Bench) -> None:
    inbox = bench.config.folders.inbox
    (inbox / "talk.hotwords.txt").write_text("Bessel\n")
    job = bench.claim()
    bench.audio(job).rename(inbox / "talk.wav")  # as killed between the hotwords and the audio
    control = Inbox(inbox, lambda: Watch(mode="poll"), monotonic=lambda: bench.now_s[0])
    intake = Intake(bench.settings, control, bench.resources, bench.worker)
    arrival = Arrival("talk.wav", fingerprint_of((inbox / "talk.wav").stat()))
    assert intake.claimable([arrival]) == []
    for _ in range(3):  # seen, settled while the old claim exists, claimed again
        intake.look()
        intake.take_in(None)
        bench.wait(bench.worker.is_idle)
        bench.now_s[0] += 60
    assert bench.names("processed") == ["talk.hotwords.txt", "talk.wav"]
    assert bench.names("inbox") == []


def test_what_the_last_scan_found_settled_is_claimed_without_another_scan(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "MAX_AHEAD", 1)
    for number in range(3):
        path = bench.config.folders.inbox / f"{number}.wav"
        soundfile.write(path, np.full(RATE_HZ, 0.1), RATE_HZ)
        os.utime(path, (0, 0))
    inbox = Inbox(bench.config.folders.inbox, lambda: Watch(mode="poll"), monotonic=lambda: bench.now_s[0])
    intake = Intake(bench.settings, inbox, bench.resources, bench.worker)
    for _ in range(2):
        intake.look()
        bench.now_s[0] += 60
    assert len(intake.scan.settled) == 3
    for n_done in range(3):
        assert intake.has_more()
        intake.take_in(None)
        bench.wait(bench.worker.is_idle)
        assert bench.worker.n_delivered == n_done + 1
    assert not intake.has_more()
    intake.take_in(None)
    assert bench.worker.is_idle()
    assert bench.names("processed") == ["0.wav", "1.wav", "2.wav"]


def test_crash_before_any_chunk_reached_the_engine_blames_nothing(bench: Bench) -> None:
    """Decoding is another process: a recording that is being decoded cannot crash the service."""
    job, other = bench.claim("a.wav"), bench.claim("b.wav")
    for n_crashes in range(1, MAX_EARLY_CRASHES):
        crashed = bench.crash(job, has_reached_engine=False)
        bench.worker.recover((crashed,))
        assert (crashed.attempts, crashed.n_early_crashes) == (0, n_crashes)
        assert bench.names("failed") == []
        assert not bench.is_due(job)  # others go first
        assert bench.is_due(other)
    bench.worker.attempts.release_held_back()
    bench.now_s[0] += 900
    assert bench.is_due(job)
    done = bench.run(job)
    assert done is not None
    assert done.state is JobState.DONE


def test_ten_crashes_in_a_row_alone_before_any_chunk_move_recording_to_failed(bench: Bench) -> None:
    job = bench.claim("a.wav")
    for _ in range(MAX_EARLY_CRASHES):
        assert bench.names("failed") == []
        bench.worker.recover((bench.crash(job, has_reached_engine=False),))
    assert bench.names("failed") == ["a.wav", "a.wav.error.txt"]
    note = (bench.config.folders.failed / "a.wav.error.txt").read_text()
    assert "The service crashed 10 times in a row while it decoded this recording alone." in note


def test_journal_learns_of_the_first_chunk_before_the_engine_gets_it(bench: Bench) -> None:
    bench.engine.is_held = True
    job = bench.claim()
    assert bench.worker.start(job)
    assert bench.engine.asked.wait(WAIT_S)
    (crashed,) = bench.resources.journal.recover_in_flight()  # as after a crash just now
    assert (crashed.attempts, crashed.n_early_crashes) == (1, 0)
    bench.engine.release()
    bench.wait(bench.worker.is_idle)


def test_error_while_decoding_leaves_no_evidence_against_the_recording(bench: Bench) -> None:
    bench.engine.error = TransientError("The disk is full.", "Free some space.")
    path = bench.config.folders.inbox / "text.wav"
    path.write_bytes(b"these are words, not audio")
    claimed = bench.resources.spool.claim(Arrival("text.wav", fingerprint_of(path.stat())))
    assert claimed is not None
    failed = bench.run(claimed.job)
    assert failed is not None
    assert (failed.state, failed.attempts) == (JobState.FAILED, 0)
    assert bench.engine.pieces == []


def test_waiting_job_is_cancelled_at_once(bench: Bench) -> None:
    bench.engine.error = TransientError("The disk is full.", "Free some space.")
    job = bench.claim()
    bench.run(job)
    assert not bench.is_due(job)
    bench.worker.cancel(job)
    assert bench.names("failed") == ["talk.wav", "talk.wav.error.txt"]
    assert not bench.worker.attempts.is_backing_off()
    assert bench.resources.faults.standing() == ()


def test_job_keeps_the_settings_of_its_claim(bench: Bench) -> None:
    job = bench.claim("before.wav")
    bench.change(output=Output.model_validate({"formats": ["srt"], "mode": "0600"}))
    bench.engine.error = TransientError("The disk is full.", "Free some space.")
    bench.run(job)
    bench.engine.error = None
    bench.run(job)
    assert bench.names("outbox") == ["before.json", "before.txt"]
    bench.run(bench.claim("after.wav"))
    assert bench.names("outbox") == ["after.srt", "before.json", "before.txt"]
    modes = {path.name: path.stat().st_mode & 0o777 for path in bench.config.folders.outbox.iterdir()}
    assert modes == {"after.srt": 0o600, "before.json": 0o660, "before.txt": 0o660}


@pytest.mark.parametrize(("n_slots", "n_places"), [(1, 1), (8, 8), (256, 256), (1000, 256)])
def test_as_many_recordings_are_in_transcription_as_the_engine_has_slots(n_slots: int, n_places: int) -> None:
    assert count_places(ScriptedEngine(max_in_flight=n_slots)) == n_places
