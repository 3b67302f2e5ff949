"""The way of a chunk through Qwen3-ASR. Only the device thread may call it, except for `prepare`.

prepare         samples and settings to a prompt of known length
prefill         samples to mel frames to audio states, into the prompt; prompts together into free rows
decode_step     one more token in every live row; the device decides which, and where the output ends
make_response   the generated tokens of a finished chunk to text
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from daemon.decode import SAMPLE_RATE_HZ
from daemon.engine import device as devices
from daemon.engine.audio.encoder import WindowedEncoder
from daemon.engine.audio.mel import LogMel, to_device
from daemon.engine.compiling import uncompiled
from daemon.engine.protocol import MAX_CHUNK_S, SLOT_S, ChunkRequest, ChunkResponse
from daemon.engine.qwen3_asr.decode_steps import EagerSteps
from daemon.engine.qwen3_asr.graphs import CapturedSteps, Compiler, GraphCapture, count_compiled
from daemon.engine.qwen3_asr.output import parse_output, split_by_token
from daemon.engine.qwen3_asr.packed_prefill import PackedPrefill, make_packer
from daemon.engine.qwen3_asr.packing import choose_sizes
from daemon.engine.qwen3_asr.prompt import MAX_FRAME_TOKENS, MAX_HOTWORD_TOKENS, PromptWriter
from daemon.engine.qwen3_asr.self_check import find_prefill_fault
from daemon.engine.qwen3_asr.text_decoder import Prompts, TextDecoder
from daemon.engine.slot_model import LIKELY_SHARE, TOKENS_MULTIPLE, PreparedChunk
from daemon.engine.slots import Slots, SlotShape, round_up
from daemon.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

    from daemon.engine.protocol import Fallback
    from daemon.engine.qwen3_asr.decode_steps import Capture, DecodeSteps
    from daemon.engine.slots import Generated, KVCacheSpec

# Fast speech has about 8 syllables a second; the most expensive languages (Thai, Hindi, Greek in a byte-level
# vocabulary) take about 2 tokens per syllable. The constant covers the language's name, the end token, and numbers
# that are written out in very short chunks.
_MAX_TOKENS_PER_S: Final = 16
_MAX_EXTRA_TOKENS: Final = 24
_AUDIO_TOKENS_PER_S: Final = 13

# Tokens of prompts that are prefilled together, padding included: nine chunks of 30 s. It limits the memory used.
_MAX_PREFILL_TOKENS: Final = 4096
# A CPU gains nothing from more, and larger prefills do not fit its caches (a fifth slower, measured).
_MAX_PREFILL_TOKENS_CPU: Final = 2048
# With this many rows on a GPU, the host's work between two reads is worth hiding behind the next steps. With fewer,
# the steps computed in vain for finished rows would cost more.
_MIN_ROWS_AHEAD: Final = 32


def count_new_tokens(duration_s: float) -> int:
    """Return the most tokens that the text of a chunk of this length may need."""
    return _MAX_EXTRA_TOKENS + round(_MAX_TOKENS_PER_S * duration_s)


def count_slot_tokens(duration_s: float) -> int:
    """Return the most tokens that the prompt and the output of a chunk of this length take in the KV cache."""
    n_audio_tokens = round(_AUDIO_TOKENS_PER_S * max(duration_s, 0.5)) + 1
    n_tokens = MAX_FRAME_TOKENS + MAX_HOTWORD_TOKENS + n_audio_tokens + count_new_tokens(duration_s)
    return round_up(n_tokens, TOKENS_MULTIPLE)


def count_likely_tokens(duration_s: float) -> int:
    """Return the tokens in the KV cache that a chunk of this length without hotwords will hardly exceed."""
    n_audio_tokens = round(_AUDIO_TOKENS_PER_S * max(duration_s, 0.5)) + 1
    n_prompt_tokens = MAX_FRAME_TOKENS + n_audio_tokens
    return n_prompt_tokens + round(LIKELY_SHARE * count_new_tokens(duration_s))


class ResidentModel:
    """Qwen3-ASR on its device; see `SlotModel`.

    Args:
        model: in evaluation mode, on its device.
        processor: tokenizer, chat template and mel filters.
        conv_s: seconds of audio to convolve at once.
        count_max_new_tokens: returns the most tokens to generate for a chunk.
        is_captured: whether layers are compiled and steps captured; None means on a GPU only.

    Attributes:
        fallbacks: what would make it fast and does not work on this machine.
        packed_prefill: how chunks are prefilled into slots that share pages; None if there are no such slots.
        report: called on the device thread with one sentence for each part of making slots that takes long.
    """

    def __init__(
        self,
        model: Qwen3ASRForConditionalGeneration,
        processor: Qwen3ASRProcessor,
        conv_s: int = 128,
        count_max_new_tokens: Callable[[ChunkRequest], int] = lambda chunk: count_new_tokens(chunk.duration_s),
        *,
        is_captured: bool | None = None,
    ) -> None:
        self.device: torch.device = model.device
        self._end_tokens = frozenset(_find_end_tokens(model, processor))
        self._prompts = PromptWriter(processor)
        if is_captured is None:
            is_captured = self.device.type == "cuda"
        compiled = Compiler() if is_captured else uncompiled
        self._encoder = WindowedEncoder(model, conv_s, compiled)
        self._decoder = TextDecoder(model, sorted(self._end_tokens), compiled)
        self.fallbacks: list[Fallback] = []
        if is_captured and self.device.type == "cuda":
            self.fallbacks += self._decoder.use_kernels()
        self._mel = LogMel(processor.feature_extractor, self.device, self._encoder.block_frames, compiled)
        sizes = choose_sizes(devices.count_total_bytes(self.device))
        self._packer = make_packer(sizes, self._mel, self._encoder, self._prompts.audio_token)
        self.packed_prefill: PackedPrefill | None = None
        self._may_pack = True
        self.report: Callable[[str], None] = lambda _: None
        self._n_captured = 0
        self._steps: DecodeSteps = EagerSteps(self._decoder)
        self._make_capture: Callable[[], Capture | None] = lambda: None
        if is_captured:
            self._steps = CapturedSteps(self._decoder)
            self._make_capture = lambda: GraphCapture(self._note_capture)
        self.min_rows_ahead: int | None = _MIN_ROWS_AHEAD if self.device.type == "cuda" else None
        self._max_prefill_tokens = _MAX_PREFILL_TOKENS_CPU if self.device.type == "cpu" else _MAX_PREFILL_TOKENS
        self._count_max_new_tokens = count_max_new_tokens

    @property
    def kv_cache_spec(self) -> KVCacheSpec:
        """Size of a token in the KV cache."""
        return self._decoder.kv_cache_spec

    @property
    def usual_slot_tokens(self) -> int:
        """Tokens of a slot that holds any chunk of SLOT_S."""
        return count_slot_tokens(SLOT_S)

    @property
    def likely_slot_tokens(self) -> int:
        """Tokens of a slot that a chunk of SLOT_S without hotwords will hardly exceed."""
        return count_likely_tokens(SLOT_S)

    @property
    def longest_slot_tokens(self) -> int:
        """Tokens of a slot that holds any chunk of MAX_CHUNK_S."""
        return count_slot_tokens(MAX_CHUNK_S)

    @property
    def page_tokens(self) -> int | None:
        """Tokens of a page of the KV cache; None if each slot has a page of its own."""
        return self._decoder.attention.page_tokens

    @property
    def working_bytes(self) -> int:
        """Memory of the widest convolution and of the tokens that are prefilled together."""
        n_bytes = self._encoder.working_bytes
        if self.page_tokens is not None:  # what is captured keeps its memory
            n_bytes += max(size.n_tokens for size in self._packer.sizes) * self._decoder.working_token_bytes
        return n_bytes

    @property
    def steps_per_sync(self) -> int:
        """Decode steps to run before the host reads what the device has decided."""
        return self._steps.per_sync

    def count_builds(self) -> int:
        """Return how many functions have been compiled or captured so far."""
        return count_compiled() + self._n_captured

    def _note_capture(self) -> None:
        self._n_captured += 1

    def count_free_bytes(self) -> int | None:
        """Return the memory that could still be allocated on the device; None if unknown (on a CPU)."""
        return devices.count_free_bytes(self.device)

    def fit_hotwords(self, hotwords: Sequence[str]) -> tuple[tuple[str, ...], int]:
        """Return the leading hotwords that fit into the context, and how many were left out. Thread-safe."""
        return self._prompts.fit_hotwords(hotwords)

    def make_slots(self, shape: SlotShape, heartbeat: Callable[[], None] = lambda: None) -> Slots:
        """Allocate empty slots and make the decode step ready for them."""
        slots, capture = self._allocate(shape), self._make_capture()
        if shape.page_tokens is not None and self._may_pack:
            self.report("Compiling and capturing prefills; the first time on a machine this takes a minute or two.")
            # Prefills take more memory than steps, which fit into it later.
            self._bind_packed_prefill(slots, capture, heartbeat)
        if capture is not None:
            self.report("Capturing decode steps.")
        self._steps.bind(slots, capture, heartbeat)
        return slots

    def _bind_packed_prefill(self, slots: Slots, capture: Capture | None, heartbeat: Callable[[], None]) -> None:
        is_new = self.packed_prefill is None
        if self.packed_prefill is None:
            parts = (self._mel, self._encoder, self._decoder)
            self.packed_prefill = PackedPrefill(self._packer, *parts, self.device)
        self.packed_prefill.bind(slots, capture, heartbeat)
        if not is_new or capture is None:
            return
        chunks = [self.prepare(chunk) for chunk in make_test_chunks()]
        fault = find_prefill_fault(slots, chunks, self.packed_prefill.prefill, self._prefill_padded)
        if fault is not None:
            self.fallbacks.append(fault)
            self.packed_prefill, self._may_pack = None, False

    def _allocate(self, shape: SlotShape) -> Slots:
        return Slots(shape, self.kv_cache_spec)

    def release_memory(self) -> None:
        """Forget the slots and return unused memory to the device."""
        self._steps.unbind()
        if self.packed_prefill is not None:
            self.packed_prefill.unbind()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    # The way of a chunk

    def prepare(self, chunk: ChunkRequest) -> PreparedChunk:
        """Build the prompt of a chunk, on the host alone. Thread-safe.

        Raises:
            ValueError: the model does not know the language.
        """
        frame = self._prompts.frame(chunk.language, chunk.hotwords)
        n_audio_tokens = self._encoder.count_states(self._mel.count_frames(len(chunk.samples)))
        input_ids = frame.fill(self._prompts.audio_token, n_audio_tokens)
        return PreparedChunk(chunk.samples, input_ids, self._count_max_new_tokens(chunk), chunk.language)

    def prefill(
        self, slots: Slots, chunks: Sequence[PreparedChunk], rows: Sequence[int], heartbeat: Callable[[], None]
    ) -> None:
        """Read the prompts of chunks into free rows and generate the first token of each; see `SlotModel`."""
        if self.packed_prefill is not None and slots.shape.page_tokens is not None:
            self.packed_prefill.prefill(slots, chunks, rows, heartbeat)
        else:
            self._prefill_padded(slots, chunks, rows, heartbeat)

    def _prefill_padded(
        self, slots: Slots, chunks: Sequence[PreparedChunk], rows: Sequence[int], heartbeat: Callable[[], None]
    ) -> None:
        for group in _group_by_length(chunks, self._max_prefill_tokens):
            self._prefill_group(slots, [chunks[index] for index in group], [rows[index] for index in group], heartbeat)

    def decode_step(self, slots: Slots, n_rows: int, kv_len: int) -> None:
        """Generate one more token in each live row, without waiting for the device; see `SlotModel`."""
        self._steps.run(slots, n_rows, kv_len)

    def make_response(self, generated: Generated, chunk: PreparedChunk, *, has_failed: bool) -> ChunkResponse:
        """Return the text of a finished chunk, and the confidence in each part of it.

        Raises:
            JobError: a logit was NaN or infinite.
        """
        if has_failed:
            raise JobError(
                "The model produced NaN or infinite values for this audio.",
                "If model.dtype is float16, set it to float32: float16 overflows.",
            )
        is_finished = generated.tokens[-1] in self._end_tokens
        n_tokens = len(generated.tokens) - is_finished
        parts = self._prompts.decode(generated.tokens[:n_tokens])
        output = parse_output("".join(parts), chunk.language)
        tokens = split_by_token(output, parts, generated.logprobs[:n_tokens])
        return ChunkResponse(output.text, output.language, is_finished, tokens)

    # Parts of the prefill

    def _prefill_group(
        self, slots: Slots, chunks: Sequence[PreparedChunk], rows: Sequence[int], heartbeat: Callable[[], None]
    ) -> None:
        heartbeat()
        mel = self._mel.compute([chunk.samples for chunk in chunks])
        states = self._encoder.encode(mel, heartbeat)
        multiple = max(TOKENS_MULTIPLE, slots.shape.page_tokens or 0)  # whole pages are written
        self._decoder.prefill(slots, self._embed(chunks, states, rows, multiple), heartbeat)

    def _embed(
        self, chunks: Sequence[PreparedChunk], states: torch.Tensor, rows: Sequence[int], multiple: int
    ) -> Prompts:
        """Embed the prompts, padded to a multiple of tokens, and put the audio states in the place of audio tokens."""
        n_tokens = [chunk.n_prompt_tokens for chunk in chunks]
        input_ids = np.zeros((len(chunks), round_up(max(n_tokens), multiple)), np.int64)
        for row, chunk in zip(input_ids, chunks, strict=True):
            row[: chunk.n_prompt_tokens] = chunk.input_ids
        inputs_embeds = self._decoder.embed(to_device(input_ids, self.device))
        is_audio = np.flatnonzero(input_ids == self._prompts.audio_token)
        inputs_embeds.view(-1, inputs_embeds.shape[-1])[to_device(is_audio, self.device)] = states
        lengths, places, max_new_tokens = (
            to_device(np.array(numbers), self.device)
            for numbers in (n_tokens, list(rows), [chunk.max_new_tokens for chunk in chunks])
        )
        return Prompts(inputs_embeds, lengths, places, max_new_tokens)


def make_test_chunks() -> list[ChunkRequest]:
    """Return two chunks of quiet noise: a window and a part of one, and a part alone."""
    noise = np.random.default_rng(0).normal(0, 1e-2, 10 * SAMPLE_RATE_HZ).astype(np.float32)
    lengths = (round(9.3 * SAMPLE_RATE_HZ), 2 * SAMPLE_RATE_HZ)
    return [ChunkRequest(noise[:length], None, (), "test") for length in lengths]


def _group_by_length(chunks: Sequence[PreparedChunk], max_tokens: int) -> list[list[int]]:
    """Return groups of indices to chunks of similar length, so that padding is small and memory is limited."""
    groups: list[list[int]] = []
    for index in sorted(range(len(chunks)), key=lambda index: -chunks[index].n_prompt_tokens):
        longest = chunks[groups[-1][0]].n_prompt_tokens if groups else 0
        if not groups or (len(groups[-1]) + 1) * round_up(longest, TOKENS_MULTIPLE) > max_tokens:
            groups.append([])
        groups[-1].append(index)
    return groups


def _find_end_tokens(model: Qwen3ASRForConditionalGeneration, processor: Qwen3ASRProcessor) -> list[int]:
    """Return the tokens that end the output, from the first place that names any."""
    places = (model.generation_config.eos_token_id, model.config.eos_token_id, processor.tokenizer.eos_token_id)
    for ids in places:
        if ids is not None:
            return [ids] if isinstance(ids, int) else list(ids)
    raise ValueError("neither generation_config.json nor config.json nor the tokenizer names an end token")
