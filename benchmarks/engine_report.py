"""What the benchmark of the engine has measured, and how it is shown."""

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

# What an H200 was measured to do (performance.md): for the comparison with the roofline of the real model.
H200_BYTES_PER_S, H200_FLOPS = 4.3e12, 790e12
REAL_STEP_BYTES, REAL_SLOT_BYTES = 3.44e9, 53e6
REAL_ENCODER_FLOP, REAL_PREFILL_FLOP = 0.37e12, 1.16e12


@dataclass(slots=True)
class Result:
    """What one arm needed for one workload, one entry in the lists for each repeat.

    `host_share` is the time in which the host does not wait for the device: no more of it can have been idle.
    """

    workload: str
    arm: str
    batch: int
    rtfx: list[float] = field(default_factory=list)
    step_ms: list[float] = field(default_factory=list)
    host_cpu_s: list[float] = field(default_factory=list)
    host_share: list[float] = field(default_factory=list)
    allocated_mb: float | None = None
    reserved_mb: float | None = None


def add(total: Result, once: Result) -> None:
    """Add the figures of one repeat."""
    for name in ("rtfx", "step_ms", "host_cpu_s", "host_share"):
        getattr(total, name).extend(getattr(once, name))
    total.allocated_mb, total.reserved_mb = once.allocated_mb, once.reserved_mb


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


def render(facts: dict[str, str], results: Sequence[Result], stages: dict[str, float], answers: dict[str, str]) -> str:
    """Return everything as Markdown."""
    lines = [", ".join(f"{name} {value}" for name, value in facts.items()), ""]
    lines += ["| workload | arm | batch | RTFx (lowest-highest) | ms per step | CPU s | memory MB |", "|---" * 7 + "|"]
    lines += [render_rows(results), ""]
    if stages:
        lines += ["| stage | ms | roofline of an H200, ms |", "|---" * 3 + "|"]
        lines += [f"| {name} | {ms:.2f} | {roofline_ms(facts, name)} |" for name, ms in stages.items()]
    lines += [""] + [f"- {name}: {value}" for name, value in answers.items()]
    return "\n".join(lines)


def render_rows(results: Sequence[Result]) -> str:
    """Return a line for each result."""
    rows = []
    for one in results:
        spread = f"{statistics.median(one.rtfx):.1f} ({min(one.rtfx):.1f}-{max(one.rtfx):.1f})"
        step = f"{statistics.median(one.step_ms):.2f}" if one.step_ms else ""
        if one.host_share:
            step += f" (host at work {statistics.median(one.host_share):.0%})"
        memory = f"{one.allocated_mb:.0f} / {one.reserved_mb:.0f}" if one.allocated_mb and one.reserved_mb else ""
        cpu_s = f"{statistics.median(one.host_cpu_s):.1f}"
        rows.append(f"| {one.workload} | {one.arm} | {one.batch} | {spread} | {step} | {cpu_s} | {memory} |")
    return "\n".join(rows)


def roofline_ms(facts: dict[str, str], stage: str) -> str:
    """Return the least time of a stage of the real model on an H200; nothing for another card."""
    if "H200" not in facts["card"] or stage.startswith("mel, 8"):
        return ""
    if stage.startswith("decode step"):
        n_slots = int(stage.split()[2])
        return f"{1000 * (REAL_STEP_BYTES + n_slots * REAL_SLOT_BYTES) / H200_BYTES_PER_S:.2f}"
    flop = 8 * (REAL_ENCODER_FLOP + (REAL_PREFILL_FLOP if "prefill" in stage else 0))
    return f"{1000 * flop / H200_FLOPS:.2f}"
