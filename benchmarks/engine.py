"""How fast the engine is compared with plain transformers and qwen-asr, on this machine, in one run.

    python benchmarks/engine.py --all --out benchmarks/results

The weights are random (seeded) in the real architecture: the size of the 1.7B model on a GPU, a small one on
a CPU. On a GPU it makes the table of `engine_gpu` unless `--all` is given; otherwise it compares contenders.

The text means nothing and never ends by itself; its length is given: 120 tokens for 30 s, or a seeded
spread of 40 to 180, which shows what stragglers and refilled slots cost. Each contender runs at its own best
batch. Contenders take turns after a warm-up; the table shows the median of the repeats, the lowest and the highest.

It runs from the source tree, without installation.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # ahead of this folder, whose daemon.py is not the package

from benchmarks.contenders import QwenAsr, Workload, load_bench, to_words
from benchmarks.engine_files import Pipeline, write_meeting
from benchmarks.engine_gpu import make_table, render_table
from benchmarks.engine_report import Figures, add, describe, render, render_rows
from benchmarks.workloads import make_chunks, make_mix, make_spread, time_ms
from daemon.documents import render as render_documents
from daemon.engine.device_loop import DeviceLoop
from daemon.engine.qwen3_asr.model import count_slot_tokens
from daemon.engine.scheduler import ContinuousEngine
from daemon.engine.slots import SlotShape
from daemon.worker import count_places

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.contenders import Bench

    Contender = Callable[[Workload, int], Figures]

_N_RECORDINGS: Final = 8
STATIC: Final = "generate, static cache"


def main() -> None:
    """Run what the options ask for, print the tables, write the raw figures."""
    options = parse_options()
    # Decoder processes have to find the package too, from whatever folder this script was started in.
    root = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    bench = load_bench(torch.device(options.device), is_small=options.small or options.device == "cpu")
    if options.memory is not None:
        print(measure_memory(bench, options.memory))
        return
    facts = describe(bench)
    if options.table:
        lines, notes = make_table(bench, options.chunks, options.minutes)
        table = render_table(facts, lines, notes)
        write_results(options.out, facts, "engine", {"lines": [asdict(line) for line in lines], "notes": notes}, table)
        return
    results = compare(bench, options)
    is_cpu = options.device == "cpu"
    stages = measure_stages(bench) if options.all and is_cpu else {}  # the table of a GPU has its stages
    checks = compare_outputs(bench, min(options.chunks, 32)) if options.all else {}
    figures: dict[str, object] = {"results": [asdict(result) for result in results]}
    figures |= {"stages_ms": stages, "checks": checks}
    table = render(facts, results, stages, checks)
    print(table)
    write_results(options.out, facts, "engine" if is_cpu else "contenders", figures, table)


def write_results(
    folder: Path | None, facts: dict[str, str], what: str, figures: dict[str, object], table: str
) -> None:
    """Write the table and the raw figures, if a folder is given."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{what}-{facts['device'].replace(' ', '-').lower()}"
        (folder / f"{name}.json").write_text(json.dumps({"machine": facts} | figures, indent=1) + "\n")
        (folder / f"{name}.md").write_text(table + "\n")


def parse_options() -> argparse.Namespace:
    """Return the options, with defaults that take minutes on this device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="compare every contender on every workload")
    parser.add_argument("--table", action="store_true", help="the table of a GPU, where the device is none")
    parser.add_argument("--minutes", type=float, default=4.0, help="begin no part of the table later than this")
    parser.add_argument("--memory", type=float, metavar="HOURS", help="only measure memory, with this much audio")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="use the small model on a GPU as well")
    parser.add_argument("--chunks", type=int, help="chunks of a workload (1,024 in the table of a GPU)")
    parser.add_argument("--hours", type=float, help="length of the long recording (1 on a GPU, 0.1 on a CPU)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", help="batches to choose the best one from")
    parser.add_argument("--qwen-asr-python", type=Path, metavar="PATH", help="a Python that has qwen-asr")
    parser.add_argument("--out", type=Path, help="folder for the raw figures and the table")
    options = parser.parse_args()
    is_gpu = options.device != "cpu"
    options.table = options.table or (is_gpu and not options.all and options.memory is None)
    options.chunks = options.chunks or (1024 if options.table else 256 if is_gpu else 32)
    options.hours = options.hours or (1.0 if is_gpu else 0.1)
    options.batches = options.batches or ([128, 256] if is_gpu else [8, 16, 32])
    return options


# Workloads


def make_workloads(options: argparse.Namespace) -> list[Workload]:
    """Return the workloads to run."""
    n_chunks = options.chunks
    works = [make_spread(n_chunks), make_chunks([30.0], lambda _: 120, "one chunk of 30 s, 120 tokens")]
    if options.all:
        works.append(make_chunks([30.0] * n_chunks, lambda _: 120, f"{n_chunks} x 30 s, 120 tokens"))
        works.append(make_mix(n_chunks))
        works.append(replace(make_spread(round(options.hours * 120)), name=f"{options.hours:g} h, spread"))
    return works


# Contenders


def compare(bench: Bench, options: argparse.Namespace) -> list[Figures]:
    """Run every contender on every workload, in turns, each at its best batch."""
    works = make_workloads(options)
    for work in works:
        bench.n_tokens.update(work.n_tokens)
    with ExitStack() as stack:
        contenders: dict[str, Contender] = {
            "generate": partial(run_stock, bench, "generate", None),
            STATIC: partial(run_stock, bench, STATIC, "static"),
            "scribed": partial(run_engine, bench),
        }
        if options.qwen_asr_python is not None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            rival = QwenAsr(options.qwen_asr_python, bench, folder)
            stack.callback(rival.close)
            contenders[rival.versions] = partial(run_qwen_asr, rival)
        best = {name: choose_batch(run, works[0], options.batches) for name, run in contenders.items()}
        results = [result for work in works[:2] for result in take_turns(contenders, best, work, options.repeats)]
        del contenders[STATIC]  # on a GPU it compiles for minutes at each new shape
        results += [result for work in works[2:] for result in take_turns(contenders, best, work, options.repeats)]
    if options.all:
        results.append(run_from_mp3(bench, best["scribed"], options))
    return results


def take_turns(contenders: dict[str, Contender], best: dict[str, int], work: Workload, n_repeats: int) -> list[Figures]:
    """Run the contenders on one workload in turns."""
    by_name = {name: Figures(work.name, name, min(best[name], len(work.chunks))) for name in contenders}
    for repeat in range(n_repeats + 1):
        for name, run in contenders.items():
            once = run(work, by_name[name].batch)
            if repeat:  # the first is the warm-up
                add(by_name[name], once)
    print(render_rows(list(by_name.values())), flush=True)
    return list(by_name.values())


def choose_batch(run: Contender, work: Workload, candidates: Sequence[int]) -> int:
    """Return the batch at which a contender is fastest; batches that do not fit into memory are left out."""
    found: dict[int, float] = {}
    for batch in sorted({min(candidate, len(work.chunks)) for candidate in candidates}):
        try:
            found[batch] = max(run(work, batch).rtfx[0] for _ in range(2))
        except torch.OutOfMemoryError:
            gc.collect()
            torch.cuda.empty_cache()
    return max(found, key=lambda batch: found[batch])


def run_stock(bench: Bench, name: str, cache: str | None, work: Workload, batch: int) -> Figures:
    """Measure generate once."""
    return measure(bench, work, name, batch, lambda: bench.run_generate(work, batch, cache))


def run_qwen_asr(rival: QwenAsr, work: Workload, batch: int) -> Figures:
    """Measure qwen-asr once."""
    figures = rival.run(work, batch)
    result = Figures(work.name, rival.versions, batch, [work.audio_s / figures["took_s"]])
    result.step_ms = [1000 * figures["took_s"] / figures["n_steps"]]
    result.host_cpu_s = [figures["cpu_s"]]
    return result


def run_engine(bench: Bench, work: Workload, n_slots: int) -> Figures:
    """Measure the engine once; its start and its first chunk are warm-up."""
    engine = ContinuousEngine(bench.model, bench.identity, n_slots, DeviceLoop(bench.device))
    try:
        bench.run_ours(make_chunks([1.0], lambda _: 60, "warm-up"), engine)
        slots = bench.model.slots
        waited_s = slots.waited_s if slots is not None else 0.0
        result = measure(bench, work, "scribed", n_slots, lambda: bench.run_ours(work, engine))
        if slots is not None and bench.device.type == "cuda":
            result.host_share = [1 - (slots.waited_s - waited_s) * result.rtfx[0] / work.audio_s]
        return result
    finally:
        engine.close()


def measure(bench: Bench, work: Workload, name: str, batch: int, run: Callable[[], int]) -> Figures:
    """Time one run."""
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
    bench.synchronize()
    started_s, cpu_s = time.perf_counter(), time.process_time()
    n_steps = run()
    took_s = time.perf_counter() - started_s
    result = Figures(work.name, name, batch, [work.audio_s / took_s], [1000 * took_s / n_steps])
    result.host_cpu_s = [time.process_time() - cpu_s]
    if bench.device.type == "cuda":
        result.allocated_mb = torch.cuda.max_memory_allocated(bench.device) / 1e6
        result.reserved_mb = torch.cuda.max_memory_reserved(bench.device) / 1e6
    return result


# From a file on disk


def run_from_mp3(bench: Bench, n_slots: int, options: argparse.Namespace) -> Figures:
    """Measure mp3 files on disk to documents, as many at a time as the daemon transcribes."""
    audio_s = options.chunks * 30.0
    result = Figures(f"{_N_RECORDINGS} mp3, {audio_s / 60:g} min in all, to documents", "scribed", n_slots)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_meeting(folder / "0.mp3", audio_s / _N_RECORDINGS)
        recordings = [folder / f"{index}.mp3" for index in range(_N_RECORDINGS)]
        for recording in recordings[1:]:
            shutil.copyfile(recordings[0], recording)
        pipeline = Pipeline(bench, n_slots, folder)
        try:
            for repeat in range(options.repeats + 1):
                started_s, cpu_s = time.perf_counter(), time.process_time()
                with ThreadPoolExecutor(count_places(pipeline.engine)) as pool:
                    for transcript in pool.map(pipeline.transcribe, recordings):
                        render_documents(transcript, ("txt", "json"), has_timestamps=False)
                if repeat:
                    result.rtfx.append(audio_s / (time.perf_counter() - started_s))
                    result.host_cpu_s.append(time.process_time() - cpu_s)
        finally:
            pipeline.close()
    return result


def measure_memory(bench: Bench, hours: float) -> str:
    """Return the memory that this process holds after a recording of ten minutes, and after two long ones.

    The first long one may add what is kept for every shape of audio; the second shows only what keeps growing.
    """
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        pipeline = Pipeline(bench, 8 if bench.device.type == "cpu" else 128, Path(folder))
        try:
            for audio_s in (600, 3600 * hours, 3600 * hours):
                path = Path(folder) / f"{audio_s:g}.wav"
                write_meeting(path, audio_s)
                wall_s = pipeline.transcribe(path).processing.wall_s
                path.unlink()
                gc.collect()
                lines.append(f"after {audio_s / 3600:.2f} h of audio in {wall_s:.0f} s: {describe_memory(bench)}")
        finally:
            pipeline.close()
    return "\n".join(lines)


def describe_memory(bench: Bench) -> str:
    """Return the memory in use, without mapped files, which the kernel may drop, and without malloc's free lists."""
    ctypes.CDLL(None).malloc_trim(0)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    text = f"{int(status['RssAnon'].split()[0]) / 1024:.0f} MiB"
    if bench.device.type == "cuda":
        text += f", on the GPU {torch.cuda.memory_allocated(bench.device) / 2**20:.0f} MiB allocated"
        text += f", {torch.cuda.memory_reserved(bench.device) / 2**20:.0f} MiB reserved"
    return text


# Stages and outputs


def measure_stages(bench: Bench) -> dict[str, float]:
    """Time, on a CPU, mel, encoder and prefill of 8 chunks of 30 s, and a decode step for several numbers of slots."""
    work = make_chunks([30.0] * 8, lambda _: 120, "stages")
    bench.n_tokens.update(work.n_tokens)
    model = bench.model
    stages: dict[str, float] = {}
    with torch.inference_mode():
        prepared = [model.prepare(chunk) for chunk in work.chunks]
        samples = [chunk.samples for chunk in prepared]
        mel = model._mel.compute(samples)  # noqa: SLF001  # stages have no public names
        stages["mel, 8 x 30 s"] = time_ms(bench, lambda: model._mel.compute(samples))  # noqa: SLF001  # as above
        stages["encoder, 8 x 30 s"] = time_ms(bench, lambda: model._encoder.encode(mel, lambda: None))  # noqa: SLF001  # as above
        for n_slots in (1, 8, 32):
            slots = model.make_slots(SlotShape(n_slots, count_slot_tokens(30)))
            if n_slots >= len(prepared):
                prefill = partial(model.prefill, slots, prepared, range(len(prepared)), lambda: None)
                stages["mel, encoder and prefill, 8 x 30 s"] = time_ms(bench, prefill)
            slots.position.fill_(480)
            stages[f"decode step, {n_slots} slots"] = time_ms(bench, partial(model.decode_step, slots, n_slots, 500))
            del slots
            model.release_memory()
    return stages


def compare_outputs(bench: Bench, n_chunks: int) -> dict[str, str]:
    """Count the outputs that differ between numbers of slots, and from `generate`. In float32 none may."""
    work = make_spread(n_chunks)
    bench.n_tokens.update(work.n_tokens)
    outputs = []
    for n_slots in (1, 8 if bench.device.type == "cpu" else 128):
        engine = ContinuousEngine(bench.model, bench.identity, n_slots, DeviceLoop(bench.device))
        outputs.append([future.result().text for future in [engine.submit(chunk) for chunk in work.chunks]])
        engine.close()
    n_changed = sum(a != b for a, b in zip(*outputs, strict=True))
    firsts = work.chunks[:4]
    generated = [to_words(bench.generate([chunk], work.n_tokens[chunk])[0]) for chunk in firsts]
    n_other = sum(a != b for a, b in zip(outputs[0], generated, strict=False))
    return {
        "Outputs that differ between one slot and many": f"{n_changed} of {len(work.chunks)}",
        "Outputs that differ from those of generate": f"{n_other} of {len(firsts)}",
    }


if __name__ == "__main__":
    main()
