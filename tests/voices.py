"""Test speech by voices of recorded people: flite's, which Debian has and which need no network."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tests import media

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

S = 16_000
# US male, Scottish male, US female, US male. The training of the demo model never uses rms.
VOICES = ("kal16", "awb", "slt", "rms")


@dataclass(frozen=True, slots=True)
class Turn:
    """What one voice says without a pause, and the samples [start, stop) where it says it."""

    voice: str
    words: str
    start: int
    stop: int


def say(voice: str, words: str, *, speed: float = 1.0, level: float = 0.5) -> NDArray[np.float32]:
    """Return speech of one flite voice without silence at its ends: shape (n_samples,), 16 kHz, peak `level`."""
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "spoken.wav"
        stretch = f"duration_stretch={1 / speed:.3f}"
        subprocess.run(
            ["flite", "-voice", voice, "--setf", stretch, "-t", words, "-o", wav], check=True, capture_output=True
        )
        samples, rate_hz = media.read_audio(wav)
    assert rate_hz == S, f"flite's voice {voice} speaks at {rate_hz} Hz"
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    spoken = samples[loud[0] : loud[-1] + 1]
    return np.asarray(spoken * (level / np.abs(spoken).max()), np.float32)


def conversation(
    turns: Sequence[tuple[str, str]], pauses_s: Sequence[float], *, lead_s: float = 1.0
) -> tuple[NDArray[np.float32], list[Turn]]:
    """Lay turns (voice, words) one after the other; return the sound and where each turn lies.

    Args:
        turns: who says what.
        pauses_s: silence after each turn in seconds, used again from the first when there are more turns.
        lead_s: silence before the first turn.
    """
    pieces = [np.zeros(round(lead_s * S), np.float32)]
    placed: list[Turn] = []
    at = len(pieces[0])
    for index, (voice, words) in enumerate(turns):
        spoken = say(voice, words)
        placed.append(Turn(voice, words, at, at + len(spoken)))
        pause = np.zeros(round(pauses_s[index % len(pauses_s)] * S), np.float32)
        pieces += [spoken, pause]
        at += len(spoken) + len(pause)
    return np.concatenate(pieces), placed


def mains_hum(n_samples: int, level: float, base_hz: float = 50.0) -> NDArray[np.float32]:
    """Return mains hum with four harmonics and an RMS of `level`, shape (n_samples,)."""
    seconds = np.arange(n_samples) / S
    sound = np.sum([np.sin(2 * np.pi * base_hz * k * seconds + k) / k for k in (1, 2, 3, 5)], axis=0)
    return np.asarray(level * sound / np.sqrt(np.mean(sound**2)), np.float32)


def from_afar(spoken: NDArray[np.float32], level: float = 0.05, seed: int = 1) -> NDArray[np.float32]:
    """Return speech as a microphone across the room picks it up: quiet, with echoes that fade within 0.3 s."""
    delays = np.arange(round(0.3 * S))
    echoes = np.random.default_rng(seed).standard_normal(len(delays)) * 10 ** (-3 * delays / len(delays)) * 0.03
    echoes[0] = 1.0
    size = 1 << (len(spoken) + len(echoes)).bit_length()
    sound = np.fft.irfft(np.fft.rfft(spoken, size) * np.fft.rfft(echoes, size))[: len(spoken)]
    return np.asarray(level * sound / np.abs(sound).max(), np.float32)
