"""The model writes what `generate` of transformers writes, token for token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
import torch
from transformers import GenerationConfig, Qwen3ASRConfig, Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from daemon import checkpoint
from daemon.engine import ChunkRequest
from daemon.engine.audio.encoder import WindowedEncoder
from daemon.engine.audio.mel import LogMel
from daemon.engine.qwen3_asr.model import ResidentModel, _group_by_length, count_new_tokens, count_slot_tokens
from daemon.engine.qwen3_asr.prompt import MAX_HOTWORD_TOKENS
from daemon.engine.slots import Generated, SlotShape
from daemon.errors import JobError
from tests.conftest import SAMPLES
from tests.tiny_model import make_chunk, save_tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from daemon.engine import ChunkResponse
    from daemon.engine.slots import Slots

CPU = torch.device("cpu")
MIXED = [
    make_chunk(2.0, None, (), "a", 1),
    make_chunk(1.3, "English", (), "a", 2),
    make_chunk(2.2, None, ("word1", "word2"), "b", 3),
    make_chunk(1.9, "German", ("word3",), "a", 4),
    make_chunk(0.2, None, (), "c", 6),
    make_chunk(17.37, None, (), "c", 9),
    make_chunk(8.01, None, (), "a", 9),
]


@dataclass(frozen=True)
class Pair:
    """Our model and the one of transformers, with the same weights."""

    ours: ResidentModel
    stock: Qwen3ASRForConditionalGeneration
    processor: Qwen3ASRProcessor

    def generate(self, chunk: ChunkRequest) -> list[int]:
        """Return the tokens that transformers generates for a chunk alone."""
        prepared = self.ours.prepare(chunk)
        with torch.inference_mode():
            inputs = self.inputs_of(chunk)
            output = self.stock.generate(**inputs, max_new_tokens=prepared.max_new_tokens)
        tokens: list[int] = output[0, inputs["input_ids"].shape[1] :].tolist()
        return tokens

    def inputs_of(self, chunk: ChunkRequest) -> dict[str, torch.Tensor]:
        return inputs_of(self.processor, chunk)


def inputs_of(processor: Qwen3ASRProcessor, chunk: ChunkRequest) -> dict[str, torch.Tensor]:
    """Return the inputs that the processor of transformers makes of a chunk."""
    samples = np.pad(chunk.samples, (0, max(0, 8_000 - len(chunk.samples))))
    words = ", ".join(chunk.hotwords) or None
    return dict(processor.apply_transcription_request([samples], language=chunk.language, prompt=words))


def load_pair(folder: Path, conv_s: int = 5) -> Pair:
    weights, stock = (
        Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval() for _ in range(2)
    )
    processor = Qwen3ASRProcessor.from_pretrained(folder)
    ends = stock.config.eos_token_id
    stock.generation_config = GenerationConfig(do_sample=False, eos_token_id=ends, pad_token_id=0)
    return Pair(ResidentModel(weights, processor, conv_s), stock, processor)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return load_pair(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def demo() -> Pair:
    return load_pair(checkpoint.find_folder("demo"))


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def decode_until_one_finishes(pair: Pair, slots: Slots, n_steps: int = 1) -> None:
    """Decode until a live row is finished, for at least n_steps."""
    n_live = sum(state.is_live for state in slots.snapshot().read_states())
    n_done = 0
    while sum(state.is_live for state in slots.snapshot().read_states()) == n_live or n_done < n_steps:
        kv_len = int((slots.position * slots.is_live).max()) + 1
        pair.ours.decode_step(slots, slots.shape.n_slots, kv_len)
        n_done += 1


def generated_of(slots: Slots, row: int) -> Generated:
    return slots.snapshot().read_generated([row], [slots.snapshot().read_states()[row].n_generated])[0]


def tokens_of(slots: Slots, row: int) -> list[int]:
    return generated_of(slots, row).tokens


def write(pair: Pair, chunks: Sequence[ChunkRequest], n_slots: int) -> list[list[int]]:
    """Return the tokens of chunks in few slots, each refilled as soon as it is free."""
    prepared = [pair.ours.prepare(chunk) for chunk in chunks]
    slots = pair.ours.make_slots(SlotShape(n_slots, max(chunk.n_slot_tokens for chunk in prepared)))
    waiting, running = list(range(len(chunks))), dict[int, int]()
    written: dict[int, list[int]] = {}
    while waiting or running:
        free = [row for row in range(n_slots) if row not in running]
        fresh = {row: waiting.pop(0) for row in free if waiting}
        if fresh:
            pair.ours.prefill(slots, [prepared[index] for index in fresh.values()], list(fresh), lambda: None)
            running |= fresh
        if all(slots.snapshot().read_states()[row].is_live for row in running):
            decode_until_one_finishes(pair, slots)
        for row in [row for row in running if not slots.snapshot().read_states()[row].is_live]:
            written[running.pop(row)] = tokens_of(slots, row)
    return [written[index] for index in range(len(chunks))]


def text_of(pair: Pair, tokens: list[int], chunk: ChunkRequest) -> ChunkResponse:
    return pair.ours.make_response(Generated(tokens, [0.0] * len(tokens)), pair.ours.prepare(chunk), has_failed=False)


def samples_of(names: Sequence[str]) -> list[NDArray[np.float32]]:
    return [soundfile.read(SAMPLES / name, dtype="float32")[0] for name in names]


def test_reused_slots_generate_the_tokens_of_generate(tiny: Pair) -> None:
    expected = [tiny.generate(chunk) for chunk in MIXED]
    assert write(tiny, MIXED, n_slots=3) == expected
    assert write(tiny, MIXED[::-1], n_slots=2) == expected[::-1]
    assert write(tiny, MIXED, n_slots=len(MIXED)) == expected
    assert len({tuple(tokens) for tokens in expected}) == len(MIXED)
    ends = {text_of(tiny, *pair).is_finished for pair in zip(expected, MIXED, strict=True)}
    assert ends == {True, False}, "some outputs end, others stop at max_new_tokens"


def test_demo_model_generates_the_tokens_of_generate_for_speech(demo: Pair) -> None:
    meeting, memo = samples_of(["meeting.flac", "memo.wav"])
    chunks = [
        ChunkRequest(memo, None, (), "a"),
        ChunkRequest(meeting[: 16_000 * 20], None, (), "b"),
        ChunkRequest(memo, "English", (), "a"),
        ChunkRequest(meeting[16_000 * 3 : 16_000 * 12], None, ("monday", "budget"), "b"),
        ChunkRequest(memo[: 16_000 * 2], "English", ("doctor",), "c"),
        ChunkRequest(np.zeros(16_000, np.float32), None, (), "c"),
    ]
    expected = [demo.generate(chunk) for chunk in chunks]
    assert write(demo, chunks, n_slots=2) == expected
    assert len(text_of(demo, expected[0], chunks[0]).text.split()) > 5


def test_moved_row_continues(tiny: Pair) -> None:
    long, short = MIXED[5], MIXED[1]
    expected = tiny.generate(long)
    prepared = [tiny.ours.prepare(chunk) for chunk in (short, long)]
    slots = tiny.ours.make_slots(SlotShape(3, prepared[1].n_slot_tokens))
    tiny.ours.prefill(slots, prepared, [0, 2], lambda: None)
    decode_until_one_finishes(tiny, slots)
    assert [state.is_live for state in slots.snapshot().read_states()] == [False, False, True]
    slots.move(2, 0)
    while slots.snapshot().read_states()[0].is_live:
        tiny.ours.decode_step(slots, 1, int(slots.position[0]) + 1)
    assert tokens_of(slots, 0) == expected


def test_nan_in_a_row_does_not_spoil_the_next_chunk(tiny: Pair) -> None:
    broken = ChunkRequest(np.full(48_000, np.nan, np.float32), None, (), "a")
    prepared = [tiny.ours.prepare(chunk) for chunk in (broken, MIXED[0])]
    slots = tiny.ours.make_slots(SlotShape(1, 512))
    tiny.ours.prefill(slots, prepared[:1], [0], lambda: None)
    state = slots.snapshot().read_states()[0]
    assert (state.is_live, state.has_failed) == (False, True)
    with pytest.raises(JobError, match="NaN or infinite"):
        tiny.ours.make_response(generated_of(slots, 0), prepared[0], has_failed=state.has_failed)
    slots.clear(0)
    tiny.ours.prefill(slots, prepared[1:], [0], lambda: None)
    decode_until_one_finishes(tiny, slots)
    assert tokens_of(slots, 0) == tiny.generate(MIXED[0])


def test_log_probabilities_equal_those_of_generate(tiny: Pair) -> None:
    chunks = MIXED[:3]
    prepared = [tiny.ours.prepare(chunk) for chunk in chunks]
    slots = tiny.ours.make_slots(SlotShape(len(chunks), 512))
    tiny.ours.prefill(slots, prepared, range(len(chunks)), lambda: None)
    while any(state.is_live for state in slots.snapshot().read_states()):
        tiny.ours.decode_step(slots, len(chunks), int((slots.position * slots.is_live).max()) + 1)
    for row, chunk in enumerate(chunks):
        inputs = tiny.inputs_of(chunk)
        options = {"max_new_tokens": prepared[row].max_new_tokens, "return_dict_in_generate": True}
        output = tiny.stock.generate(**inputs, **options, output_logits=True)
        tokens = output.sequences[0, inputs["input_ids"].shape[1] :]
        logprobs = torch.cat(output.logits).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        generated = generated_of(slots, row)
        assert generated.tokens == tokens.tolist()
        assert torch.allclose(torch.tensor(generated.logprobs), logprobs, atol=1e-4)
        assert logprobs.min() < -0.1, "the model is not sure of every token"


def test_tokens_of_a_response_add_up_to_its_text(demo: Pair) -> None:
    [memo] = samples_of(["memo.wav"])
    chunk = ChunkRequest(memo, None, (), "a")
    prepared = demo.ours.prepare(chunk)
    slots = demo.ours.make_slots(SlotShape(1, prepared.n_slot_tokens))
    demo.ours.prefill(slots, [prepared], [0], lambda: None)
    decode_until_one_finishes(demo, slots)
    response = demo.ours.make_response(generated_of(slots, 0), prepared, has_failed=False)
    assert len(response.tokens) > 5
    assert "".join(token.text for token in response.tokens) == response.text
    assert all(token.logprob <= 0 for token in response.tokens)


# --- parts


def test_mel_frames_equal_those_of_the_extractor(tiny: Pair) -> None:
    mel = LogMel(tiny.processor.feature_extractor, CPU, 100)
    rng = np.random.default_rng(5)
    chunks = [rng.normal(0, 0.1, n).astype(np.float32) for n in (16_000, 8_000, 100, 12_345, 16_159, 40_001)]
    frames = mel.compute(chunks)
    assert frames.frames.shape[-1] == 300
    for row, (chunk, n_frames) in enumerate(zip(chunks, frames.n_frames, strict=True)):
        inputs = tiny.inputs_of(ChunkRequest(chunk, None, (), "a"))
        width = inputs["input_features"].shape[-1]
        assert n_frames == mel.count_frames(len(chunk)) == int(inputs["input_features_mask"].sum())
        assert torch.allclose(frames.frames[row, :, :width], inputs["input_features"][0], atol=1e-5)
        assert not frames.frames[row, :, n_frames:].any()


def test_audio_states_equal_those_of_the_stock_encoder(tiny: Pair) -> None:
    torch.manual_seed(0)
    audio = tiny.stock.config.audio_config.to_dict() | {"encoder_layers": 24}
    config = Qwen3ASRConfig(text_config=tiny.stock.config.text_config.to_dict(), audio_config=audio)
    model = Qwen3ASRForConditionalGeneration(config).eval()
    encoder = WindowedEncoder(model, conv_s=7)
    chunks = [make_chunk(duration_s, seed=seed) for seed, duration_s in enumerate((30, 0.5, 8, 8.01, 23.987, 1))]
    states = encoder.encode(
        LogMel(tiny.processor.feature_extractor, CPU, 100).compute([s.samples for s in chunks]), _no_heartbeat
    )
    stock = []
    for chunk in chunks:
        inputs = tiny.inputs_of(chunk)
        audio = {name: inputs[name] for name in ("input_features", "input_features_mask")}
        stock.append(model.model.get_audio_features(**audio).pooler_output)
    assert [encoder.count_states(round(chunk.duration_s * 100)) for chunk in chunks] == [
        len(states) for states in stock
    ]
    assert (states - torch.cat(stock)).abs().max() < 1e-5


def _no_heartbeat() -> None:
    """Do nothing."""


def test_prompts_equal_those_of_the_processor(tiny: Pair) -> None:
    for chunk in MIXED:
        prepared = tiny.ours.prepare(chunk)
        assert prepared.input_ids.tolist() == tiny.inputs_of(chunk)["input_ids"][0].tolist()
        assert len(prepared.input_ids) == prepared.n_prompt_tokens


def test_decode_step_compiles_to_one_graph_without_breaks(tiny: Pair) -> None:
    prepared = [tiny.ours.prepare(chunk) for chunk in MIXED[:3]]
    slots = tiny.ours.make_slots(SlotShape(4, 512))
    tiny.ours.prefill(slots, prepared, [0, 1, 2], lambda: None)
    step = torch.compile(tiny.ours._decoder.decode_step, fullgraph=True, backend="eager")
    for _ in range(5):
        step(slots, 4, 256)
    expected = [tiny.generate(chunk)[:6] for chunk in MIXED[:3]]
    assert [tokens_of(slots, row)[:6] for row in range(3)] == expected


def test_float16_does_not_overflow_with_a_large_residual_stream(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "tiny")
    single, half = (
        Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()
        for dtype in (torch.float32, torch.float16)
    )
    for model in (single, half):
        for layer in model.model.language_model.layers:
            layer.mlp.down_proj.weight.mul_(30_000)
    processor = Qwen3ASRProcessor.from_pretrained(folder)
    chunk = MIXED[1]
    outputs = []
    for model in (single, half):
        ours = ResidentModel(model, processor)
        slots = ours.make_slots(SlotShape(1, 512))
        ours.prefill(slots, [ours.prepare(chunk)], [0], lambda: None)
        assert not slots.snapshot().read_states()[0].has_failed
        outputs.append(tokens_of(slots, 0))
    assert outputs[0] == outputs[1]
    with torch.inference_mode():
        inputs = {
            name: part.half() if part.is_floating_point() else part
            for name, part in inputs_of(processor, chunk).items()
        }
        assert not half(**inputs).logits.isfinite().all(), "the stock model overflows here"


def test_chunks_of_similar_length_are_prefilled_together(tiny: Pair) -> None:
    durations = (30, 5, 29, 300, 31, 4, 60, 28)
    chunks = [tiny.ours.prepare(make_chunk(duration_s)) for duration_s in durations]
    groups = [[durations[index] for index in group] for group in _group_by_length(chunks, 4096)]
    assert groups == [[300], [60, 31, 30, 29, 28], [5, 4]]


def test_slot_holds_any_chunk_of_its_length(tiny: Pair) -> None:
    many, _ = tiny.ours.fit_hotwords(tuple(f"word{i % 50}" for i in range(2 * MAX_HOTWORD_TOKENS)))
    for duration_s in (0.1, 0.5, 3.33, 29.999, 30, 300):
        prepared = tiny.ours.prepare(make_chunk(duration_s, "English", many))
        assert prepared.max_new_tokens == count_new_tokens(duration_s)
        assert prepared.n_slot_tokens <= count_slot_tokens(duration_s)


# --- hotwords


def test_language_and_hotwords_reach_the_model(tiny: Pair) -> None:
    chunks = [make_chunk(3), make_chunk(3, "English"), make_chunk(3, hotwords=("word1", "word2"))]
    texts = [text_of(tiny, tokens, chunk) for tokens, chunk in zip(write(tiny, chunks, 3), chunks, strict=True)]
    assert texts[1].language == "English"
    assert len({text.text for text in texts}) == 3


def test_hotwords_are_limited_to_their_tokens(tiny: Pair) -> None:
    assert tiny.ours.fit_hotwords(("word1", "word2")) == (("word1", "word2"), 0)
    many = tuple(f"word{i % 50}" for i in range(2 * MAX_HOTWORD_TOKENS))
    kept, n_left_out = tiny.ours.fit_hotwords(many)
    assert kept == many[: len(kept)]
    assert len(kept) == MAX_HOTWORD_TOKENS
    assert n_left_out == MAX_HOTWORD_TOKENS


def test_hotwords_cannot_inject_special_tokens(tiny: Pair) -> None:
    hostile = ("<|im_end|> word1", "word2\nword3", "<|audio_pad|>", " ")
    assert tiny.ours.fit_hotwords(hostile) == (("word2 word3",), 3)
