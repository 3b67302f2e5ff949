"""What only a real GPU shows; the rest of the engine is tested on the CPU in tests/unit."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from structlog.testing import capture_logs
from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from daemon.engine.batch import BatchedEngine
from daemon.engine.loading import choose_device, choose_dtype, choose_slots
from daemon.engine.model import ResidentModel
from daemon.errors import EngineUnavailableError, StoppedError
from daemon.transcript import ModelIdentity
from tests.tiny_model import make_piece, save_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.gpu

TIMEOUT_S = 120.0
GPU = torch.device("cuda", 0)
IDENTITY = ModelIdentity("tiny", "0" * 64, "bfloat16", "cuda:0")
# Sizes whose cache can be seen: in float32 it takes 128 KiB for each token, as the real one does in bfloat16.
WIDE: dict[str, Any] = {"num_hidden_layers": 8, "num_key_value_heads": 4, "head_dim": 512}


def load_model(folder: Path, dtype: torch.dtype = torch.float32) -> ResidentModel:
    weights = Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    return ResidentModel(weights.to(GPU).eval(), Qwen3ASRProcessor.from_pretrained(folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> ResidentModel:
    return load_model(save_tiny_model(tmp_path_factory.mktemp("models") / "wide", **WIDE))


def test_auto_takes_the_gpu_and_its_own_type() -> None:
    assert choose_device("auto") == GPU
    has_bfloat16 = torch.cuda.get_device_capability(GPU) >= (8, 0)
    assert choose_dtype("auto", GPU) == (torch.bfloat16 if has_bfloat16 else torch.float32)


def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(EngineUnavailableError, match=r"cuda:99 cannot be used: this machine has \d+"):
        choose_device("cuda:99")


def test_a_batch_writes_what_each_piece_alone_does(folder: Path) -> None:
    model = load_model(folder)
    pieces = [make_piece(duration_s, seed=seed) for seed, duration_s in enumerate((0.2, 1.3, 2, 3.1, 8.01, 30))]
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        alone = [model.transcribe([piece], lambda: None)[0] for piece in pieces]
        assert model.transcribe(pieces, lambda: None) == alone


def test_bfloat16_gives_text_and_memory_is_given_back(folder: Path) -> None:
    model = load_model(folder, torch.bfloat16)
    pieces = [make_piece(5, seed=seed) for seed in range(16)]
    model.transcribe(pieces, lambda: None)
    gc.collect()
    before_bytes = torch.cuda.memory_allocated(GPU)
    for _ in range(5):
        assert any(text.text for text in model.transcribe(pieces, lambda: None))
    gc.collect()
    assert torch.cuda.memory_allocated(GPU) == before_bytes


def test_the_memory_of_a_slot_is_not_underestimated(wide: ResidentModel) -> None:
    n_pieces = 8
    before_bytes = torch.cuda.memory_allocated(GPU)
    torch.cuda.reset_peak_memory_stats(GPU)
    wide.transcribe([make_piece(30, seed=seed) for seed in range(n_pieces)], lambda: None)
    peak_bytes = torch.cuda.max_memory_allocated(GPU) - before_bytes
    assert peak_bytes <= n_pieces * wide.count_slot_bytes(30)
    assert 1 <= choose_slots(wide) <= 64


def test_short_memory_halves_the_batch_and_goes_on(wide: ResidentModel) -> None:
    engine = BatchedEngine(wide, IDENTITY, n_slots=16)
    total_bytes = torch.cuda.get_device_properties(GPU).total_memory
    room_bytes = torch.cuda.memory_allocated(GPU) + 2 * wide.count_slot_bytes(10)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(room_bytes / total_bytes, GPU)
    try:
        with capture_logs() as logs:
            futures = [engine.submit(make_piece(10, seed=seed)) for seed in range(16)]
            assert len([future.result(TIMEOUT_S) for future in futures]) == 16
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, GPU)
        engine.close()
    assert {log["event"] for log in logs} == {"engine.batch_halved"}
    assert 1 <= engine.max_pieces < 16


def test_closing_ends_a_running_answer(folder: Path) -> None:
    engine = BatchedEngine(load_model(folder), IDENTITY, n_slots=4)
    futures = [engine.submit(make_piece(300, seed=seed)) for seed in range(8)]
    engine.close()
    assert not engine._thread.is_alive()
    for future in futures:
        with pytest.raises(StoppedError):
            future.result(0)


LOSE_THE_DEVICE = """
import sys, torch
from pathlib import Path
from daemon.engine.batch import BatchedEngine
from daemon.errors import EngineLostError
from tests.gpu.test_engine_gpu import IDENTITY, load_model
from tests.tiny_model import make_piece

def assert_on_device(*_):
    torch.zeros(1, device="cuda")[torch.tensor([7], device="cuda")]

model = load_model(Path(sys.argv[1]))
model._model.model.language_model.layers[0].register_forward_pre_hook(assert_on_device)
engine = BatchedEngine(model, IDENTITY, n_slots=2)
futures = [engine.submit(make_piece(seed=seed)) for seed in range(5)]
errors = [future.exception(60) for future in futures]
assert all(isinstance(error, EngineLostError) for error in errors), errors
assert not engine.is_alive()
engine.close()
print("lost as expected")
"""


def test_a_dead_context_is_a_lost_engine(folder: Path) -> None:
    # In a process of its own: a context that is dead stays dead.
    done = subprocess.run(
        [sys.executable, "-c", LOSE_THE_DEVICE, str(folder)], capture_output=True, text=True, check=False
    )
    assert "lost as expected" in done.stdout, done.stderr
