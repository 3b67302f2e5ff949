"""The engine on a GPU in one table, within five minutes; `benchmarks/engine.py` runs it where there is a GPU.

Each line is printed as soon as it is known. The limit of a line is the time that its products take at the rate of a
large product on this card, plus the time that weights and KV cache take to be read at the rate of a large copy;
both rates are measured first. Prefills are limited by products, decode steps by reading.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Semaphore
from typing import TYPE_CHECKING, Final

import torch

from benchmarks.contenders import REAL
from benchmarks.engine_files import Pipeline, write_meeting
from benchmarks.workloads import make_chunks, make_mix, make_spread, time_ms
from daemon.documents import render as render_documents
from daemon.engine import device as devices
from daemon.engine.device_loop import DeviceLoop
from daemon.engine.qwen3_asr.graphs import GraphCapture
from daemon.engine.scheduler import ContinuousEngine
from daemon.engine.slots import SlotShape
from daemon.worker import count_places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from benchmarks.contenders import Bench, Workload
    from daemon.engine import ChunkRequest
    from daemon.engine.slot_model import PreparedChunk

# The work of the 1.7B model for a chunk of 30 s, and what a decode step reads, computed from its sizes.
_ENCODER_FLOP: Final = 0.37e12
_PREFILL_FLOP: Final = 1.16e12
_STEP_BYTES: Final = 3.44e9
_TOKEN_BYTES: Final = 112 * 1024
_AUDIO_TOKENS_PER_S: Final = 13
_FRAME_TOKENS: Final = 18


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table; None is not measured.

    Attributes:
        what: the workload or stage.
        batch: rows or chunks.
        ms: milliseconds for each chunk, or for the stage.
        rtfx: seconds of audio per second.
        limit_share: the time of the limit divided by the time measured.
        host_ms: milliseconds for each chunk in which the host does not wait for the device.
    """

    what: str
    batch: int
    ms: float
    rtfx: float | None = None
    limit_share: float | None = None
    host_ms: float | None = None

    def __str__(self) -> str:
        """Return the line as Markdown."""
        rtfx = "" if self.rtfx is None else f"{self.rtfx:,.0f}"
        share = "" if self.limit_share is None else f"{self.limit_share:.0%}"
        host = "" if self.host_ms is None else f"{self.host_ms:.2f}"
        return f"| {self.what} | {self.batch} | {rtfx} | {self.ms:.3g} | {share} | {host} |"


HEAD: Final = (
    "| what | batch | x real time | ms per chunk or stage | of the limit | host ms per chunk |\n" + "|---" * 6 + "|"
)


_HEAD: Final = (
    "| what | batch | x real time | ms per chunk or stage | of the limit | host ms per chunk |\n" + "|---" * 6 + "|"
)


class Card:
    """What the card can do at most, measured.

    Args:
        bench: has the model.
    """

    def __init__(self, bench: Bench) -> None:
        self._is_real = bench.stock.config.text_config.hidden_size == REAL["text"]["hidden_size"]
        size = 8192 if self._is_real else 512
        a, b = (torch.randn(size, size, device=bench.device, dtype=bench.dtype) for _ in range(2))
        self.flops = 2 * size**3 / (1e-3 * time_ms(bench, partial(torch.mm, a, b)))
        source = torch.empty(2**30 if self._is_real else 2**20, dtype=torch.uint8, device=bench.device)
        target = torch.empty_like(source)
        self.bytes_per_s = 2 * source.numel() / (1e-3 * time_ms(bench, lambda: target.copy_(source)))

    def __str__(self) -> str:
        """Return both rates."""
        return f"products {self.flops / 1e12:.0f} TFLOP/s, copies {self.bytes_per_s / 1e12:.2f} TB/s (measured)"

    def share(self, took_s: float, flop: float = 0.0, n_bytes: float = 0.0) -> float | None:
        """Return the share of the limit that was reached; None for the small model, whose work is another."""
        return (flop / self.flops + n_bytes / self.bytes_per_s) / took_s if self._is_real else None

    def share_of_work(self, took_s: float, work: Workload, n_slots: int) -> float | None:
        """Return the share for a whole workload."""
        flop = sum(chunk.duration_s / 30 * (_ENCODER_FLOP + _PREFILL_FLOP) for chunk in work.chunks)
        n_bytes = 0.0
        for chunk in work.chunks:
            n_tokens = work.n_tokens[chunk]
            held = _AUDIO_TOKENS_PER_S * chunk.duration_s + _FRAME_TOKENS + n_tokens / 2
            n_bytes += n_tokens * (_STEP_BYTES / n_slots + held * _TOKEN_BYTES)
        return self.share(took_s, flop, n_bytes)


def run_slots(bench: Bench, card: Card, work: Workload, n_slots: int, in_flight: int | None = None) -> Line:
    """Transcribe a workload with a new engine, at most in_flight chunks at a time."""
    engine = ContinuousEngine(bench.model, bench.identity, n_slots, DeviceLoop(bench.device))
    try:
        _run(engine, work.chunks[:1], 1)  # the slots are made and captured
        waited_s = _count_waited_s(bench)
        started_s = time.perf_counter()
        _run(engine, work.chunks, in_flight or len(work.chunks))
        took_s = time.perf_counter() - started_s
        waited_s = _count_waited_s(bench) - waited_s
    finally:
        engine.close()
    share = card.share_of_work(took_s, work, min(n_slots, in_flight or n_slots))
    n_chunks = len(work.chunks)
    host_ms = 1000 * (took_s - waited_s) / n_chunks
    return Line(work.name, in_flight or n_slots, 1000 * took_s / n_chunks, work.audio_s / took_s, share, host_ms)


def _count_waited_s(bench: Bench) -> float:
    """Return how long the host has waited for the device so far."""
    slots, packed = bench.model.slots, bench.model.packed_prefill
    return (0.0 if slots is None else slots.waited_s) + (0.0 if packed is None else packed.waited_s)


def _run(engine: ContinuousEngine, chunks: Sequence[ChunkRequest], in_flight: int) -> None:
    places = Semaphore(in_flight)
    futures = []
    for chunk in chunks:
        places.acquire()
        futures.append(engine.submit(chunk))
        futures[-1].add_done_callback(lambda _: places.release())
    for future in futures:
        future.result()


def run_generate(bench: Bench, card: Card, batch: int) -> Line:
    """Transcribe one batch with `generate` of transformers."""
    work = make_spread(batch)
    bench.n_tokens.update(work.n_tokens)
    started_s = time.perf_counter()
    bench.run_generate(work, batch, None)
    took_s = time.perf_counter() - started_s
    share = card.share_of_work(took_s, work, batch)
    return Line(f"transformers' generate, {work.name}", batch, 1000 * took_s / batch, work.audio_s / took_s, share)


def run_files(bench: Bench, n_slots: int, n_files: int, file_s: float) -> Line:
    """Transcribe mp3 files to documents, as many at a time as the daemon does."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recordings = [folder / f"{index}.mp3" for index in range(n_files)]
        write_meeting(recordings[0], file_s)
        for recording in recordings[1:]:
            shutil.copyfile(recordings[0], recording)
        pipeline = Pipeline(bench, n_slots, folder)
        try:
            write_meeting(folder / "short.mp3", 10.0)
            pipeline.transcribe(folder / "short.mp3")
            started_s = time.perf_counter()
            with ThreadPoolExecutor(count_places(pipeline.engine)) as pool:
                for transcript in pool.map(pipeline.transcribe, recordings):
                    render_documents(transcript, ("txt", "json"), has_timestamps=False)
            took_s = time.perf_counter() - started_s
        finally:
            pipeline.close()
    audio_s = n_files * file_s
    return Line(
        f"{n_files} mp3 of {file_s / 60:g} min to documents", n_slots, 30e3 * took_s / audio_s, audio_s / took_s
    )


# Stages


class Stages:
    """One set of slots, all of whose sizes are captured, and the stages that run in it.

    Args:
        bench: has the model.
        card: what they are compared with.
        n_slots: the most rows.
    """

    def __init__(self, bench: Bench, card: Card, n_slots: int) -> None:
        self._bench, self._card, self._n_slots = bench, card, n_slots
        model = bench.model
        started_s = time.perf_counter()
        page_tokens, n_tokens = model.page_tokens, model.usual_slot_tokens
        n_pages = 0 if page_tokens is None else n_slots * -(-n_tokens // page_tokens)
        self._slots = model.make_slots(SlotShape(n_slots, n_tokens, page_tokens, n_pages))
        bench.synchronize()
        self.made_s = time.perf_counter() - started_s
        for row in range(n_slots):
            self._slots.grow(row, n_tokens)
        self._slots.upload_pages()

    def measure(self) -> Iterator[Line]:
        """Time prefills and decode steps."""
        yield Line("making and capturing the slots", self._n_slots, 1000 * self.made_s)
        work = make_chunks([30.0] * 20, lambda _: 120, "stages")
        self._bench.n_tokens.update(work.n_tokens)
        prepared = [self._bench.model.prepare(chunk) for chunk in work.chunks]
        for n_chunks in (1, 8, 20):
            yield from self._measure_prefill(prepared[:n_chunks])
        for n_rows in (1, 8, 16, 64, 128, 256):
            if n_rows <= self._n_slots:
                yield self._measure_step(n_rows, 480)

    def _measure_prefill(self, chunks: Sequence[PreparedChunk]) -> Iterator[Line]:
        """Time a prefill as a whole, then its stages, and how long the host is busy with it."""
        model, n_chunks = self._bench.model, len(chunks)
        prefill = partial(model.prefill, self._slots, chunks, range(n_chunks), lambda: None)
        ms = time_ms(self._bench, prefill)
        share = self._card.share(1e-3 * ms, n_chunks * (_ENCODER_FLOP + _PREFILL_FLOP))
        host_ms = _time_host_ms(self._bench, prefill) / n_chunks
        what = f"mel, encoder and prefill, {n_chunks} x 30 s"
        yield Line(what, n_chunks, ms, 30e3 * n_chunks / ms, share, host_ms)
        packed = model.packed_prefill
        if packed is None or self._bench.device.type != "cuda":
            return
        size, _ = packed.packer.group(chunks)[0]
        frames = packed.compute_frames(size)
        states = packed.encode(size, frames)
        stages: dict[str, tuple[Callable[[], object], float]] = {
            "mel": (partial(packed.compute_frames, size), 0.0),
            "encoder": (partial(packed.encode, size, frames), _ENCODER_FLOP),
            "prefill": (partial(packed.read_prompts, size, states, self._slots), _PREFILL_FLOP),
        }
        capture = GraphCapture()
        for name, (stage, flop) in stages.items():
            ms = time_ms(self._bench, capture(partial(_forget, stage)))
            yield Line(f"- {name}", n_chunks, ms, None, self._card.share(1e-3 * ms, n_chunks * flop) if flop else None)

    def _measure_step(self, n_rows: int, n_tokens: int) -> Line:
        """Time a decode step of live rows that hold n_tokens each."""
        slots = self._slots
        slots.is_live.fill_(1)
        slots.max_new_tokens.fill_(slots.shape.n_tokens)
        slots.position.fill_(n_tokens)
        slots.n_generated.fill_(1)
        ms = time_ms(self._bench, partial(self._bench.model.decode_step, slots, n_rows, n_tokens + 32))
        n_bytes = _STEP_BYTES + n_rows * n_tokens * _TOKEN_BYTES
        slots.is_live.fill_(0)
        return Line(f"decode step, {n_tokens} tokens held", n_rows, ms, None, self._card.share(1e-3 * ms, 0.0, n_bytes))


def _forget(stage: Callable[[], object]) -> None:
    """Run a stage without its result."""
    stage()


def _time_host_ms(bench: Bench, run: Callable[[], object], n_times: int = 8) -> float:
    """Return the median time until a call returns, when the device has nothing else to do."""
    times_ms = []
    for _ in range(n_times):
        bench.synchronize()
        started_s = time.perf_counter()
        run()
        times_ms.append(1000 * (time.perf_counter() - started_s))
    bench.synchronize()
    return statistics.median(times_ms)


# The table


def make_table(bench: Bench, n_chunks: int, minutes: float) -> tuple[list[Line], list[str]]:
    """Measure and print line by line; return the lines, and facts about the card and what was left out.

    Args:
        bench: the models.
        n_chunks: chunks of the large workloads.
        minutes: no part is begun after this time.
    """
    deadline_s = time.monotonic() + 60 * minutes
    card = Card(bench)
    print(f"{card}\n\n{_HEAD}", flush=True)
    spread, mix = make_spread(n_chunks), make_mix(n_chunks)
    few = make_chunks([30.0] * 64, lambda _: 120, "8 at a time, 30 s, 120 tokens")
    one = make_chunks([30.0] * 4, lambda _: 120, "one at a time, 30 s, 120 tokens")
    for work in (spread, mix, few, one):
        bench.n_tokens.update(work.n_tokens)
    file_s = 30.0 * n_chunks / 16
    parts: dict[str, Callable[[], Iterable[Line]]] = {
        "stages": lambda: _measure_stages(bench, card),
        "256 slots": lambda: [run_slots(bench, card, spread, 256)],
        "one at a time": lambda: [run_slots(bench, card, one, 8, 1)],
        "8 at a time": lambda: [run_slots(bench, card, few, 8, 8)],
        "128 slots": lambda: [run_slots(bench, card, spread, 128)],
        "64 slots": lambda: [run_slots(bench, card, spread, 64)],
        "the mix": lambda: [run_slots(bench, card, mix, 256)],
        "generate": lambda: [run_generate(bench, card, min(128, n_chunks))],
        "files": lambda: [run_files(bench, 256, 8, file_s)],
    }
    lines: list[Line] = []
    left_out: list[str] = []
    for name, part in parts.items():
        if time.monotonic() > deadline_s:
            left_out.append(name)
            continue
        for line in part():
            print(line, flush=True)
            lines.append(line)
    notes = [str(card)]
    if left_out:
        notes.append(f"Left out after {minutes:g} minutes: {', '.join(left_out)}.")
    return lines, notes


def _measure_stages(bench: Bench, card: Card) -> Iterator[Line]:
    with torch.inference_mode(), devices.activate(bench.device):
        yield from Stages(bench, card, 256 if bench.device.type == "cuda" else 8).measure()
        bench.model.release_memory()


def render_table(facts: dict[str, str], lines: Sequence[Line], notes: Sequence[str]) -> str:
    """Return everything as Markdown."""
    head = ", ".join(f"{name} {value}" for name, value in facts.items())
    return "\n".join([head, "", *notes, "", _HEAD, *map(str, lines)])
