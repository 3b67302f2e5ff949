"""The original layout of Qwen3-ASR (`thinker.*`), converted while loading to the native one (`-hf`).

The weights are the same under other names; the configuration is nested, and the chat template cannot start the
assistant's turn, which is how a language is forced.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from transformers import AutoTokenizer, Qwen3ASRConfig, Qwen3ASRFeatureExtractor, Qwen3ASRProcessor

if TYPE_CHECKING:
    from pathlib import Path

# Names of weights: pattern in the original layout to name in the native layout. The first match counts.
KEY_MAPPING: Final = {
    r"^thinker\.audio_tower\.proj1\.": "model.multi_modal_projector.linear_1.",
    r"^thinker\.audio_tower\.proj2\.": "model.multi_modal_projector.linear_2.",
    r"^thinker\.audio_tower\.": "model.audio_tower.",
    r"^thinker\.model\.": "model.language_model.",
    r"^thinker\.lm_head\.": "lm_head.",
}
_AUDIO_KEYS: Final = (
    "activation_function",
    "d_model",
    "downsample_hidden_size",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "encoder_layers",
    "n_window",
    "n_window_infer",
    "num_mel_bins",
    "output_dim",
)
_TEXT_KEYS: Final = (
    "attention_bias",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "tie_word_embeddings",
    "vocab_size",
)
_DEFAULT_ROPE_THETA: Final = 1_000_000.0
_CHAT_TEMPLATE: Final = (
    "<|im_start|>system\n"
    "{% for message in messages if message.role == 'system' %}"
    "{% for part in message.content %}{{ part.text }}{% endfor %}{% endfor %}<|im_end|>\n"
    "<|im_start|>user\n<|audio_start|><|audio_pad|><|audio_end|><|im_end|>\n"
    "<|im_start|>assistant\n"
    "{% for message in messages if message.role == 'assistant' %}"
    "{% for part in message.content %}{{ part.text }}{% endfor %}{% endfor %}<|im_end|>\n"
)


def read_config(folder: Path) -> Qwen3ASRConfig:
    """Return the native configuration of a model in the original layout."""
    thinker = json.loads((folder / "config.json").read_bytes())["thinker_config"]
    audio, text = thinker["audio_config"], thinker["text_config"]
    # All positions are text positions here, so the three-part rotary positions of the original are plain ones.
    rope = {"rope_type": "default", "rope_theta": text.get("rope_theta") or _DEFAULT_ROPE_THETA}
    return Qwen3ASRConfig(
        audio_config={"model_type": "qwen3_asr_encoder"} | _select(audio, _AUDIO_KEYS),
        text_config={"model_type": "qwen3", "rope_parameters": rope} | _select(text, _TEXT_KEYS),
        audio_token_id=thinker["audio_token_id"],
        tie_word_embeddings=bool(text.get("tie_word_embeddings")),
    )


def read_processor(folder: Path) -> Qwen3ASRProcessor:
    """Return a native processor: the folder's tokenizer, the model's own mel filters and the template above."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    return Qwen3ASRProcessor(Qwen3ASRFeatureExtractor(), tokenizer, chat_template=_CHAT_TEMPLATE)


def _select(section: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: section[key] for key in keys if section.get(key) is not None}
