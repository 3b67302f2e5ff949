"""What becomes of each outcome: delivered, set aside, tried again, given back."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from daemon.config import Config, Folders, Retry, SegmentSettings, Watch
from daemon.errors import EngineLostError, JobError, TransientError
from daemon.inbox import Arrival, Inbox, fingerprint_of
from daemon.job import JobState
from daemon.journal import Journal
from daemon.service.intake import Intake
from daemon.spool import Claims, Delivery, Failures, Places
from daemon.status.faults import Faults
from daemon.worker import N_IN_FLIGHT, Resources, Worker
from tests.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.frontend import FrontEnd
    from daemon.job import Job

RATE_HZ = 16_000
WAIT_S = 20.0


@dataclass(slots=True)
class Bench:
    """A worker on real folders with a clock of its own."""

    config: Config
    engine: ScriptedEngine
    resources: Resources
    worker: Worker
    woken: threading.Event
    now_s: list[float] = field(default_factory=lambda: [0.0])

    def claim(self, name: str = "talk.wav", duration_s: float = 3.0) -> Job:
        """Drop a tone and claim it."""
        path = self.config.folders.inbox / name
        times = np.arange(int(duration_s * RATE_HZ)) / RATE_HZ
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * 440 * times), RATE_HZ)
        claimed = self.resources.claims.claim(Arrival(name, fingerprint_of(path.stat())))
        assert claimed is not None
        assert claimed[1]
        return claimed[0]

    def run(self, job: Job) -> Job | None:
        """Work on a job to its outcome and return what the journal says of it."""
        fresh = self.resources.journal.find(job.job_id)
        assert fresh is not None
        assert self.worker.start(fresh)
        self.wait(self.worker.is_idle)
        return self.resources.journal.find(job.job_id)

    def wait(self, is_true: Callable[[], bool]) -> None:
        while not is_true():
            assert self.woken.wait(WAIT_S)
            self.woken.clear()

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
    places = Places(folders, is_mirrored=True)
    places.prepare()
    journal = Journal(folders.state)
    mode = config.output.mode_bits
    claims, delivery, failures = (
        Claims(places, journal),
        Delivery(places, journal, mode),
        Failures(places, journal, mode),
    )
    resources = Resources(places, journal, claims, delivery, failures, Faults(), front_end)
    woken, now_s = threading.Event(), [0.0]
    worker = Worker(resources, config, woken.set, lambda: now_s[0])
    worker.engine = engine = ScriptedEngine()
    yield Bench(config, engine, resources, worker, woken, now_s)
    engine.release()
    assert worker.stop(WAIT_S)
    journal.close()


def test_a_recording_is_delivered(bench: Bench) -> None:
    done = bench.run(bench.claim())
    assert done is not None
    assert done.state is JobState.DONE
    assert bench.names("outbox") == ["talk.json", "talk.txt"]
    assert bench.names("processed") == ["talk.wav"]
    assert bench.worker.n_delivered == 1


def test_what_the_recording_itself_cannot_is_set_aside_at_once(bench: Bench) -> None:
    bench.engine.error = JobError("It is broken.", "Mend it.")
    failed = bench.run(bench.claim())
    assert failed is not None
    assert failed.state is JobState.FAILED
    assert bench.names("failed") == ["talk.wav", "talk.wav.error.txt"]
    assert "It is broken." in (bench.config.folders.failed / "talk.wav.error.txt").read_text()
    assert bench.worker.n_failed == 1


def test_an_unexpected_error_is_charged_and_tried_again_until_it_is_enough(bench: Bench) -> None:
    bench.engine.error = ZeroDivisionError("surprise")
    job = bench.claim()
    once = bench.run(job)
    assert once is not None
    assert (once.state, once.attempts) == (JobState.CLAIMED, 1)
    assert not bench.worker.is_due(job)
    bench.now_s[0] += 30
    assert bench.worker.is_due(job)
    twice = bench.run(job)
    assert twice is not None
    assert twice.state is JobState.FAILED
    note = (bench.config.folders.failed / "talk.wav.error.txt").read_text()
    assert "ZeroDivisionError" in note
    assert "surprise" not in note  # an error's text may quote what nobody may read


def test_chunks_remembered_from_before_do_not_set_the_count_back(bench: Bench) -> None:
    """Or a recording that fails at the same place for ever would be tried for ever."""
    bench.engine.error, bench.engine.n_good = ZeroDivisionError("surprise"), 1
    job = bench.claim(duration_s=25.0)
    once = bench.run(job)
    assert once is not None
    assert once.attempts == 1
    bench.now_s[0] += 30
    twice = bench.run(job)
    assert twice is not None
    assert twice.state is JobState.FAILED


def test_what_is_in_the_way_from_outside_is_never_charged_and_is_told(bench: Bench) -> None:
    bench.engine.error = TransientError("The disk is full.", "Free some space.")
    job = bench.claim()
    for n_times in range(1, 5):
        waiting = bench.run(job)
        assert waiting is not None
        assert (waiting.state, waiting.attempts) == (JobState.CLAIMED, 0)
        assert not bench.worker.is_due(job)
        bench.now_s[0] += min(30 * 2 ** (n_times - 1), 900)
        assert bench.worker.is_due(job)
    assert [fault.what for fault in bench.resources.faults.standing()] == ["The disk is full."]
    assert bench.worker.is_backing_off()
    bench.engine.error = None
    done = bench.run(job)
    assert done is not None
    assert done.state is JobState.DONE
    assert bench.resources.faults.standing() == ()
    assert not bench.worker.is_backing_off()


def test_what_is_in_the_way_is_not_asked_ten_times_a_second_however_short_the_wait(bench: Bench) -> None:
    bench.worker.reconfigure(bench.config.model_copy(update={"retry": Retry(backoff_s=0)}))
    bench.engine.error = TransientError("The disk is full.", "Free some space.")
    job = bench.claim()
    waits_s = []
    for _ in range(14):
        left = bench.run(job)
        assert left is not None
        before_s = bench.now_s[0]
        while not bench.worker.is_due(left):
            bench.now_s[0] += 0.5
        waits_s.append(bench.now_s[0] - before_s)
    assert waits_s[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits_s[-1] == 900.0


def test_a_lost_model_is_noted_and_nothing_is_charged(bench: Bench) -> None:
    bench.engine.error = EngineLostError("The GPU is gone.")
    waiting = bench.run(bench.claim())
    assert waiting is not None
    assert (waiting.state, waiting.attempts) == (JobState.CLAIMED, 0)
    assert isinstance(bench.worker.lost, EngineLostError)
    assert bench.resources.journal.recover_in_flight() == ()


def test_a_recording_written_to_in_work_settles_again(bench: Bench) -> None:
    bench.engine.is_held = True
    job = bench.claim()
    assert bench.worker.start(job)
    assert bench.engine.asked.wait(WAIT_S)
    with bench.resources.places.audio(job).open("ab") as stream:
        stream.write(b"more")
    bench.engine.release()
    bench.wait(bench.worker.is_idle)
    assert [changed.job_id for changed in bench.worker.take_changed()] == [job.job_id]
    assert bench.worker.take_changed() == []
    waiting = bench.resources.journal.find(job.job_id)
    assert waiting is not None
    assert (waiting.state, waiting.attempts) == (JobState.CLAIMED, 0)
    assert bench.names("outbox") == []


def test_a_cancelled_one_goes_back_with_its_reason(bench: Bench) -> None:
    bench.engine.is_held = True
    job = bench.claim()
    assert bench.worker.start(job)
    assert bench.engine.asked.wait(WAIT_S)
    assert bench.worker.cancel(job.job_id)
    bench.wait(bench.worker.is_idle)
    assert bench.names("failed") == ["talk.wav", "talk.wav.error.txt"]
    assert "cancelled" in (bench.config.folders.failed / "talk.wav.error.txt").read_text()
    assert not bench.worker.cancel(job.job_id)


def test_a_stop_leaves_the_recording_claimed_and_nothing_in_flight(bench: Bench) -> None:
    bench.engine.is_held = True
    job = bench.claim()
    assert bench.worker.start(job)
    assert bench.engine.asked.wait(WAIT_S)
    assert bench.worker.stop(WAIT_S)
    assert bench.resources.journal.recover_in_flight() == ()
    assert bench.resources.places.audio(job).exists()
    assert not bench.worker.start(job)  # nothing begins any more


def test_books_that_could_not_be_closed_are_closed_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a full disk under the journal would be charged to the recording at the next start."""
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


def test_who_was_charged_for_a_crash_lets_others_go_first(bench: Bench) -> None:
    job, other = bench.claim("a.wav"), bench.claim("b.wav")
    bench.resources.journal.begin(job.job_id)
    (charged,) = bench.resources.journal.recover_in_flight()
    bench.worker.fail_crash_loops(())  # it was charged some starts ago
    bench.now_s[0] += 1000  # the model takes its time
    assert not bench.worker.is_due(charged)
    assert bench.worker.is_due(other)
    bench.worker.start_backoff_of_charged()
    assert not bench.worker.is_due(charged)
    bench.now_s[0] += 30
    assert bench.worker.is_due(charged)


def test_a_suspect_is_alone_until_it_has_finished_a_chunk(bench: Bench) -> None:
    suspect, innocent = bench.claim("suspect.wav"), bench.claim("innocent.wav")
    bench.resources.journal.begin(suspect.job_id)
    (recovered,) = bench.resources.journal.recover_in_flight()
    assert recovered.is_suspect
    assert recovered.attempts == 1
    bench.engine.is_held = True
    assert bench.worker.start(recovered)
    assert bench.engine.asked.wait(WAIT_S)
    assert not bench.worker.has_room()
    assert not bench.worker.start(innocent)
    bench.engine.release()
    bench.wait(bench.worker.is_idle)
    assert bench.names("processed") == ["suspect.wav"]
    assert bench.worker.start(innocent)
    bench.wait(bench.worker.is_idle)


def test_no_more_than_a_few_are_in_work(bench: Bench) -> None:
    bench.engine.is_held = True
    jobs = [bench.claim(f"{number}.wav") for number in range(N_IN_FLIGHT + 1)]
    assert [bench.worker.start(job) for job in jobs] == [True] * N_IN_FLIGHT + [False]
    assert {running.name for running in bench.worker.running()} == {job.name for job in jobs[:-1]}
    bench.engine.release()
    bench.wait(bench.worker.is_idle)
    assert bench.worker.n_delivered == N_IN_FLIGHT


def test_what_was_being_claimed_in_a_crash_is_claimed_anew_with_its_hotwords(bench: Bench) -> None:
    inbox = bench.config.folders.inbox
    (inbox / "talk.hotwords.txt").write_text("Bessel\n")
    job = bench.claim()
    bench.resources.places.audio(job).rename(inbox / "talk.wav")  # as killed between the hotwords and the audio
    control = Inbox(inbox, Watch(mode="poll"), monotonic=lambda: bench.now_s[0])
    intake = Intake(bench.config, control, bench.resources, bench.worker)
    arrival = Arrival("talk.wav", fingerprint_of((inbox / "talk.wav").stat()))
    assert intake.claimable([arrival]) == []
    for _ in range(3):  # seen, settled while the old claim stands, claimed anew
        intake.look()
        intake.take_in(None)
        bench.wait(bench.worker.is_idle)
        bench.now_s[0] += 60
    assert bench.names("processed") == ["talk.hotwords.txt", "talk.wav"]
    assert bench.names("inbox") == []
