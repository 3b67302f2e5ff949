"""Packed prefills as a GPU runs them: compiled, captured, with its own attention kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from structlog.testing import capture_logs
from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from daemon.engine.packed_attention import Sequences, attend_plainly, choose_packed_attention
from daemon.engine.qwen3_asr.model import ResidentModel
from daemon.engine.slots import SlotShape
from tests.gpu.test_engine_gpu import GPU, load_model, transcribe_all
from tests.tiny_model import make_chunk, save_tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from daemon.engine.slots import Slots

pytestmark = pytest.mark.gpu

WORDS = tuple(f"word{index % 50}" for index in range(256))
# From the shortest audio to the longest, also with as many hotwords as fit, and more than one pack holds.
DURATIONS_S = (300, 0.2, 61, 30, 29.99, 8.01, 8, 7.99, 1, 0.5, 126, 17.3, 5, 2.2)
CHUNKS = [
    make_chunk(duration_s, hotwords=WORDS if seed % 3 == 0 else (), job_id=str(seed % 2), seed=seed)
    for seed, duration_s in enumerate(DURATIONS_S)
]
OTHERS = [make_chunk(0.3 + 1.7 * seed, job_id=str(seed % 3), seed=seed) for seed in range(20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def _full_precision() -> Iterator[None]:
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def test_packed_prefills_write_the_text_of_padded_ones(folder: Path) -> None:
    packed, padded = load_model(folder), load_model(folder, is_captured=False)
    with capture_logs() as logs:
        assert transcribe_all(packed, CHUNKS, n_slots=5) == transcribe_all(padded, CHUNKS, n_slots=5)
    assert [log["event"] for log in logs if log["log_level"] != "info"] == []
    assert packed.packed_prefill is not None
    assert padded.packed_prefill is None


def test_nothing_is_compiled_for_chunks_of_other_lengths(folder: Path) -> None:
    model = load_model(folder)
    transcribe_all(model, CHUNKS[1:2], n_slots=5)
    n_graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert n_graphs > 0
    transcribe_all(model, [*OTHERS, *CHUNKS], n_slots=5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == n_graphs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("is_causal", [True, False])
def test_attention_kernels_compute_what_is_defined(dtype: torch.dtype, is_causal: bool) -> None:  # noqa: FBT001  # a parameter of a test
    torch.manual_seed(1)
    starts = torch.tensor([0, 408, 816, 816, 817, 1500, 2048], dtype=torch.int32, device=GPU)
    query = torch.randn(2048, 16, 64, device=GPU, dtype=dtype)
    key, value = torch.randn(2, 2048, 8, 64, device=GPU, dtype=dtype)
    sequences = Sequences(starts, 700, starts, 700, is_causal)
    expected = attend_plainly(query.double(), key.double(), value.double(), sequences)
    attended = choose_packed_attention(GPU, dtype)(query, key, value, sequences)
    error = (attended.double() - expected).norm() / expected.norm()
    assert error < (1e-5 if dtype == torch.float32 else 5e-3)


def make_paged_slots(model: ResidentModel, n_slots: int) -> Slots:
    page_tokens = model.page_tokens
    assert page_tokens is not None, model.fallbacks
    n_pages = n_slots * -(-model.usual_slot_tokens // page_tokens)
    slots = model.make_slots(SlotShape(n_slots, model.usual_slot_tokens, page_tokens, n_pages))
    for row in range(n_slots):
        assert slots.grow(row, model.usual_slot_tokens)
    slots.upload_pages()
    return slots


def first_keys(model: ResidentModel) -> torch.Tensor:
    """Return the keys that the first layer has for the first tokens of some chunks."""
    chunks = [make_chunk(duration_s, seed=seed) for seed, duration_s in enumerate((30, 2, 17, 9.5))]
    with torch.inference_mode():
        prepared = [model.prepare(chunk) for chunk in chunks]
        if model.page_tokens is None:
            slots = model.make_slots(SlotShape(len(chunks), model.usual_slot_tokens))
        else:
            slots = make_paged_slots(model, len(chunks))
        model.prefill(slots, prepared, range(len(chunks)), lambda: None)
        pages = slots.keys[0][slots.pages[: len(chunks), 0].long()]
        return pages[:, :, : prepared[1].n_prompt_tokens].double()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_packed_prefills_are_as_exact_as_padded_ones(folder: Path, dtype: torch.dtype) -> None:
    exact = first_keys(load_model(folder, is_captured=False))
    packed, padded = (
        float((first_keys(load_model(folder, dtype, is_captured=is_captured)) - exact).norm() / exact.norm())
        for is_captured in (True, False)
    )
    assert packed < 1.5 * padded + 0.01


def test_memory_of_captured_prefills_is_not_underestimated(tmp_path: Path) -> None:
    sizes = {"hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 8, "head_dim": 128}
    folder = save_tiny_model(tmp_path / "wide", torch.bfloat16, **sizes)
    weights = Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
    model = ResidentModel(weights.to(GPU).eval(), Qwen3ASRProcessor.from_pretrained(folder))
    with torch.inference_mode():
        make_paged_slots(model, 2)
        model.release_memory()
        before_bytes = torch.cuda.memory_reserved(GPU)
        slots = make_paged_slots(model, 2)
        torch.cuda.synchronize()
        slot_bytes = sum(tensor.nbytes for tensor in (*slots.keys, *slots.values))
        held_bytes = torch.cuda.memory_reserved(GPU) - before_bytes - slot_bytes
    # 450 MB are kept free besides (`device.fit_slots`).
    assert held_bytes < model.working_bytes + 450_000_000
