"""The outline of a sound, as a page draws it above the text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

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

    def skip(self, n_frames: int) -> None:
        """Add frames of silence."""
        for start in range(0, n_frames, _MAX_ROWS * self._row_frames):
            self.push(np.zeros(min(n_frames - start, _MAX_ROWS * self._row_frames), np.float32))

    def _coarsen(self) -> None:
        """Let each row cover twice as many frames."""
        rows = np.concatenate(self._rows)
        if len(rows) % 2:  # the last one waits for its other half
            self._pending = np.concatenate((np.repeat(rows[-1:], self._row_frames), self._pending))
        self._rows = [rows[: len(rows) // 2 * 2].reshape(-1, 2).max(axis=1)]
        self._n_rows = len(self._rows[0])
        self._row_frames *= 2

    @property
    def n_frames(self) -> int:
        """Frames so far."""
        return self._n_rows * self._row_frames + len(self._pending)

    def values(self, n_frames: int, n_values: int) -> NDArray[np.float64]:
        """Return the peaks of `n_values` equal parts of `n_frames` frames, which are at least those so far."""
        last = self._pending.max(keepdims=True) if len(self._pending) else self._pending
        rows = np.concatenate((*self._rows, last))
        n_rows = max(len(rows), -(-n_frames // self._row_frames))
        starts = np.arange(n_values) * n_rows // n_values
        values = np.zeros(n_values)
        is_begun = starts < len(rows)
        values[is_begun] = np.maximum.reduceat(rows, starts[is_begun])
        return values


def outline(parts: Sequence[tuple[Envelope, float]]) -> tuple[float, ...]:
    """Return the outline of sounds that are heard together.

    Args:
        parts: each sound with its linear gain; all begin at the same time.

    Returns:
        at most `MAX_VALUES` peaks over equal parts of the time, each 0 to 1.
    """
    n_frames = max((envelope.n_frames for envelope, _ in parts), default=0)
    n_values = min(n_frames, MAX_VALUES)
    if n_values == 0:
        return ()
    loudest = np.max([gain * envelope.values(n_frames, n_values) for envelope, gain in parts], axis=0)
    return tuple(np.round(np.clip(loudest, 0.0, 1.0), _DIGITS).tolist())
