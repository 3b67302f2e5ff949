"""How fast and how small the audio front end is, against sox, ffmpeg and pydub, in one run.

    python benchmarks/frontend.py --minutes 10
    python benchmarks/frontend.py --long

Each contender works on the same generated files (44.1 kHz stereo speech over noise) in a process
of its own that is pinned to one core; contenders take turns, and the median of the repeats counts.
Times are CPU seconds of the work itself (without starting Python), so that a busy machine
disturbs them least; ratios within one run are what to look at. The peak is our resident memory. Neither
ffmpeg (one pass) nor pydub (whose high-pass is a loop in Python) does all of the work: ffmpeg does not
normalise, pydub does not filter.

Then one decoder process and two work on the same recordings, unpinned, in wall time. With --long
the front end prepares 10 hours of m4a and 24 hours of flac, and what counts is memory.
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
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1]))  # ahead of this folder, whose daemon.py is not the package

from daemon.config import Preprocess, SegmentSettings

RATE_HZ: Final = 44_100
ENCODINGS: Final = {"wav": [], "flac": [], "mp3": ["-c:a", "libmp3lame", "-b:a", "128k"]}
CLEAN: Final = "ours: clean"
WITH_CHUNKS: Final = "ours: clean + cut"
RIVALS: Final[dict[str, tuple[str, ...]]] = {
    "sox": ("sox", "{source}", "-c", "1", "{target}", "highpass", "80", "rate", "16k", "gain", "-n", "-3"),
    "ffmpeg": (
        *("ffmpeg", "-v", "error", "-y", "-threads", "1", "-i", "{source}"),
        *("-af", "highpass=f=80", "-ac", "1", "-ar", "16000", "{target}"),
    ),
    "pydub": (sys.executable, "-P", __file__, "--pydub", "{source}"),
}
N_RECORDINGS: Final = 6  # that one decoder process and two work on
# Name, hours, how one recording is encoded, and how many are joined: a FLAC header states the length of the whole.
LONG: Final = {
    "10 h m4a": ("long.m4a", 10, ["-c:a", "aac", "-b:a", "64k"], ["-c", "copy"]),
    "24 h flac": ("long.flac", 24, ["-c:a", "flac"], ["-c:a", "flac", "-compression_level", "0"]),
}
WORDS: Final = "Good morning. The meeting starts at nine on Monday, and the report is on the table of the doctor. "


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the recordings")
    parser.add_argument("--repeats", type=int, default=3, help="times that each contender works on each file")
    parser.add_argument("--long", action="store_true", help="measure the memory that long recordings take")
    parser.add_argument("--pydub", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work-on", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cut", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work_on is not None:
        print(json.dumps(measure_ours(options.work_on, has_cut=options.cut)))
        return
    if options.pydub is not None:
        work_with_pydub(options.pydub)
        return
    with tempfile.TemporaryDirectory(prefix="scribed-bench-") as folder:
        paths = make_recordings(Path(folder), options.minutes)
        if options.long:
            measure_memory(paths[0])
            return
        measure_decoders(paths[-1], options.minutes * 60, options.repeats)
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        for path in paths:
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
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in (CLEAN, WITH_CHUNKS, *RIVALS)}
    for _ in range(repeats):
        runs[CLEAN].append(run_ours(path))
        runs[WITH_CHUNKS].append(run_ours(path, "--cut"))
        for name, command in RIVALS.items():
            runs[name].append(run_rival(path, command))
    cpu_s = {name: statistics.median(run["cpu_s"] for run in found) for name, found in runs.items()}
    ratios = "".join(f"{f'x {name}':>9}" for name in RIVALS)
    print(f"{path.suffix[1:]:<6}{'x real time':>24}{ratios}{'spread':>9}{'peak MB':>9}")
    for name, found in runs.items():
        times = [run["cpu_s"] for run in found]
        spread = 100 * (max(times) - min(times)) / cpu_s[name]
        peak = f"{max(run['peak_mb'] for run in found):.0f}" if name not in RIVALS else ""
        ratios = "".join(f"{cpu_s[rival] / cpu_s[name]:>9.2f}" for rival in RIVALS)
        print(f"  {name:<18}{audio_s / cpu_s[name]:>10.0f}{ratios}{spread:>8.0f}%{peak:>9}")


def measure_decoders(path: Path, audio_s: float, repeats: int) -> None:
    """Print how much faster two decoder processes are than one."""
    wall_s: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeats):
        for n_processes, found in wall_s.items():
            found.append(run_processes([path] * N_RECORDINGS, n_processes))
    one, two = (statistics.median(found) for found in wall_s.values())
    speeds = [f"{N_RECORDINGS * audio_s / taken_s:.0f}" for taken_s in (one, two)]
    print(f"decoder processes, {path.suffix[1:]}: one {speeds[0]} x real time, two {speeds[1]}: {one / two:.2f} x one")


def run_processes(paths: list[Path], n_processes: int) -> float:
    """Return the wall time in which warm decoder processes prepare recordings."""
    from daemon.frontend import FrontEnd  # noqa: PLC0415  # the other contenders' processes need none of it

    front_end = FrontEnd(paths[0].parent, n_processes)
    try:
        with ThreadPoolExecutor(n_processes) as pool:

            def prepare(path: Path) -> None:
                front_end.prepare(path, Preprocess(), "silero").close()

            list(pool.map(prepare, [path.with_name("spoken.wav") for path in paths[:n_processes]]))
            began_s = time.perf_counter()
            list(pool.map(prepare, paths))
            return time.perf_counter() - began_s
    finally:
        front_end.close()


def measure_memory(source: Path) -> None:
    """Print what the front end takes for very long recordings."""
    from daemon.frontend import FrontEnd  # noqa: PLC0415  # as above

    for name, (file_name, hours, encoding, joining) in LONG.items():
        part, target = source.with_name(f"part-{file_name}"), source.with_name(file_name)
        quietly = ["ffmpeg", "-v", "error", "-y"]
        subprocess.run([*quietly, "-i", source, *encoding, part], check=True)
        loops = str(round(hours * 3600 / soundfile.info(source).duration) - 1)
        subprocess.run([*quietly, "-stream_loop", loops, "-i", part, *joining, target], check=True)
        front_end = FrontEnd(source.parent, n_processes=1)
        before_mb, began_s = memory_mb("self", "VmRSS"), time.perf_counter()
        peaks_mb: list[float] = []

        def look(peaks_mb: list[float] = peaks_mb) -> None:
            peaks_mb.extend(memory_mb(pid, "VmHWM") for pid in children())

        try:
            prepared = front_end.prepare(target, Preprocess(max_duration_h=30), "silero", look)
        finally:
            front_end.close()
        took_s = time.perf_counter() - began_s
        grown_mb = memory_mb("self", "VmRSS") - before_mb
        with prepared:
            duration_s = prepared.receipt.duration_s
            speed = duration_s / took_s
            print(
                f"{name}: {duration_s / 3600:.1f} h at {speed:.0f} x real time, "
                f"decoder's peak {max(peaks_mb):.0f} MB, this process grew by {grown_mb:.0f} MB"
            )
        target.unlink()


def children() -> list[str]:
    """Return the processes that this one's main thread has started."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def memory_mb(pid: str, key: str) -> float:
    """Return a figure of a process from /proc; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(key)), 0.0)


def run_ours(path: Path, *options: str) -> dict[str, float]:
    """Measure our own work in a fresh process."""
    # -P: no other script of this folder may stand in for a package.
    command: list[str | Path] = [sys.executable, "-P", __file__, "--work-on", path, *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def measure_ours(path: Path, *, has_cut: bool) -> dict[str, float]:
    """Clean one recording, and cut it if asked, in this process."""
    from daemon.decode import AudioFiles, RecordingFile  # noqa: PLC0415  # the parent needs none of it
    from daemon.decode.cleaning import decode  # noqa: PLC0415  # the same
    from daemon.segment import cut  # noqa: PLC0415  # the same
    from daemon.segment.examination import complete, examine  # noqa: PLC0415  # the same

    settings = SegmentSettings()
    before_s = used_s(resource.RUSAGE_SELF)
    with RecordingFile.open(path) as source, AudioFiles(path.parent) as files:
        waveform = decode(source, files, Preprocess()).tracks[0].streams[0].waveform
    with waveform:
        if has_cut:
            examined = examine(waveform, settings.vad, lambda: None)
            complete(waveform, examined, Preprocess(), settings.vad, lambda: None)
            cut(examined.speech, waveform.n_samples, settings.max_chunk_s, settings.overlap_s)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu_s": used_s(resource.RUSAGE_SELF) - before_s, "peak_mb": usage.ru_maxrss / 1024}


def run_rival(path: Path, command: tuple[str, ...]) -> dict[str, float]:
    """Measure a program that does the same work, or nearly."""
    words = [word.format(source=path, target=path.with_name("rival.wav")) for word in command]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with process:
        told = process.stdout.read() if process.stdout is not None else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{words[0]} cannot read {path.suffix} here; is it installed, for sox with libsox-fmt-all?")
    if told:  # it measured itself
        measured: dict[str, float] = json.loads(told)
        return measured
    return {"cpu_s": usage.ru_utime + usage.ru_stime}


def work_with_pydub(path: Path) -> None:
    """Do with pydub what it does quickly, and print what it took; its ffmpeg counts."""
    from pydub import AudioSegment, effects  # noqa: PLC0415  # the other contenders' processes need none of it

    before_s = used_s(resource.RUSAGE_SELF)
    sound = AudioSegment.from_file(path).set_channels(1).set_frame_rate(16_000)
    effects.normalize(sound, 3.0).export(path.with_name("rival.wav"), "wav").close()
    cpu_s = used_s(resource.RUSAGE_SELF) - before_s + used_s(resource.RUSAGE_CHILDREN)
    print(json.dumps({"cpu_s": cpu_s}))


def used_s(who: int) -> float:
    """Return the CPU seconds that a process has used."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
