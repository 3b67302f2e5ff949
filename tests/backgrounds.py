"""Sounds of rooms that are not speech, and babble that is made of it: shape (n_samples,), 16 kHz, RMS `LEVEL`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    Chance = np.random.Generator
    Sound = NDArray[np.float64]

S = 16_000
LEVEL = 0.05
_SCALE = (0, 2, 4, 5, 7, 9, 11)


def hum(n_samples: int, chance: Chance) -> NDArray[np.float32]:
    """Return mains hum with its harmonics."""
    time_s = np.arange(n_samples) / S
    tones = np.sum([np.sin(2 * np.pi * 50 * k * time_s + k) / k for k in range(1, 15)], axis=0)
    swell = 1 + 0.1 * np.sin(2 * np.pi * 0.7 * time_s)
    return _at_level(tones * swell + 0.02 * chance.standard_normal(n_samples))


def fan(n_samples: int, chance: Chance) -> NDArray[np.float32]:
    """Return a fan: low noise that beats with its blades, and the tone of its motor."""
    time_s = np.arange(n_samples) / S
    air = signal.lfilter(*signal.butter(1, 400, fs=S), chance.standard_normal(n_samples))
    blades = 1 + 0.3 * np.sin(2 * np.pi * 11 * time_s)
    return _at_level(air / air.std() * blades + 0.3 * np.sin(2 * np.pi * 120 * time_s))


def keyboard(n_samples: int, chance: Chance) -> NDArray[np.float32]:
    """Return typing: runs of keys that go down and up, with pauses between."""

    def key() -> Sound:
        time_s = np.arange(round(0.08 * S)) / S
        centre_hz = chance.uniform(800, 3500)
        click = _band(len(time_s), 0.7 * centre_hz, 1.6 * centre_hz, chance) * np.exp(
            -time_s / chance.uniform(0.008, 0.03)
        )
        thump = np.sin(2 * np.pi * chance.uniform(150, 400) * time_s) * np.exp(-time_s / 0.015)
        return np.asarray(chance.uniform(0.3, 1) * (click + 0.5 * thump))

    times_s: list[float] = []
    at_s = 0.0
    while at_s < n_samples / S:
        for _ in range(chance.integers(5, 30)):
            times_s += [at_s, at_s + chance.uniform(0.06, 0.1)]
            at_s += chance.uniform(0.1, 0.35)
        at_s += chance.uniform(0.5, 3)
    return _at_level(_placed(n_samples, times_s, key))


def rustle(n_samples: int, chance: Chance) -> NDArray[np.float32]:
    """Return paper and clothes: brushes of hiss and some crackle."""

    def brush() -> Sound:
        n = round(chance.uniform(0.05, 0.7) * S)
        unrest = np.abs(signal.lfilter([0.16], [1, -0.98], chance.standard_normal(n)))
        hiss = _band(n, chance.uniform(500, 1500), chance.uniform(3500, 7500), chance)
        return np.asarray(chance.uniform(0.1, 1) * np.hanning(n) * (0.3 + unrest) * hiss)

    times_s = np.cumsum(chance.exponential(0.25, 4 * n_samples // S)).tolist()
    crackle = (chance.random(n_samples) < 0.003) * chance.standard_normal(n_samples)  # 48 a second
    return _at_level(_placed(n_samples, times_s, brush) + _filtered(crackle, 1500, 6000))


def breath(n_samples: int, chance: Chance) -> NDArray[np.float32]:
    """Return someone breathing close to the microphone, in and out."""
    formants = iter(np.tile([[600, 1500, 2800], [400, 1100, 2400]], (n_samples // S + 1, 1)))

    def one() -> Sound:
        n = round(chance.uniform(0.5, 1.2) * S)
        throat = [
            gain * _band(n, 0.85 * hz, 1.15 * hz, chance, order=1)
            for hz, gain in zip(next(formants), (1, 0.8, 0.5), strict=True)
        ]
        return np.asarray(
            chance.uniform(0.4, 1) * np.hanning(n) ** 0.7 * (np.sum(throat, axis=0) + 0.1 * _band(n, 300, 6000, chance))
        )

    times_s = np.cumsum(chance.uniform(1.2, 2.2, n_samples // S)).tolist()
    return _at_level(_placed(n_samples, times_s, one))


def music(n_samples: int, chance: Chance) -> NDArray[np.float32]:
    """Return instruments: chords and melodies of decaying notes, some with vibrato, and a drum."""
    root = 48

    def note() -> Sound:
        time_s = np.arange(round(chance.uniform(0.3, 1.8) * S)) / S
        pitch_hz = 440 * 2 ** ((root + 12 * chance.integers(0, 3) + chance.choice(_SCALE) - 69) / 12)
        vibrato = chance.choice([0, 0.3]) * np.sin(2 * np.pi * 5 * time_s)
        overtones = range(1, min(9, int(7500 / pitch_hz) + 1))
        fall = chance.uniform(0.8, 1.6)
        tone = np.sum([np.sin(2 * np.pi * pitch_hz * k * time_s + vibrato) / k**fall for k in overtones], axis=0)
        shape = np.minimum(time_s / 0.01, 1) * np.exp(-time_s / chance.uniform(0.2, 1.2))
        return np.asarray(chance.uniform(0.3, 1) * tone * shape)

    def drum() -> Sound:
        return np.asarray(0.5 * chance.standard_normal(2000) * np.exp(-np.arange(2000) / 300))

    sound = np.zeros(n_samples)
    for bar_s in np.arange(0, n_samples / S, 2):
        root = int(chance.choice([48, 50, 53, 55, 57]))
        beats_s = bar_s + 0.25 * np.arange(8)
        sound += _placed(n_samples, np.repeat(beats_s, chance.integers(1, 4, 8)).tolist(), note)
        sound += _placed(n_samples, beats_s[chance.random(8) < 0.6].tolist(), drum)  # three of five
    return _at_level(sound)


def applause(n_samples: int, chance: Chance) -> NDArray[np.float32]:
    """Return the applause of 40 people."""
    sound = np.zeros(n_samples)
    for _ in range(40):
        hz, loudness = chance.uniform(700, 2200), chance.uniform(0.2, 1)
        clap = loudness * _band(800, 0.7 * hz, 1.5 * hz, chance, order=1) * np.exp(-np.arange(800) / (0.006 * S))
        every_s = chance.uniform(0.22, 0.4)
        times_s = np.cumsum(every_s * chance.uniform(0.93, 1.07, round(n_samples / S / every_s))).tolist()
        sound += _placed(n_samples, times_s, lambda clap=clap: clap)  # type: ignore[misc]  # its default is its value
    return _at_level(sound)


def babble(voices: Sequence[NDArray[np.float32]], n_voices: int, n_samples: int, chance: Chance) -> NDArray[np.float32]:
    """Return many people who talk at the same time, each as loud as the others."""
    order = np.resize(chance.permutation(len(voices)), n_voices).tolist()
    return _at_level(
        np.sum([np.roll(np.resize(voices[one], n_samples), chance.integers(n_samples)) for one in order], axis=0)
    )


KINDS: dict[str, Callable[[int, Chance], NDArray[np.float32]]] = {
    "hum": hum,
    "fan": fan,
    "keyboard": keyboard,
    "rustle": rustle,
    "breath": breath,
    "music": music,
    "applause": applause,
}


def _placed(n_samples: int, times_s: Iterable[float], make: Callable[[], Sound]) -> Sound:
    """Lay sounds where they begin; what would reach beyond the end is left out."""
    sound = np.zeros(n_samples)
    for time_s in times_s:
        start, one = round(time_s * S), make()
        if start + len(one) <= n_samples:
            sound[start : start + len(one)] += one
    return sound


def _band(n_samples: int, low_hz: float, high_hz: float, chance: Chance, order: int = 2) -> Sound:
    """Return noise between two frequencies."""
    return _filtered(chance.standard_normal(n_samples), low_hz, high_hz, order)


def _filtered(sound: Sound, low_hz: float, high_hz: float, order: int = 2) -> Sound:
    return np.asarray(signal.lfilter(*signal.butter(order, [low_hz, min(high_hz, 7800)], "bandpass", fs=S), sound))


def _at_level(sound: Sound) -> NDArray[np.float32]:
    return np.asarray(sound * (LEVEL / np.sqrt(np.mean(sound**2))), np.float32)
