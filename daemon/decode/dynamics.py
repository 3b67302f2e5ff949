"""Levels of the cleaned audio over time: peak, RMS level, noise, clicks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from daemon.decode.envelope import Envelope
from daemon.decode.waveform import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from numpy.typing import NDArray

SILENT_PEAK: Final = 2.0**-31
"""The smallest step of sox, which computes in 32-bit integers."""

_FRAME_SAMPLES: Final = SAMPLE_RATE_HZ // 50  # 20 ms
_LOWEST_DB: Final = -120
_N_BINS: Final = 320  # up to +40 dBFS
_BINS_PER_DB: Final = 2
_NOISE_SHARE: Final = 0.1  # even in speech without pauses a tenth of the frames lie between syllables
_SPEECH_DB: Final = 6.0  # above the noise: counts as signal
_MIN_FRAMES: Final = 50  # a second; less is too short for an estimate
_CLICK_FRAMES: Final = 5  # 100 ms, including the ringing of the filters
_CLICK_DB: Final = 10.0


class Dynamics:
    """Measures a stream of 16 kHz mono, in constant memory.

    Attributes:
        peak: highest absolute sample so far, linear.
        envelope: the outline of the sound.
    """

    def __init__(self) -> None:
        self.peak = 0.0
        self.envelope = Envelope()
        self._peak_frame = 0
        self._n_frames = 0
        self._n_samples = 0
        self._energy = 0.0
        self._pending = np.zeros(0, np.float32)
        self._n_by_peak = np.zeros(_N_BINS, np.int64)
        self._n_by_level = np.zeros(_N_BINS, np.int64)
        self._energy_by_level = np.zeros(_N_BINS)

    def push(self, block: NDArray[np.float32]) -> None:
        """Measure a block, shape (n,)."""
        self._n_samples += len(block)
        audio = np.concatenate((self._pending, block)) if len(self._pending) else block
        n_frames = len(audio) // _FRAME_SAMPLES
        self._pending = audio[n_frames * _FRAME_SAMPLES :].copy()
        if n_frames:
            self._observe(audio[: n_frames * _FRAME_SAMPLES].reshape(n_frames, _FRAME_SAMPLES))

    def skip(self, n_samples: int) -> None:
        """Note a pause of the recorder: it counts as time, and neither as signal nor as noise."""
        if len(self._pending):
            n_missing = min(n_samples, _FRAME_SAMPLES - len(self._pending))
            self.push(np.zeros(n_missing, np.float32))
            self._n_samples -= n_missing
            n_samples -= n_missing
        n_frames, n_rest = divmod(n_samples, _FRAME_SAMPLES)
        self._n_frames += n_frames
        self.envelope.skip(n_frames)
        if n_rest:
            self._pending = np.zeros(n_rest, np.float32)

    def drain(self) -> None:
        """Measure the last samples, which are less than a frame."""
        if len(self._pending):
            self._observe(self._pending[np.newaxis])
            self._pending = self._pending[:0]

    def _observe(self, frames: NDArray[np.float32]) -> None:
        """Count frames, shape (n, samples), by peak and by level."""
        peaks = np.abs(frames).max(axis=1)
        energies = np.vecdot(frames, frames).astype(np.float64)
        self.envelope.push(peaks)
        loudest = int(peaks.argmax())
        if peaks[loudest] > self.peak:
            self.peak, self._peak_frame = float(peaks[loudest]), self._n_frames + loudest
        levels = _bins(np.sqrt(energies / frames.shape[1]))
        self._n_by_peak += np.bincount(_bins(peaks), minlength=_N_BINS)
        self._n_by_level += np.bincount(levels, minlength=_N_BINS)
        self._energy_by_level += np.bincount(levels, energies / frames.shape[1], _N_BINS)
        self._energy += float(energies.sum())
        self._n_frames += len(frames)

    @property
    def peak_dbfs(self) -> float | None:
        """Peak level, None for silence."""
        return 20 * math.log10(self.peak) if self.peak >= SILENT_PEAK else None

    @property
    def level_dbfs(self) -> float | None:
        """RMS level of the whole recording, None for silence."""
        return 10 * math.log10(self._energy / self._n_samples) if self.peak >= SILENT_PEAK else None

    @property
    def crest_db(self) -> float | None:
        """Peak level minus RMS level, None for silence."""
        peak_dbfs, level_dbfs = self.peak_dbfs, self.level_dbfs
        return None if peak_dbfs is None or level_dbfs is None else peak_dbfs - level_dbfs

    def estimate_snr_db(self) -> float | None:
        """Return the level of the signal above the noise between its parts, None where it cannot be estimated.

        The noise is the level of the quietest tenth of the frames, the signal everything 6 dB above it.
        Accurate within 3 dB, too high below 10 dB. Digital silence does not count: it comes from a
        recorder's gate, not from the room.
        """
        n_by_level = self._n_by_level.copy()
        n_by_level[0] = 0
        n_frames = int(n_by_level.sum())
        if n_frames < _MIN_FRAMES:
            return None
        floor = int(np.searchsorted(n_by_level.cumsum(), _NOISE_SHARE * n_frames))
        noise = self._energy_by_level[floor] / n_by_level[floor]
        above = slice(floor + round(_SPEECH_DB * _BINS_PER_DB), None)
        n_above = int(n_by_level[above].sum())
        signal = self._energy_by_level[above].sum() / n_above - noise if n_above else 0.0
        return 10 * math.log10(max(signal / noise, 1.0))

    def find_click(self) -> tuple[float, float] | None:
        """Return (time in seconds, dB above the rest) of a lone click that limits the gain, None if there is none."""
        if self._n_by_peak.sum() < _MIN_FRAMES or self.peak_dbfs is None:
            return None
        n_louder = self._n_by_peak[::-1].cumsum()
        rest = _N_BINS - 1 - int(np.searchsorted(n_louder, _CLICK_FRAMES, side="right"))
        above_db = self.peak_dbfs - (_LOWEST_DB + (rest + 1) / _BINS_PER_DB)
        is_click = rest > 0 and above_db >= _CLICK_DB
        return (self._peak_frame * _FRAME_SAMPLES / SAMPLE_RATE_HZ, above_db) if is_click else None


def _bins(levels: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the bin of each linear level, shape (n,); silence is in the first."""
    level_db = 20 * np.log10(np.maximum(levels, np.finfo(np.float32).tiny))
    bins: NDArray[np.int64] = np.clip((level_db - _LOWEST_DB) * _BINS_PER_DB, 0, _N_BINS - 1).astype(np.int64)
    return bins
