"""`scribed bench`: the throughput of the daemon's own engine on this machine."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import soundfile
from rich.console import Console
from rich.table import Table
from rich.text import Text

from daemon import engine, logs
from daemon.cli import config_option, outputs
from daemon.display import escape
from daemon.engine import SAMPLE_RATE_HZ, ChunkRequest
from daemon.errors import ExitCode
from daemon.host.privileges import become_owner

if TYPE_CHECKING:
    import numpy.typing as npt

    from daemon.engine import Engine
    from daemon.transcript import ModelIdentity

_REPEATS: Final = 3
_CHUNK_S: Final = 30.0
_SAMPLE: Final = "meeting.flac"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement, in seconds of audio per second of work (RTFx).

    Attributes:
        n_chunks: chunks of 30 s submitted at the same time.
        rtfx: the median of the repeats.
        rtfx_low: the slowest.
        rtfx_high: the fastest.
    """

    n_chunks: int
    rtfx: float
    rtfx_low: float
    rtfx_high: float


def bench(option: Path | None, *, is_json: bool) -> int:
    """Measure one chunk alone, then as many as keep the engine busy; print a table or JSON."""
    config = config_option.read(option)[0]
    become_owner(config.folders.state)  # so that the daemon can reuse the kernels compiled here
    logs.configure_command(config.logging)
    console = Console(stderr=True, highlight=False)
    with console.status("Loading the model") as status:
        model = engine.load(config.model, config.folders.cache, status.update)
        try:
            samples = _read_sample()
            sizes = (1, 2 * model.max_in_flight)
            figures = []
            for n_chunks in sizes:
                status.update(f"Transcribing {n_chunks} x {_CHUNK_S:g} s, {_REPEATS} times")
                figures.append(_measure(model, samples, n_chunks))
        finally:
            model.close()
    if is_json:
        report = {"model": asdict(model.identity), "chunk_s": _CHUNK_S, "figures": [asdict(one) for one in figures]}
        outputs.print_json(report)
    else:
        _print(model.identity, figures)
    return ExitCode.OK


def _read_sample() -> npt.NDArray[np.float32]:
    """Return float32 samples of one chunk, shape (480000,): the beginning of the sample meeting."""
    path = Path(str(resources.files("daemon"))) / "demo" / "recordings" / _SAMPLE
    samples, _ = soundfile.read(path, dtype="float32")
    return np.resize(samples, round(_CHUNK_S * SAMPLE_RATE_HZ))


def _measure(model: Engine, samples: npt.NDArray[np.float32], n_chunks: int) -> Figure:
    speeds = []
    for repeat in range(_REPEATS + 1):
        started_s = time.perf_counter()
        # Each begins at another second of the audio, so that they do not all end at the same step.
        chunks = [
            ChunkRequest(np.roll(samples, index * SAMPLE_RATE_HZ), None, (), "bench") for index in range(n_chunks)
        ]
        for future in [model.submit(chunk) for chunk in chunks]:
            future.result()
        if repeat:  # the first is the warm-up
            speeds.append(n_chunks * _CHUNK_S / (time.perf_counter() - started_s))
    return Figure(n_chunks, statistics.median(speeds), min(speeds), max(speeds))


def _print(identity: ModelIdentity, figures: list[Figure]) -> None:
    console = Console(highlight=False)
    console.print(Text(escape(f"{identity.name} on {identity.device} as {identity.dtype}")))
    table = Table("chunks of 30 s at once", "x real time", "slowest", "fastest")
    for one in figures:
        table.add_row(str(one.n_chunks), f"{one.rtfx:.1f}", f"{one.rtfx_low:.1f}", f"{one.rtfx_high:.1f}")
    console.print(table)
