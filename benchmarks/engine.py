"""How fast the engine is beside plain transformers and qwen-asr, on this machine, in one run.

    python benchmarks/engine.py --all --out benchmarks/results

The weights are random (seeded) in the real architecture: the size of the 1.7B model on a GPU, a small one on
a CPU. They say nothing about words, and end no answer: how long answers are is laid down, 120 tokens for 30 s
or a seeded spread of 40 to 180, which shows what stragglers and refilling cost. Each arm runs at its own best
batch; arms take turns, warm-up apart; the median of the repeats counts, with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import logging
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import structlog
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # ahead of this folder, whose daemon.py is not the package

from benchmarks.contenders import SEED, QwenAsr, Workload, load_bench, to_words
from benchmarks.engine_report import Result, add, describe, render, render_rows
from daemon import checkpoint
from daemon.config import Config, Folders, RecordingSettings, SegmentSettings
from daemon.documents import render as render_documents
from daemon.engine.protocol import SAMPLE_RATE_HZ, ChunkRequest
from daemon.engine.qwen3_asr.model import count_slot_tokens
from daemon.engine.qwen3_asr.slots import SlotShape
from daemon.engine.scheduler import ContinuousEngine
from daemon.frontend import FrontEnd
from daemon.pipeline import Forgetful, Recording, RunControl, transcribe
from daemon.worker import N_IN_FLIGHT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.contenders import Bench
    from daemon.transcript import Transcript

    Arm = Callable[[Workload, int], Result]

_N_RECORDINGS = 8
STATIC = "generate, static cache"


def main() -> None:
    """Run what was asked for; print tables; write the raw figures."""
    options = parse_options()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    bench = load_bench(torch.device(options.device), is_small=options.small or options.device == "cpu")
    if options.memory is not None:
        print(measure_memory(bench, options.memory))
        return
    results = compare(bench, options)
    facts = describe(bench)
    stages = measure_stages(bench) if options.all else {}
    answers = compare_answers(bench, min(options.chunks, 32)) if options.all else {}
    report: dict[str, object] = {"machine": facts, "results": [asdict(one) for one in results], "stages_ms": stages}
    report["answers"] = answers
    table = render(facts, results, stages, answers)
    print(table)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        name = f"engine-{facts['card'].replace(' ', '-').lower()}"
        (options.out / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
        (options.out / f"{name}.md").write_text(table + "\n")


def parse_options() -> argparse.Namespace:
    """Return what was asked for; where nothing was, what a GPU does in minutes, or a CPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="everything, not only the spread workload and one chunk")
    parser.add_argument("--memory", type=float, metavar="HOURS", help="only: memory after a recording of this length")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="the small model on a GPU too")
    parser.add_argument("--chunks", type=int, help="chunks of 30 s in a workload (256 on a GPU, 32 on a CPU)")
    parser.add_argument("--hours", type=float, help="length of the long recording (1 on a GPU, 0.1 on a CPU)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", help="batches to choose each arm's best from")
    parser.add_argument("--qwen-asr-python", type=Path, metavar="PATH", help="a Python that has qwen-asr")
    parser.add_argument("--out", type=Path, help="folder for the raw figures and the table")
    options = parser.parse_args()
    is_gpu = options.device != "cpu"
    options.chunks = options.chunks or (256 if is_gpu else 32)
    options.hours = options.hours or (1.0 if is_gpu else 0.1)
    options.batches = options.batches or ([128, 256] if is_gpu else [8, 16, 32])
    return options


# Workloads


def make_pieces(durations_s: Sequence[float], tokens_per_30_s: Callable[[int], int], name: str) -> Workload:
    """Return pieces of noise; the answer to each has tokens by its length."""
    chance = np.random.default_rng(SEED)
    pieces = [
        ChunkRequest(chance.normal(0, 0.1, round(SAMPLE_RATE_HZ * s)).astype(np.float32), None, (), f"job{index % 4}")
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
    with ExitStack() as stack:
        arms: dict[str, Arm] = {
            "generate": partial(run_stock, bench, "generate", None),
            STATIC: partial(run_stock, bench, STATIC, "static"),
            "ours": partial(run_engine, bench),
        }
        if options.qwen_asr_python is not None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            rival = QwenAsr(options.qwen_asr_python, bench, folder)
            stack.callback(rival.close)
            arms[rival.versions] = partial(run_qwen_asr, rival)
        best = {name: choose_batch(run, works[0], options.batches) for name, run in arms.items()}
        results = [result for work in works[:2] for result in take_turns(arms, best, work, options.repeats)]
        del arms[STATIC]  # on a GPU it compiles for minutes at each new shape
        results += [result for work in works[2:] for result in take_turns(arms, best, work, options.repeats)]
    if options.all:
        results.append(run_from_mp3(bench, best["ours"], options))
    return results


def take_turns(arms: dict[str, Arm], best: dict[str, int], work: Workload, n_repeats: int) -> list[Result]:
    """Run every arm on one workload, one after the other and again."""
    of_arms = {name: Result(work.name, name, min(best[name], len(work.pieces))) for name in arms}
    for repeat in range(n_repeats + 1):
        for name, run in arms.items():
            once = run(work, of_arms[name].batch)
            if repeat:  # the first is the warm-up
                add(of_arms[name], once)
    print(render_rows(list(of_arms.values())), flush=True)
    return list(of_arms.values())


def choose_batch(run: Arm, work: Workload, candidates: Sequence[int]) -> int:
    """Return the batch at which an arm is fastest; what does not fit into memory is out."""
    found: dict[int, float] = {}
    for batch in sorted({min(one, len(work.pieces)) for one in candidates}):
        try:
            found[batch] = max(run(work, batch).rtfx[0] for _ in range(2))
        except torch.OutOfMemoryError:
            gc.collect()
            torch.cuda.empty_cache()
    return max(found, key=lambda batch: found[batch])


def run_stock(bench: Bench, arm: str, cache: str | None, work: Workload, batch: int) -> Result:
    """Measure generate once."""
    return measure(bench, work, arm, batch, lambda: bench.run_generate(work, batch, cache))


def run_qwen_asr(rival: QwenAsr, work: Workload, batch: int) -> Result:
    """Measure qwen-asr once."""
    figures = rival.run(work, batch)
    result = Result(work.name, rival.versions, batch, [work.audio_s / figures["took_s"]])
    result.step_ms = [1000 * figures["took_s"] / figures["n_steps"]]
    result.host_cpu_s = [figures["cpu_s"]]
    return result


def run_engine(bench: Bench, work: Workload, n_slots: int) -> Result:
    """Measure the product's engine once; starting it and its first piece are warm-up."""
    engine = ContinuousEngine(bench.model, bench.identity, n_slots)
    try:
        bench.run_ours(make_pieces([1.0], lambda _: 60, "warm-up"), engine)
        slots = bench.model.slots
        waited_s = slots.waited_s if slots is not None else 0.0
        result = measure(bench, work, "ours", n_slots, lambda: bench.run_ours(work, engine))
        if slots is not None and bench.device.type == "cuda":
            result.host_share = [1 - (slots.waited_s - waited_s) * result.rtfx[0] / work.audio_s]
        return result
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
    return result


# From a file on disk


class Line:
    """The product's straight line from files to transcripts, with its own front end, for several at a time."""

    def __init__(self, bench: Bench, n_slots: int, folder: Path) -> None:
        """Start engine and front end; the folder takes what the line writes."""
        paths = {name: folder / name for name in Folders.model_fields}
        for path in paths.values():
            path.mkdir()
        self._config = Config(folders=Folders(**paths), segment=SegmentSettings())
        self._engine = ContinuousEngine(bench.model, bench.identity, n_slots)
        self._front_end = FrontEnd(self._config.folders.cache)

    def transcribe(self, path: Path) -> Transcript:
        """Take one recording through."""
        recording = Recording(path.stem, path, path.name, RecordingSettings.of(self._config))
        control = RunControl(lambda: None, lambda _: None, Forgetful())
        return transcribe(recording, self._config, self._front_end, self._engine, control)

    def close(self) -> None:
        """Stop both."""
        self._front_end.close()
        self._engine.close()


def run_from_mp3(bench: Bench, n_slots: int, options: argparse.Namespace) -> Result:
    """Measure the way from mp3 files on disk to documents, as many at a time as the daemon takes."""
    audio_s = options.chunks * 30.0
    result = Result(f"{_N_RECORDINGS} mp3, together {audio_s / 60:g} min, to documents", "ours", n_slots)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_meeting(folder / "0.mp3", audio_s / _N_RECORDINGS)
        recordings = [folder / f"{index}.mp3" for index in range(_N_RECORDINGS)]
        for recording in recordings[1:]:
            shutil.copyfile(recordings[0], recording)
        line = Line(bench, n_slots, folder)
        try:
            for repeat in range(options.repeats + 1):
                begun_s, cpu_s = time.perf_counter(), time.process_time()
                with ThreadPoolExecutor(N_IN_FLIGHT) as pool:
                    for transcript in pool.map(line.transcribe, recordings):
                        render_documents(transcript, ("txt", "json"), has_timestamps=False)
                if repeat:
                    result.rtfx.append(audio_s / (time.perf_counter() - begun_s))
                    result.host_cpu_s.append(time.process_time() - cpu_s)
        finally:
            line.close()
    return result


def measure_memory(bench: Bench, hours: float) -> str:
    """Tell what memory this process holds after a recording of ten minutes, and after two long ones behind it.

    What is kept once for all shapes of sound comes with the first long one; only what grows on comes with the second.
    """
    told = []
    with tempfile.TemporaryDirectory() as folder:
        line = Line(bench, 8 if bench.device.type == "cpu" else 128, Path(folder))
        try:
            for audio_s in (600, 3600 * hours, 3600 * hours):
                path = Path(folder) / f"{audio_s:g}.wav"
                write_meeting(path, audio_s)
                wall_s = line.transcribe(path).processing.wall_s
                path.unlink()
                gc.collect()
                told.append(f"after {audio_s / 3600:.2f} h of sound in {wall_s:.0f} s: {tell_memory(bench)}")
        finally:
            line.close()
    return "\n".join(told)


def tell_memory(bench: Bench) -> str:
    """Return the memory that is in use: not mapped files, which the kernel may drop, nor what malloc holds in stock."""
    ctypes.CDLL(None).malloc_trim(0)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    told = f"{int(status['RssAnon'].split()[0]) / 1024:.0f} MiB"
    if bench.device.type == "cuda":
        told += f", on the GPU {torch.cuda.memory_allocated(bench.device) / 2**20:.0f} MiB allocated"
        told += f", {torch.cuda.memory_reserved(bench.device) / 2**20:.0f} MiB reserved"
    return told


def write_meeting(path: Path, audio_s: float) -> None:
    """Write the sample meeting over and over as one recording."""
    meeting, rate_hz = soundfile.read(checkpoint.find_folder("demo").parent / "recordings" / "meeting.flac")
    n_left = round(audio_s * rate_hz)
    with soundfile.SoundFile(path, "w", rate_hz, 1) as file:
        while n_left > 0:
            file.write(meeting[:n_left])
            n_left -= len(meeting)


# Stages and answers


def measure_stages(bench: Bench) -> dict[str, float]:
    """Time mel, encoder and prefill for 8 chunks of 30 s, and a decode step for several numbers of slots."""
    work = make_pieces([30.0] * 8, lambda _: 120, "stages")
    bench.budgets.update(work.budgets)
    model = bench.model
    stages: dict[str, float] = {}
    with torch.inference_mode(), model.on_device():
        prepared = [model.prepare(piece) for piece in work.pieces]
        sounds = [piece.samples for piece in prepared]
        mel = model._mel.compute(sounds)  # noqa: SLF001  # a stage, from inside
        stages["mel, 8 x 30 s"] = time_ms(bench, lambda: model._mel.compute(sounds))  # noqa: SLF001  # the same
        stages["encoder, 8 x 30 s"] = time_ms(bench, lambda: model._encoder.encode(mel, lambda: None))  # noqa: SLF001  # the same
        for n_slots in (1, 16, 64, 128, 256) if bench.device.type == "cuda" else (1, 8, 32):
            slots = model.make_slots(SlotShape(n_slots, count_slot_tokens(30)))
            if n_slots >= len(prepared):
                begin = partial(model.begin, slots, prepared, range(len(prepared)), lambda: None)
                stages["mel, encoder and prefill, 8 x 30 s"] = time_ms(bench, begin)
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


def compare_answers(bench: Bench, n_chunks: int) -> dict[str, str]:
    """Count the answers that change: with the number of slots, and from generate's. In float32 none may."""
    work = make_spread(n_chunks)
    bench.budgets.update(work.budgets)
    answers = []
    for n_slots in (1, 8 if bench.device.type == "cpu" else 128):
        engine = ContinuousEngine(bench.model, bench.identity, n_slots)
        answers.append([future.result().text for future in [engine.submit(piece) for piece in work.pieces]])
        engine.close()
    n_changed = sum(a != b for a, b in zip(*answers, strict=True))
    firsts = work.pieces[:4]
    generated = [to_words(bench.generate([piece], work.budgets[piece])[0]) for piece in firsts]
    n_other = sum(a != b for a, b in zip(answers[0], generated, strict=False))
    return {
        "Answers that differ between one slot and many": f"{n_changed} of {len(work.pieces)}",
        "Answers that differ from those of generate": f"{n_other} of {len(firsts)}",
    }


if __name__ == "__main__":
    main()
