"""The way of one piece through the model, from top to bottom. Only one thread may call it.

prepare   samples and settings become a prompt whose length is known
begin     sound to mel frames, to audio states, into the prompt; prompts side by side into free slots
advance   every slot in work writes some tokens; the device decides which, and where an answer ends
finish    the tokens of an ended answer become its text
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from daemon.engine.audio.encoder import WindowedEncoder
from daemon.engine.audio.mel import LogMel, to_device
from daemon.engine.protocol import ChunkResponse
from daemon.engine.qwen3_asr.answer import parse_answer
from daemon.engine.qwen3_asr.graphs import CapturedSteps, Compiler, GraphCapture
from daemon.engine.qwen3_asr.prompt import MAX_FRAME_TOKENS, MAX_HOTWORD_TOKENS, PromptWriter
from daemon.engine.qwen3_asr.slots import Slots, SlotShape
from daemon.engine.qwen3_asr.steps import EagerSteps
from daemon.engine.qwen3_asr.text_decoder import Decoder, Prompts
from daemon.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    import numpy.typing as npt
    from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

    from daemon.engine.protocol import ChunkRequest
    from daemon.engine.qwen3_asr.prompt import PromptFrame
    from daemon.engine.qwen3_asr.slots import CacheSizes
    from daemon.engine.qwen3_asr.steps import Steps

# Fast speech is about 8 syllables a second; the languages that cost most (Thai, Hindi, Greek in a
# byte-level vocabulary) take about 2 tokens for each. The constant is for the language's name, the
# end token, and numbers written out in very short pieces.
_MAX_TOKENS_PER_S: Final = 16
_MAX_TOKENS_EXTRA: Final = 24
_AUDIO_TOKENS_PER_S: Final = 13

# Shapes repeat when lengths are rounded up, and compiled kernels like multiples of eight.
_TOKENS_MULTIPLE: Final = 32
# Prompts that are read side by side, padding counted: nine of 30 s. It bounds the memory of a prefill.
_MAX_PREFILL_TOKENS: Final = 4096
# A CPU gains nothing from more, and what it works on then leaves its caches (a fifth slower, measured).
_MAX_PREFILL_TOKENS_CPU: Final = 2048


def count_answer_tokens(duration_s: float) -> int:
    """Return the most tokens that a piece of this length may need for its answer."""
    return _MAX_TOKENS_EXTRA + round(_MAX_TOKENS_PER_S * duration_s)


def count_slot_tokens(duration_s: float) -> int:
    """Return the most tokens that prompt and answer of a piece of this length take in the cache."""
    n_audio_tokens = round(_AUDIO_TOKENS_PER_S * max(duration_s, 0.5)) + 1
    n_tokens = MAX_FRAME_TOKENS + MAX_HOTWORD_TOKENS + n_audio_tokens + count_answer_tokens(duration_s)
    return round_up(n_tokens, _TOKENS_MULTIPLE)


def round_up(n: int, multiple: int) -> int:
    """Return the next multiple."""
    return -(-n // multiple) * multiple


@dataclass(frozen=True, slots=True, eq=False)
class PreparedChunk:
    """A piece whose way is known.

    Attributes:
        samples: as in the piece.
        frame: the prompt around the sound.
        n_audio_tokens: how many tokens stand for the sound.
        budget: the most tokens its answer may have.
        language: the language it was told to write, or None.
    """

    samples: npt.NDArray[np.float32]
    frame: PromptFrame
    n_audio_tokens: int
    budget: int
    language: str | None

    @property
    def n_prompt_tokens(self) -> int:
        """Tokens before the answer."""
        return len(self.frame) + self.n_audio_tokens

    @property
    def n_slot_tokens(self) -> int:
        """Tokens it needs of a slot; a padded prompt must fit too."""
        n_prompt_tokens = round_up(self.n_prompt_tokens, _TOKENS_MULTIPLE)
        return max(n_prompt_tokens, round_up(self.n_prompt_tokens + self.budget, _TOKENS_MULTIPLE))


class ResidentModel:
    """Qwen3-ASR on its device: how pieces get into slots, how slots go on, how texts come out."""

    def __init__(
        self,
        model: Qwen3ASRForConditionalGeneration,
        processor: Qwen3ASRProcessor,
        conv_s: int = 128,
        count_budget: Callable[[ChunkRequest], int] = lambda piece: count_answer_tokens(piece.duration_s),
        *,
        is_captured: bool | None = None,
    ) -> None:
        """Take over a model that lies on its device.

        Args:
            model: in evaluation mode.
            processor: its tokenizer, template and mel filters.
            conv_s: seconds of sound that are convolved at once.
            count_budget: returns the most tokens of the answer to a piece.
            is_captured: whether layers are compiled and steps captured; None where that is of use, on a GPU.
        """
        self.device: torch.device = model.device
        self._end_tokens = frozenset(_end_tokens(model, processor))
        self._prompts = PromptWriter(processor)
        if is_captured is None:
            is_captured = self.device.type == "cuda"
        compiled = Compiler() if is_captured else _as_it_is
        self._encoder = WindowedEncoder(model, conv_s, compiled)
        self._decoder = Decoder(model, sorted(self._end_tokens), compiled)
        self._mel = LogMel(processor.feature_extractor, self.device, self._encoder.block_frames)
        self._steps: Steps = EagerSteps(self._decoder)
        if is_captured:
            self._steps = CapturedSteps(self._decoder, GraphCapture)
        self._max_prefill_tokens = _MAX_PREFILL_TOKENS_CPU if self.device.type == "cpu" else _MAX_PREFILL_TOKENS
        self._count_budget = count_budget

    @property
    def cache_sizes(self) -> CacheSizes:
        """What a token takes in the cache."""
        return self._decoder.cache_sizes

    @property
    def convolution_bytes(self) -> int:
        """Memory that the widest convolution takes for a while."""
        return self._encoder.convolution_bytes

    @property
    def steps_per_read(self) -> int:
        """Steps that are worth taking before the host looks at what the device has decided."""
        return self._steps.per_read

    def fit_hotwords(self, hotwords: Sequence[str]) -> tuple[tuple[str, ...], int]:
        """Return the leading hotwords that fit the model's context, and how many were cut. Any thread may call it."""
        return self._prompts.fit_hotwords(hotwords)

    def make_slots(self, shape: SlotShape) -> Slots:
        """Allocate slots, empty, and make the decode step ready for them."""
        slots = Slots(shape, self.cache_sizes)
        self._steps.adopt(slots)
        return slots

    def release_memory(self) -> None:
        """Give back to the device what no tensor uses any more."""
        self._steps.drop()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def count_free_bytes(self) -> int | None:
        """Return the memory of the device that could be had; None where nobody knows."""
        if self.device.type != "cuda":
            return None
        free_bytes, _ = torch.cuda.mem_get_info(self.device)
        return free_bytes + torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)

    def on_device(self) -> AbstractContextManager[object]:
        """Return what the thread that calls the model has to be within."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    # The way of a piece

    def prepare(self, piece: ChunkRequest) -> PreparedChunk:
        """Reckon up what a piece needs. Work of the host alone.

        Raises:
            ValueError: the model knows no such language.
        """
        frame = self._prompts.frame(piece.language, piece.hotwords)
        n_audio_tokens = self._encoder.count_states(self._mel.count_frames(len(piece.samples)))
        return PreparedChunk(piece.samples, frame, n_audio_tokens, self._count_budget(piece), piece.language)

    def begin(
        self, slots: Slots, pieces: Sequence[PreparedChunk], rows: Sequence[int], heartbeat: Callable[[], None]
    ) -> None:
        """Read pieces into free rows, and write the first token of each answer.

        Args:
            slots: with rows long enough for the pieces.
            pieces: at least one.
            rows: a free row for each.
            heartbeat: called at every layer; what it raises ends the work.
        """
        for group in _side_by_side(pieces, self._max_prefill_tokens):
            self._begin_group(slots, [pieces[index] for index in group], [rows[index] for index in group], heartbeat)

    def advance(self, slots: Slots, n_rows: int, n_columns: int) -> None:
        """Write one more token into each row that is live; nothing here waits for the device.

        Args:
            slots: the rows.
            n_rows: no row from here on is live.
            n_columns: every live row's position lies below it.
        """
        self._steps.run(slots, n_rows, n_columns)

    def finish(self, tokens: Sequence[int], piece: PreparedChunk, *, has_failed: bool) -> ChunkResponse:
        """Return the text that the tokens of an ended answer spell.

        Raises:
            JobError: the model computed no numbers for this piece.
        """
        if has_failed:
            raise JobError(
                "The model computed no numbers for this sound.",
                "If model.dtype is float16, set it to float32: that type overflows.",
            )
        is_finished = tokens[-1] in self._end_tokens
        raw = self._prompts.read(tokens[:-1] if is_finished else tokens)
        text, language = parse_answer(raw, piece.language)
        return ChunkResponse(text, language, is_finished)

    # Its parts

    def _begin_group(
        self, slots: Slots, pieces: Sequence[PreparedChunk], rows: Sequence[int], heartbeat: Callable[[], None]
    ) -> None:
        heartbeat()
        mel = self._mel.compute([piece.samples for piece in pieces])
        states = self._encoder.encode(mel, heartbeat)
        self._decoder.prefill(slots, self._embed(pieces, states, rows), heartbeat)

    def _embed(self, pieces: Sequence[PreparedChunk], states: torch.Tensor, rows: Sequence[int]) -> Prompts:
        """Put the audio states where the prompts have their places for them."""
        n_tokens = [piece.n_prompt_tokens for piece in pieces]
        ids = np.zeros((len(pieces), round_up(max(n_tokens), _TOKENS_MULTIPLE)), np.int64)
        for row, piece in zip(ids, pieces, strict=True):
            row[: piece.n_prompt_tokens] = piece.frame.around(self._prompts.audio_token, piece.n_audio_tokens)
        embedded = self._decoder.embed(to_device(ids, self.device))
        is_audio = np.flatnonzero(ids == self._prompts.audio_token)
        embedded.view(-1, embedded.shape[-1])[to_device(is_audio, self.device)] = states
        lengths, places, budgets = (
            to_device(np.array(numbers), self.device)
            for numbers in (n_tokens, list(rows), [piece.budget for piece in pieces])
        )
        return Prompts(embedded, lengths, places, budgets)


def _side_by_side(pieces: Sequence[PreparedChunk], max_tokens: int) -> list[list[int]]:
    """Group pieces of like length, so that little is padded and no group exceeds its memory."""
    groups: list[list[int]] = []
    for index in sorted(range(len(pieces)), key=lambda index: -pieces[index].n_prompt_tokens):
        longest = pieces[groups[-1][0]].n_prompt_tokens if groups else 0
        if not groups or (len(groups[-1]) + 1) * round_up(longest, _TOKENS_MULTIPLE) > max_tokens:
            groups.append([])
        groups[-1].append(index)
    return groups


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _end_tokens(model: Qwen3ASRForConditionalGeneration, processor: Qwen3ASRProcessor) -> list[int]:
    """Return the tokens that end an answer, from the first place that names any."""
    places = (model.generation_config.eos_token_id, model.config.eos_token_id, processor.tokenizer.eos_token_id)
    for ids in places:
        if ids is not None:
            return [ids] if isinstance(ids, int) else list(ids)
    raise ValueError("neither generation_config.json nor config.json nor the tokenizer names an end token")
