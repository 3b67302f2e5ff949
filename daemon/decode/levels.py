"""Defects of the audio itself: clipping, silent or inverted channels, DC, invalid samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from daemon.decode.channels import ChannelWindows

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FULL_SCALE: Final = 0.999
_MIN_CLIPPED_RUN: Final = 3  # one sample at full scale is a peak, three in a row are a flat top
_MAX_SENSIBLE: Final = 1e6  # +120 dBFS: a float sample beyond it is garbage that happens to be finite
_INVERTED_CORRELATION: Final = -0.9
_NOTED_DC: Final = 0.01
_NOTED_CLIPPING_S: Final = 0.05
_QUIET_PEAK_DBFS: Final = -40.0
_STEREO: Final = 2

SILENT_RMS: Final = 1e-4
"""-80 dBFS: a connected but unused input stays below."""


class Levels:
    """Measures the blocks of one recording.

    Attributes:
        n_invalid: samples so far that were not numbers, or garbage.
        windows: how the channels of stereo compare over time.

    Args:
        rate_hz: of the recording.
        channels: of the recording.
        has_headroom: whether its samples may exceed full scale without being clipped, as in float PCM.
    """

    def __init__(self, rate_hz: int, channels: int, *, has_headroom: bool = False) -> None:
        self.n_invalid = 0
        self.windows = ChannelWindows(rate_hz, channels)
        self._rate_hz = rate_hz
        self._channels = channels
        self._highest_clipped = 1.0 if has_headroom else np.inf
        self._n_frames = 0
        self._n_clipped = 0
        self._was_full = np.zeros(_MIN_CLIPPED_RUN, np.bool_)
        self._sums = np.zeros(channels)
        self._energies = np.zeros(channels)
        self._cross_energy = 0.0

    def observe(self, channels: NDArray[np.float32], start_s: float = 0.0) -> NDArray[np.float32]:
        """Measure a block, shape (channels, n), that begins at `start_s`; return it with invalid samples set to 0."""
        peak = max(float(channels.max(initial=0.0)), -float(channels.min(initial=0.0)))
        if not peak < _MAX_SENSIBLE:  # NaN too
            is_broken = ~(np.abs(channels) < _MAX_SENSIBLE)
            self.n_invalid += int(is_broken.sum())
            channels = np.where(is_broken, np.float32(0), channels)
            peak = float(np.abs(channels).max(initial=0.0))
        self._count_clipped(channels, peak)
        self._n_frames += channels.shape[1]
        self._sums += channels.sum(axis=1)
        energies, product = self.windows.observe(channels, start_s)
        self._energies += energies
        self._cross_energy += product
        return channels

    def _count_clipped(self, channels: NDArray[np.float32], peak: float) -> None:
        """Count the frames in runs at full scale, on any channel, across block boundaries."""
        if peak < _FULL_SCALE and not self._was_full.any():
            return
        # One frame more than a run needs is kept from the previous block: it shows whether a run began there.
        magnitudes = np.abs(channels)
        is_at_limit = (magnitudes >= _FULL_SCALE) & (magnitudes <= self._highest_clipped)
        is_full = np.concatenate((self._was_full, is_at_limit.any(axis=0)))
        ends_run = is_full[2:] & is_full[1:-1] & is_full[:-2]
        n_begun = int((ends_run[1:] & ~ends_run[:-1]).sum())
        self._n_clipped += int(ends_run[1:].sum()) + (_MIN_CLIPPED_RUN - 1) * n_begun
        self._was_full = is_full[-_MIN_CLIPPED_RUN:]

    @property
    def duration_s(self) -> float:
        """Length of the blocks so far, without pauses of the recorder."""
        return self._n_frames / self._rate_hz

    @property
    def clipped_s(self) -> float:
        """Time spent in flat tops."""
        return self._n_clipped / self._rate_hz

    @property
    def dc_offset(self) -> float:
        """The largest mean of any channel, as a fraction of full scale."""
        return float(np.abs(self._sums).max() / max(self._n_frames, 1))

    @property
    def inverted_channel(self) -> int | None:
        """The channel to use alone where two channels would cancel each other, else None."""
        if self._channels != _STEREO or self._n_frames == 0:
            return None
        means = self._sums / self._n_frames
        variances = np.maximum(self._energies / self._n_frames - means**2, 0)
        if min(variances) < SILENT_RMS**2:
            return None
        correlation = (self._cross_energy / self._n_frames - means[0] * means[1]) / np.sqrt(variances[0] * variances[1])
        return int(np.argmax(variances)) if correlation < _INVERTED_CORRELATION else None

    def notes(self, peak_dbfs: float | None) -> list[str]:
        """Return sentences about what a person may want to know.

        Args:
            peak_dbfs: highest level of the cleaned audio, None for silence.
        """
        notes = []
        if self.n_invalid:
            notes.append(f"{self.n_invalid} samples were not valid numbers and were replaced by silence.")
        if peak_dbfs is None:
            notes.append("The recording is silent from start to end.")
        elif peak_dbfs < _QUIET_PEAK_DBFS:
            notes.append(f"The recording is very quiet: its loudest moment is at {peak_dbfs:.0f} dBFS.")
        if self.clipped_s >= _NOTED_CLIPPING_S:
            notes.append(f"The recording is clipped for {self.clipped_s:.1f} s.")
        if self.dc_offset > _NOTED_DC:
            notes.append(f"The recording has a DC offset of {100 * self.dc_offset:.0f} % of full scale.")
        return notes + self._channel_notes()

    def _channel_notes(self) -> list[str]:
        """Return sentences about silent and inverted channels."""
        if self.inverted_channel is not None:
            name = ("left", "right")[self.inverted_channel]
            return [f"The two channels are inverted copies and would cancel: only the {name} channel was used."]
        is_silent = self._energies / max(self._n_frames, 1) < SILENT_RMS**2
        if not is_silent.any() or is_silent.all():
            return []
        if self._channels == _STEREO:
            return [f"The {'left' if is_silent[0] else 'right'} channel is silent."]
        return [f"Silent channels: {int(is_silent.sum())} of {self._channels}."]
