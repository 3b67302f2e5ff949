"""The scheduler: which chunk gets a slot when, and what happens to chunks when something fails."""

from __future__ import annotations

import gc
import threading
import time
from threading import Event
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs
from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from daemon.engine import ChunkRequest, ChunkResponse
from daemon.engine.device_loop import DeviceLoop
from daemon.engine.qwen3_asr.decode_steps import EagerSteps
from daemon.engine.qwen3_asr.model import ResidentModel, count_new_tokens, count_slot_tokens
from daemon.engine.scheduler import ContinuousEngine
from daemon.engine.slots import RowSnapshot
from daemon.errors import EngineLostError, JobError, StoppedError, TransientError
from daemon.transcript import ModelIdentity
from tests.tiny_model import make_chunk, save_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from daemon.engine.slot_model import PreparedChunk
    from daemon.engine.slots import RowState, Slots, SlotShape

TIMEOUT_S = 600.0  # only to find out what hangs, however busy the machine
AHEAD = pytest.mark.parametrize("min_rows_ahead", [None, 1, 3])
IDENTITY = ModelIdentity("tiny", "0" * 64, "float32", "cpu")
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB."


class WatchedModel(ResidentModel):
    """The real model, which a test can observe, hold up, or make fail."""

    def watch(self) -> None:
        self.shapes: list[SlotShape] = []
        self.prefills: list[list[int]] = []  # lengths of the chunks that were prefilled together, in samples
        self.steps_at_prefill: list[tuple[int, int]] = []  # (length, steps so far) of every chunk
        self.n_steps = 0
        self.on_prefill: Callable[[Sequence[PreparedChunk]], None] = lambda _: None
        self.on_step: Callable[[int], None] = lambda _: None
        self.on_make: Callable[[SlotShape], None] = lambda _: None
        self.free_bytes: int | None = None
        self.min_rows_ahead = None

    def make_slots(self, shape: SlotShape, heartbeat: Callable[[], None] = lambda: None) -> Slots:
        self.on_make(shape)
        self.shapes.append(shape)
        return super().make_slots(shape, heartbeat)

    def prefill(
        self, slots: Slots, chunks: Sequence[PreparedChunk], rows: Sequence[int], heartbeat: Callable[[], None]
    ) -> None:
        self.prefills.append([len(chunk.samples) for chunk in chunks])
        self.steps_at_prefill += [(len(chunk.samples), self.n_steps) for chunk in chunks]
        self.on_prefill(chunks)
        super().prefill(slots, chunks, rows, heartbeat)

    def decode_step(self, slots: Slots, n_rows: int, kv_len: int) -> None:
        self.n_steps += 1
        self.on_step(n_rows)
        super().decode_step(slots, n_rows, kv_len)

    def count_free_bytes(self) -> int | None:
        return self.free_bytes


def make_engine(
    model: ResidentModel, n_slots: int, monotonic: Callable[[], float] = time.monotonic
) -> ContinuousEngine:
    return ContinuousEngine(model, IDENTITY, n_slots, DeviceLoop(model.device, monotonic))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> WatchedModel:
    folder: Path = save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
    weights = Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return WatchedModel(weights, Qwen3ASRProcessor.from_pretrained(folder))


@pytest.fixture
def model(shared: WatchedModel) -> WatchedModel:
    shared.watch()
    return shared


@pytest.fixture
def engine(model: WatchedModel) -> Iterator[ContinuousEngine]:
    engine = make_engine(model, 8)
    yield engine
    engine.close()


class Gate:
    """Holds the model up at the next prefill until it is opened."""

    def __init__(self, model: WatchedModel) -> None:
        self._is_reached, self._is_open = Event(), Event()
        model.on_prefill = self._pass

    def _pass(self, _: Sequence[PreparedChunk]) -> None:
        self._is_reached.set()
        assert self._is_open.wait(TIMEOUT_S)

    def wait_until_reached(self) -> None:
        assert self._is_reached.wait(TIMEOUT_S)

    def open(self) -> None:
        self._is_open.set()


def texts(futures: Iterable[Future[ChunkResponse]]) -> list[ChunkResponse]:
    return [future.result(TIMEOUT_S) for future in futures]


def transcribe_alone(model: WatchedModel, chunks: Iterable[ChunkRequest]) -> list[ChunkResponse]:
    """Return what an engine writes that has one chunk at a time."""
    engine = make_engine(model, 1)
    try:
        return [engine.submit(chunk).result(TIMEOUT_S) for chunk in chunks]
    finally:
        engine.close()


MIXED = [
    make_chunk(2.0, None, (), "a", 1),
    make_chunk(1.3, "English", (), "a", 2),
    make_chunk(2.2, None, ("word1", "word2"), "b", 3),
    make_chunk(1.9, "German", ("word3",), "a", 4),
    make_chunk(0.2, None, (), "c", 6),
    make_chunk(1.7, None, (), "a", 7),
    make_chunk(4.01, None, (), "a", 8),
]


# --- the same text whatever runs in the same batch


@AHEAD
def test_chunks_of_many_jobs_give_the_same_text_as_alone(
    model: WatchedModel, engine: ContinuousEngine, min_rows_ahead: int | None
) -> None:
    expected = transcribe_alone(model, MIXED)
    model.min_rows_ahead = min_rows_ahead
    assert texts([engine.submit(chunk) for chunk in MIXED]) == expected
    assert engine.is_alive()
    assert {text.is_finished for text in expected} == {True, False}


@AHEAD
def test_recording_among_fifty_others_gives_the_same_text_as_alone(
    model: WatchedModel, min_rows_ahead: int | None
) -> None:
    mine = [make_chunk(1 + seed % 5, job_id="mine", seed=seed) for seed in range(6)]
    expected = transcribe_alone(model, mine)
    model.min_rows_ahead = min_rows_ahead
    engine = make_engine(model, 7)
    others = [make_chunk(0.6 + 0.1 * (n % 17), job_id=f"other{n}", seed=100 + n) for n in range(50)]
    try:
        before = [engine.submit(chunk) for chunk in others[:25]]
        futures = [engine.submit(chunk) for chunk in mine]
        after = [engine.submit(chunk) for chunk in others[25:]]
        assert texts(futures) == expected
        assert len(texts(before + after)) == 50
    finally:
        engine.close()


@AHEAD
@pytest.mark.parametrize("per_sync", [2, 7])
def test_several_steps_per_sync_change_no_text(model: WatchedModel, per_sync: int, min_rows_ahead: int | None) -> None:
    expected = transcribe_alone(model, MIXED)
    model.min_rows_ahead = min_rows_ahead
    steps, model._steps = model._steps, EagerSteps(model._decoder, per_sync)
    engine = make_engine(model, 3)
    try:
        assert texts([engine.submit(chunk) for chunk in MIXED]) == expected
    finally:
        engine.close()
        model._steps = steps


def test_output_without_an_end_stops_at_max_new_tokens(model: WatchedModel, engine: ContinuousEngine) -> None:
    response = engine.submit(make_chunk(0.5)).result(TIMEOUT_S)
    assert not response.is_finished
    assert model.n_steps == count_new_tokens(0.5) - 1, "the prefill generates the first token"


# --- scheduling


def test_finished_row_is_refilled_while_others_run(model: WatchedModel) -> None:
    gate = Gate(model)
    engine = make_engine(model, 2)
    futures = [engine.submit(make_chunk(12, seed=1)), *(engine.submit(make_chunk(0.5, seed=n)) for n in range(4))]
    gate.wait_until_reached()
    gate.open()
    texts(futures)
    engine.close()
    long_steps, short_steps = count_new_tokens(12), count_new_tokens(0.5)
    assert model.n_steps < long_steps + short_steps
    assert [prefill for prefill in model.prefills[1:] if len(prefill) == 1], (
        "one row was refilled while the long one ran"
    )


def test_memo_behind_a_ten_hour_recording_is_finished_soon(model: WatchedModel) -> None:
    # Only as many chunks of the ten hours wait as a recording keeps submitted.
    gate = Gate(model)
    n_slots, memo_s = 4, 10
    engine = make_engine(model, n_slots)
    meeting = [engine.submit(make_chunk(30, job_id="meeting", seed=n)) for n in range(8 * n_slots)]
    gate.wait_until_reached()
    memo = engine.submit(make_chunk(memo_s, job_id="memo"))
    step_when_done: list[int] = []
    memo.add_done_callback(lambda _: step_when_done.append(model.n_steps))
    gate.open()
    assert memo.result(TIMEOUT_S)
    for future in meeting:
        future.cancel()
    engine.close()
    # It waits at most until one chunk is finished, one step per token.
    assert step_when_done[0] <= count_new_tokens(30) + count_new_tokens(memo_s)
    [(_, n_steps)] = [prefill for prefill in model.steps_at_prefill if prefill[0] == memo_s * 16_000]
    assert n_steps <= count_new_tokens(30)


def test_long_recording_does_not_starve_behind_many_memos(model: WatchedModel) -> None:
    gate = Gate(model)
    engine = make_engine(model, 1)
    first = engine.submit(make_chunk(0.5, job_id="first"))
    gate.wait_until_reached()
    memos = [engine.submit(make_chunk(0.6, job_id=f"memo{n}")) for n in range(5)]
    long = [engine.submit(make_chunk(1.5, job_id="long", seed=n)) for n in range(2)]
    memos += [engine.submit(make_chunk(0.6, job_id=f"late{n}")) for n in range(5)]
    gate.open()
    texts([first, *memos, *long])
    engine.close()
    order = [lengths[0] / 16_000 for lengths in model.prefills]
    assert order == [0.5, *[0.6] * 5, 1.5, *[0.6] * 5, 1.5]


def test_chunk_longer_than_a_slot_gets_fewer_and_longer_slots(model: WatchedModel) -> None:
    gate = Gate(model)
    engine = make_engine(model, 6)
    first = engine.submit(make_chunk(1))
    gate.wait_until_reached()
    others = [engine.submit(make_chunk(seconds, seed=seconds)) for seconds in (2, 70, 1, 1)]
    gate.open()
    assert len(texts([first, *others])) == 5
    assert engine.submit(make_chunk(1)).result(TIMEOUT_S)
    engine.close()
    usual = count_slot_tokens(30)
    assert [shape.n_slots for shape in model.shapes] == [6, 3, 6]
    assert [shape.n_tokens == usual for shape in model.shapes] == [True, False, True]
    assert all(shape.n_slots * shape.n_tokens <= 6 * usual for shape in model.shapes)


def test_only_running_rows_are_computed(model: WatchedModel) -> None:
    rows: list[int] = []
    model.on_step = rows.append
    gate = Gate(model)
    engine = make_engine(model, 4)
    futures = [engine.submit(chunk) for chunk in (*(make_chunk(0.5, seed=n) for n in range(3)), MIXED[2])]
    gate.wait_until_reached()
    gate.open()
    texts(futures)
    engine.close()
    assert rows[-1] == 1, "the last chunk was moved to the first row when no chunk waited"
    assert rows.count(1) >= count_new_tokens(2.2) - count_new_tokens(0.5)


def test_cancelled_chunk_is_not_computed(engine: ContinuousEngine, model: WatchedModel) -> None:
    gate = Gate(model)
    first = engine.submit(make_chunk())
    gate.wait_until_reached()
    cancelled, kept = engine.submit(make_chunk(1)), engine.submit(make_chunk(2))
    assert cancelled.cancel()
    gate.open()
    assert texts([first, kept])
    assert 16_000 not in [n for prefill in model.prefills for n in prefill]


# --- failures


@AHEAD
def test_chunk_error_affects_no_other_chunk(
    model: WatchedModel, engine: ContinuousEngine, min_rows_ahead: int | None
) -> None:
    model.min_rows_ahead = min_rows_ahead
    broken = ChunkRequest(np.full(16_000, np.nan, np.float32), None, (), "a")
    chunks = [make_chunk(seed=seed, language="Klingon" if seed == 2 else None) for seed in range(5)]
    expected = texts([engine.submit(chunk) for chunk in chunks[3:]])
    futures = [engine.submit(chunk) for chunk in (*chunks[:3], broken, *chunks[3:])]
    with pytest.raises(ValueError, match="Klingon"):
        futures[2].result(TIMEOUT_S)
    with pytest.raises(JobError, match="NaN or infinite"):
        futures[3].result(TIMEOUT_S)
    assert texts(futures[4:]) == expected
    assert len(texts(futures[:2])) == 2
    assert engine.is_alive()


@AHEAD
def test_chunk_that_fails_among_others_is_identified(
    model: WatchedModel, engine: ContinuousEngine, min_rows_ahead: int | None
) -> None:
    model.min_rows_ahead = min_rows_ahead

    def fail(chunks: Sequence[PreparedChunk]) -> None:
        if any(len(chunk.samples) == 16_000 for chunk in chunks):
            raise RuntimeError("this length is not for me")

    gate = Gate(model)
    first = engine.submit(make_chunk())
    gate.wait_until_reached()
    futures = [engine.submit(make_chunk(seconds)) for seconds in (2, 1, 3)]
    model.on_prefill = fail
    gate.open()
    with pytest.raises(RuntimeError, match="not for me"):
        futures[1].result(TIMEOUT_S)
    assert len(texts([first, futures[0], futures[2]])) == 3
    assert engine.submit(make_chunk(4)).result(TIMEOUT_S)


@AHEAD
def test_running_out_of_memory_halves_the_slots_and_loses_no_chunk(
    model: WatchedModel, engine: ContinuousEngine, min_rows_ahead: int | None
) -> None:
    def run_out_of_memory(n_rows: int) -> None:
        if n_rows > 2:
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    chunks = [make_chunk(seed=seed) for seed in range(9)]
    expected = transcribe_alone(model, chunks)
    model.min_rows_ahead = min_rows_ahead
    model.on_step = run_out_of_memory
    with capture_logs() as logs:
        gate = Gate(model)
        futures = [engine.submit(chunk) for chunk in chunks]
        gate.wait_until_reached()
        gate.open()
        assert texts(futures) == expected
    halved = [(log["event"], log["n_slots"]) for log in logs]
    assert halved == [("engine.slots_halved", 4), ("engine.slots_halved", 2)]
    assert engine.max_in_flight == 2
    assert engine.is_alive()


def test_slots_are_doubled_again_when_memory_is_free(model: WatchedModel) -> None:
    now_s, is_full = [1_000.0], [True]

    def run_out_of_memory(shape: SlotShape) -> None:
        if is_full[0] and shape.n_slots > 1:
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    model.on_make = run_out_of_memory
    engine = make_engine(model, 4, lambda: now_s[0])
    try:
        with capture_logs() as logs:
            assert engine.submit(make_chunk()).result(TIMEOUT_S)
            assert engine.max_in_flight == 1
            is_full[0] = False
            now_s[0] += 599
            assert engine.submit(make_chunk()).result(TIMEOUT_S)
            assert engine.max_in_flight == 1
            model.free_bytes = 1
            now_s[0] += 1
            assert engine.submit(make_chunk()).result(TIMEOUT_S)
            assert (logs[-1]["event"], logs[-1]["free_bytes"]) == ("engine.slots_kept", 1)
            for n_slots in (2, 4, 4):
                model.free_bytes = 10**12
                now_s[0] += 600
                assert engine.submit(make_chunk()).result(TIMEOUT_S)
                assert engine.max_in_flight == n_slots
                assert model.shapes[-1].n_slots == n_slots
    finally:
        engine.close()
    assert [log["event"] for log in logs].count("engine.slots_doubled") == 2


def test_chunk_that_does_not_fit_into_memory_ends_with_transient_error(model: WatchedModel) -> None:
    def run_out_of_memory(_: object) -> None:
        raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    engine = make_engine(model, 1)
    try:
        for hook in ("on_prefill", "on_step", "on_make"):
            model.watch()
            setattr(model, hook, run_out_of_memory)
            with pytest.raises(TransientError, match="Out of memory"):
                engine.submit(make_chunk()).result(TIMEOUT_S)
        model.watch()
        assert engine.submit(make_chunk()).result(TIMEOUT_S)
    finally:
        engine.close()


def test_lost_device_ends_every_chunk(model: WatchedModel) -> None:
    def break_down(_: int) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nand more lines")

    gate = Gate(model)
    model.on_step = break_down
    engine = make_engine(model, 2)
    with capture_logs() as logs:
        futures = [engine.submit(make_chunk(seed=seed)) for seed in range(5)]
        gate.open()
        for future in futures:
            with pytest.raises(EngineLostError, match="illegal memory access was encountered") as raised:
                future.result(TIMEOUT_S)
            assert "more lines" not in str(raised.value)
        assert not engine.is_alive()
        with pytest.raises(EngineLostError):
            engine.submit(make_chunk()).result(0)
        engine.close()
    assert [log["event"] for log in logs] == ["engine.lost"]


def test_rows_are_read_only_after_the_next_steps_were_launched(model: WatchedModel) -> None:
    def note_wait(snapshot: RowSnapshot) -> list[RowState]:
        events.append("read")
        return read_states(snapshot)

    events: list[str] = []
    model.on_step = lambda _: events.append("step")
    read_states = RowSnapshot.read_states
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowSnapshot, "read_states", note_wait)
        for min_rows_ahead, beginning in ((None, ["step", "read", "step"]), (1, ["step", "step", "read", "step"])):
            events.clear()
            model.min_rows_ahead = min_rows_ahead
            engine = make_engine(model, 2)
            assert engine.submit(make_chunk()).result(TIMEOUT_S)
            engine.close()
            assert events[: len(beginning)] == beginning


def test_closing_ends_running_and_waiting_chunks(model: WatchedModel) -> None:
    gate = Gate(model)
    engine = make_engine(model, 1)
    running, waiting = engine.submit(make_chunk(30)), engine.submit(make_chunk(30))
    gate.wait_until_reached()
    waiting.add_done_callback(lambda _: gate.open())  # so it ended while the other was still running
    engine.close()
    for future in (running, waiting):
        with pytest.raises(StoppedError):
            future.result(0)
    assert model.n_steps == 0, "it stopped at the next layer, not at the end of the output"
    engine.close()
    assert "engine" not in {thread.name for thread in threading.enumerate()}
    assert not engine.is_alive()
    with pytest.raises(StoppedError):
        engine.submit(make_chunk()).result(0)


def test_engine_that_hangs_is_not_alive(model: WatchedModel) -> None:
    now_s = [1_000.0]
    gate = Gate(model)
    engine = make_engine(model, 1, lambda: now_s[0])
    now_s[0] += 10_000
    assert engine.is_alive(), "being idle for hours is no problem"
    future = engine.submit(make_chunk())
    gate.wait_until_reached()
    now_s[0] += 200
    assert engine.is_alive()
    now_s[0] += 200
    assert not engine.is_alive()
    gate.open()
    assert future.result(TIMEOUT_S)
    assert engine.is_alive()
    engine.close()


def test_memory_does_not_grow_with_work(model: WatchedModel) -> None:
    def work(durations_s: Iterable[float]) -> int:
        """Return the bytes of all tensors that exist when this work is done."""
        engine = make_engine(model, 8)
        texts([engine.submit(make_chunk(s, job_id=str(n % 3), seed=n)) for n, s in enumerate(durations_s)])
        engine.close()
        gc.collect()
        kinds = (
            torch.Tensor,
            torch.nn.Parameter,
        )  # not the subclasses that a compiler leaves behind, which hold no memory
        storages = [tensor.untyped_storage() for tensor in gc.get_objects() if type(tensor) in kinds]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    before_bytes = work([40])
    assert work([0.5 + n % 4 for n in range(40)]) == before_bytes
