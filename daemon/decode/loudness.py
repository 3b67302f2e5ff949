"""Loudness and true peak of 16 kHz mono audio, after ITU-R BS.1770-4 and EBU R 128.

https://www.itu.int/rec/R-REC-BS.1770 and https://tech.ebu.ch/publications/r128
"""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, Final

import numpy as np
import soxr
from scipy import signal

from daemon.decode.waveform import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from numpy.typing import NDArray

TARGET_LUFS: Final = -23.0
"""Programme loudness of EBU R 128."""
CEILING_DBTP: Final = -1.0
"""Highest true peak of EBU R 128."""

_STEP_SAMPLES: Final = SAMPLE_RATE_HZ // 10  # gating blocks of 400 ms overlap by 75 %
_STEPS_PER_GATING_BLOCK: Final = 4
_OFFSET_LUFS: Final = -0.691  # makes a 997 Hz sine at 0 dBFS read -3.01 LUFS
_ABSOLUTE_GATE_LUFS: Final = -70.0
_RELATIVE_GATE_LU: Final = -10.0
_TRUE_PEAK_OVERSAMPLING: Final = 4


class LoudnessMeter:
    """Measures a stream; it keeps one number for each 100 ms (7 MB for 24 hours)."""

    def __init__(self) -> None:
        self._sections = k_weighting(SAMPLE_RATE_HZ)
        self._state = np.zeros((2, 2))
        self._pending = np.zeros(0)
        self._step_energies = array("d")
        self._oversampler = soxr.ResampleStream(
            SAMPLE_RATE_HZ, _TRUE_PEAK_OVERSAMPLING * SAMPLE_RATE_HZ, 1, dtype="float32", quality="HQ"
        )
        self._true_peak = 0.0

    def push(self, block: NDArray[np.float32]) -> None:
        """Measure a block, shape (n,)."""
        self._oversample(block)
        weighted, self._state = signal.sosfilt(self._sections, block.astype(np.float64), zi=self._state)
        pending = np.concatenate((self._pending, weighted))
        n_steps = len(pending) // _STEP_SAMPLES
        steps = pending[: n_steps * _STEP_SAMPLES].reshape(n_steps, _STEP_SAMPLES)
        self._step_energies.extend(np.mean(steps**2, axis=1).tolist())
        self._pending = pending[n_steps * _STEP_SAMPLES :]

    def _oversample(self, block: NDArray[np.float32], *, is_last: bool = False) -> None:
        """Update the true peak from the samples and from values between them."""
        between = self._oversampler.resample_chunk(block, last=is_last)
        for audio in (block, between):  # the resampler's filter makes a click a little lower
            self._true_peak = max(self._true_peak, float(np.abs(audio).max(initial=0.0)))

    def integrated_lufs(self) -> float | None:
        """Return the gated loudness, or None for silence.

        A recording shorter than one gating block (0.4 s) is measured as one block.
        """
        steps = np.frombuffer(self._step_energies, np.float64)
        if len(steps) < _STEPS_PER_GATING_BLOCK:
            n_samples = len(steps) * _STEP_SAMPLES + len(self._pending)
            energies = np.array([(steps.sum() * _STEP_SAMPLES + (self._pending**2).sum()) / max(n_samples, 1)])
        else:
            energies = np.convolve(steps, np.full(_STEPS_PER_GATING_BLOCK, 1 / _STEPS_PER_GATING_BLOCK), "valid")
        energies = energies[_lufs(energies) > _ABSOLUTE_GATE_LUFS]
        if len(energies) == 0:
            return None
        gate_lufs = float(_lufs(energies.mean())) + _RELATIVE_GATE_LU
        return float(_lufs(energies[_lufs(energies) > gate_lufs].mean()))

    def gain(self) -> float:
        """Return the linear factor to -23 LUFS that keeps the true peak below -1 dBTP; ends the stream."""
        self._oversample(np.zeros(0, np.float32), is_last=True)
        loudness_lufs = self.integrated_lufs()
        if loudness_lufs is None or self._true_peak == 0.0:
            return 1.0
        return min(10 ** ((TARGET_LUFS - loudness_lufs) / 20), 10 ** (CEILING_DBTP / 20) / self._true_peak)


def _lufs(energy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return mean square values of K-weighted audio as LUFS."""
    return _OFFSET_LUFS + 10 * np.log10(np.maximum(energy, np.finfo(np.float64).tiny))


def k_weighting(rate_hz: int) -> NDArray[np.float64]:
    """Return the two sections of the K weighting for a sample rate, shape (2, 6).

    BS.1770 gives coefficients for 48 kHz only. These are the analogue filters behind them, as
    libebur128 recovered them (https://github.com/jiixyj/libebur128), transformed to any rate.
    """
    k = math.tan(math.pi * 1681.974450955533 / rate_hz)
    q, high = 0.7071752369554196, 10 ** (3.999843853973347 / 20)
    band = high**0.4996667741545416
    a0 = 1 + k / q + k * k
    shelf = [high + band * k / q + k * k, 2 * (k * k - high), high - band * k / q + k * k]
    shelf += [a0, 2 * (k * k - 1), 1 - k / q + k * k]
    k = math.tan(math.pi * 38.13547087602444 / rate_hz)
    q = 0.5003270373238773
    b0 = 1 + k / q + k * k
    rumble = [b0, -2 * b0, b0, b0, 2 * (k * k - 1), 1 - k / q + k * k]
    return np.array([np.array(shelf) / a0, np.array(rumble) / b0])
