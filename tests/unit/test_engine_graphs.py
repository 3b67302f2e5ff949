"""Captured steps and compiled layers write the same texts; what a GPU alone shows is in tests/gpu."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from structlog.testing import capture_logs
from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from daemon.engine.qwen3_asr.graphs import CapturedSteps, Compiler, sizes_up_to
from daemon.engine.qwen3_asr.model import ResidentModel
from daemon.engine.scheduler import ContinuousEngine
from daemon.transcript import ModelIdentity
from tests.tiny_model import make_piece, save_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.engine import ChunkResponse
    from daemon.engine.qwen3_asr.text_decoder import Decoder

TIMEOUT_S = 60.0
PIECES = [make_piece(0.5 + n % 3, job_id=str(n % 2), seed=n) for n in range(7)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def load(folder: Path) -> ResidentModel:
    weights = Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return ResidentModel(weights, Qwen3ASRProcessor.from_pretrained(folder))


def texts_of(model: ResidentModel) -> list[ChunkResponse]:
    engine = ContinuousEngine(model, ModelIdentity("tiny", "0" * 64, "float32", "cpu"), n_slots=3)
    try:
        return [future.result(TIMEOUT_S) for future in [engine.submit(piece) for piece in PIECES]]
    finally:
        engine.close()


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[ChunkResponse]:
    return texts_of(load(folder))


def test_the_next_size_up_is_taken() -> None:
    assert sizes_up_to(6, (1, 2, 4, 8)) == [1, 2, 4, 6]
    assert sizes_up_to(8, (1, 2, 4, 8)) == [1, 2, 4, 8]
    assert sizes_up_to(1, (1, 2)) == [1]


class Recorded:
    """What stands in for a GPU: it runs the step once, as a capture does, and again at each replay."""

    def __init__(self) -> None:
        self.n_captured = 0
        self.n_replayed = 0

    def __call__(self, step: Callable[[], None]) -> Callable[[], None]:
        self.n_captured += 1
        step()

        def replay() -> None:
            self.n_replayed += 1
            step()

        return replay


def use(model: ResidentModel, make: Callable[[Decoder], CapturedSteps]) -> None:
    model._steps = make(model._decoder)


def test_captured_steps_write_the_same(folder: Path, expected: list[ChunkResponse]) -> None:
    model, recorded = load(folder), Recorded()
    use(model, lambda decoder: CapturedSteps(decoder, lambda: recorded))
    assert texts_of(model) == expected
    n_rows, n_columns = sizes_up_to(3, (1, 2)), sizes_up_to(1184, (512, 640, 768, 1024))
    assert recorded.n_captured == len(n_rows) * len(n_columns)
    assert recorded.n_replayed > 30


def test_where_nothing_can_be_captured_that_is_said_once(folder: Path, expected: list[ChunkResponse]) -> None:
    def refuse(step: object) -> Callable[[], None]:
        del step
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    model = load(folder)
    use(model, lambda decoder: CapturedSteps(decoder, lambda: refuse))
    with capture_logs() as logs:
        assert texts_of(model) == expected
        assert texts_of(model) == expected
    assert [log["event"] for log in logs] == ["engine.capture_failed"]
    assert logs[0]["reason"] == "RuntimeError: operation not permitted when stream is capturing and more"


def test_short_memory_while_capturing_is_no_reason_to_give_that_up(folder: Path) -> None:
    n_tried = 0

    def fill(step: Callable[[], None]) -> Callable[[], None]:
        nonlocal n_tried
        n_tried += 1
        if n_tried == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return Recorded()(step)

    model = load(folder)
    use(model, lambda decoder: CapturedSteps(decoder, lambda: fill))
    with capture_logs() as logs:
        assert len(texts_of(model)) == len(PIECES)
    assert [log["event"] for log in logs] == ["engine.slots_halved"]
    assert n_tried > 1


def compile_with(model: ResidentModel, compiler: Compiler) -> None:
    model._decoder._step_layer = compiler(model._decoder._step_layer)
    model._encoder._layer = compiler(model._encoder._layer)


def test_compiled_layers_write_the_same(folder: Path, expected: list[ChunkResponse]) -> None:
    model = load(folder)
    compile_with(model, Compiler("aot_eager"))
    with capture_logs() as logs:
        assert texts_of(model) == expected
    assert logs == []


def test_where_nothing_can_be_compiled_that_is_said_once(folder: Path, expected: list[ChunkResponse]) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("there is no compiler here\nand more")

    model = load(folder)
    compile_with(model, Compiler(refuse))
    with capture_logs() as logs:
        assert texts_of(model) == expected
    assert [log["event"] for log in logs] == ["engine.compile_failed"]
    assert "there is no compiler here" in logs[0]["reason"]
