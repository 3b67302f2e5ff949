"""Mutations of good recordings, thrown at the front end: `make fuzz`, or python -m tests.faults.fuzz --runs 2000.

Every outcome but three is good: audio, or a reason. A decoder that a mutation crashes, hangs or
fills with memory is what the decoder processes are for; it is counted and named. Not good are an
error in our own code, audio that is not audio, and a front end that does not work any more.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from daemon.config import Preprocess
from daemon.errors import JobError
from daemon.frontend import DecoderError, FrontEnd
from tests import media

if TYPE_CHECKING:
    from collections.abc import Sequence

ENCODINGS: dict[str, list[str]] = {
    "pcm.wav": [],
    "ms.wav": ["-c:a", "adpcm_ms"],
    "gsm.wav": ["-c:a", "libgsm_ms", "-ar", "8000", "-ac", "1"],
    "rf64.wav": ["-rf64", "always"],
    "t.w64": [],
    "t.aiff": [],
    "t.au": [],
    "t.caf": [],
    "t.flac": [],
    "t.mp3": ["-c:a", "libmp3lame"],
    "t.mp2": ["-c:a", "mp2"],
    "t.ogg": ["-c:a", "libvorbis"],
    "t.opus": ["-c:a", "libopus"],
    "t.spx": ["-c:a", "libspeex", "-ar", "16000", "-ac", "1"],
    "t.m4a": ["-c:a", "aac"],
    "alac.m4a": ["-c:a", "alac"],
    "fast.m4a": ["-c:a", "aac", "-movflags", "faststart"],
    "t.aac": ["-c:a", "aac"],
    "t.mov": ["-c:a", "pcm_s16le"],
    "t.mkv": ["-c:a", "libvorbis"],
    "t.webm": ["-c:a", "libopus"],
    "t.wma": ["-c:a", "wmav2"],
    "t.avi": ["-c:a", "libmp3lame"],
    "t.ts": ["-c:a", "aac"],
    "t.ac3": ["-c:a", "ac3"],
}
_HEADER_BYTES = 400
_EDGES = (0, 1, 0x7F, 0x80, 0xFF)
_MAX_DURATION_H = 0.2
_PLAIN_WORDS = 60  # of a reason, so that reasons with numbers in them are counted together


def make_good_files(folder: Path) -> list[Path]:
    """Write two seconds of speech in every format."""
    spoken = media.speak(folder / "spoken.wav", "Good morning. The meeting starts.")
    media.sox(spoken, "-r", "44100", "-c", "2", folder / "source.wav", "gain", "-6", "trim", "0", "2")
    for name, encoding in ENCODINGS.items():
        media.ffmpeg("-i", folder / "source.wav", *encoding, folder / name)
    return [folder / name for name in ENCODINGS]


def mutate(content: bytes, other: bytes, chance: np.random.Generator) -> bytes:
    """Return a file with one to three kinds of damage; half of it falls on the headers."""
    mutant = bytearray(content)
    for _ in range(int(chance.integers(1, 4))):
        end = len(mutant) if chance.random() < 0.5 else min(_HEADER_BYTES, len(mutant))
        at = int(chance.integers(0, max(end, 1)))
        n_bytes = int(chance.integers(1, 64))
        kind = chance.integers(7)
        if kind == 0:  # noise
            mutant[at : at + n_bytes] = chance.bytes(n_bytes)
        elif kind == 1:  # a number at the edge of its range
            mutant[at : at + 4] = bytes(int(chance.choice(_EDGES)) for _ in range(4))
        elif kind == 2:  # single bits
            for place in chance.integers(0, max(end, 1), 8).tolist():
                mutant[min(place, len(mutant) - 1)] ^= 1 << int(chance.integers(8))
        elif kind == 3:  # something is missing
            del mutant[at : at + n_bytes]
        elif kind == 4:  # something is there twice
            mutant[at:at] = mutant[at : at + 16 * n_bytes]
        elif kind == 5:  # cut off
            del mutant[max(1, int(chance.integers(0, len(mutant)))) :]
        else:  # the rest of another file
            mutant[at:] = other[at:]
        mutant = mutant or bytearray(b"\0")
    return bytes(mutant)


def fuzz(front_end: FrontEnd, good: Sequence[Path], folder: Path, seeds: range) -> Counter[str]:
    """Let the front end prepare mutants; return how often each outcome came up.

    Raises:
        AssertionError: our own code broke, or what came out is no audio.
    """
    settings = Preprocess(max_duration_h=_MAX_DURATION_H)
    contents = [path.read_bytes() for path in good]
    outcomes: Counter[str] = Counter()
    for seed in seeds:
        chance = np.random.default_rng(seed)
        index, other = chance.integers(0, len(good), 2).tolist()
        mutant = folder / f"mutant-{seed}-{good[index].name}"
        mutant.write_bytes(mutate(contents[index], contents[other], chance))
        try:
            prepared = front_end.prepare(mutant, settings, "energy")
        except JobError as error:
            outcomes[error.what[:_PLAIN_WORDS]] += 1
        except DecoderError as error:
            raise AssertionError(f"our own code broke on the mutation of seed {seed}") from error
        else:
            with prepared.waveform as waveform:
                assert prepared.receipt.duration_s <= _MAX_DURATION_H * 3600
                assert all(np.isfinite(block).all() for block in waveform.blocks(1 << 20))
            outcomes["whole" if prepared.receipt.is_complete else "damaged, and said so"] += 1
        mutant.unlink()
    return outcomes


def main() -> None:
    """Run from the command line and print the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the first mutation; the others follow")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scribed-fuzz-") as name:
        folder = Path(name)
        good = make_good_files(folder)
        front_end = FrontEnd(folder)
        try:
            outcomes = fuzz(front_end, good, folder, range(options.seed, options.seed + options.runs))
            for path in good:
                front_end.prepare(path, Preprocess(), "energy").close()
        finally:
            front_end.close()
    for outcome, n_times in outcomes.most_common():
        sys.stdout.write(f"{n_times:6} {outcome}\n")
    sys.stdout.write(f"{outcomes.total():6} mutations, and the front end still works\n")


if __name__ == "__main__":
    main()
