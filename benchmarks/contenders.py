"""The models that the engine benchmark compares: each contender gets the same seeded random weights."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, Qwen3ASRConfig, Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from daemon import checkpoint
from daemon.configfile import DEMO_MODEL
from daemon.engine.protocol import ChunkRequest, ChunkResponse
from daemon.engine.qwen3_asr.model import ResidentModel
from daemon.engine.slots import RowSnapshot, Slots
from daemon.transcript import ModelIdentity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.engine.scheduler import ContinuousEngine
    from daemon.engine.slot_model import PreparedChunk
    from daemon.engine.slots import Generated, RowState, SlotShape

SEED: Final = 7
# The published sizes of Qwen3-ASR-1.7B, and smaller ones of the same architecture.
REAL: Final[dict[str, dict[str, int]]] = {
    "text": {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151_936,
    },
    "audio": {
        "d_model": 1024,
        "encoder_ffn_dim": 4096,
        "encoder_layers": 24,
        "encoder_attention_heads": 16,
        "downsample_hidden_size": 480,
    },
}
SMALL: Final[dict[str, dict[str, int]]] = {
    "text": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": 4096,
    },
    "audio": {
        "d_model": 64,
        "encoder_ffn_dim": 256,
        "encoder_layers": 3,
        "encoder_attention_heads": 4,
        "downsample_hidden_size": 16,
    },
}
# Weights whose names differ in the original layout.
NAMES: Final = {
    "model.multi_modal_projector.linear_1.": "thinker.audio_tower.proj1.",
    "model.multi_modal_projector.linear_2.": "thinker.audio_tower.proj2.",
    "model.audio_tower.": "thinker.audio_tower.",
    "model.language_model.": "thinker.model.",
}
# What the original template writes for one audio and no context.
ORIGINAL_TEMPLATE: Final = (
    "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n<|audio_start|><|audio_pad|><|audio_end|><|im_end|>\n"
    "<|im_start|>assistant\n"
)


@dataclass(frozen=True, slots=True)
class Workload:
    """Chunks, and how many tokens are generated for each."""

    name: str
    chunks: list[ChunkRequest]
    n_tokens: dict[ChunkRequest, int]

    @property
    def audio_s(self) -> float:
        """Seconds of audio."""
        return sum(chunk.duration_s for chunk in self.chunks)

    def batches(self, size: int) -> list[list[ChunkRequest]]:
        """Return batches of chunks of similar length, which suit contenders that wait for the longest of a batch."""
        ordered = sorted(self.chunks, key=lambda chunk: -len(chunk.samples))
        return [ordered[first : first + size] for first in range(0, len(ordered), size)]

    def count_tokens(self, chunks: Sequence[ChunkRequest]) -> int:
        """Return the number of tokens of the longest output."""
        return max(self.n_tokens[chunk] for chunk in chunks)


class TimedSlots(Slots):
    """Slots that measure how long the host waits for the device."""

    waited_s = 0.0

    def snapshot(self, *, is_deferred: bool = False, max_generated: int | None = None) -> RowSnapshot:
        """Return a snapshot that measures."""
        return TimedSnapshot(self, is_deferred=is_deferred, max_generated=max_generated)


class TimedSnapshot(RowSnapshot):
    """A snapshot that adds to the time of its slots."""

    def __init__(self, slots: TimedSlots, *, is_deferred: bool, max_generated: int | None) -> None:
        super().__init__(slots, is_deferred=is_deferred, max_generated=max_generated)
        self._slots = slots

    def read_states(self) -> list[RowState]:
        """Return the state of every row."""
        started_s = time.perf_counter()
        states = super().read_states()
        self._slots.waited_s += time.perf_counter() - started_s
        return states


class TimedModel(ResidentModel):
    """The engine's model; its meaningless output is replaced by one word per token."""

    n_steps = 0
    slots: TimedSlots | None = None

    def _allocate(self, shape: SlotShape) -> Slots:
        self.slots = TimedSlots(shape, self.kv_cache_spec)
        return self.slots

    def release_memory(self) -> None:
        """Forget the slots too."""
        self.slots = None
        super().release_memory()

    def decode_step(self, slots: Slots, n_rows: int, kv_len: int) -> None:
        """Count steps."""
        super().decode_step(slots, n_rows, kv_len)
        self.n_steps += 1

    def make_response(self, generated: Generated, chunk: PreparedChunk, *, has_failed: bool) -> ChunkResponse:
        """Return the tokens as words that can be compared, numbered so that they are not mistaken for a loop."""
        if has_failed:
            return super().make_response(generated, chunk, has_failed=has_failed)
        return ChunkResponse(to_words(generated.tokens), "English", is_finished=True)


def to_words(tokens: Sequence[int]) -> str:
    """Return tokens as words."""
    return " ".join(f"w{place}t{token}" for place, token in enumerate(tokens))


@dataclass(slots=True)
class Bench:
    """The models that are compared, with the same weights.

    Attributes:
        n_tokens: how many tokens to generate for a chunk; by default 4 per second.
    """

    device: torch.device
    dtype: torch.dtype
    stock: Qwen3ASRForConditionalGeneration
    processor: Qwen3ASRProcessor
    model: TimedModel
    n_tokens: dict[ChunkRequest, int]

    @property
    def identity(self) -> ModelIdentity:
        """An identity for the random weights."""
        return ModelIdentity("random", "0" * 64, str(self.dtype), str(self.device))

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def run_ours(self, work: Workload, engine: ContinuousEngine) -> int:
        """Transcribe a workload with the engine; return the number of steps."""
        before = self.model.n_steps
        for future in [engine.submit(chunk) for chunk in work.chunks]:
            future.result()
        return self.model.n_steps - before

    def run_generate(self, work: Workload, batch: int, cache: str | None) -> int:
        """Transcribe a workload with `generate` of transformers, batch by batch; return the number of steps."""
        n_steps = 0
        for chunks in work.batches(batch):
            self.generate(chunks, work.count_tokens(chunks), cache)
            n_steps += work.count_tokens(chunks)
        self.synchronize()
        return n_steps

    def generate(self, chunks: Sequence[ChunkRequest], n_tokens: int, cache: str | None = None) -> list[list[int]]:
        """Return the tokens that transformers generates."""
        inputs = self.processor.apply_transcription_request([chunk.samples for chunk in chunks])
        inputs = inputs.to(self.device, self.dtype)
        options: dict[str, Any] = {} if cache is None else {"cache_implementation": cache}
        with torch.inference_mode():
            output = self.stock.generate(**inputs, max_new_tokens=n_tokens, min_new_tokens=n_tokens, **options)
        tokens: list[list[int]] = output[:, inputs["input_ids"].shape[1] :].tolist()
        return tokens


def load_bench(device: torch.device, *, is_small: bool) -> Bench:
    """Draw the weights and load them the way each contender does."""
    torch.manual_seed(SEED)
    sizes = SMALL if is_small else REAL
    text = {"model_type": "qwen3", "tie_word_embeddings": True, "max_position_embeddings": 65_536} | sizes["text"]
    audio = {"model_type": "qwen3_asr_encoder", "output_dim": text["hidden_size"]} | sizes["audio"]
    processor = Qwen3ASRProcessor.from_pretrained(checkpoint.find_folder(Path(DEMO_MODEL)))
    end = processor.tokenizer.eos_token_id
    config = Qwen3ASRConfig(
        text_config=text,
        audio_config=audio,
        audio_token_id=processor.audio_token_id,
        pad_token_id=end,
        eos_token_id=end,
    )
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with device:  # a GPU draws two billion numbers in a second
        stock = Qwen3ASRForConditionalGeneration(config)
    stock = stock.to(dtype).eval()
    with torch.no_grad():
        stock.get_input_embeddings().weight[end] = 0  # its logit is 0, and of thousands of others one is always higher
    stock.generation_config = GenerationConfig(do_sample=False, eos_token_id=end, pad_token_id=end)
    n_tokens: dict[ChunkRequest, int] = {}

    def count_max_new_tokens(chunk: ChunkRequest) -> int:
        return n_tokens.get(chunk, round(4 * chunk.duration_s) + 4)

    # Both contenders share the weights: the engine joins some of them, and transformers uses views of those.
    model = TimedModel(stock, processor, count_max_new_tokens=count_max_new_tokens)
    return Bench(device, dtype, stock, processor, model, n_tokens)


class QwenAsr:
    """The library of the model's authors, with the same weights, in its own process and environment.

    Args:
        python: the Python of an environment with qwen-asr.
        bench: has the weights.
        folder: an empty folder for the weights in the original layout and a log.
    """

    def __init__(self, python: Path, bench: Bench, folder: Path) -> None:
        write_original(bench, folder / "model")
        self._folder = folder
        self._works: dict[str, Path] = {}
        script = Path(__file__).with_name("qwen_asr_arm.py")
        dtype = str(bench.dtype).removeprefix("torch.")
        command: list[str | Path] = [python, script, folder / "model", str(bench.device), dtype]
        command.append(str(torch.get_num_threads()))
        with (folder / "qwen-asr.log").open("w") as log:
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.versions: str = self._receive()["versions"]

    def run(self, work: Workload, batch: int) -> dict[str, float]:
        """Transcribe a workload; return took_s, cpu_s and n_steps."""
        if work.name not in self._works:
            self._works[work.name] = self._folder / f"{len(self._works)}.npz"
            samples = {str(index): chunk.samples for index, chunk in enumerate(work.chunks)}
            np.savez(self._works[work.name], allow_pickle=False, **samples)
        indexes = {chunk: index for index, chunk in enumerate(work.chunks)}
        batches = [
            {"chunks": [indexes[chunk] for chunk in chunks], "n_tokens": work.count_tokens(chunks)}
            for chunks in work.batches(batch)
        ]
        self._send({"samples": str(self._works[work.name]), "batches": batches, "batch": batch})
        figures: dict[str, float] = self._receive()
        return figures

    def close(self) -> None:
        """End the process."""
        self._child.communicate()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._child.stdin is not None  # noqa: S101  # requested above
        self._child.stdin.write(json.dumps(message) + "\n")
        self._child.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._child.stdout is not None  # noqa: S101  # requested above
        for line in self._child.stdout:
            if line.startswith("{"):
                message: dict[str, Any] = json.loads(line)
                return message
        raise RuntimeError("qwen-asr exited:\n" + (self._folder / "qwen-asr.log").read_text()[-2000:])


def write_original(bench: Bench, folder: Path) -> None:
    """Save weights and processor in the original layout."""
    folder.mkdir()
    config = json.loads(bench.stock.config.to_json_string(use_diff=False))
    text, rope = config["text_config"], config["text_config"].pop("rope_parameters")
    # All positions are text positions, so the three parts of the original rotary embedding use the same angles.
    third = text["head_dim"] // 2 // 3
    sections = [text["head_dim"] // 2 - 2 * third, third, third]
    text |= {"rope_theta": rope["rope_theta"], "model_type": "qwen3_asr_text"}
    text |= {"rope_scaling": {"mrope_section": sections, "mrope_interleaved": True, "rope_type": "default"}}
    audio = config["audio_config"] | {"model_type": "qwen3_asr_audio_encoder"}
    tokens = bench.processor.tokenizer.convert_tokens_to_ids(["<|audio_start|>", "<|audio_pad|>"])
    thinker = {"audio_config": audio, "text_config": text}
    thinker |= {"audio_start_token_id": tokens[0], "audio_token_id": tokens[1]}
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_asr", "thinker_config": thinker}))
    weights = {
        name: weight.detach().contiguous().cpu()
        for name, weight in bench.stock.state_dict().items()
        if name != "lm_head.weight"  # tied to the embedding
    }
    save_file({to_original_name(name): weight for name, weight in weights.items()}, folder / "model.safetensors")
    demo = checkpoint.find_folder(Path(DEMO_MODEL))
    (folder / "tokenizer.json").write_bytes((demo / "tokenizer.json").read_bytes())
    tokenizer = json.loads((demo / "tokenizer_config.json").read_text())
    tokenizer |= {"tokenizer_class": "PreTrainedTokenizerFast", "extra_special_tokens": {}}
    names = ("audio_token", "audio_bos_token", "audio_eos_token")
    tokenizer["extra_special_tokens"] = {name: tokenizer[name] for name in names}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": ORIGINAL_TEMPLATE}))
    extractor = {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": 128,
        "return_attention_mask": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor))


def to_original_name(name: str) -> str:
    """Return the name of a weight in the original layout."""
    for old, new in NAMES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    raise ValueError(name)
