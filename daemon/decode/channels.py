"""Whether two channels carry different talkers, as in a telephone call, or the same scene."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from daemon.decode.independence import ALIKE_CORRELATION, MIN_WINDOWS, Excerpts
from daemon.decode.waveform import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_WINDOW_S: Final = 0.25
_STEREO: Final = 2
_LEAD_DB: Final = 10.0
# A voice that a mixer put to one side is in the other channel too, at the same instant, and most of what is there.
# An echo in a call is later, or weaker than at any of a mixer's settings but the outermost.
_PANNED_CORRELATION: Final = 0.6
_PANNED_DB: Final = -23.5
_MIN_SHARE: Final = 0.5  # of the windows with speech
_MIN_WINDOWS: Final = 8  # 2 s in which a channel leads
_MIN_SIDE_SHARE: Final = 0.05  # of the windows with a lead: each of the two says something
_QUIET_DB: Final = 40.0  # windows so far below the loudest say nothing about who speaks
_LOUD_PERCENTILE: Final = 95
_BOTH_DB: Final = 20.0  # below its loudest windows, a channel still counts as heard together with the other
_MAX_ALIKE: Final = 0.15  # of the windows in which both are heard


class ChannelWindows:
    """Measures the two channels of a stereo track in windows of a quarter of a second.

    It keeps four numbers for each, 6 MB for 24 hours, and excerpts of the sound, 1.5 MB.

    Args:
        rate_hz: of the track.
        channels: of the track; with other than two, nothing is measured.
    """

    def __init__(self, rate_hz: int, channels: int) -> None:
        self._rate_hz = rate_hz
        self._n_window = max(1, round(_WINDOW_S * rate_hz))
        self._is_stereo = channels == _STEREO
        self._rows: list[NDArray[np.float32]] = []
        self._excerpts = Excerpts(rate_hz)

    def observe(self, channels: NDArray[np.float32], start_s: float) -> tuple[NDArray[np.float64], float]:
        """Measure a block of shape (channels, n) that begins at `start_s`.

        Returns:
            the energy of each channel, shape (channels,), and for stereo the sum of products of the two.
        """
        if not self._is_stereo:
            return np.array([np.dot(channel, channel) for channel in channels], np.float64), 0.0
        n_whole = channels.shape[1] // self._n_window
        edge = n_whole * self._n_window
        rows = np.empty((n_whole + 1, 4))
        left, right = (channel[:edge].reshape(n_whole, self._n_window) for channel in channels)
        rows[:-1, 1], rows[:-1, 2], rows[:-1, 3] = (
            np.vecdot(left, left),
            np.vecdot(right, right),
            np.vecdot(left, right),
        )
        left, right = channels[:, edge:]
        rows[-1, 1:] = np.dot(left, left), np.dot(right, right), np.dot(left, right)
        rows[:, 0] = start_s + np.arange(n_whole + 1) * self._n_window / self._rate_hz
        self._rows.append(rows.astype(np.float32))
        is_apart = rows[:-1, 3] ** 2 < ALIKE_CORRELATION**2 * rows[:-1, 1] * rows[:-1, 2]
        times_s, energies = self._rows[-1][:, 0].tolist(), rows[:, 1:3].tolist()
        for at in np.flatnonzero(is_apart).tolist():
            window = channels[:, at * self._n_window : (at + 1) * self._n_window]
            self._excerpts.offer(times_s[at], window, energies[at])
        _, energy_left, energy_right, product = rows.sum(axis=0)
        return np.array([energy_left, energy_right]), float(product)

    def hold_two_talkers(self, speech: Sequence[tuple[int, int]]) -> bool:
        """Return whether each channel has a talker of its own.

        So it is where, in most windows with speech, one channel leads by 10 dB or more while the other holds no
        more than noise or an echo, and each of the two leads at times. In doubt it is not.

        Args:
            speech: the (start, stop) of each stretch of speech in the mix of both, in samples at 16 kHz, in order.
        """
        left, right, product = self._find_heard(speech)[:, 1:].T
        is_clear, lead_db = _find_clear(left, right, product)
        n_clear = int(is_clear.sum())
        n_least = min(int((is_clear & (lead_db > 0)).sum()), int((is_clear & (lead_db < 0)).sum()))
        is_shared = n_least >= max(_MIN_WINDOWS, _MIN_SIDE_SHARE * n_clear)
        return is_shared and n_clear > _MIN_SHARE * len(left)

    def count_talk_at_once(self, speech: Sequence[tuple[int, int]]) -> int:
        """Return in how many windows both channels are heard, if they share no sound there, else 0.

        The windows in which one channel leads or both are heard must be most of those with speech. Two talkers
        fulfil that who both speak nearly all the time, and so do a talker and music, each in its own channel.

        Args:
            speech: as for `hold_two_talkers`.
        """
        rows = self._find_heard(speech)
        if len(rows) < MIN_WINDOWS:
            return 0
        left, right, product = rows[:, 1:].T
        lowest = np.percentile(rows[:, 1:3], _LOUD_PERCENTILE, axis=0) * 10 ** (-_BOTH_DB / 10)
        is_both = (left > lowest[0]) & (right > lowest[1])
        is_alike = is_both & (np.abs(product) > ALIKE_CORRELATION * np.sqrt(left * right))
        is_apart = is_both & ~is_alike
        is_clear, _ = _find_clear(left, right, product)
        n_apart = int(is_apart.sum())
        if (
            n_apart < MIN_WINDOWS
            or is_alike.sum() > _MAX_ALIKE * is_both.sum()
            or (is_apart | is_clear).sum() <= _MIN_SHARE * len(rows)
        ):
            return 0
        wanted = frozenset(rows[is_apart, 0].tolist())
        return n_apart if self._excerpts.are_independent(wanted.__contains__) else 0

    def _find_heard(self, speech: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
        """Return the windows with speech that are loud enough to count, shape (n, 4)."""
        rows = np.concatenate(self._rows) if self._rows else np.zeros((0, 4), np.float32)
        rows = rows[_is_within(rows[:, 0] + _WINDOW_S / 2, speech)]
        if len(rows) == 0:
            return np.zeros((0, 4))
        loudest = rows[:, 1:3].max(axis=1)
        is_heard = loudest > np.percentile(loudest, _LOUD_PERCENTILE) * 10 ** (-_QUIET_DB / 10)
        return np.asarray(rows[is_heard], np.float64)


def _find_clear(
    left: NDArray[np.float64], right: NDArray[np.float64], product: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return in which windows one channel leads while the other holds no more than noise or an echo; the lead in dB."""
    lead_db = 10 * np.log10((left + np.finfo(np.float32).tiny) / (right + np.finfo(np.float32).tiny))
    is_alike = np.abs(product) > _PANNED_CORRELATION * np.sqrt(left * right)
    is_panned = is_alike & (np.abs(product) > 10 ** (_PANNED_DB / 20) * np.maximum(left, right))
    return (np.abs(lead_db) >= _LEAD_DB) & ~is_panned, lead_db


def _is_within(times_s: NDArray[np.float32], speech: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """Return for each time whether it lies in one of the stretches of speech, shape (n,)."""
    edges = np.array(speech, np.float64).reshape(-1) / SAMPLE_RATE_HZ
    is_within: NDArray[np.bool_] = np.searchsorted(edges, times_s, side="right") % 2 == 1
    return is_within
