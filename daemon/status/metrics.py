"""Figures for Prometheus, in a file that its node exporter picks up: no port is opened, no recording is named.

https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
https://github.com/prometheus/node_exporter#textfile-collector
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from daemon import __version__
from daemon.host import own_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from daemon.transcript import Transcript

# The collector runs as another user.
_MODE: Final = 0o644
# Durations from a memo to a day in court; processing times from a GPU to a slow CPU.
_BOUNDS_S: Final = (1.0, 3.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 14400.0)


@dataclass(slots=True)
class _Histogram:
    """How many values were up to each bound, and their sum."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(_BOUNDS_S) + 1))
    sum_s: float = 0.0

    def add(self, value_s: float) -> None:
        self.counts[bisect_left(_BOUNDS_S, value_s)] += 1
        self.sum_s += value_s

    def samples(self, name: str) -> Iterator[str]:
        totals = list(accumulate(self.counts))
        for bound_s, total in zip((*map(_number, _BOUNDS_S), "+Inf"), totals, strict=True):
            yield f'{name}_bucket{{le="{bound_s}"}} {total}'
        yield f"{name}_sum {_number(self.sum_s)}"
        yield f"{name}_count {totals[-1]}"


class Counters:
    """Counts what was done since the start; may be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._audio = _Histogram()
        self._work = _Histogram()
        self._n_incomplete = 0
        self._n_gaps = 0
        self._gaps_s = 0.0
        self._n_failed = 0
        self._n_hooks = 0
        self._n_hooks_failed = 0
        self._rtfx = 0.0

    def add_delivered(self, transcript: Transcript) -> None:
        """Count a delivered transcript."""
        with self._lock:
            self._audio.add(transcript.audio.duration_s)
            self._work.add(transcript.processing.wall_s)
            self._rtfx = transcript.processing.rtfx
            self._n_incomplete += not transcript.is_complete
            self._n_gaps += len(transcript.coverage.gaps)
            self._gaps_s += sum(gap.end_s - gap.start_s for gap in transcript.coverage.gaps)

    def add_failed(self) -> None:
        """Count a recording that moved to failed."""
        with self._lock:
            self._n_failed += 1

    def add_hook(self, *, is_failed: bool) -> None:
        """Count a delivery after which the hook was to run."""
        with self._lock:
            self._n_hooks += 1
            self._n_hooks_failed += is_failed

    def families(self) -> Iterator[str]:
        """Yield the lines of all counters."""
        with self._lock:
            name = "scribed_recording_audio_seconds"
            yield from _family(name, "histogram", "Length of delivered recordings.", self._audio.samples(name))
            name = "scribed_recording_work_seconds"
            text = "Time from the start of the work to the delivery."
            yield from _family(name, "histogram", text, self._work.samples(name))
            yield from _single(
                "scribed_rtfx", "gauge", "Seconds of audio transcribed per second, last delivery.", self._rtfx
            )
            text = "Recordings that moved to failed."
            yield from _single("scribed_recordings_failed_total", "counter", text, self._n_failed)
            text = "Transcripts that do not cover all the speech."
            yield from _single("scribed_transcripts_incomplete_total", "counter", text, self._n_incomplete)
            yield from _single("scribed_gaps_total", "counter", "Stretches of speech without text.", self._n_gaps)
            yield from _single("scribed_gap_seconds_total", "counter", "Speech without text.", self._gaps_s)
            text = "Deliveries for which the program of hooks.delivered is done."
            yield from _single("scribed_hooks_total", "counter", text, self._n_hooks)
            text = "Deliveries for which the program of hooks.delivered failed or was not run."
            yield from _single("scribed_hooks_failed_total", "counter", text, self._n_hooks_failed)


@dataclass(frozen=True, slots=True)
class Gauges:
    """The service at one instant.

    Attributes:
        state: waiting, loading, ready, idle, draining or stopped.
        recordings: how many there are, by where: arriving, waiting, running, failed.
        n_faults: how many faults there are.
        started_epoch_s: when the service started, seconds since 1970.
        loaded_epoch_s: when the model was ready, seconds since 1970; 0 before.
        load_s: how long its loading took.
        n_late_builds: functions of the model that were compiled or captured since it was ready.
        is_in_memory: whether the model is loaded.
        n_hooks_waiting: deliveries for which the hook is still to run.
    """

    state: str
    recordings: Mapping[str, int]
    n_faults: int
    started_epoch_s: float
    loaded_epoch_s: float
    load_s: float
    n_late_builds: int = 0
    is_in_memory: bool = True
    n_hooks_waiting: int = 0


def render(gauges: Gauges, counters: Counters) -> str:
    """Return the file's content."""
    return "".join(f"{line}\n" for line in (*_gauges(gauges), *counters.families()))


def write(path: Path, gauges: Gauges, counters: Counters, shared: Iterable[Path] = ()) -> None:
    """Write the file in one step; below one of the shared folders no link is followed.

    Raises:
        LinkInTheWayError, OSError: it cannot be written.
    """
    own_files.overwrite(path, render(gauges, counters).encode(), _MODE, shared)


def _gauges(gauges: Gauges) -> Iterator[str]:
    info = [f'scribed_info{{version="{__version__}"}} 1']
    yield from _family("scribed_info", "gauge", "The version that runs.", info)
    text = "Whether the service runs; 0 after an orderly stop."
    yield from _single("scribed_up", "gauge", text, gauges.state != "stopped")
    text = "Whether recordings are transcribed as they arrive; 1 also while the idle model is unloaded."
    yield from _single("scribed_ready", "gauge", text, gauges.state in {"ready", "idle"})
    places = (f'scribed_recordings{{place="{place}"}} {count}' for place, count in gauges.recordings.items())
    yield from _family("scribed_recordings", "gauge", "Recordings by where they are.", places)
    yield from _single("scribed_faults", "gauge", "Problems that a person has to fix.", gauges.n_faults)
    text = "When the service started."
    yield from _single("scribed_start_timestamp_seconds", "gauge", text, gauges.started_epoch_s)
    text = "Whether the model is in memory."
    yield from _single("scribed_model_in_memory", "gauge", text, gauges.is_in_memory)
    text = "When the model was last ready; 0 before."
    yield from _single("scribed_model_loaded_timestamp_seconds", "gauge", text, gauges.loaded_epoch_s)
    yield from _single("scribed_model_load_seconds", "gauge", "How long its loading took.", gauges.load_s)
    text = "Functions of the model compiled or captured since it was ready; 0 unless memory ran out."
    yield from _single("scribed_model_late_builds_total", "counter", text, gauges.n_late_builds)
    text = "Deliveries that wait for the program of hooks.delivered."
    yield from _single("scribed_hooks_waiting", "gauge", text, gauges.n_hooks_waiting)


def _family(name: str, kind: str, text: str, samples: Iterable[str]) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    yield from samples


def _single(name: str, kind: str, text: str, value: float) -> Iterator[str]:
    return _family(name, kind, text, [f"{name} {_number(value)}"])


def _number(value: float) -> str:
    return f"{value:.15g}" if not isinstance(value, bool) else str(int(value))
