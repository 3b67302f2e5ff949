"""`model.idle_unload_min` on a GPU: the memory is really free for other programs, and used again."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import torch
from structlog.testing import capture_logs

from daemon.config import ModelSettings
from daemon.engine import load
from daemon.engine.scheduler import ContinuousEngine
from daemon.errors import EngineUnavailableError
from tests.gpu.test_engine_gpu import GPU, TIMEOUT_S
from tests.tiny_model import make_chunk, save_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.gpu

CHUNKS = [make_chunk(0.5 + 3 * seed, seed=seed, job_id=str(seed % 2)) for seed in range(8)]


# What may stay: less than the weights or the slots of this model.
SLACK_BYTES = 16 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 4, "head_dim": 64}
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", **sizes)


def load_engine(folder: Path, cache: Path) -> ContinuousEngine:
    engine = load(ModelSettings(path=folder, device="cuda:0", dtype="float32", slots=4), cache, lambda _: None)
    assert isinstance(engine, ContinuousEngine)
    return engine


def transcribe(engine: ContinuousEngine) -> list[str]:
    return [future.result(TIMEOUT_S).text for future in [engine.submit(chunk) for chunk in CHUNKS]]


def count_free_bytes() -> int:
    """Return what other programs could take: the driver's own figure."""
    free_bytes, _ = torch.cuda.mem_get_info(GPU)
    return free_bytes


def count_held_bytes() -> int:
    """Return what this process has taken, after giving back what it does not need."""
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved(GPU)


def test_unloaded_model_leaves_no_memory_of_the_gpu_taken(folder: Path, tmp_path: Path) -> None:
    before_bytes = count_held_bytes()
    texts, free, held = [], [], []
    with capture_logs() as logs:
        for _ in range(3):
            engine = load_engine(folder, tmp_path)
            loaded_free_bytes = count_free_bytes()
            model = weakref.ref(engine._model)
            texts.append(transcribe(engine))
            assert engine.count_late_builds() == 0
            engine.unload()
            assert model() is None
            assert torch.cuda.memory_reserved(GPU) < before_bytes + SLACK_BYTES, torch.cuda.memory_summary(GPU)
            free.append(count_free_bytes())
            assert free[-1] > loaded_free_bytes
            held.append(engine)  # whatever refers to it keeps no memory
    assert texts[0] == texts[1] == texts[2]
    assert free[2] > free[1] - SLACK_BYTES  # nothing adds up; the first time, kernels are loaded into the context
    assert [log for log in logs if log["log_level"] != "info"] == []


def test_memory_that_other_programs_have_taken_is_a_fault_and_nothing_is_held(folder: Path, tmp_path: Path) -> None:
    load_engine(folder, tmp_path).unload()
    before_bytes = count_held_bytes()
    total_bytes = torch.cuda.get_device_properties(GPU).total_memory
    weight_bytes = (folder / "model.safetensors").stat().st_size
    # Nothing, half the weights, no slots.
    for room_bytes in (before_bytes, before_bytes + weight_bytes // 2, before_bytes + weight_bytes + (8 << 20)):
        torch.cuda.set_per_process_memory_fraction(room_bytes / total_bytes, GPU)
        try:
            with pytest.raises(EngineUnavailableError) as raised:
                load_engine(folder, tmp_path)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, GPU)
        assert "memory" in raised.value.what
        assert raised.value.remedy
        assert torch.cuda.memory_reserved(GPU) < before_bytes + SLACK_BYTES, (
            room_bytes,
            torch.cuda.memory_summary(GPU),
        )
    engine = load_engine(folder, tmp_path)
    try:
        assert any(transcribe(engine))
    finally:
        engine.close()
