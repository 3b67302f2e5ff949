"""The demo model: a Qwen3-ASR of 1.5 million parameters in the real classes, with its tokenizer.

The format of prompt and answer, the audio front end and the windows of the encoder are those of Qwen3-ASR-1.7B. Only
the sizes differ, and the tokenizer: one token for each word that the model knows.
"""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from demo_speech import Vocabulary
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3ASRConfig, Qwen3ASRForConditionalGeneration
from transformers.models.qwen3_asr.feature_extraction_qwen3_asr import Qwen3ASRFeatureExtractor
from transformers.models.qwen3_asr.processing_qwen3_asr import Qwen3ASRProcessor

SPECIAL_TOKENS: Final = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_start|>", "<|audio_pad|>", "<|audio_end|>",
)  # fmt: skip
ASR_TEXT: Final = "<asr_text>"
UNKNOWN: Final = "<unk>"
_FRAME_WORDS: Final = ("\n", "system", "user", "assistant", "language", "None")
_N_SPARE: Final = 8  # for later languages, so that existing ids do not change
HIDDEN: Final = 128

# The prompt of the real model: the system turn is present even when it is empty.
CHAT_TEMPLATE: Final = """\
{%- set context = namespace(text='') -%}
{%- for message in messages if message.role == 'system' -%}
{%- if message.content is string -%}{%- set context.text = context.text + message.content -%}
{%- else -%}{%- for part in message.content if part.type == 'text' -%}
{%- set context.text = context.text + part.text -%}
{%- endfor -%}{%- endif -%}
{%- endfor -%}
{{- '<|im_start|>system\\n' + context.text + '<|im_end|>\\n' -}}
{%- for message in messages if message.role != 'system' -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}{{- message.content -}}
{%- else -%}{%- for part in message.content -%}
{%- if part.type == 'audio' -%}{{- '<|audio_start|><|audio_pad|><|audio_end|>' -}}
{%- elif part.type == 'text' -%}{{- part.text -}}{%- endif -%}
{%- endfor -%}{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def build_tokenizer(vocabularies: Sequence[Vocabulary]) -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token for each word; any other word becomes ``<unk>``, punctuation is dropped."""
    names = [v.language for v in vocabularies]
    words = list(dict.fromkeys(word for v in vocabularies for word in v.words))
    spare = [f"<spare_{i}>" for i in range(_N_SPARE - len(names) + 1)]
    tokens = [*SPECIAL_TOKENS, ASR_TEXT, UNKNOWN, *_FRAME_WORDS, *names, *spare, *words]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=UNKNOWN))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    # As in the real tokenizer, <asr_text> is not a special token: skip_special_tokens keeps it for the parser.
    tokenizer.add_tokens([AddedToken(ASR_TEXT, normalized=False)])
    tokenizer.add_tokens([AddedToken(name, normalized=False, single_word=True) for name in ("None", *names)])
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex(r"[.,;:!?()\"-]"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(Regex("[ \t\r]+"), "removed")]
    )
    # Words are joined with single spaces, without one next to a mark or a line end: decoding the prompt returns the
    # prompt, which the parser of the processor relies on.
    marks = [*SPECIAL_TOKENS, ASR_TEXT, "\n"]
    tight = [decoders.Replace(Regex(f" ?{mark.replace('|', '[|]')} ?"), mark) for mark in marks]
    tokenizer.decoder = decoders.Sequence([decoders.WordPiece(prefix="##", cleanup=False), decoders.Fuse(), *tight])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        eos_token="<|im_end|>",  # noqa: S106  # a token of text
        pad_token="<|endoftext|>",  # noqa: S106  # a token of text
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
        extra_special_tokens={
            "audio_token": "<|audio_pad|>", "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>",
        },
    )  # fmt: skip


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen3ASRProcessor:
    """Join the tokenizer with the feature extractor of the real model."""
    return Qwen3ASRProcessor(Qwen3ASRFeatureExtractor(), tokenizer, chat_template=CHAT_TEMPLATE)


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ASRForConditionalGeneration:
    """Make an untrained model for the tokenizer's words."""
    ids = tokenizer.convert_tokens_to_ids
    config = Qwen3ASRConfig(
        text_config={
            "model_type": "qwen3", "hidden_size": HIDDEN, "intermediate_size": 384, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": len(tokenizer),
            "tie_word_embeddings": True, "max_position_embeddings": 4096,
        },
        audio_config={
            "model_type": "qwen3_asr_encoder", "d_model": HIDDEN, "output_dim": HIDDEN, "encoder_ffn_dim": 512,
            "encoder_layers": 3, "encoder_attention_heads": 4, "downsample_hidden_size": 16,
        },
        audio_token_id=ids("<|audio_pad|>"),
        pad_token_id=ids("<|endoftext|>"),
        eos_token_id=[ids("<|endoftext|>"), ids("<|im_end|>")],
    )  # fmt: skip
    model = Qwen3ASRForConditionalGeneration(config)
    _make_audible(model)
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id, max_new_tokens=256
    )
    return model


@torch.no_grad()
def _make_audible(model: Qwen3ASRForConditionalGeneration) -> None:
    """Initialize the weights so that they keep the size of the signal.

    The stock ones (deviation 0.02) suit wide layers. In layers this narrow they make the sound a thousand times smaller
    than the position added to it, less than bf16 resolves, and CTC stayed at guessing for 400 steps.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.Linear) and module is not model.lm_head:
            nn.init.xavier_uniform_(module.weight)
    nn.init.normal_(model.get_input_embeddings().weight, std=0.1)


def export(model: Qwen3ASRForConditionalGeneration, processor: Qwen3ASRProcessor, folder: Path) -> None:
    """Write the model in bf16 and its processor to ``folder``, which is replaced as a whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    model.to(torch.bfloat16).save_pretrained(fresh)
    processor.save_pretrained(fresh)
    fresh.chmod(0o755)
    for entry in fresh.iterdir():
        entry.chmod(0o644)  # safetensors writes for the owner alone
    if folder.exists():
        old = folder.with_name(f".{folder.name}-old")
        folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old)
    else:
        fresh.rename(folder)


def parameter_table(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each file of an exported model."""
    return {entry.name: entry.stat().st_size for entry in sorted(folder.iterdir())}
