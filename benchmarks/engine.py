"""How fast the engine is beside plain transformers, on this machine, in one run.

    python benchmarks/engine.py --all

The weights are random (seeded) in the real architecture: the size of the 1.7B model on a GPU, a small one on
a CPU. They say nothing about words, and end no answer: how long answers are is laid down, 120 tokens for 30 s
or a seeded spread of 40 to 180, which shows what stragglers and refilling cost. Each arm runs at its own best
batch; arms take turns, warm-up apart; the median of the repeats counts, with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import torch
import transformers
from transformers import GenerationConfig, Qwen3ASRConfig, Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

sys.path.insert(0, str(Path(__file__).parents[1]))  # ahead of this folder, whose daemon.py is not the package

from daemon import checkpoint
from daemon.config import Config, Folders, RecordingSettings, SegmentSettings
from daemon.engine.model import ResidentModel, count_slot_tokens
from daemon.engine.protocol import Piece, PieceText
from daemon.engine.scheduler import ContinuousEngine
from daemon.engine.slots import SlotShape
from daemon.frontend import FrontEnd
from daemon.pipeline import Forgetful, Recording, Watcher, transcribe
from daemon.transcript import ModelIdentity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from daemon.engine.model import PreparedPiece
    from daemon.engine.slots import Slots

RATE_HZ = 16_000
SEED = 7
# The published sizes of Qwen3-ASR-1.7B, and small ones of the same shape.
REAL: dict[str, dict[str, int]] = {
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
SMALL: dict[str, dict[str, int]] = {
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
# What an H200 was measured to do (performance.md): for the comparison with the roofline of the real model.
H200_BYTES_PER_S, H200_FLOPS = 4.3e12, 790e12
REAL_STEP_BYTES, REAL_SLOT_BYTES = 3.44e9, 53e6
REAL_ENCODER_FLOP, REAL_PREFILL_FLOP = 0.37e12, 1.16e12


@dataclass(frozen=True, slots=True)
class Workload:
    """Pieces and the tokens that each answer has."""

    name: str
    pieces: list[Piece]
    budgets: dict[Piece, int]

    @property
    def audio_s(self) -> float:
        """Seconds of sound."""
        return sum(piece.duration_s for piece in self.pieces)


@dataclass(slots=True)
class Result:
    """What one arm needed for one workload, one entry in the lists for each repeat."""

    workload: str
    arm: str
    batch: int
    rtfx: list[float] = field(default_factory=list)
    step_ms: list[float] = field(default_factory=list)
    host_cpu_s: list[float] = field(default_factory=list)
    launch_share: list[float] = field(default_factory=list)
    allocated_mb: float | None = None
    reserved_mb: float | None = None


class TimedModel(ResidentModel):
    """The product's model; its answers, which mean nothing, are replaced by as many words."""

    n_steps = 0
    launch_s = 0.0

    def advance(self, slots: Slots, n_rows: int, n_columns: int) -> None:
        """Count steps, and how long the host takes to start them."""
        begun_s = time.perf_counter()
        super().advance(slots, n_rows, n_columns)
        self.launch_s += time.perf_counter() - begun_s
        self.n_steps += 1

    def finish(self, tokens: Sequence[int], piece: PreparedPiece, *, has_failed: bool) -> PieceText:
        """Return the tokens as words, so that answers can be compared; numbered, so that no guard sees a loop."""
        if has_failed:
            return super().finish(tokens, piece, has_failed=has_failed)
        return PieceText(
            " ".join(f"w{place}t{token}" for place, token in enumerate(tokens)), "English", is_finished=True
        )


@dataclass(slots=True)
class Bench:
    """The models that are compared, with the same weights."""

    device: torch.device
    dtype: torch.dtype
    stock: Qwen3ASRForConditionalGeneration
    processor: Qwen3ASRProcessor
    model: TimedModel
    budgets: dict[Piece, int]

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def run_ours(self, work: Workload, n_slots: int, engine: ContinuousEngine) -> int:
        """Answer a workload with the product's engine; return the number of steps."""
        del n_slots
        before = self.model.n_steps
        for future in [engine.submit(piece) for piece in work.pieces]:
            future.result()
        return self.model.n_steps - before

    def run_generate(self, work: Workload, batch: int, cache: str | None) -> int:
        """Answer a workload with transformers' own generate, batch by batch; return the number of steps."""
        n_steps = 0
        for first in range(0, len(work.pieces), batch):
            pieces = work.pieces[first : first + batch]
            n_new = max(work.budgets[piece] for piece in pieces)
            inputs = self.processor.apply_transcription_request([piece.samples for piece in pieces])
            inputs = inputs.to(self.device, self.dtype)
            options: dict[str, Any] = {} if cache is None else {"cache_implementation": cache}
            with torch.inference_mode():
                self.stock.generate(**inputs, max_new_tokens=n_new, min_new_tokens=n_new, **options)
            n_steps += n_new
        self.synchronize()
        return n_steps


def main() -> None:
    """Run what was asked for; print tables; write the raw figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every workload, not only the spread one and one chunk")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="the small model on a GPU too")
    parser.add_argument("--chunks", type=int, default=64, help="chunks of 30 s in a workload")
    parser.add_argument("--hours", type=float, default=3.0, help="length of the long recording")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", help="batches to choose each arm's best from")
    parser.add_argument("--out", type=Path, help="folder for the raw figures and the table")
    options = parser.parse_args()
    bench = load_bench(torch.device(options.device), is_small=options.small or options.device == "cpu")
    results = compare(bench, options)
    facts = describe(bench)
    stages = measure_stages(bench) if options.all else {}
    differing = count_differing(bench, make_spread(options.chunks)) if options.all else None
    report: dict[str, object] = {"machine": facts, "results": [asdict(one) for one in results], "stages_ms": stages}
    report["differing_answers"] = differing
    table = render(facts, results, stages, differing)
    print(table)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        name = f"engine-{facts['card'].replace(' ', '-').lower()}"
        (options.out / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
        (options.out / f"{name}.md").write_text(table + "\n")


def load_bench(device: torch.device, *, is_small: bool) -> Bench:
    """Draw the weights and load them the way each arm does."""
    torch.manual_seed(SEED)
    sizes = SMALL if is_small else REAL
    text = {"model_type": "qwen3", "tie_word_embeddings": True, "max_position_embeddings": 65_536} | sizes["text"]
    audio = {"model_type": "qwen3_asr_encoder", "output_dim": text["hidden_size"]} | sizes["audio"]
    processor = Qwen3ASRProcessor.from_pretrained(checkpoint.find_folder(checkpoint.DEMO))
    end = processor.tokenizer.eos_token_id
    config = Qwen3ASRConfig(
        text_config=text,
        audio_config=audio,
        audio_token_id=processor.audio_token_id,
        pad_token_id=end,
        eos_token_id=end,
    )
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    stock = Qwen3ASRForConditionalGeneration(config).to(device, dtype).eval()
    with torch.no_grad():
        stock.get_input_embeddings().weight[end] = 0  # its score is 0, and of thousands one is always higher
    stock.generation_config = GenerationConfig(do_sample=False, eos_token_id=end, pad_token_id=end)
    budgets: dict[Piece, int] = {}
    # Both arms share the weights: the product joins some of them, and transformers goes on with views of those.
    model = TimedModel(stock, processor, count_budget=lambda piece: budgets.get(piece, round(4 * piece.duration_s) + 4))
    return Bench(device, dtype, stock, processor, model, budgets)


# Workloads


def make_pieces(durations_s: Sequence[float], tokens_per_30_s: Callable[[int], int], name: str) -> Workload:
    """Return pieces of noise; the answer to each has tokens by its length."""
    chance = np.random.default_rng(SEED)
    pieces = [
        Piece(chance.normal(0, 0.1, round(RATE_HZ * s)).astype(np.float32), None, (), f"job{index % 4}")
        for index, s in enumerate(durations_s)
    ]
    budgets = {
        piece: max(4, round(tokens_per_30_s(index) * piece.duration_s / 30)) for index, piece in enumerate(pieces)
    }
    return Workload(name, pieces, budgets)


def make_spread(n_chunks: int) -> Workload:
    """Return chunks of 30 s whose answers have 40 to 180 tokens."""
    lengths = np.random.default_rng(SEED).integers(40, 181, n_chunks)
    return make_pieces([30.0] * n_chunks, lambda index: int(lengths[index]), f"{n_chunks} x 30 s, 40-180 tokens")


def make_workloads(options: argparse.Namespace) -> list[Workload]:
    """Return what is run."""
    n_chunks = options.chunks
    works = [make_spread(n_chunks), make_pieces([30.0], lambda _: 120, "one chunk of 30 s, 120 tokens")]
    if options.all:
        chance = np.random.default_rng(SEED)
        mixed = chance.uniform(5, 30, n_chunks)
        spread = chance.integers(40, 181, n_chunks)
        works.append(make_pieces([30.0] * n_chunks, lambda _: 120, f"{n_chunks} x 30 s, 120 tokens"))
        works.append(make_pieces(mixed, lambda index: int(spread[index]), f"{n_chunks} x 5-30 s, spread"))
        n_long = round(options.hours * 120)
        lengths = chance.integers(40, 181, n_long)
        works.append(make_pieces([30.0] * n_long, lambda index: int(lengths[index]), f"{options.hours:g} h, spread"))
    return works


# Arms


def compare(bench: Bench, options: argparse.Namespace) -> list[Result]:
    """Run every arm on every workload, in turns, each at its best batch."""
    works = make_workloads(options)
    for work in works:
        bench.budgets.update(work.budgets)
    is_gpu = bench.device.type == "cuda"
    candidates = options.batches or ([16, 64, 128, 256] if is_gpu else [1, 4, 8, 16])
    arms: dict[str, Callable[[Workload, int], Result]] = {
        "generate": partial(run_stock, bench, "generate", None),
        "generate, static cache" + (", compiled" if is_gpu else ""): partial(run_stock, bench, "static", "static"),
        "ours": partial(run_engine, bench),
    }
    best = {name: choose_batch(run, works[0], candidates) for name, run in arms.items()}
    results: list[Result] = []
    for work in works:
        of_arms = {name: Result(work.name, name, min(best[name], len(work.pieces))) for name in arms}
        for repeat in range(options.repeats + 1):
            for name, run in arms.items():
                once = run(work, of_arms[name].batch)
                if repeat:  # the first is the warm-up
                    add(of_arms[name], once)
        results += of_arms.values()
        print(render_rows(list(of_arms.values())), flush=True)
    if options.all and shutil.which("ffmpeg"):
        results.append(run_from_mp3(bench, best["ours"], options))
    return results


def choose_batch(run: Callable[[Workload, int], Result], work: Workload, candidates: Sequence[int]) -> int:
    """Return the batch at which an arm is fastest; what does not fit into memory is out."""
    found: dict[int, float] = {}
    for batch in candidates:
        try:
            run(work, batch)
            found[batch] = run(work, batch).rtfx[0]
        except torch.OutOfMemoryError:
            gc.collect()
            torch.cuda.empty_cache()
    return max(found, key=lambda batch: found[batch])


def run_stock(bench: Bench, arm: str, cache: str | None, work: Workload, batch: int) -> Result:
    """Measure generate once."""
    return measure(bench, work, arm, batch, lambda: bench.run_generate(work, batch, cache))


def run_engine(bench: Bench, work: Workload, n_slots: int) -> Result:
    """Measure the product's engine once; starting it and its first piece are warm-up."""
    engine = ContinuousEngine(bench.model, identity_of(bench), n_slots)
    try:
        warm = make_pieces([1.0], lambda _: 60, "warm-up")
        bench.budgets.update(warm.budgets)
        bench.run_ours(warm, n_slots, engine)
        bench.model.launch_s = 0.0
        return measure(bench, work, "ours", n_slots, lambda: bench.run_ours(work, n_slots, engine))
    finally:
        engine.close()


def measure(bench: Bench, work: Workload, arm: str, batch: int, run: Callable[[], int]) -> Result:
    """Time one run."""
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
    bench.synchronize()
    begun_s, cpu_s = time.perf_counter(), time.process_time()
    n_steps = run()
    took_s = time.perf_counter() - begun_s
    result = Result(work.name, arm, batch, [work.audio_s / took_s], [1000 * took_s / n_steps])
    result.host_cpu_s = [time.process_time() - cpu_s]
    if bench.device.type == "cuda":
        result.allocated_mb = torch.cuda.max_memory_allocated(bench.device) / 1e6
        result.reserved_mb = torch.cuda.max_memory_reserved(bench.device) / 1e6
        if arm == "ours":
            result.launch_share = [bench.model.launch_s / took_s]
    return result


def add(total: Result, once: Result) -> None:
    """Add the figures of one repeat."""
    for name in ("rtfx", "step_ms", "host_cpu_s", "launch_share"):
        getattr(total, name).extend(getattr(once, name))
    total.allocated_mb, total.reserved_mb = once.allocated_mb, once.reserved_mb


def run_from_mp3(bench: Bench, n_slots: int, options: argparse.Namespace) -> Result:
    """Measure the way from an mp3 on disk to a transcript; its front end is the product's too."""
    audio_s = options.chunks * 30.0
    result = Result(f"mp3 of {audio_s / 60:g} min to documents", "ours", n_slots)
    engine = ContinuousEngine(bench.model, identity_of(bench), n_slots)
    with tempfile.TemporaryDirectory() as folder:
        recording, config = make_recording(Path(folder), audio_s)
        watcher = Watcher(lambda: None, lambda _: None, Forgetful())
        front_end = FrontEnd(config.folders.cache, n_decoders=1)
        try:
            for repeat in range(options.repeats + 1):
                cpu_s = time.process_time()
                transcript = transcribe(recording, config, front_end, engine, watcher)
                if repeat:
                    result.rtfx.append(transcript.processing.rtfx)
                    result.host_cpu_s.append(time.process_time() - cpu_s)
        finally:
            front_end.close()
            engine.close()
    return result


def make_recording(folder: Path, audio_s: float) -> tuple[Recording, Config]:
    """Write the sample meeting over and over as an mp3."""
    meeting, rate_hz = soundfile.read(checkpoint.find_folder("demo").parent / "recordings" / "meeting.flac")
    soundfile.write(folder / "long.wav", np.resize(meeting, round(audio_s * rate_hz)), rate_hz)
    command: list[str | Path] = ["ffmpeg", "-v", "error", "-i", folder / "long.wav", folder / "long.mp3"]
    subprocess.run(command, check=True)
    paths = {name: folder / name for name in Folders.model_fields}
    for path in paths.values():
        path.mkdir()
    config = Config(folders=Folders(**paths), segment=SegmentSettings())
    return Recording("job", folder / "long.mp3", "long.mp3", RecordingSettings.of(config)), config


# Stages and answers


def measure_stages(bench: Bench) -> dict[str, float]:
    """Time encoder and prefill for 8 chunks of 30 s, and a decode step for several numbers of slots."""
    work = make_pieces([30.0] * 8, lambda _: 120, "stages")
    bench.budgets.update(work.budgets)
    model = bench.model
    stages: dict[str, float] = {}
    with torch.inference_mode(), model.on_device():
        prepared = [model.prepare(piece) for piece in work.pieces]
        mel = model._mel.compute([piece.samples for piece in prepared])  # noqa: SLF001  # a stage, from inside
        stages["encoder, 8 x 30 s"] = time_ms(bench, lambda: model._encoder.encode(mel, lambda: None))  # noqa: SLF001  # the same
        for n_slots in (1, 16, 64, 128, 256) if bench.device.type == "cuda" else (1, 8):
            slots = model.make_slots(shape_of(n_slots))
            if n_slots >= len(prepared):
                begin = partial(model.begin, slots, prepared, range(len(prepared)), lambda: None)
                stages["encoder and prefill, 8 x 30 s"] = time_ms(bench, begin)
            slots.position.fill_(480)
            stages[f"decode step, {n_slots} slots"] = time_ms(bench, partial(model.advance, slots, n_slots, 500))
            del slots
            model.release_memory()
    return stages


def time_ms(bench: Bench, run: Callable[[], object], n_times: int = 8) -> float:
    """Return the median time of a call in milliseconds."""
    times_ms = []
    for _ in range(n_times + 2):
        bench.synchronize()
        begun_s = time.perf_counter()
        run()
        bench.synchronize()
        times_ms.append(1000 * (time.perf_counter() - begun_s))
    return statistics.median(times_ms[2:])


def count_differing(bench: Bench, work: Workload) -> dict[str, int]:
    """Count the answers that differ between one slot and many: in float32 none, in bfloat16 rounding decides."""
    bench.budgets.update(work.budgets)
    answers = []
    for n_slots in (1, 8 if bench.device.type == "cpu" else 128):
        engine = ContinuousEngine(bench.model, identity_of(bench), n_slots)
        answers.append([future.result() for future in [engine.submit(piece) for piece in work.pieces]])
        engine.close()
    n_differing = sum(a != b for a, b in zip(*answers, strict=True))
    return {"answers": len(work.pieces), "differing": n_differing}


# What is printed


def describe(bench: Bench) -> dict[str, str]:
    """Return what the figures belong to."""
    facts = {
        "card": torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "CPU",
        "processor": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        "dtype": str(bench.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "parameters": f"{sum(weight.numel() for weight in bench.stock.parameters()):,}",
    }
    if bench.device.type == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        facts["driver"] = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split("\n")[0]
    return facts


def render(
    facts: dict[str, str], results: Sequence[Result], stages: dict[str, float], differing: dict[str, int] | None
) -> str:
    """Return everything as Markdown."""
    lines = [", ".join(f"{name} {value}" for name, value in facts.items()), ""]
    lines += ["| workload | arm | batch | RTFx (lowest-highest) | ms per step | CPU s | memory MB |", "|---" * 7 + "|"]
    lines += [render_rows(results), ""]
    if stages:
        lines += ["| stage | ms | roofline of an H200, ms |", "|---" * 3 + "|"]
        lines += [f"| {name} | {ms:.2f} | {roofline_ms(facts, name)} |" for name, ms in stages.items()]
    if differing:
        lines += [
            "",
            f"Answers that differ between one slot and many: {differing['differing']} of {differing['answers']}.",
        ]
    return "\n".join(lines)


def render_rows(results: Sequence[Result]) -> str:
    """Return a line for each result."""
    rows = []
    for one in results:
        spread = f"{statistics.median(one.rtfx):.1f} ({min(one.rtfx):.1f}-{max(one.rtfx):.1f})"
        step = f"{statistics.median(one.step_ms):.2f}" if one.step_ms else ""
        if one.launch_share:
            step += f" ({statistics.median(one.launch_share):.0%} launching)"
        memory = f"{one.allocated_mb:.0f} / {one.reserved_mb:.0f}" if one.allocated_mb and one.reserved_mb else ""
        cpu_s = f"{statistics.median(one.host_cpu_s):.1f}"
        rows.append(f"| {one.workload} | {one.arm} | {one.batch} | {spread} | {step} | {cpu_s} | {memory} |")
    return "\n".join(rows)


def roofline_ms(facts: dict[str, str], stage: str) -> str:
    """Return the least time of a stage of the real model on an H200; nothing for another card."""
    if "H200" not in facts["card"]:
        return ""
    if stage.startswith("decode step"):
        n_slots = int(stage.split()[2])
        return f"{1000 * (REAL_STEP_BYTES + n_slots * REAL_SLOT_BYTES) / H200_BYTES_PER_S:.2f}"
    flop = 8 * (REAL_ENCODER_FLOP + (REAL_PREFILL_FLOP if "prefill" in stage else 0))
    return f"{1000 * flop / H200_FLOPS:.2f}"


def identity_of(bench: Bench) -> ModelIdentity:
    """Return a name for weights that have none."""
    return ModelIdentity("random", "0" * 64, str(bench.dtype), str(bench.device))


def shape_of(n_slots: int) -> SlotShape:
    """Return slots for pieces of 30 s."""
    return SlotShape(n_slots, count_slot_tokens(30))


if __name__ == "__main__":
    main()
