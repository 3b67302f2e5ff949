"""Test audio, generated with espeak-ng, sox, ffmpeg and numpy."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import soundfile
import soxr

from daemon.decode import AudioFiles, RecordingFile, cleaning
from daemon.decode.packing import pack, unpack
from daemon.decode.receipts import make_receipt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from daemon.config import Preprocess
    from daemon.decode import Waveform
    from daemon.transcript import Receipt

WORDS = "Good morning. The meeting starts at nine on Monday. Please bring the report, and call the doctor."


def speak(target: Path, words: str = WORDS, voice: str = "en-us") -> Path:
    """Let espeak-ng say words into a WAV file, 22.05 kHz mono, about 6 s for `WORDS`."""
    subprocess.run(["espeak-ng", "-v", voice, "-w", target, words], check=True, capture_output=True)
    return target


def sox(*arguments: str | Path) -> None:
    """Run sox; -R keeps its dither the same each time."""
    subprocess.run(["sox", "-R", *arguments], check=True, capture_output=True)


def ffmpeg(*arguments: str | Path) -> None:
    """Run ffmpeg."""
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *arguments], check=True, capture_output=True)


def write_amr(target: Path, samples: NDArray[np.float32], rate_hz: int) -> Path:
    """Encode mono audio as AMR-NB into target.amr or target.3gp, pauses as comfort noise, as phones do."""
    pcm = np.rint(soxr.resample(samples, rate_hz, 8000) * 32767).astype(np.int16)
    with av.open(str(target), "w") as container:
        stream: Any = container.add_stream("libopencore_amrnb", rate=8000)
        stream.layout = "mono"
        stream.bit_rate = 12200
        stream.options = {"dtx": "1"}
        frame: Any = av.AudioFrame.from_ndarray(pcm[np.newaxis], format="s16", layout="mono")
        frame.sample_rate = 8000
        for part in (frame, None):
            container.mux(stream.encode(part))
    return target


def write_audio(target: Path, samples: NDArray[Any], rate_hz: int, subtype: str = "PCM_16") -> Path:
    """Write samples, shape (n,) or (n, channels), through libsndfile; the ending says the container."""
    soundfile.write(target, samples, rate_hz, subtype=subtype)
    return target


def read_audio(path: Path) -> tuple[NDArray[np.float32], int]:
    """Return (samples, sample rate) of a file that libsndfile reads."""
    samples, rate_hz = soundfile.read(path, dtype="float32")
    return samples, rate_hz


def tone(
    duration_s: float, rate_hz: int = 16_000, frequency_hz: float = 440.0, level: float = 0.5
) -> NDArray[np.float32]:
    """Return a sine, shape (n,)."""
    return (level * np.sin(2 * np.pi * frequency_hz * np.arange(round(duration_s * rate_hz)) / rate_hz)).astype(
        np.float32
    )


def noise(duration_s: float, rate_hz: int = 16_000, level: float = 0.1, seed: int = 1) -> NDArray[np.float32]:
    """Return white noise of an RMS level, shape (n,)."""
    return (level * np.random.default_rng(seed).standard_normal(round(duration_s * rate_hz))).astype(np.float32)


def decode(
    path: Path, settings: Preprocess, cache: Path, raise_if_stopped: Callable[[], None] = lambda: None
) -> tuple[Waveform, Receipt]:
    """Decode the one track that is heard, mixed, in this process, where a test can look on."""
    with RecordingFile.open(path) as source, AudioFiles(cache) as files:
        cleaned = cleaning.decode(source, files, settings, raise_if_stopped=raise_if_stopped)
        (track,) = cleaned.tracks
        return track.streams[0].waveform, make_receipt(cleaned, [track])


def samples_of(waveform: Waveform) -> NDArray[np.float32]:
    """Return a whole waveform, shape (n,)."""
    return waveform.read(0, waveform.n_samples)


def as_stored(samples: NDArray[np.float32], gain: float = 1.0) -> NDArray[np.float32]:
    """Return samples, shape (n,), as they are read from a waveform that they were written to from its start."""
    return unpack(pack(samples), gain)[: len(samples)]


def similarity(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the correlation of two sounds at the shift which fits best, within 0.1 s at 16 kHz."""
    n_samples = min(len(one), len(other)) - 3200
    middle = one[1600 : 1600 + n_samples]
    size = 1 << (len(other) + n_samples).bit_length()
    products = np.fft.irfft(np.conj(np.fft.rfft(middle, size)) * np.fft.rfft(other, size))[:3200]
    sums = np.concatenate(([0.0], np.cumsum(other.astype(np.float64) ** 2)))
    energies = (sums[n_samples:] - sums[:-n_samples])[: len(products)]
    energy = float(np.sum(middle.astype(np.float64) ** 2))
    return float((products[: len(energies)] / np.sqrt(energies * energy + 1e-20)).max())
