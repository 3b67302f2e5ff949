"""A tiny model of the real architecture with random weights, saved as transformers saves the real one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRProcessor,
)

from daemon.engine import ChunkRequest

if TYPE_CHECKING:
    from pathlib import Path

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_start|>", "<|audio_pad|>", "<|audio_end|>")
_WORDS = ("<asr_text>", "<unk>", "language", "English", "None", *(f"word{i}" for i in range(50)))
_ROLES = {"unk_token": "<unk>", "pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
_CHAT_TEMPLATE = (
    "{%- for message in messages -%}<|im_start|> {{ message.role }} "
    "{%- for part in message.content -%}"
    "{%- if part.type == 'audio' -%}<|audio_start|><|audio_pad|><|audio_end|>{%- else -%} {{ part.text }}{%- endif -%}"
    "{%- endfor -%}<|im_end|>{%- endfor -%}"
)


def save_tiny_model(folder: Path, dtype: torch.dtype = torch.float32, **text_sizes: Any) -> Path:  # noqa: ANN401  # sizes of a config
    """Write a checkpoint whose random weights are so large that the audio decides the output."""
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(_SPECIAL + _WORDS)}, unk_token=_ROLES["unk_token"]))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    words.add_tokens([AddedToken("<asr_text>", special=False, normalized=False)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        extra_special_tokens={
            "audio_token": "<|audio_pad|>",
            "audio_bos_token": "<|audio_start|>",
            "audio_eos_token": "<|audio_end|>",
        },
        **_ROLES,
    )
    text = {
        "model_type": "qwen3",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": len(_SPECIAL + _WORDS),
        "tie_word_embeddings": False,
        "max_position_embeddings": 8192,
    } | text_sizes
    audio = {
        "model_type": "qwen3_asr_encoder",
        "output_dim": text["hidden_size"],
        "d_model": 64,
        "encoder_ffn_dim": 128,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "downsample_hidden_size": 8,
    }
    config = Qwen3ASRConfig(
        text_config=text,
        audio_config=audio,
        audio_token_id=4,
        pad_token_id=2,
        eos_token_id=[0, 2],
        tie_word_embeddings=False,
    )
    transformers.utils.logging.disable_progress_bar()  # it would leave its thread behind
    torch.set_num_threads(1)  # with matrices this small, threads only wait for one another
    torch.manual_seed(5)  # with this seed some outputs end, others do not
    model = Qwen3ASRForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    model.generation_config = GenerationConfig(eos_token_id=[0, 2], pad_token_id=2)
    model.to(dtype).save_pretrained(folder)
    processor = Qwen3ASRProcessor(Qwen3ASRFeatureExtractor(), tokenizer, chat_template=_CHAT_TEMPLATE)
    processor.save_pretrained(folder)
    return folder


def make_chunk(
    duration_s: float = 0.5,
    language: str | None = None,
    hotwords: tuple[str, ...] = (),
    job_id: str = "a",
    seed: int = 0,
) -> ChunkRequest:
    """Return a chunk of noise."""
    samples = np.random.default_rng(seed).normal(0, 0.1, round(16_000 * duration_s)).astype(np.float32)
    return ChunkRequest(samples, language, hotwords, job_id)
