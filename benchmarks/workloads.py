"""Chunks of noise for the engine benchmark, and a clock."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.contenders import SEED, Workload
from daemon.engine import SAMPLE_RATE_HZ, ChunkRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.contenders import Bench


def make_chunks(durations_s: Sequence[float], tokens_per_30_s: Callable[[int], int], name: str) -> Workload:
    """Return chunks of noise; the number of tokens of each is proportional to its length.

    Chunks share their noise, from different positions: drawing it for each would take longer than the runs.
    """
    longest = round(SAMPLE_RATE_HZ * max(durations_s))
    noise = np.random.default_rng(SEED).normal(0, 0.1, longest + len(durations_s)).astype(np.float32)
    chunks = [
        ChunkRequest(noise[index : index + round(SAMPLE_RATE_HZ * s)], None, (), f"job{index % 4}")
        for index, s in enumerate(durations_s)
    ]
    n_tokens = {
        chunk: max(4, round(tokens_per_30_s(index) * chunk.duration_s / 30)) for index, chunk in enumerate(chunks)
    }
    return Workload(name, chunks, n_tokens)


def make_spread(n_chunks: int) -> Workload:
    """Return chunks of 30 s with 40 to 180 tokens each."""
    lengths = np.random.default_rng(SEED).integers(40, 181, n_chunks)
    return make_chunks([30.0] * n_chunks, lambda index: int(lengths[index]), f"{n_chunks} x 30 s, 40-180 tokens")


def make_mix(n_chunks: int) -> Workload:
    """Return chunks of 5 to 30 s with 40 to 180 tokens for each 30 s."""
    rng = np.random.default_rng(SEED)
    durations_s, lengths = rng.uniform(5, 30, n_chunks), rng.integers(40, 181, n_chunks)
    return make_chunks(durations_s.tolist(), lambda index: int(lengths[index]), f"{n_chunks} x 5-30 s, spread")


def time_ms(bench: Bench, run: Callable[[], object], n_times: int = 8) -> float:
    """Return the median time of a call in milliseconds."""
    times_ms = []
    for _ in range(n_times + 2):
        bench.synchronize()
        started_s = time.perf_counter()
        run()
        bench.synchronize()
        times_ms.append(1000 * (time.perf_counter() - started_s))
    return statistics.median(times_ms[2:])
