"""Whether two channels that sound at the same time share nothing, as two people do who each have a microphone.

Two measures have to agree, because each misses something. Coherence finds whatever reaches both channels over a fixed
path: a delay, a room, a filter, an encoder. The outlines of the sound find what no fixed path explains: a voice under
strong noise of its own in each channel, a chorus, a change of pitch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

MIN_WINDOWS: Final = 5
"""The least evidence: 1.25 s in which both channels sound."""

ALIKE_CORRELATION: Final = 0.5
"""Windows that correlate more without any delay are not kept: they show by themselves that sound is shared."""

_LOWEST_RATE_HZ: Final = 6_000  # to which excerpts are averaged down, at least
_BAND_HZ: Final = (100.0, 2500.0)
_MIN_LEVEL: Final = 1e-3  # of the energy of the channel's loudest window so far
# Neighbours form a group, which is measured by itself: people move, and two recorders have two clocks. 8 groups of 4 s
# take 1.5 MB, however long the recording.
_GROUP: Final = 16
_MAX_GROUPS: Final = 8
_MIN_GROUP: Final = 8
_N_SHIFTS: Final = 4
# Coherence beyond chance. By phase alone, two talkers reach 0.01, sound shared at -25 dB 0.04 and at -20 dB 0.07; two
# microphones 5 m apart in a room with 1.5 s of reverberation still reach 0.05 to 0.1. With levels, short excerpts of
# two talkers reach 0.1 by chance, and the room 0.17.
_MAX_PHASE_COHERENCE: Final = 0.04
_MAX_COHERENCE: Final = 0.06
_COHERENCE_BY_CHANCE: Final = 0.6  # divided by the number of windows
_MAX_OUTLINE: Final = 0.15
_OUTLINE_BY_CHANCE: Final = 1.5  # divided by the root of that number
_N_STEPS: Final = 10  # of an outline in each window: 25 ms
_MAX_DELAY_STEPS: Final = 2
_TINY: Final = float(np.finfo(np.float32).tiny)


class Excerpt(NamedTuple):
    """A window of both channels, shape (2, n), that begins at `start_s`."""

    start_s: float
    sound: NDArray[np.float32]


class Excerpts:
    """Keeps windows in which both channels sound, in groups from all over a recording.

    Attributes:
        rate_hz: of the excerpts: 6 to 12 kHz, or that of the recording where it is lower.

    Args:
        rate_hz: of the recording.
    """

    def __init__(self, rate_hz: int) -> None:
        self._n_averaged = max(1, rate_hz // _LOWEST_RATE_HZ)
        self.rate_hz = rate_hz / self._n_averaged
        self._mean = np.full(self._n_averaged, 1 / self._n_averaged, np.float32)
        self._loudest = [0.0, 0.0]
        self._groups: list[list[Excerpt]] = [[]]
        self._stride = 1
        self._n_to_skip = 0

    def offer(self, start_s: float, channels: NDArray[np.float32], energies: Sequence[float]) -> None:
        """Keep a window, shape (2, n), or leave it out.

        Args:
            start_s: when it begins.
            channels: its samples.
            energies: of its channels.
        """
        (left, right), loudest = energies, self._loudest
        loudest[:] = max(loudest[0], left), max(loudest[1], right)
        if left <= _MIN_LEVEL * loudest[0] or right <= _MIN_LEVEL * loudest[1]:
            return
        if self._n_to_skip:
            self._n_to_skip -= 1
            return
        n = channels.shape[1] // self._n_averaged
        sound = channels[:, : n * self._n_averaged].reshape(2, n, self._n_averaged) @ self._mean
        self._groups[-1].append(Excerpt(start_s, sound))
        if len(self._groups[-1]) < _GROUP:
            return
        if len(self._groups) == _MAX_GROUPS:
            self._groups = self._groups[::2]
            self._stride *= 2
        self._groups.append([])
        self._n_to_skip = _GROUP * (self._stride - 1)

    def are_independent(self, is_wanted: Callable[[float], bool]) -> bool:
        """Return whether the channels share no sound, as far as excerpts show.

        Args:
            is_wanted: whether the window that begins at a time, in seconds, counts.
        """
        groups = [[each.sound for each in group if is_wanted(each.start_s)] for group in self._groups]
        groups = [group for group in groups if len(group) >= _MIN_GROUP] or [max(groups, key=len)]
        n_windows = sum(map(len, groups))
        if n_windows < MIN_WINDOWS:
            return False
        sounds = [np.stack(group) for group in groups]
        most_alike = _MAX_OUTLINE + _OUTLINE_BY_CHANCE / n_windows**0.5
        if _compare_outlines(np.concatenate(sounds)) > most_alike:
            return False
        spectra = [_transform(sound, self.rate_hz) for sound in sounds]
        most_coherent = _MAX_COHERENCE + _COHERENCE_BY_CHANCE / n_windows
        return (
            _average_coherence(spectra, 1.0) <= _MAX_PHASE_COHERENCE
            and _average_coherence(spectra, 0.5) <= most_coherent
        )


def _transform(sound: NDArray[np.float32], rate_hz: float) -> NDArray[np.complex64]:
    """Return the spectra of windows of both channels, shape (n_windows, 2, n_bins), in the band of speech."""
    n = sound.shape[2]
    frequencies = np.fft.rfftfreq(n, 1 / rate_hz)
    is_speech = (frequencies > _BAND_HZ[0]) & (frequencies < _BAND_HZ[1])
    return np.fft.rfft(sound * np.hanning(n).astype(np.float32), axis=2)[:, :, is_speech].astype(np.complex64)


def _average_coherence(spectra: Sequence[NDArray[np.complex64]], power: float) -> float:
    """Return the coherence beyond chance, averaged over groups; loud sounds count less, with power 1 only phases do."""
    found = [_measure_coherence(each / (np.abs(each) + _TINY) ** power) for each in spectra]
    return float(np.average(found, weights=[len(each) for each in spectra]))


def _measure_coherence(spectra: NDArray[np.complex64]) -> float:
    """Return the coherence of the channels beyond that of windows of different times, from about 0 to 1."""
    left, right = spectra[:, 0], spectra[:, 1]
    energies = np.sum(np.abs(left) ** 2, axis=0) * np.sum(np.abs(right) ** 2, axis=0) + _TINY
    weights = np.sqrt(energies) / np.sum(np.sqrt(energies))

    def compare(shift: int) -> float:
        products = np.abs(np.sum(left * np.conj(np.roll(right, shift, axis=0)), axis=0)) ** 2
        return float(np.sum(weights * products / energies))

    shifts = np.unique(np.linspace(2, len(left) - 2, _N_SHIFTS).astype(int)).tolist()
    by_chance = float(np.mean([compare(shift) for shift in shifts]))
    return (compare(0) - by_chance) / max(1 - by_chance, _TINY)


def _compare_outlines(sound: NDArray[np.float32]) -> float:
    """Return the highest correlation of the levels of both channels, up to 50 ms apart; shape (n_windows, 2, n)."""
    n = sound.shape[2] // _N_STEPS
    energies = np.sum(sound[:, :, : n * _N_STEPS].reshape(len(sound), 2, _N_STEPS, n) ** 2, axis=3, dtype=np.float64)
    levels = np.log(energies + 1e-9 * energies.max(axis=(0, 2), keepdims=True) + _TINY)
    left, right = levels[:, 0], levels[:, 1]
    found = [_correlate(left, right)]
    for delay in range(1, _MAX_DELAY_STEPS + 1):
        found += [_correlate(left[:, delay:], right[:, :-delay]), _correlate(left[:, :-delay], right[:, delay:])]
    return max(found)


def _correlate(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    one, other = one - one.mean(), other - other.mean()
    return float(np.sum(one * other) / (np.sqrt(np.sum(one**2) * np.sum(other**2)) + _TINY))
