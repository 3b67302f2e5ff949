"""The resident model itself: a batch of pieces in, their texts out. Only one thread may call it."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from daemon.engine.answer import parse_answer
from daemon.engine.protocol import SAMPLE_RATE_HZ, Piece, PieceText
from daemon.errors import EngineLostError, JobError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

# Shorter sounds come back blank; the original library pads them to half a second too, some versions
# of transformers do not (qwen_asr/inference/utils.py, MIN_ASR_INPUT_SECONDS).
_MIN_SAMPLES: Final = SAMPLE_RATE_HZ // 2

# Fast speech is about 8 syllables a second; the languages that cost most (Thai, Hindi, Greek in a
# byte-level vocabulary) take about 2 tokens for each. The constant is for the language's name, the
# end token, and numbers written out in very short pieces.
_MAX_TOKENS_PER_S: Final = 16
_MAX_TOKENS_EXTRA: Final = 24

# Beyond some sixty names a list helps no word and is echoed more often; the figure also keeps room
# for the sound and the answer in one slot.
MAX_HOTWORD_TOKENS: Final = 256
# System, user and assistant turns around the sound: 18 in the real vocabulary.
_N_FRAME_TOKENS: Final = 32
_AUDIO_TOKENS_PER_S: Final = 13


def count_answer_tokens(duration_s: float) -> int:
    """Return the most tokens that a piece of this length may need for its answer."""
    return _MAX_TOKENS_EXTRA + round(_MAX_TOKENS_PER_S * duration_s)


def count_slot_tokens(duration_s: float) -> int:
    """Return the most tokens that prompt and answer of a piece of this length take in the cache."""
    n_audio_tokens = round(_AUDIO_TOKENS_PER_S * duration_s) + 1
    return _N_FRAME_TOKENS + MAX_HOTWORD_TOKENS + n_audio_tokens + count_answer_tokens(duration_s)


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """A batch as the model takes it; prompts are padded on the left, features on the right.

    Attributes:
        input_ids: int64, shape (n_pieces, n_tokens).
        attention_mask: int64, the same shape.
        input_features: log-mel, shape (n_pieces, n_mels, n_frames).
        input_features_mask: shape (n_pieces, n_frames).
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    input_features: torch.Tensor
    input_features_mask: torch.Tensor


class ResidentModel:
    """Qwen3-ASR on its device, with its processor."""

    def __init__(self, model: Qwen3ASRForConditionalGeneration, processor: Qwen3ASRProcessor) -> None:
        self._model = model
        self._processor = processor
        # The engine's thread uses the tokenizer, and any thread through fit_hotwords; it is not safe for two.
        self._tokenizing = Lock()
        self._marks = tuple(token for token in processor.tokenizer.get_added_vocab() if token.startswith("<"))
        self._eos_ids = _end_tokens(model, processor)
        # The checkpoint's own settings may sample or penalise; ours are plain greedy decoding.
        model.generation_config = GenerationConfig(
            do_sample=False, num_beams=1, eos_token_id=self._eos_ids, pad_token_id=self._eos_ids[0]
        )
        self._pulse: Callable[[], None] = _no_pulse
        for layer in (*model.model.audio_tower.layers, *model.model.language_model.layers):
            layer.register_forward_pre_hook(self._before_layer)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        device: torch.device = self._model.device
        return device

    def count_slot_bytes(self, duration_s: float) -> int:
        """Return the memory that a piece of this length takes in a batch, besides the weights.

        Its peak is either the encoder's first convolution, over all seconds at once with its output
        and the activation of it; or, later, the cache, twice, because it grows by copying.
        """
        audio, text = self._model.config.audio_config, self._model.config.text_config
        n_bytes = self._model.dtype.itemsize
        n_frames_per_s = 100
        n_map_values = audio.downsample_hidden_size * (audio.num_mel_bins // 2) * (n_frames_per_s // 2)
        encoder_bytes = 2 * n_bytes * n_map_values * duration_s
        n_cache_values = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim
        cache_bytes = 2 * n_bytes * n_cache_values * count_slot_tokens(duration_s)
        return int(max(encoder_bytes, cache_bytes))

    def fit_hotwords(self, hotwords: Sequence[str]) -> tuple[tuple[str, ...], int]:
        """Return the leading hotwords that fit MAX_HOTWORD_TOKENS, and how many were cut.

        Also cut is a hotword which the prompt would read as one of its own marks, such as "<|im_end|>".
        """
        kept: list[str] = []
        for hotword in hotwords:
            word = " ".join(hotword.split())
            if not word or any(mark in word for mark in self._marks):
                continue
            with self._tokenizing:
                n_tokens = len(self._processor.tokenizer.encode(_to_prompt([*kept, word]), add_special_tokens=False))
            if n_tokens > MAX_HOTWORD_TOKENS:
                break
            kept.append(word)
        return tuple(kept), len(hotwords) - len(kept)

    def transcribe(self, pieces: Sequence[Piece], pulse: Callable[[], None]) -> list[PieceText]:
        """Return the text of each piece, in their order.

        A piece's text does not depend on what else is in the batch: padding is masked, each answer is
        judged by its own token budget, and features are computed for each alone. (Given a batch, the
        processor lets the padding into the last frames of shorter sounds: 4 % of the audio states'
        range, measured.)

        Args:
            pieces: at least one.
            pulse: called at every layer and token, many times a second; what it raises ends the work.

        Raises:
            TransientError: memory is short; a smaller batch may fit.
            EngineLostError: the device cannot go on in this process.
            JobError: the model computed no numbers for one of the pieces.
        """
        self._pulse = pulse
        try:
            with torch.inference_mode():
                return self._transcribe(pieces)
        except (RuntimeError, MemoryError) as error:
            failure = _explain(error, len(pieces))
            if failure is None:
                raise
        finally:
            self._pulse = _no_pulse
        # Out here, for the other error's traceback holds the batch's memory, and would go along with this one.
        if isinstance(failure, TransientError) and self.device.type == "cuda":
            torch.cuda.empty_cache()
        raise failure

    def _transcribe(self, pieces: Sequence[Piece]) -> list[PieceText]:
        inputs = self._collate([self._prepare(piece) for piece in pieces])
        budgets = [count_answer_tokens(piece.duration_s) for piece in pieces]
        n_prompt_tokens = inputs.input_ids.shape[1]
        watch = _NumberWatch()
        output = self._model.generate(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            input_features=inputs.input_features,
            input_features_mask=inputs.input_features_mask,
            max_new_tokens=max(budgets),
            logits_processor=LogitsProcessorList([watch]),
            stopping_criteria=StoppingCriteriaList([_Budgets(budgets, n_prompt_tokens, self.device)]),
        )
        if watch.has_failed():
            raise JobError(
                "The model computed no numbers for this sound.",
                "If model.dtype is float16, set it to auto: that type overflows.",
            )
        answers = output[:, n_prompt_tokens:].tolist()
        return [self._read(*row) for row in zip(answers, budgets, pieces, strict=True)]

    def _prepare(self, piece: Piece) -> dict[str, torch.Tensor]:
        """Return tokens and log-mel features of one piece, each with a first axis of 1."""
        samples = piece.samples
        if len(samples) < _MIN_SAMPLES:
            samples = np.pad(samples, (0, _MIN_SAMPLES - len(samples)))
        hotwords, _ = self.fit_hotwords(piece.hotwords)
        with self._tokenizing:
            inputs: dict[str, torch.Tensor] = self._processor.apply_transcription_request(
                [samples], language=piece.language, prompt=_to_prompt(hotwords) or None
            )
        return inputs

    def _collate(self, rows: Sequence[dict[str, torch.Tensor]]) -> _Inputs:
        device, dtype = self._model.device, self._model.dtype
        pad_id = self._eos_ids[0]

        def pad(name: str, value: int, side: str) -> torch.Tensor:
            """Stack what the rows hold under this name, which varies in its last axis."""
            varying_first = [row[name][0].movedim(-1, 0) for row in rows]
            stacked = pad_sequence(varying_first, batch_first=True, padding_value=value, padding_side=side)
            return stacked.movedim(1, -1).contiguous().to(device)

        return _Inputs(
            input_ids=pad("input_ids", pad_id, "left"),
            attention_mask=pad("attention_mask", 0, "left"),
            input_features=pad("input_features", 0, "right").to(dtype),
            input_features_mask=pad("input_features_mask", 0, "right"),
        )

    def _read(self, tokens: list[int], budget: int, piece: Piece) -> PieceText:
        # Behind a row's budget stands padding, and the padding token is an end token.
        tokens = tokens[:budget]
        ends = [at for at, token in enumerate(tokens) if token in self._eos_ids]
        with self._tokenizing:
            raw = self._processor.tokenizer.decode(tokens[: ends[0]] if ends else tokens, skip_special_tokens=False)
        text, language = parse_answer(raw, piece.language)
        return PieceText(text, language, is_finished=bool(ends))

    def _before_layer(self, *_: object) -> None:
        self._pulse()


class _Budgets(StoppingCriteria):  # type: ignore[misc]  # transformers ships no types
    """Ends each row at its own token budget, so that a long one keeps no short one going."""

    def __init__(self, budgets: Sequence[int], n_prompt_tokens: int, device: torch.device) -> None:
        self._budgets = torch.tensor(budgets, device=device)
        self._n_prompt_tokens = n_prompt_tokens

    def __call__(self, input_ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return self._budgets <= input_ids.shape[1] - self._n_prompt_tokens


class _NumberWatch(LogitsProcessor):  # type: ignore[misc]  # transformers ships no types
    """Notes, without a wait for the device, whether a score is not a number: greedy choice would hide it."""

    def __init__(self) -> None:
        self._failed: torch.Tensor | None = None

    def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        failed = torch.isnan(scores).any()
        self._failed = failed if self._failed is None else self._failed | failed
        return scores

    def has_failed(self) -> bool:
        """Whether any score was not a number."""
        return self._failed is not None and bool(self._failed)


def _to_prompt(hotwords: Sequence[str]) -> str:
    """Return hotwords as the context which the model reads before the sound."""
    return ", ".join(hotwords)


def _no_pulse() -> None:
    """Do nothing: no batch is running."""


def _end_tokens(model: Qwen3ASRForConditionalGeneration, processor: Qwen3ASRProcessor) -> list[int]:
    """Return the tokens that end an answer, from the first place that names any."""
    places = (model.generation_config.eos_token_id, model.config.eos_token_id, processor.tokenizer.eos_token_id)
    for ids in places:
        if ids is not None:
            return [ids] if isinstance(ids, int) else list(ids)
    raise ValueError("neither generation_config.json nor config.json nor the tokenizer names an end token")


def _explain(error: Exception, n_pieces: int) -> TransientError | EngineLostError | None:
    """Say what an error of torch means for the engine; None where it means nothing for it."""
    message = str(error)
    # A plain RuntimeError tells of short memory on the CPU (DefaultCPUAllocator) and in cuBLAS.
    is_memory = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        sign in message for sign in ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
    )
    if is_memory:
        return TransientError(
            f"The memory of the device is too short for {n_pieces} pieces at once.",
            "Free memory on the GPU, or set a smaller segment.max_chunk_s.",
        )
    is_device = isinstance(error, torch.AcceleratorError) or any(
        sign in message for sign in ("CUDA error", "CUDA driver error", "CUBLAS_STATUS", "CUDNN_STATUS")
    )
    if is_device:
        return EngineLostError(
            f"The GPU stopped answering: {message.splitlines()[0]}",
            "The daemon ends and systemd starts it again; if this repeats, look into `journalctl -k` for Xid errors.",
        )
    return None
