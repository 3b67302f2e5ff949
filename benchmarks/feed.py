"""How fast the daemon feeds an engine: thousands of short recordings from the inbox to the outbox.

    python benchmarks/feed.py [--recordings 10000] [--disk FOLDER] [--out FOLDER] [PART ...]

The engine is a clock: it has so many slots, and takes so long for each second of audio, as a model on a GPU would. So
the figures are those of the daemon. Parts:

    real      with the real decoders
    paced     with decoders that are clocks too, so that nothing but the daemon's own cost is left
    syncs     fsyncs for each recording, counted by strace, which must be installed
    suspects  how long it takes to clear 256 recordings that were in transcription at a crash
    memo      how long a memo of 10 s takes while recordings of ten hours are transcribed

Machines are shared: figures of one run belong together. Nothing here passes or fails.
"""

from __future__ import annotations

import argparse
import heapq
import io
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final
from unittest import mock

import numpy as np
import soundfile
import structlog

sys.path.insert(0, str(Path(__file__).parents[1]))  # ahead of this folder, whose daemon.py is not the package

from daemon.config import Config, Folders, ModelSettings, SegmentSettings, Watch
from daemon.decode import SAMPLE_RATE_HZ, Waveform, open_unlinked, stored_bytes
from daemon.engine.protocol import ChunkRequest, ChunkResponse
from daemon.errors import StoppedError
from daemon.frontend import AudioStream, Prepared
from daemon.host.systemd import Notifier
from daemon.host.turns import waiting
from daemon.inbox import Arrival, fingerprint_of
from daemon.journal import Journal
from daemon.segment import Span
from daemon.service import parts as service_parts
from daemon.service.service import Service
from daemon.spool import SharedFolders, Spool
from daemon.transcript import ModelIdentity, Receipt

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

_MEMO_S: Final = 10.0
_WORDS: Final = "one two three four five six seven eight nine ten"
_HOURS: Final = 10
_N_SUSPECTS: Final = 256
_WIDTH: Final = 900
_HEIGHT: Final = 200
_MARGIN: Final = 40


class PacedEngine:
    """An engine that is a clock: a chunk takes a slot for a time in proportion to the audio and to the slots in use.

    Args:
        n_slots: chunks at a time.
        speed: seconds of audio per second, with all slots in use.
        latency_s: the least that a chunk takes.
    """

    def __init__(self, n_slots: int, speed: float, latency_s: float) -> None:
        self.identity = ModelIdentity("paced", "0", "none", "clock")
        self.max_in_flight = n_slots
        self.fallbacks = ()
        self.occupancy: list[tuple[float, int]] = []  # (time, slots in use) at each change
        self._speed = speed
        self._latency_s = latency_s
        self._changed = threading.Condition()
        self._waiting: deque[tuple[ChunkRequest, Future[ChunkResponse]]] = deque()
        self._running: list[tuple[float, int, Future[ChunkResponse]]] = []
        self._n_begun = 0
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, chunk: ChunkRequest, /) -> Future[ChunkResponse]:
        """Queue a chunk."""
        future: Future[ChunkResponse] = Future()
        with self._changed:
            self._waiting.append((chunk, future))
            self._changed.notify()
        return future

    def fit_hotwords(self, hotwords: tuple[str, ...], /) -> tuple[tuple[str, ...], int]:
        """Take all."""
        return hotwords, 0

    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def count_late_builds(self) -> int:
        """There is nothing to build."""
        return 0

    def unload(self) -> None:
        """There is no memory to give back."""
        self.close()

    def close(self) -> None:
        """End what waits and runs with StoppedError."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()
        for future in (*(one[1] for one in self._waiting), *(one[2] for one in self._running)):
            if not future.cancelled():
                future.set_exception(StoppedError("The engine was stopped."))

    def _run(self) -> None:
        while True:
            with self._changed:
                wait_s = self._running[0][0] - time.monotonic() if self._running else None
                can_begin = bool(self._waiting) and len(self._running) < self.max_in_flight
                if not can_begin and (wait_s is None or wait_s > 0) and not self._is_closed:
                    self._changed.wait(wait_s)
                if self._is_closed:
                    return
                done = self._turn(time.monotonic())
            for future in done:
                future.set_result(ChunkResponse(_WORDS, "English", is_finished=True))

    def _turn(self, now_s: float) -> list[Future[ChunkResponse]]:
        done = []
        while self._running and self._running[0][0] <= now_s:
            done.append(heapq.heappop(self._running)[2])
        while self._waiting and len(self._running) < self.max_in_flight:
            chunk, future = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            takes_s = max(self._latency_s, chunk.duration_s * (len(self._running) + 1) / self._speed)
            self._n_begun += 1
            heapq.heappush(self._running, (now_s + takes_s, self._n_begun, future))
        self.occupancy.append((now_s, len(self._running)))
        return done


class PacedFrontEnd:
    """Decoders that are clocks: each takes a time in proportion to the size of the file, which also gives its length.

    Args:
        cache: folder on the disk for decoded audio.
        n_processes: how many recordings are decoded at a time.
    """

    speed = 2000.0
    bytes_per_s = 32_000.0  # 16 bits at 16 kHz

    def __init__(self, cache: Path, n_processes: int | None = None) -> None:
        self._cache = cache
        self._turns = threading.Semaphore(n_processes or 1)
        self._closed = threading.Event()

    def prepare(self, recording: object, *_: object) -> Prepared:
        """Take the time, and return silence of the recording's length."""
        audio_s = os.fstat(recording.descriptor).st_size / self.bytes_per_s  # type: ignore[attr-defined]  # an open file
        n_samples = int(audio_s * SAMPLE_RATE_HZ)
        with waiting(), self._turns:
            if self._closed.wait(audio_s / self.speed):
                raise StoppedError("The service is stopping.")
        with open_unlinked(self._cache) as file:
            os.ftruncate(file.fileno(), stored_bytes(n_samples))
            waveform = Waveform(io.FileIO(os.dup(file.fileno())), n_samples)
        receipt = Receipt(audio_s, SAMPLE_RATE_HZ, 1, "pcm", peak_dbfs=None, gain_db=0.0, clipped_s=0.0)
        return Prepared((AudioStream(waveform, (Span(0, n_samples),)),), receipt)

    def measure_room(self, path: Path, *_: object) -> int:
        """Return the room that the audio of a recording takes."""
        return stored_bytes(int(path.stat().st_size / self.bytes_per_s * SAMPLE_RATE_HZ))

    def is_recording(self, path: Path) -> bool:
        """Take everything for a recording."""
        del path
        return True

    def close(self) -> None:
        """End what waits."""
        self._closed.set()


@dataclass(slots=True)
class Bench:
    """Folders on the disk that is measured, and an engine."""

    root: Path
    options: argparse.Namespace
    engine: PacedEngine = field(init=False)

    def __post_init__(self) -> None:
        """Make the folders and start the engine."""
        self.root.mkdir(parents=True)
        self.engine = PacedEngine(self.options.slots, self.options.speed, self.options.latency)

    @property
    def config(self) -> Config:
        """The configuration of an instance; all audio is speech."""
        return Config(
            folders=Folders(**{name: self.root / name for name in Folders.model_fields}),
            watch=Watch(mode="poll", settle_s=0.5, scan_s=0.5),
            segment=SegmentSettings(vad="off"),
            model=ModelSettings(device="cpu"),
        )

    def service(self) -> Service:
        """Return an instance that uses the engine."""
        return Service(self.config, None, lambda _: self.engine, Notifier())

    def drop_memos(self, n_recordings: int) -> None:
        """Write recordings of ten seconds that differ in nothing but their names."""
        inbox = self.root / "inbox"
        inbox.mkdir(exist_ok=True)
        content = make_memo()
        for number in range(n_recordings):
            (inbox / f"memo-{number:05}.wav").write_bytes(content)


def main() -> None:
    """Measure the parts that were asked for and print one table."""
    parser = argparse.ArgumentParser(description="How fast the daemon feeds an engine.")
    parser.add_argument("--recordings", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=256, help="of the engine")
    parser.add_argument("--speed", type=float, default=5000.0, help="of the engine, x real time, with all slots in use")
    parser.add_argument("--latency", type=float, default=0.15, help="the least seconds that a chunk takes")
    parser.add_argument("--disk", type=Path, default=None, help="a folder on the disk to measure")
    parser.add_argument("--out", type=Path, default=None, help="a folder for plots of the slots in use")
    parser.add_argument("parts", nargs="*")
    options = parser.parse_args()
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure([plain], structlog.make_filtering_bound_logger(logging.WARNING))
    measures: dict[str, Callable[[Path, argparse.Namespace], list[str]]] = {
        "real": lambda root, options: measure_backlog(root, options, is_real=True),
        "paced": lambda root, options: measure_backlog(root, options, is_real=False),
        "syncs": measure_syncs,
        "suspects": measure_suspects,
        "memo": measure_memo,
    }
    if unknown := set(options.parts) - measures.keys():
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(dir=options.disk) as folder:
        print(f"{describe_machine()}; folders on {describe_disk(Path(folder))}")
        least = f"{1000 * options.latency:g} ms a chunk at least"
        print(f"engine: {options.slots} slots, {options.speed:g} x real time, {least}")
        for name in options.parts or measures:
            for line in measures[name](Path(folder) / name, options):
                print(f"{name:<10}{line}", flush=True)


def measure_backlog(root: Path, options: argparse.Namespace, *, is_real: bool) -> list[str]:
    """Deliver a backlog with `scribed once`, from the first claim to the last delivery."""
    bench = Bench(root, options)
    bench.drop_memos(options.recordings)
    peaks: Counter[str] = Counter()
    done = threading.Event()
    with front_end(None if is_real else PacedFrontEnd):
        watcher = threading.Thread(target=watch, args=(peaks, done))
        watcher.start()
        cpu_s, begun_s = time.process_time(), time.monotonic()
        code = bench.service().run(once=True)
        cpu_s, ended_s = time.process_time() - cpu_s, time.monotonic()
        done.set()
        watcher.join()
    n_delivered = sum(1 for _ in (root / "outbox").glob("*.json"))
    first_s = bench.engine.occupancy[0][0]
    took_s = ended_s - first_s
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        draw(bench.engine, options.out / f"feed-{root.name}.svg")
    shutil.rmtree(root)
    return [
        f"{n_delivered:,} of {options.recordings:,} memos of {_MEMO_S:g} s delivered, exit code {code}",
        f"{n_delivered / took_s:.0f} recordings a second, {first_s - begun_s:.1f} s until the first chunk",
        f"{1000 * cpu_s / n_delivered:.2f} ms of processor time in the daemon for each recording",
        f"slots in use, mean over time: {mean_occupancy(bench.engine):.0f} of {options.slots}",
        f"at most {peaks['threads']} threads, {peaks['descriptors']} descriptors",
    ]


def measure_syncs(root: Path, options: argparse.Namespace) -> list[str]:
    """Count fsyncs of the paced run with strace; it slows the daemon down, so that fewer are shared."""
    if shutil.which("strace") is None:
        return ["not counted: strace is not installed"]
    n_recordings = min(options.recordings, 1000)
    root.mkdir()
    trace = root / "trace"
    command = ["strace", "-f", "--seccomp-bpf", "-y", "-e", "trace=fsync,fdatasync", "-o", str(trace), sys.executable]
    command += [__file__, "--recordings", str(n_recordings), "--disk", str(root), "paced"]
    command += ["--slots", str(options.slots), "--speed", str(options.speed), "--latency", str(options.latency)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    places: Counter[str] = Counter()
    for path in re.findall(r"sync\(\d+<([^>]*)>", trace.read_text()):
        places[name_place(Path(path).relative_to(root).parts[2:])] += 1
    parts = ", ".join(f"{place} {count / n_recordings:.2f}" for place, count in places.most_common())
    return [f"{sum(places.values()) / n_recordings:.1f} for each of {n_recordings:,} recordings: {parts}"]


def name_place(parts: tuple[str, ...]) -> str:
    """Return what is synced, by its path below the folders of the instance."""
    place, *rest = parts or ("?",)
    if place == "inbox" and rest[:1] == [".scribed"]:
        return "a claim" if len(rest) > 1 else "claims"
    is_file = bool(rest) and place in {"outbox", "processed"}
    return f"a document in {place}" if is_file else f"the journal ({rest[0]})" if place == "state" and rest else place


def measure_suspects(root: Path, options: argparse.Namespace) -> list[str]:
    """Leave recordings in transcription, as a crash does, and time how long the next start takes to clear them."""
    bench = Bench(root, options)
    config = bench.config
    shared = SharedFolders(config.folders)
    shared.prepare()
    bench.drop_memos(_N_SUSPECTS)
    journal = Journal(config.folders.state)
    spool = Spool(shared, journal, lambda _: config.output)
    names = sorted((root / "inbox").glob("*.wav"))
    for claim in spool.claim_all([Arrival(path.name, fingerprint_of(path.lstat())) for path in names]).claims:
        journal.begin(claim.job.job_id)
        journal.reach_engine(claim.job.job_id)
    journal.close()
    with front_end(None):
        begun_s = time.monotonic()
        code = bench.service().run(once=True)
        took_s = time.monotonic() - begun_s
    n_delivered = sum(1 for _ in (root / "outbox").glob("*.json"))
    shutil.rmtree(root)
    return [f"{n_delivered} suspects cleared and delivered in {took_s:.1f} s, exit code {code}"]


def measure_memo(root: Path, options: argparse.Namespace) -> list[str]:
    """Drop memos while as many recordings of ten hours as the engine has slots are transcribed, and one more."""
    n_long = min(options.slots, 8)
    options = argparse.Namespace(**{**vars(options), "slots": n_long})
    bench = Bench(root, options)
    inbox = root / "inbox"
    inbox.mkdir()
    with front_end(PacedFrontEnd), mock.patch.multiple(PacedFrontEnd, speed=20_000.0, bytes_per_s=1000.0):
        service = bench.service()
        thread = threading.Thread(target=service.run)
        thread.start()
        for number in range(n_long + 1):
            path = root / "long.part"
            with path.open("wb") as stream:
                stream.write(bytes(_HOURS * 3_600_000))
            os.utime(path, (0, 0))
            path.rename(inbox / f"long-{number}.wav")
        wait_for(lambda: len(running(root)) > n_long)
        took_s = []
        for number in range(5):
            (root / "memo.part").write_bytes(bytes(int(_MEMO_S * 1000)))
            os.utime(root / "memo.part", (0, 0))
            begun_s = time.monotonic()
            (root / "memo.part").rename(inbox / f"memo-{number}.wav")
            wait_for(lambda name=f"memo-{number}.json": (root / "outbox" / name).exists())  # type: ignore[misc]  # a default
            took_s.append(time.monotonic() - begun_s)
        n_running = len(running(root))
        service.flags.stop()
        thread.join()
    shutil.rmtree(root)
    times = ", ".join(f"{seconds:.1f}" for seconds in took_s)
    return [f"{n_running} recordings of {_HOURS} h in progress, {n_long} slots; memos of {_MEMO_S:g} s took {times} s"]


def running(root: Path) -> list[str]:
    """Return what the status shows as running."""
    try:
        return [run["name"] for run in json.loads((root / "state" / "status.json").read_text())["queue"]["running"]]
    except (OSError, ValueError):
        return []


def wait_for(is_true: Callable[[], bool], timeout_s: float = 300.0) -> None:
    """Wait until something holds."""
    never = threading.Event()
    end_s = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > end_s:
            sys.exit("the daemon did not do it in time")
        never.wait(0.02)


def front_end(kind: type[PacedFrontEnd] | None) -> AbstractContextManager[object]:
    """Have services that are built meanwhile use other decoders; None for the real ones."""
    return nullcontext() if kind is None else mock.patch.object(service_parts, "FrontEnd", kind)


def watch(peaks: Counter[str], done: threading.Event) -> None:
    """Note the most threads and open descriptors of this process, until it is done."""
    while not done.wait(0.2):
        peaks["threads"] = max(peaks["threads"], threading.active_count() - 1)
        peaks["descriptors"] = max(peaks["descriptors"], sum(1 for _ in Path("/proc/self/fd").iterdir()))


def mean_occupancy(engine: PacedEngine) -> float:
    """Return how many slots were in use, on average over the time from the first chunk to the last."""
    looks = engine.occupancy
    area = sum(n_busy * (later - at) for (at, n_busy), (later, _) in pairwise(looks))
    return area / max(looks[-1][0] - looks[0][0], 1e-9)


def draw(engine: PacedEngine, path: Path) -> None:
    """Draw the slots in use over time."""
    looks = engine.occupancy
    begun_s, span_s = looks[0][0], max(looks[-1][0] - looks[0][0], 1e-9)
    step = max(1, len(looks) // (2 * _WIDTH))
    points = " ".join(
        f"{_MARGIN + _WIDTH * (at - begun_s) / span_s:.1f},{_MARGIN + _HEIGHT * (1 - n / engine.max_in_flight):.1f}"
        for at, n in looks[::step]
    )
    base = _MARGIN + _HEIGHT
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH + 2 * _MARGIN}" height="{_HEIGHT + 2 * _MARGIN}"'
        f' font-size="13" font-family="sans-serif"><rect width="100%" height="100%" fill="#fff"/>\n'
        f'<text x="{_MARGIN}" y="{_MARGIN - 10}">slots in use, 0 to {engine.max_in_flight}</text>\n'
        f'<path d="M{_MARGIN},{_MARGIN}v{_HEIGHT}h{_WIDTH}" fill="none" stroke="#999"/>\n'
        f'<polyline points="{points}" fill="none" stroke="#15c"/>\n'
        f'<text x="{_MARGIN}" y="{base + 20}">0 to {span_s:.0f} s</text>\n</svg>\n'
    )


def make_memo() -> bytes:
    """Return a recording of ten seconds of the sample memo: 16 bits, 16 kHz."""
    sample = Path(__file__).parent.parent / "daemon" / "demo" / "recordings" / "memo.wav"
    samples, rate_hz = soundfile.read(sample, dtype="int16")
    file = io.BytesIO()
    soundfile.write(file, np.resize(samples, int(_MEMO_S * rate_hz)), rate_hz, format="WAV")
    return file.getvalue()


def describe_machine() -> str:
    """Return the processor, the cores that may be used, and the version of Python."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return f"{model}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


def describe_disk(folder: Path) -> str:
    """Return the device and file system of a folder, and the median time of a synced write of 4 KiB."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    held = [mount for mount in mounts if folder.is_relative_to(mount[1])]
    device, _, kind, *_ = max(held, key=lambda mount: len(mount[1]))
    times_s = []
    with (folder / "synced").open("wb") as stream:
        for _ in range(50):
            begun_s = time.perf_counter()
            stream.write(bytes(4096))
            stream.flush()
            os.fsync(stream.fileno())
            times_s.append(time.perf_counter() - begun_s)
    return f"{device} ({kind}), a synced write takes {1000 * sorted(times_s)[25]:.2f} ms"


if __name__ == "__main__":
    main()
