"""The outline of a sound, as a page draws it above the text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_VALUES: Final = 4000
"""Values in an outline: more than a wide screen has columns."""

_MAX_ROWS: Final = 1 << 15  # eight times as many, so that the values cover nearly equal times
_DIGITS: Final = 3


class Envelope:
    """Collects the peaks of frames of equal length, of any number, in constant memory."""

    def __init__(self) -> None:
        self._row_frames = 1
        self._rows: list[NDArray[np.float32]] = []
        self._n_rows = 0
        self._pending = np.zeros(0, np.float32)

    def push(self, peaks: NDArray[np.float32]) -> None:
        """Add the peaks of the next frames, shape (n,)."""
        peaks = np.concatenate((self._pending, peaks))
        n_rows = len(peaks) // self._row_frames
        n_frames = n_rows * self._row_frames
        self._pending = peaks[n_frames:]
        if not n_rows:
            return
        self._rows.append(peaks[:n_frames].reshape(n_rows, self._row_frames).max(axis=1))
        self._n_rows += n_rows
        while self._n_rows > _MAX_ROWS:
            self._coarsen()

    def _coarsen(self) -> None:
        """Let each row cover twice as many frames."""
        rows = np.concatenate(self._rows)
        if len(rows) % 2:  # the last one waits for its other half
            self._pending = np.concatenate((np.repeat(rows[-1:], self._row_frames), self._pending))
        self._rows = [rows[: len(rows) // 2 * 2].reshape(-1, 2).max(axis=1)]
        self._n_rows = len(self._rows[0])
        self._row_frames *= 2

    def outline(self, gain: float) -> tuple[float, ...]:
        """Return at most `MAX_VALUES` peaks over equal parts of the time, each 0 to 1, after a linear gain."""
        last = self._pending.max(keepdims=True) if len(self._pending) else self._pending
        rows = np.concatenate((*self._rows, last))
        if len(rows) == 0:
            return ()
        n_values = min(len(rows), MAX_VALUES)
        starts = np.arange(n_values) * len(rows) // n_values
        values = np.clip(np.maximum.reduceat(rows, starts).astype(np.float64) * gain, 0.0, 1.0)
        return tuple(np.round(values, _DIGITS).tolist())
