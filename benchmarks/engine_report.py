"""The figures of the engine benchmark, and how they are shown."""

from __future__ import annotations

import platform
import statistics
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import transformers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.contenders import Bench


@dataclass(slots=True)
class Figures:
    """The figures of one contender for one workload; the lists have one entry per repeat.

    Attributes:
        batch: number of slots, or of chunks in a batch.
        rtfx: seconds of audio per second.
        host_share: share of the time in which the host does not wait for the device; at most this share of the
            device's time was idle.
    """

    workload: str
    name: str
    batch: int
    rtfx: list[float] = field(default_factory=list)
    step_ms: list[float] = field(default_factory=list)
    host_cpu_s: list[float] = field(default_factory=list)
    host_share: list[float] = field(default_factory=list)
    allocated_mb: float | None = None
    reserved_mb: float | None = None


def add(total: Figures, once: Figures) -> None:
    """Add the figures of one repeat."""
    for name in ("rtfx", "step_ms", "host_cpu_s", "host_share"):
        getattr(total, name).extend(getattr(once, name))
    total.allocated_mb, total.reserved_mb = once.allocated_mb, once.reserved_mb


def describe(bench: Bench) -> dict[str, str]:
    """Return the machine and the versions that the figures belong to."""
    facts = {
        "device": torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "CPU",
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


def render(facts: dict[str, str], results: Sequence[Figures], stages: dict[str, float], checks: dict[str, str]) -> str:
    """Return everything as Markdown."""
    lines = [", ".join(f"{name} {value}" for name, value in facts.items()), ""]
    lines += [
        "| workload | engine | batch | RTFx (lowest-highest) | ms per step | CPU s | memory MB |",
        "|---" * 7 + "|",
    ]
    lines += [render_rows(results), ""]
    if stages:
        lines += ["| stage | ms |", "|---" * 2 + "|"]
        lines += [f"| {name} | {ms:.2f} |" for name, ms in stages.items()]
    lines += [""] + [f"- {name}: {value}" for name, value in checks.items()]
    return "\n".join(lines)


def render_rows(results: Sequence[Figures]) -> str:
    """Return one line for each result."""
    rows = []
    for one in results:
        spread = f"{statistics.median(one.rtfx):.1f} ({min(one.rtfx):.1f}-{max(one.rtfx):.1f})"
        step = f"{statistics.median(one.step_ms):.2f}" if one.step_ms else ""
        if one.host_share:
            step += f" (host busy {statistics.median(one.host_share):.0%})"
        memory = f"{one.allocated_mb:.0f} / {one.reserved_mb:.0f}" if one.allocated_mb and one.reserved_mb else ""
        cpu_s = f"{statistics.median(one.host_cpu_s):.1f}"
        rows.append(f"| {one.workload} | {one.name} | {one.batch} | {spread} | {step} | {cpu_s} | {memory} |")
    return "\n".join(rows)
