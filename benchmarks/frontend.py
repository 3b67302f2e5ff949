"""How fast the audio front end is against sox, on one core, in one run.

    python -m benchmarks.frontend --minutes 10

Each contender works on the same generated files (44.1 kHz stereo speech over noise) in a process
of its own that is pinned to one core; contenders take turns, and the median of the repeats counts.
Times are CPU seconds of the work itself (without starting Python), so that a busy machine
disturbs them least; ratios within one run are what to look at. The peak is resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 44_100
ENCODINGS = {"wav": [], "flac": [], "mp3": ["-c:a", "libmp3lame", "-b:a", "128k"]}
CLEAN, WITH_CHUNKS, SOX = "ours: clean", "ours: clean + cut", "sox"
WORDS = "Good morning. The meeting starts at nine on Monday, and the report is on the table of the doctor. "


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the recordings")
    parser.add_argument("--repeats", type=int, default=3, help="times that each contender works on each file")
    parser.add_argument("--work-on", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cut", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work_on is not None:
        print(json.dumps(measure_ours(options.work_on, has_cut=options.cut)))
        return
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(prefix="scribed-bench-") as folder:
        for path in make_recordings(Path(folder), options.minutes):
            compare(path, options.minutes * 60, options.repeats)


def make_recordings(folder: Path, minutes: float) -> list[Path]:
    """Return one recording in each format."""
    subprocess.run(["espeak-ng", "-w", folder / "spoken.wav", WORDS], check=True)
    subprocess.run(
        ["sox", folder / "spoken.wav", "-r", str(RATE_HZ), folder / "words.wav", "pad", "0", "1"], check=True
    )
    words, _ = soundfile.read(folder / "words.wav", dtype="float32")
    source = folder / "recording.wav"
    with soundfile.SoundFile(source, "w", RATE_HZ, channels=2, subtype="PCM_16") as file:
        chance = np.random.default_rng(1)
        for first in range(0, round(minutes * 60 * RATE_HZ), 10 * RATE_HZ):
            mono = 0.4 * np.take(words, range(first, first + 10 * RATE_HZ), mode="wrap")
            noise = 0.003 * chance.standard_normal((len(mono), 2))
            file.write(np.stack((mono, 0.8 * mono), axis=1) + noise)
    for ending, encoding in ENCODINGS.items():
        if ending != "wav":
            command: list[str | Path] = [
                "ffmpeg",
                "-v",
                "error",
                "-y",
                "-i",
                source,
                *encoding,
                source.with_suffix(f".{ending}"),
            ]
            subprocess.run(command, check=True)
    return [source.with_suffix(f".{ending}") for ending in ENCODINGS]


def compare(path: Path, audio_s: float, repeats: int) -> None:
    """Let all contenders work on one file, in turns, and print what they needed."""
    runs: dict[str, list[dict[str, float]]] = {CLEAN: [], WITH_CHUNKS: [], SOX: []}
    for _ in range(repeats):
        runs[CLEAN].append(run_ours(path))
        runs[WITH_CHUNKS].append(run_ours(path, "--cut"))
        runs[SOX].append(run_sox(path))
    cpu_s = {name: statistics.median(run["cpu_s"] for run in found) for name, found in runs.items()}
    print(f"{path.suffix[1:]:<6}{'x real time':>24}{'x sox':>8}{'spread':>9}{'peak MB':>9}")
    for name, found in runs.items():
        times = [run["cpu_s"] for run in found]
        spread = 100 * (max(times) - min(times)) / cpu_s[name]
        peak_mb = max(run["peak_mb"] for run in found)
        ratio = cpu_s[SOX] / cpu_s[name]
        print(f"  {name:<18}{audio_s / cpu_s[name]:>10.0f}{ratio:>8.2f}{spread:>8.0f}%{peak_mb:>9.0f}")


def run_ours(path: Path, *options: str) -> dict[str, float]:
    """Measure our own work in a fresh process."""
    # -P: no other script of this folder may stand in for a package.
    command: list[str | Path] = [sys.executable, "-P", __file__, "--work-on", path, *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def measure_ours(path: Path, *, has_cut: bool) -> dict[str, float]:
    """Clean one recording, and cut it if asked, in this process."""
    from daemon.config import Preprocess, SegmentSettings  # noqa: PLC0415 (the parent needs none of it)
    from daemon.decode import RecordingFile, WaveformWriter  # noqa: PLC0415 (the same)
    from daemon.decode.cleaning import decode  # noqa: PLC0415 (the same)
    from daemon.segment import cut  # noqa: PLC0415 (the same)
    from daemon.segment.speech import find_speech  # noqa: PLC0415 (the same)

    settings = SegmentSettings()
    before_s = used_s(resource.RUSAGE_SELF)
    with RecordingFile.open(path) as source, WaveformWriter(path.parent) as writer:
        waveform, _ = decode(source, writer, Preprocess())
    with waveform:
        if has_cut:
            speech = find_speech(waveform, settings.vad, lambda: None)
            cut(speech, waveform.n_samples, settings.max_chunk_s, settings.overlap_s)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu_s": used_s(resource.RUSAGE_SELF) - before_s, "peak_mb": usage.ru_maxrss / 1024}


def run_sox(path: Path) -> dict[str, float]:
    """Measure the command of sox that the front end is made after."""
    effects = ["highpass", "80", "rate", "16k", "gain", "-n", "-3"]
    command: list[str | Path] = ["sox", path, "-c", "1", path.with_name("sox.wav"), *effects]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"sox cannot read {path.suffix} here; install libsox-fmt-all")
    return {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024}


def used_s(who: int) -> float:
    """Return the CPU seconds that a process has used."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
