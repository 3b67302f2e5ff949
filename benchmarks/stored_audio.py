"""What storing audio in 16 bits changes of what the model hears, beside what the model itself rounds away.

    python benchmarks/stored_audio.py [FILE...]

Log-mel frames, the input of the model, are computed twice from each recording: from its cleaned samples as
32-bit floats, and from what `daemon.decode.packing` makes of them. Their difference is compared with the
difference that bfloat16 makes, in which the model takes them. Without files, the sample recordings are measured:
each as it is, 60 dB quieter (the gain of normalization comes after storing), with a click at full scale every
three seconds, and with its second half 40 dB below the first.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from transformers import WhisperFeatureExtractor

sys.path.insert(0, str(Path(__file__).parents[1]))  # ahead of this folder, whose daemon.py is not the package

from daemon.config import Preprocess
from daemon.decode import SAMPLE_RATE_HZ, AudioFiles, RecordingFile
from daemon.decode.cleaning import decode
from daemon.decode.packing import pack, unpack
from daemon.engine.audio.mel import LogMel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_FRAMES_MULTIPLE: Final = 100
_CHUNK_S: Final = 30
SAMPLES: Final = Path(__file__).parents[1] / "daemon"


def main() -> None:
    """Print a row for each recording and variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="recordings; default: the samples of the package")
    paths = parser.parse_args().files or sorted(SAMPLES.glob("samples/*.flac"))
    torch.set_num_threads(1)
    mel = LogMel(WhisperFeatureExtractor(feature_size=128), torch.device("cpu"), _FRAMES_MULTIPLE)
    print(f"{'recording':<26}{'variant':<12}{'largest':>14}{'RMS change':>14}{'RMS of bfloat16':>17}{'ratio':>8}")
    for path in paths:
        for variant, samples in vary(clean(path)):
            before, after = (mel.compute([each]).frames for each in (samples, store(samples)))
            rounding = (before.bfloat16().float() - before).square().mean().sqrt().item()
            change = after - before
            rms, most = change.square().mean().sqrt().item(), change.abs().max().item()
            name = path.name[:24]
            print(f"{name:<26}{variant:<12}{most:>14.5f}{rms:>14.6f}{rounding:>17.6f}{rms / rounding:>8.3f}")


def clean(path: Path) -> NDArray[np.float32]:
    """Return the first chunk of a recording as it is before it is stored, shape (n,)."""
    # Stored audio at -3 dBFS is within 1e-5 of it; so these floats are as good as those that were stored.
    with RecordingFile.open(path) as source, AudioFiles(path.parent) as files:
        waveform = decode(source, files, Preprocess()).tracks[0].streams[0].waveform
    with waveform:
        sound = waveform.read(0, _CHUNK_S * SAMPLE_RATE_HZ)
    return sound + np.random.default_rng(1).uniform(-1e-5, 1e-5, len(sound)).astype(np.float32)


def vary(sound: NDArray[np.float32]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield variants of a sound that are harder to store, each with a name."""
    yield "as it is", sound
    yield "-60 dB", sound * np.float32(1e-3)
    clicks = sound * np.float32(0.1)
    clicks[:: 3 * SAMPLE_RATE_HZ] = 1.0
    yield "clicks", clicks
    halves = sound.copy()
    halves[len(halves) // 2 :] *= np.float32(0.01)
    yield "two levels", halves


def store(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return samples as they are read again."""
    return unpack(pack(samples))[: len(samples)]


if __name__ == "__main__":
    main()
