"""The engine's thread: who gets a slot when, and what becomes of pieces when something fails."""

from __future__ import annotations

import gc
from threading import Event
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs
from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from daemon.engine import ChunkRequest, ChunkResponse
from daemon.engine.qwen3_asr.model import PreparedChunk, ResidentModel, count_answer_tokens, count_slot_tokens
from daemon.engine.qwen3_asr.steps import EagerSteps
from daemon.engine.scheduler import ContinuousEngine
from daemon.errors import EngineLostError, JobError, StoppedError, TransientError
from daemon.transcript import ModelIdentity
from tests.tiny_model import make_piece, save_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from daemon.engine.qwen3_asr.slots import Slots, SlotShape

TIMEOUT_S = 60.0
IDENTITY = ModelIdentity("tiny", "0" * 64, "float32", "cpu")
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB."


class WatchedModel(ResidentModel):
    """The real model, with a place where a test can look on, hold it up, or let it fail."""

    def watch(self) -> None:
        self.shapes: list[SlotShape] = []
        self.begun: list[list[int]] = []  # lengths of the pieces that began together, in samples
        self.began_at: list[tuple[int, int]] = []  # (length, step) of every piece that began
        self.n_steps = 0
        self.at_begin: Callable[[Sequence[PreparedChunk]], None] = lambda _: None
        self.at_step: Callable[[int], None] = lambda _: None
        self.at_make: Callable[[SlotShape], None] = lambda _: None
        self.free_bytes: int | None = None

    def make_slots(self, shape: SlotShape) -> Slots:
        self.at_make(shape)
        self.shapes.append(shape)
        return super().make_slots(shape)

    def begin(
        self, slots: Slots, pieces: Sequence[PreparedChunk], rows: Sequence[int], heartbeat: Callable[[], None]
    ) -> None:
        self.begun.append([len(piece.samples) for piece in pieces])
        self.began_at += [(len(piece.samples), self.n_steps) for piece in pieces]
        self.at_begin(pieces)
        super().begin(slots, pieces, rows, heartbeat)

    def advance(self, slots: Slots, n_rows: int, n_columns: int) -> None:
        self.n_steps += 1
        self.at_step(n_rows)
        super().advance(slots, n_rows, n_columns)

    def count_free_bytes(self) -> int | None:
        return self.free_bytes


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
    engine = ContinuousEngine(model, IDENTITY, n_slots=8)
    yield engine
    engine.close()


class Gate:
    """Holds the model up when a piece begins, until it is opened."""

    def __init__(self, model: WatchedModel) -> None:
        self._is_reached, self._is_open = Event(), Event()
        model.at_begin = self._pass

    def _pass(self, _: Sequence[PreparedChunk]) -> None:
        self._is_reached.set()
        assert self._is_open.wait(TIMEOUT_S)

    def wait_until_reached(self) -> None:
        assert self._is_reached.wait(TIMEOUT_S)

    def open(self) -> None:
        self._is_open.set()


def texts(futures: Iterable[Future[ChunkResponse]]) -> list[ChunkResponse]:
    return [future.result(TIMEOUT_S) for future in futures]


def alone(model: WatchedModel, pieces: Iterable[ChunkRequest]) -> list[ChunkResponse]:
    """Return what an engine writes that has one piece at a time."""
    engine = ContinuousEngine(model, IDENTITY, n_slots=1)
    try:
        return [engine.submit(piece).result(TIMEOUT_S) for piece in pieces]
    finally:
        engine.close()


MIXED = [
    make_piece(2.0, None, (), "a", 1),
    make_piece(1.3, "English", (), "a", 2),
    make_piece(2.2, None, ("word1", "word2"), "b", 3),
    make_piece(1.9, "German", ("word3",), "a", 4),
    make_piece(0.2, None, (), "c", 6),
    make_piece(1.7, None, (), "a", 7),
    make_piece(4.01, None, (), "a", 8),
]


# --- the same text in any company


def test_pieces_of_many_jobs_get_the_texts_they_get_alone(model: WatchedModel, engine: ContinuousEngine) -> None:
    expected = alone(model, MIXED)
    assert texts([engine.submit(one) for one in MIXED]) == expected
    assert engine.is_alive()
    assert {text.is_finished for text in expected} == {True, False}


def test_one_recording_alone_and_among_fifty_others_is_the_same(model: WatchedModel) -> None:
    mine = [make_piece(1 + seed % 5, job_id="mine", seed=seed) for seed in range(6)]
    expected = alone(model, mine)
    engine = ContinuousEngine(model, IDENTITY, n_slots=7)
    others = [make_piece(0.6 + 0.1 * (n % 17), job_id=f"other{n}", seed=100 + n) for n in range(50)]
    try:
        before = [engine.submit(piece) for piece in others[:25]]
        futures = [engine.submit(piece) for piece in mine]
        after = [engine.submit(piece) for piece in others[25:]]
        assert texts(futures) == expected
        assert len(texts(before + after)) == 50
    finally:
        engine.close()


@pytest.mark.parametrize("per_read", [2, 7])
def test_several_steps_for_each_read_change_no_text(model: WatchedModel, per_read: int) -> None:
    expected = alone(model, MIXED)
    steps, model._steps = model._steps, EagerSteps(model._decoder, per_read)
    engine = ContinuousEngine(model, IDENTITY, n_slots=3)
    try:
        assert texts([engine.submit(one) for one in MIXED]) == expected
    finally:
        engine.close()
        model._steps = steps


def test_an_answer_that_does_not_end_is_cut_at_its_budget(model: WatchedModel, engine: ContinuousEngine) -> None:
    answer = engine.submit(make_piece(0.5)).result(TIMEOUT_S)
    assert not answer.is_finished
    assert model.n_steps == count_answer_tokens(0.5) - 1, "the prefill writes the first"


# --- who gets a slot when


def test_a_finished_row_is_filled_while_the_others_go_on(model: WatchedModel) -> None:
    gate = Gate(model)
    engine = ContinuousEngine(model, IDENTITY, n_slots=2)
    futures = [engine.submit(make_piece(12, seed=1)), *(engine.submit(make_piece(0.5, seed=n)) for n in range(4))]
    gate.wait_until_reached()
    gate.open()
    texts(futures)
    engine.close()
    long_steps, short_steps = count_answer_tokens(12), count_answer_tokens(0.5)
    assert model.n_steps < long_steps + short_steps
    assert [begun for begun in model.begun[1:] if len(begun) == 1], "one row was filled beside the long one"


def test_a_memo_behind_a_ten_hour_recording_is_soon_done(model: WatchedModel) -> None:
    # Of the ten hours as many chunks wait as a recording keeps submitted.
    gate = Gate(model)
    n_slots, memo_s = 4, 10
    engine = ContinuousEngine(model, IDENTITY, n_slots=n_slots)
    meeting = [engine.submit(make_piece(30, job_id="meeting", seed=n)) for n in range(8 * n_slots)]
    gate.wait_until_reached()
    memo = engine.submit(make_piece(memo_s, job_id="memo"))
    step_when_done: list[int] = []
    memo.add_done_callback(lambda _: step_when_done.append(model.n_steps))
    gate.open()
    assert memo.result(TIMEOUT_S)
    for future in meeting:
        future.cancel()
    engine.close()
    # It waits at most for one chunk to end, and each is one step a token.
    assert step_when_done[0] <= count_answer_tokens(30) + count_answer_tokens(memo_s)
    [(_, began_at)] = [begun for begun in model.began_at if begun[0] == memo_s * 16_000]
    assert began_at <= count_answer_tokens(30)


def test_a_long_recording_does_not_starve_behind_many_memos(model: WatchedModel) -> None:
    gate = Gate(model)
    engine = ContinuousEngine(model, IDENTITY, n_slots=1)
    first = engine.submit(make_piece(0.5, job_id="first"))
    gate.wait_until_reached()
    memos = [engine.submit(make_piece(0.6, job_id=f"memo{n}")) for n in range(5)]
    long = [engine.submit(make_piece(1.5, job_id="long", seed=n)) for n in range(2)]
    memos += [engine.submit(make_piece(0.6, job_id=f"late{n}")) for n in range(5)]
    gate.open()
    texts([first, *memos, *long])
    engine.close()
    order = [lengths[0] / 16_000 for lengths in model.begun]
    assert order == [0.5, *[0.6] * 5, 1.5, *[0.6] * 5, 1.5]


def test_a_piece_longer_than_a_slot_gets_longer_slots_and_fewer(model: WatchedModel) -> None:
    gate = Gate(model)
    engine = ContinuousEngine(model, IDENTITY, n_slots=6)
    first = engine.submit(make_piece(1))
    gate.wait_until_reached()
    others = [engine.submit(make_piece(seconds, seed=seconds)) for seconds in (2, 70, 1, 1)]
    gate.open()
    assert len(texts([first, *others])) == 5
    assert engine.submit(make_piece(1)).result(TIMEOUT_S)
    engine.close()
    usual = count_slot_tokens(30)
    assert [shape.n_slots for shape in model.shapes] == [6, 3, 6]
    assert [shape.n_tokens == usual for shape in model.shapes] == [True, False, True]
    assert all(shape.n_slots * shape.n_tokens <= 6 * usual for shape in model.shapes)


def test_only_rows_in_work_are_computed(model: WatchedModel) -> None:
    rows: list[int] = []
    model.at_step = rows.append
    gate = Gate(model)
    engine = ContinuousEngine(model, IDENTITY, n_slots=4)
    futures = [engine.submit(piece) for piece in (*(make_piece(0.5, seed=n) for n in range(3)), MIXED[2])]
    gate.wait_until_reached()
    gate.open()
    texts(futures)
    engine.close()
    assert rows[-1] == 1, "the last piece was moved to the first row when nothing waited"
    assert rows.count(1) >= count_answer_tokens(2.2) - count_answer_tokens(0.5)


def test_a_cancelled_piece_is_not_computed(engine: ContinuousEngine, model: WatchedModel) -> None:
    gate = Gate(model)
    first = engine.submit(make_piece())
    gate.wait_until_reached()
    cancelled, kept = engine.submit(make_piece(1)), engine.submit(make_piece(2))
    assert cancelled.cancel()
    gate.open()
    assert texts([first, kept])
    assert 16_000 not in [n for begun in model.begun for n in begun]


# --- what goes wrong


def test_a_piece_that_raises_harms_no_other(engine: ContinuousEngine) -> None:
    broken = ChunkRequest(np.full(16_000, np.nan, np.float32), None, (), "a")
    pieces = [make_piece(seed=seed, language="Klingon" if seed == 2 else None) for seed in range(5)]
    expected = texts([engine.submit(one) for one in pieces[3:]])
    futures = [engine.submit(one) for one in (*pieces[:3], broken, *pieces[3:])]
    with pytest.raises(ValueError, match="Klingon"):
        futures[2].result(TIMEOUT_S)
    with pytest.raises(JobError, match="no numbers"):
        futures[3].result(TIMEOUT_S)
    assert texts(futures[4:]) == expected
    assert len(texts(futures[:2])) == 2
    assert engine.is_alive()


def test_of_several_in_work_the_one_that_fails_is_found_out(model: WatchedModel, engine: ContinuousEngine) -> None:
    def fail(pieces: Sequence[PreparedChunk]) -> None:
        if any(len(piece.samples) == 16_000 for piece in pieces):
            raise RuntimeError("this length is not for me")

    gate = Gate(model)
    first = engine.submit(make_piece())
    gate.wait_until_reached()
    futures = [engine.submit(make_piece(seconds)) for seconds in (2, 1, 3)]
    model.at_begin = fail
    gate.open()
    with pytest.raises(RuntimeError, match="not for me"):
        futures[1].result(TIMEOUT_S)
    assert len(texts([first, futures[0], futures[2]])) == 3
    assert engine.submit(make_piece(4)).result(TIMEOUT_S)


def test_short_memory_halves_the_slots_and_loses_nothing(model: WatchedModel, engine: ContinuousEngine) -> None:
    def fill(n_rows: int) -> None:
        if n_rows > 2:
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    pieces = [make_piece(seed=seed) for seed in range(9)]
    expected = alone(model, pieces)
    model.at_step = fill
    with capture_logs() as logs:
        gate = Gate(model)
        futures = [engine.submit(piece) for piece in pieces]
        gate.wait_until_reached()
        gate.open()
        assert texts(futures) == expected
    halved = [(log["event"], log["n_slots"]) for log in logs]
    assert halved == [("engine.slots_halved", 4), ("engine.slots_halved", 2)]
    assert engine.max_in_flight == 2
    assert engine.is_alive()


def test_given_up_slots_are_tried_again_in_good_time(model: WatchedModel) -> None:
    now_s, is_full = [1_000.0], [True]

    def fill(shape: SlotShape) -> None:
        if is_full[0] and shape.n_slots > 1:
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    model.at_make = fill
    engine = ContinuousEngine(model, IDENTITY, n_slots=4, monotonic=lambda: now_s[0])
    try:
        with capture_logs() as logs:
            assert engine.submit(make_piece()).result(TIMEOUT_S)
            assert engine.max_in_flight == 1
            is_full[0] = False
            now_s[0] += 599
            assert engine.submit(make_piece()).result(TIMEOUT_S)
            assert engine.max_in_flight == 1
            model.free_bytes = 1
            now_s[0] += 1
            assert engine.submit(make_piece()).result(TIMEOUT_S)
            assert (logs[-1]["event"], logs[-1]["free_bytes"]) == ("engine.slots_kept", 1)
            for n_slots in (2, 4, 4):
                model.free_bytes = 10**12
                now_s[0] += 600
                assert engine.submit(make_piece()).result(TIMEOUT_S)
                assert engine.max_in_flight == n_slots
                assert model.shapes[-1].n_slots == n_slots
    finally:
        engine.close()
    assert [log["event"] for log in logs].count("engine.slots_doubled") == 2


def test_memory_short_for_one_piece_is_told_to_its_caller(model: WatchedModel) -> None:
    def fill(_: object) -> None:
        raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    engine = ContinuousEngine(model, IDENTITY, n_slots=1)
    try:
        for place in ("at_begin", "at_step", "at_make"):
            model.watch()
            setattr(model, place, fill)
            with pytest.raises(TransientError, match="memory"):
                engine.submit(make_piece()).result(TIMEOUT_S)
        model.watch()
        assert engine.submit(make_piece()).result(TIMEOUT_S)
    finally:
        engine.close()


def test_a_lost_device_ends_everything(model: WatchedModel) -> None:
    def break_down(_: int) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nand more lines")

    gate = Gate(model)
    model.at_step = break_down
    engine = ContinuousEngine(model, IDENTITY, n_slots=2)
    with capture_logs() as logs:
        futures = [engine.submit(make_piece(seed=seed)) for seed in range(5)]
        gate.open()
        for future in futures:
            with pytest.raises(EngineLostError, match="illegal memory access was encountered") as raised:
                future.result(TIMEOUT_S)
            assert "more lines" not in str(raised.value)
        assert not engine.is_alive()
        with pytest.raises(EngineLostError):
            engine.submit(make_piece()).result(0)
        engine.close()
    assert [log["event"] for log in logs] == ["engine.lost"]


def test_closing_ends_a_running_answer_and_what_waits(model: WatchedModel) -> None:
    gate = Gate(model)
    engine = ContinuousEngine(model, IDENTITY, n_slots=1)
    running, waiting = engine.submit(make_piece(30)), engine.submit(make_piece(30))
    gate.wait_until_reached()
    waiting.add_done_callback(lambda _: gate.open())  # so it was told while the other was still running
    engine.close()
    for future in (running, waiting):
        with pytest.raises(StoppedError):
            future.result(0)
    assert model.n_steps == 0, "it ended at the next layer, not with the answer"
    engine.close()
    assert not engine._thread.is_alive()
    assert not engine.is_alive()
    with pytest.raises(StoppedError):
        engine.submit(make_piece()).result(0)


def test_an_engine_that_hangs_is_not_alive(model: WatchedModel) -> None:
    now_s = [1_000.0]
    gate = Gate(model)
    engine = ContinuousEngine(model, IDENTITY, n_slots=1, monotonic=lambda: now_s[0])
    now_s[0] += 10_000
    assert engine.is_alive(), "idle for hours is no fault"
    future = engine.submit(make_piece())
    gate.wait_until_reached()
    now_s[0] += 200
    assert engine.is_alive()
    now_s[0] += 200
    assert not engine.is_alive()
    gate.open()
    assert future.result(TIMEOUT_S)
    assert engine.is_alive()
    engine.close()


def test_memory_after_much_work_is_what_it_was_before(model: WatchedModel) -> None:
    def work(durations_s: Iterable[float]) -> int:
        """Return the bytes of all tensors there are when this work is done."""
        engine = ContinuousEngine(model, IDENTITY, n_slots=8)
        texts([engine.submit(make_piece(s, job_id=str(n % 3), seed=n)) for n, s in enumerate(durations_s)])
        engine.close()
        gc.collect()
        kinds = (torch.Tensor, torch.nn.Parameter)  # and none of those that a compiler leaves, which hold nothing
        storages = [one.untyped_storage() for one in gc.get_objects() if type(one) in kinds]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    before_bytes = work([40])
    assert work([0.5 + n % 4 for n in range(40)]) == before_bytes
