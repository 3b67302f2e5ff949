"""What only a real GPU can show; tests/unit tests the rest of the engine on the CPU."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import torch
from structlog.testing import capture_logs
from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from daemon.engine.device import choose_device, choose_dtype
from daemon.engine.device_loop import DeviceLoop
from daemon.engine.qwen3_asr.loading import choose_slots, count_slots
from daemon.engine.qwen3_asr.model import ResidentModel, count_slot_tokens
from daemon.engine.scheduler import ContinuousEngine
from daemon.engine.slots import Generated
from daemon.errors import EngineUnavailableError, StoppedError
from daemon.transcript import ModelIdentity
from tests.tiny_model import make_chunk, save_tiny_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from daemon.engine import ChunkRequest, ChunkResponse

pytestmark = pytest.mark.gpu

TIMEOUT_S = 600.0  # kernels may have to be compiled
GPU = torch.device("cuda", 0)
IDENTITY = ModelIdentity("tiny", "0" * 64, "bfloat16", "cuda:0")
# Sizes with a large cache: in float32 it takes 128 KiB per token, about as much as the 1.7B model in bfloat16.
WIDE: dict[str, Any] = {"num_hidden_layers": 8, "num_key_value_heads": 4, "head_dim": 512}
MIXED = [make_chunk(duration_s, seed=seed) for seed, duration_s in enumerate((0.2, 1.3, 2, 3.1, 8.01, 30))]


def load_model(folder: Path, dtype: torch.dtype = torch.float32, *, is_captured: bool = True) -> ResidentModel:
    weights = Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    processor = Qwen3ASRProcessor.from_pretrained(folder)
    return ResidentModel(weights.to(GPU).eval(), processor, is_captured=is_captured)


def make_engine(model: ResidentModel, n_slots: int) -> ContinuousEngine:
    return ContinuousEngine(model, IDENTITY, n_slots, DeviceLoop(GPU))


def transcribe_all(model: ResidentModel, chunks: Sequence[ChunkRequest], n_slots: int) -> list[ChunkResponse]:
    engine = make_engine(model, n_slots)
    try:
        return [future.result(TIMEOUT_S) for future in [engine.submit(chunk) for chunk in chunks]]
    finally:
        engine.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> ResidentModel:
    return load_model(save_tiny_model(tmp_path_factory.mktemp("models") / "wide", **WIDE))


def test_auto_chooses_the_gpu_and_its_native_dtype() -> None:
    assert choose_device("auto") == GPU
    has_bfloat16 = torch.cuda.get_device_capability(GPU) >= (8, 0)
    assert choose_dtype("auto", GPU) == (torch.bfloat16 if has_bfloat16 else torch.float16)


def test_missing_gpu_is_reported() -> None:
    with pytest.raises(EngineUnavailableError, match=r"cuda:99 cannot be used: this machine has \d+"):
        choose_device("cuda:99")


def test_captured_and_compiled_steps_write_the_text_of_generate(folder: Path) -> None:
    stock = Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).to(GPU).eval()
    processor = Qwen3ASRProcessor.from_pretrained(folder)
    model = load_model(folder)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), capture_logs() as logs:
        written = transcribe_all(model, MIXED, n_slots=3)
        for chunk, text in zip(MIXED[1:], written[1:], strict=True):
            inputs = processor.apply_transcription_request([chunk.samples]).to(GPU)
            prepared = model.prepare(chunk)
            ends = sorted(model._end_tokens)
            output = stock.generate(
                **inputs, max_new_tokens=prepared.max_new_tokens, do_sample=False, eos_token_id=ends
            )
            tokens = output[0, inputs["input_ids"].shape[1] :].tolist()
            assert model.make_response(Generated(tokens, [0.0] * len(tokens)), prepared, has_failed=False) == text
    assert [log for log in logs if log["event"] in ("engine.compile_failed", "engine.capture_failed")] == []


def test_reused_slot_writes_the_same_text_as_the_chunk_alone(folder: Path) -> None:
    model = load_model(folder)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        alone = [transcribe_all(model, [chunk], n_slots=1)[0] for chunk in MIXED]
        assert transcribe_all(model, MIXED, n_slots=2) == alone
        assert transcribe_all(load_model(folder, is_captured=False), MIXED, n_slots=2) == alone


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_dtypes_write_text_and_memory_is_freed(folder: Path, dtype: torch.dtype) -> None:
    model = load_model(folder, dtype)
    chunks = [make_chunk(5, seed=seed, job_id=str(seed % 3)) for seed in range(16)]
    transcribe_all(model, chunks, n_slots=4)
    gc.collect()
    before_bytes = torch.cuda.memory_allocated(GPU)
    for _ in range(5):
        assert any(text.text for text in transcribe_all(model, chunks, n_slots=4))
    gc.collect()
    assert torch.cuda.memory_allocated(GPU) == before_bytes


def test_memory_of_slots_is_not_underestimated(wide: ResidentModel) -> None:
    n_slots = 8
    gc.collect()
    torch.cuda.empty_cache()
    before_bytes = torch.cuda.memory_allocated(GPU)
    torch.cuda.reset_peak_memory_stats(GPU)
    transcribe_all(wide, [make_chunk(30, seed=seed) for seed in range(2 * n_slots)], n_slots)
    peak_bytes = torch.cuda.max_memory_allocated(GPU) - before_bytes
    plan = count_slots(peak_bytes, wide)
    assert plan.n_slots * plan.slot_tokens <= n_slots * count_slot_tokens(30), (peak_bytes, plan)
    assert 1 <= choose_slots(wide).n_slots <= 256


def test_running_out_of_memory_halves_the_slots_and_loses_no_chunk(wide: ResidentModel) -> None:
    total_bytes = torch.cuda.get_device_properties(GPU).total_memory
    slot_bytes = count_slot_tokens(30) * wide.kv_cache_spec.token_bytes
    gc.collect()
    torch.cuda.empty_cache()
    room_bytes = torch.cuda.memory_allocated(GPU) + 6 * slot_bytes + 500_000_000
    torch.cuda.set_per_process_memory_fraction(room_bytes / total_bytes, GPU)
    engine = make_engine(wide, 64)
    try:
        with capture_logs() as logs:
            futures = [engine.submit(make_chunk(10, seed=seed)) for seed in range(16)]
            assert len([future.result(TIMEOUT_S) for future in futures]) == 16
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, GPU)
        engine.close()
    assert {log["event"] for log in logs} == {"engine.slots_halved"}
    assert 1 <= engine.max_in_flight < 64


def test_closing_ends_running_chunks(folder: Path) -> None:
    engine = make_engine(load_model(folder, is_captured=False), 4)
    futures = [engine.submit(make_chunk(300, seed=seed)) for seed in range(8)]
    engine.close()
    assert "engine" not in {thread.name for thread in threading.enumerate()}
    for future in futures:
        with pytest.raises(StoppedError):
            future.result(0)


LOSE_THE_DEVICE = """
import sys, torch
from pathlib import Path
from daemon.errors import EngineLostError
from tests.gpu.test_engine_gpu import load_model, make_engine
from tests.tiny_model import make_chunk

def assert_on_device(*_):
    torch.zeros(1, device="cuda")[torch.tensor([7], device="cuda")]

model = load_model(Path(sys.argv[1]), is_captured=False)
model.decode_step = assert_on_device
engine = make_engine(model, 2)
futures = [engine.submit(make_chunk(seed=seed)) for seed in range(5)]
errors = [future.exception(60) for future in futures]
assert all(isinstance(error, EngineLostError) for error in errors), errors
assert not engine.is_alive()
engine.close()
print("lost as expected")
"""


def test_dead_context_is_a_lost_engine(folder: Path) -> None:
    # In a process of its own: a dead context stays dead.
    done = subprocess.run(
        [sys.executable, "-c", LOSE_THE_DEVICE, str(folder)], capture_output=True, text=True, check=False
    )
    assert "lost as expected" in done.stdout, done.stderr
