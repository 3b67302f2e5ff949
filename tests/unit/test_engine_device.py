"""Which device and dtype the engine chooses, and how many slots fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from daemon.engine.device import (
    SlotPlan,
    choose_device,
    choose_dtype,
    count_cache_bytes,
    measure_matmuls,
    plan_slots,
)
from daemon.engine.qwen3_asr.model import count_likely_tokens, count_slot_tokens
from daemon.engine.qwen3_asr.packing import SMALL_SIZES
from daemon.engine.slots import KVCacheSpec, round_up
from daemon.errors import EngineUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@no_gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_configured_gpu_is_never_replaced_by_the_cpu(device: str) -> None:
    with pytest.raises(EngineUnavailableError, match=r"GPU cuda:[01] cannot be used.*model.device to cpu"):
        choose_device(device)


@no_gpu
@pytest.mark.parametrize("sign", ["dev/nvidia0", "proc/driver/nvidia/gpus/0000:01:00.0"])
def test_gpu_that_is_present_must_work(sign: str, tmp_path: Path) -> None:
    assert choose_device("auto", tmp_path) == torch.device("cpu")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    assert choose_device("auto", tmp_path) == torch.device("cpu")
    (tmp_path / sign).mkdir(parents=True)
    with pytest.raises(EngineUnavailableError, match="GPU cuda:0 cannot be used"):
        choose_device("auto", tmp_path)
    assert choose_device("cpu", tmp_path) == torch.device("cpu")


def test_cpu_uses_bfloat16_only_if_it_is_clearly_faster() -> None:
    cpu = torch.device("cpu")
    assert choose_dtype("auto", cpu) == torch.float32
    assert choose_dtype("bfloat16", cpu) == torch.bfloat16
    took_s = {torch.float32: 1.0, torch.bfloat16: 0.5}
    assert choose_dtype("auto", cpu, took_s.__getitem__) == torch.bfloat16
    took_s[torch.bfloat16] = 0.9
    assert choose_dtype("auto", cpu, took_s.__getitem__) == torch.float32


def test_matmuls_are_measured_for_large_layers_only() -> None:
    assert measure_matmuls(128, 384) is None
    measure = measure_matmuls(512, 2048)
    assert measure is not None
    assert measure(torch.float32) > 0


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((9, 0), torch.bfloat16), ((8, 6), torch.bfloat16), ((7, 5), torch.float16), ((6, 1), torch.float32)],
)
def test_auto_dtype_follows_the_compute_capability(
    capability: tuple[int, int], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert choose_dtype("auto", torch.device("cuda", 0)) == expected


# Sizes of the released models.

REAL_TEXT = {
    "0.6B": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "1.7B": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
}


@pytest.mark.parametrize("size", REAL_TEXT)
def test_6_gb_gpu_decodes_at_least_ten_chunks_of_30_s_together(size: str) -> None:
    text = REAL_TEXT[size]
    spec = KVCacheSpec(text["num_hidden_layers"], 8, 128, torch.bfloat16, torch.device("cpu"))
    assert spec.token_bytes == 112 * 1024
    usual, likely = count_slot_tokens(30), count_likely_tokens(30)
    assert (usual, likely) == (1184, 591)
    convolution_bytes = 2 * 2 * 480 * 64 * 50 * 60
    # What a captured prefill of so many tokens keeps: see `TextDecoder.working_token_bytes`.
    values_per_token = 3 * text["intermediate_size"] + 2 * 4096 + 4 * text["hidden_size"]
    pack_bytes = 2 * values_per_token * max(size.n_tokens for size in SMALL_SIZES)
    # Of 6.44e9 bytes, the driver takes about 0.4e9 and the weights of the larger model 4.08e9.
    cache_bytes = count_cache_bytes(1_900_000_000, convolution_bytes + pack_bytes)
    shared = plan_slots(cache_bytes, spec.token_bytes, usual, round_up(likely, 64))
    assert shared.n_slots >= 10
    assert shared.n_slots * shared.slot_tokens * spec.token_bytes <= cache_bytes
    cache_bytes = count_cache_bytes(1_900_000_000, convolution_bytes)
    assert plan_slots(cache_bytes, spec.token_bytes, usual, usual).n_slots >= 4, "without pages, nothing is captured"


def test_plan_fits_the_memory() -> None:
    token_bytes, usual, likely = 114_688, 1184, 640
    assert plan_slots(-1, token_bytes, usual, likely) == SlotPlan(1, likely)
    assert plan_slots(10**11, token_bytes, usual, likely) == SlotPlan(256, usual)
    assert plan_slots(10**11, token_bytes, usual, likely, n_slots=8) == SlotPlan(8, usual)
    assert plan_slots(10**9, token_bytes, usual, likely, n_slots=8).slot_tokens == 10**9 // token_bytes // 8
    assert plan_slots(10**9, token_bytes, usual, likely, n_slots=300).slot_tokens == likely, "it may run out of memory"


def test_other_resident_models_keep_their_memory() -> None:
    assert count_cache_bytes(10_000_000_000, 400_000_000) == 9_150_000_000
    assert count_cache_bytes(10_000_000_000, 400_000_000, other_bytes=5_000_000_000) == 4_150_000_000
