"""One mono stream, cleaned block by block: high-pass, sample rate, and the gain of the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from daemon.decode.conditioning import Conditioner
from daemon.decode.dynamics import SILENT_PEAK, Dynamics
from daemon.decode.loudness import LoudnessMeter
from daemon.decode.waveform import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from daemon.config import Preprocess
    from daemon.decode.mixing import MixPart
    from daemon.decode.waveform import Waveform, WaveformWriter

_MEASURED_SAMPLES: Final = 4 * SAMPLE_RATE_HZ


class StreamCleaner:
    """High-passes and resamples one mono stream, writes it, and measures it for its gain.

    Attributes:
        dynamics: its levels before the gain.

    Args:
        rate_hz: of the stream.
        writer: takes the result.
        settings: the `preprocess` section of the configuration.
    """

    def __init__(self, rate_hz: int, writer: WaveformWriter | MixPart, settings: Preprocess) -> None:
        self.dynamics = Dynamics()
        self._rate_hz = rate_hz
        self._settings = settings
        self._conditioner = Conditioner(rate_hz, settings.highpass_hz)
        self._writer = writer
        self._meter = LoudnessMeter() if settings.normalize == "loudness" else None

    def push(self, mono: NDArray[np.float32], floor: float) -> None:
        """Add a block, shape (n,); if all of it is below `floor`, it may be stored as silence."""
        self._take(self._conditioner.push(mono), floor)

    def skip_to(self, time_s: float) -> None:
        """Add silence up to a time, counted from the start of the recording."""
        self._take(self._conditioner.drain())
        self._conditioner = Conditioner(self._rate_hz, self._settings.highpass_hz)
        n_samples = round(time_s * SAMPLE_RATE_HZ) - self._writer.n_samples
        if n_samples > 0:
            self._writer.skip(n_samples)
            self.dynamics.skip(n_samples)

    def finish(self) -> Waveform:
        """Return the waveform with its gain."""
        self._take(self._conditioner.drain())
        self.dynamics.drain()
        return self._writer.finish(_find_gain(self._settings, self.dynamics, self._meter))

    def _take(self, audio: NDArray[np.float32], floor: float = 0.0) -> None:
        self._writer.append(audio, floor)
        self.dynamics.push(audio)
        if self._meter is not None and len(audio):
            self._meter.push(audio)


def set_gain(waveform: Waveform, settings: Preprocess, raise_if_stopped: Callable[[], None]) -> None:
    """Measure a waveform that is stored already, and set its gain."""
    dynamics, meter = Dynamics(), LoudnessMeter() if settings.normalize == "loudness" else None
    for block in waveform.blocks(_MEASURED_SAMPLES):
        raise_if_stopped()
        dynamics.push(block)
        if meter is not None:
            meter.push(block)
    dynamics.drain()
    waveform.gain = _find_gain(settings, dynamics, meter)


def mix_channels(channels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of channels, shape (channels, n), as sox mixes; shape (n,)."""
    mono: NDArray[np.float32] = channels[0]
    if len(channels) > 1:
        mono = mono + channels[1]
        for channel in channels[2:]:
            mono += channel
        mono *= np.float32(1 / len(channels))
    return mono


def _find_gain(settings: Preprocess, dynamics: Dynamics, meter: LoudnessMeter | None) -> float:
    """Return the linear factor of the chosen normalization; silence is left unchanged."""
    if dynamics.peak < SILENT_PEAK or settings.normalize == "off":
        return 1.0
    if meter is not None:
        return meter.gain()
    return float(10 ** (settings.peak_dbfs / 20) / dynamics.peak)
