"""Tracks that hold the same sound: copies, and a mix whose parts are there too. Measured, whatever their names say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from daemon.decode.waveform import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from daemon.decode.waveform import Waveform

_WINDOW: Final = 4 * SAMPLE_RATE_HZ
_MAX_WINDOWS: Final = 12
_MAX_LAG: Final = SAMPLE_RATE_HZ // 10  # encoders delay by some milliseconds, each by its own
_MIN_LEVEL: Final = 0.1  # of the loudest window
# A copy is a track times a factor, but for what its encoder took away: 12 to 20 dB below the sound. Of another
# microphone in the same room, this leaves most of the sound.
_MAX_REST: Final = 0.1
_MIN_ALIKE: Final = 0.9  # of the windows


def find_same(waveforms: Sequence[Waveform]) -> dict[int, tuple[int, ...]]:
    """Find waveforms that need not be heard beside others.

    Args:
        waveforms: of tracks, by preference; all begin at the same time.

    Returns:
        for each index that can be left out, the indices that hold its sound: one for a copy, several for a mix.
    """
    same: dict[int, tuple[int, ...]] = {}
    for at in range(len(waveforms) - 1, 0, -1):
        copies = [other for other in range(at) if _is_made_of(waveforms[at], [waveforms[other]])]
        if copies:
            same[at] = (copies[0],)
    for at in range(len(waveforms)):
        parts = [other for other in range(len(waveforms)) if other != at and other not in same]
        if at not in same and len(parts) > 1 and _is_made_of(waveforms[at], [waveforms[part] for part in parts]):
            same[at] = tuple(parts)
    return same


def _is_made_of(whole: Waveform, parts: Sequence[Waveform]) -> bool:
    """Return whether a sound is the sum of others, each times a factor."""
    windows = _list_windows(whole)
    n_other = 0
    for start in windows:
        n_other += _rest(whole, parts, start) > _MAX_REST
        if n_other > (1 - _MIN_ALIKE) * len(windows):
            return False
    return bool(windows)


def _list_windows(whole: Waveform) -> list[int]:
    """Return where the loud ones of some windows begin, from all over the recording."""
    first, last = whole.pieces[0][0], whole.pieces[-1][1]
    length = min(_WINDOW, last - first)
    starts = np.linspace(first, last - length, 4 * _MAX_WINDOWS).astype(int).tolist()
    starts = [start for start in dict.fromkeys(starts) if whole.has_audio(start, start + length)]
    levels = [whole.level(start, start + length) for start in starts]
    floor = _MIN_LEVEL * max(levels, default=0.0)
    loud = [start for start, level in zip(starts, levels, strict=True) if level > floor]
    return loud[:: -(-len(loud) // _MAX_WINDOWS)] if loud else []


def _rest(whole: Waveform, parts: Sequence[Waveform], start: int) -> float:
    """Return the share of a window's energy that is in none of the parts."""
    sound = whole.read(start, start + _WINDOW).astype(np.float64)
    shifted = [column for part in parts for column in _shift(sound, part, start)]
    basis = np.stack([np.zeros(len(sound)), *shifted], axis=1)
    factors = np.linalg.lstsq(basis, sound, rcond=None)[0]
    return float(np.sum((sound - basis @ factors) ** 2) / max(np.sum(sound**2), np.finfo(np.float32).tiny))


def _shift(sound: NDArray[np.float64], part: Waveform, start: int) -> list[NDArray[np.float64]]:
    """Return the window of a part that fits best, and its neighbours: a delay is no whole number of samples."""
    n_before = min(_MAX_LAG + 1, start)
    around = np.zeros(len(sound) + 2 * (_MAX_LAG + 1))
    found = part.read(start - n_before, start + len(sound) + _MAX_LAG + 1)
    offset = _MAX_LAG + 1 - n_before
    around[offset : offset + len(found)] = found
    size = 1 << (len(around) + len(sound)).bit_length()
    products = np.fft.irfft(np.conj(np.fft.rfft(sound, size)) * np.fft.rfft(around, size), size)
    best = 1 + int(np.abs(products[1 : 2 * _MAX_LAG + 2]).argmax())
    return [around[best + step : best + step + len(sound)] for step in (-1, 0, 1)]
