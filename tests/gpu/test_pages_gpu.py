"""Pages, kernels and captured steps on a real GPU; tests/unit tests their logic on the CPU."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
import torch
from structlog.testing import capture_logs
from transformers import Qwen3ASRConfig, Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from daemon import checkpoint
from daemon.engine import ChunkResponse, Fallback
from daemon.engine.device_loop import DeviceLoop
from daemon.engine.qwen3_asr.decode_attention import KernelAttention
from daemon.engine.qwen3_asr.layers import DecoderLayer, DecoderSizes
from daemon.engine.qwen3_asr.loading import choose_slots
from daemon.engine.qwen3_asr.model import ResidentModel
from daemon.engine.qwen3_asr.self_check import (
    compare_attention,
    compare_choices,
    compare_products,
    find_attention_kernel,
    find_choice_kernel,
    find_few_rows_kernels,
)
from daemon.engine.scheduler import ContinuousEngine
from tests.gpu.test_engine_gpu import GPU, IDENTITY, TIMEOUT_S, load_model
from tests.tiny_model import make_chunk, save_tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from daemon.engine import ChunkRequest
    from daemon.engine.slot_model import PreparedChunk
    from daemon.engine.slots import Generated, Slots

pytestmark = pytest.mark.gpu

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
# What the 1.7B model has.
REAL_SIZES = DecoderSizes(16, 8, 128, 1e-6)
SIX_GB_CARD = 6_200_000_000  # of 6 GiB, what the driver leaves to programs


@DTYPES
@pytest.mark.parametrize("n_rows", [3, 20, 40, 100])
def test_attention_kernel_equals_its_definition(dtype: torch.dtype, n_rows: int) -> None:
    with torch.inference_mode():
        attention = find_attention_kernel(REAL_SIZES, dtype, GPU)
        assert isinstance(attention, KernelAttention)
        compare_attention(attention, REAL_SIZES, n_rows, dtype, GPU)


@DTYPES
def test_products_for_few_rows_equal_their_definition(dtype: torch.dtype) -> None:
    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=GPU).div(40).to(dtype)

    with torch.inference_mode():
        norms = (1 + draw(2048), 1 + draw(2048), 1 + draw(24, 1, 128))
        products = (draw(4096, 2048), draw(2048, 2048), draw(12_288, 2048), draw(2048, 6144))
        layer = DecoderLayer(
            norms[0], products[0], None, norms[2], products[1], None, norms[1], products[2], products[3]
        )
        kernels = find_few_rows_kernels(layer, REAL_SIZES, dtype)
        assert kernels is not None
        assert not isinstance(kernels, Fallback)
        compare_products(kernels, layer, REAL_SIZES, 2)


@DTYPES
def test_choice_kernel_equals_its_definition(dtype: torch.dtype) -> None:
    ends = torch.tensor([151_643, 151_645], device=GPU)
    with torch.inference_mode():
        settle = find_choice_kernel(151_936, dtype, ends)
        assert not isinstance(settle, Fallback)
        compare_choices(settle, 200, 151_936, dtype, ends)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ResidentModel:
    return load_model(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


def transcribe(engine: ContinuousEngine, chunks: Sequence[ChunkRequest]) -> list[ChunkResponse]:
    return [future.result(TIMEOUT_S) for future in [engine.submit(chunk) for chunk in chunks]]


def test_all_kernels_work_here(model: ResidentModel) -> None:
    assert model.fallbacks == []
    assert model.page_tokens == 64


def test_chunks_that_fill_the_cache_are_put_back_and_write_the_same_text(model: ResidentModel) -> None:
    chunks = [make_chunk(1 + seed % 7, seed=seed, job_id=str(seed % 3)) for seed in range(24)]
    written = []
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), capture_logs() as logs:
        for n_slots, slot_tokens in ((4, None), (16, 128)):
            engine = ContinuousEngine(model, IDENTITY, n_slots, DeviceLoop(GPU), slot_tokens)
            try:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr("daemon.engine.slot_model.LIKELY_SHARE", 0.0)
                    written.append(transcribe(engine, chunks))
            finally:
                engine.close()
    assert written[0] == written[1]
    assert {log["event"] for log in logs} == {"engine.chunk_put_back"}


def test_nothing_is_built_after_the_load(model: ResidentModel) -> None:
    engine = ContinuousEngine(model, IDENTITY, 12, DeviceLoop(GPU))
    try:
        transcribe(engine, [make_chunk()])
        engine.note_loaded()
        transcribe(engine, [make_chunk(0.3 + seed % 31, seed=seed, job_id=str(seed % 5)) for seed in range(60)])
        transcribe(engine, [make_chunk(300, seed=1)])
        assert engine.count_late_builds() == 0
    finally:
        engine.close()


class SmallCardModel(ResidentModel):
    """The engine's model with random weights of the real size, on a card that has little memory."""

    n_most_rows = 0

    def count_free_bytes(self) -> int:
        return SIX_GB_CARD - torch.cuda.memory_allocated(GPU)

    def decode_step(self, slots: Slots, n_rows: int, kv_len: int) -> None:
        self.n_most_rows = max(self.n_most_rows, n_rows)
        super().decode_step(slots, n_rows, kv_len)

    def make_response(self, generated: Generated, chunk: PreparedChunk, *, has_failed: bool) -> ChunkResponse:
        assert not has_failed, chunk.n_prompt_tokens
        return ChunkResponse(" ".join(map(str, generated.tokens)), None, is_finished=True)


@pytest.fixture
def small_card() -> Iterator[SmallCardModel]:
    gc.collect()
    torch.cuda.empty_cache()
    before_bytes = torch.cuda.memory_allocated(GPU)
    text = {
        "model_type": "qwen3",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151_936,
        "tie_word_embeddings": True,
    }
    audio = {
        "model_type": "qwen3_asr_encoder",
        "output_dim": 2048,
        "d_model": 1024,
        "encoder_ffn_dim": 4096,
        "encoder_layers": 24,
        "encoder_attention_heads": 16,
        "downsample_hidden_size": 480,
    }
    processor = Qwen3ASRProcessor.from_pretrained(checkpoint.find_folder("demo"))
    config = Qwen3ASRConfig(
        text_config=text, audio_config=audio, audio_token_id=processor.audio_token_id, eos_token_id=0
    )
    torch.set_default_dtype(torch.bfloat16)
    try:
        with GPU:
            weights = Qwen3ASRForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    total_bytes = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.set_per_process_memory_fraction((SIX_GB_CARD + before_bytes) / total_bytes, GPU)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("daemon.engine.device.count_total_bytes", lambda _: SIX_GB_CARD)
            yield SmallCardModel(weights.to(torch.bfloat16), processor, conv_s=60, count_max_new_tokens=lambda _: 120)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, GPU)


def test_6_gb_card_decodes_ten_chunks_of_30_s_together(small_card: SmallCardModel) -> None:
    plan = choose_slots(small_card)
    assert plan.n_slots >= 10
    engine = ContinuousEngine(small_card, IDENTITY, plan.n_slots, DeviceLoop(GPU), plan.slot_tokens)
    try:
        with capture_logs() as logs:
            transcribe(engine, [make_chunk(30, seed=seed) for seed in range(2 * plan.n_slots)])
            transcribe(engine, [make_chunk(300, seed=1)])
        assert [log["event"] for log in logs if log["event"] == "engine.slots_halved"] == []
        assert small_card.n_most_rows >= 10
    finally:
        engine.close()
