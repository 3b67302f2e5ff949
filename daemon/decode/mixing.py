"""Several tracks as one stream, for recordings with more tracks than are kept apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from daemon.decode.packing import stored_bytes
from daemon.decode.waveform import NOT_STORED, Waveform
from daemon.host import files

if TYPE_CHECKING:
    import io
    from pathlib import Path

    from numpy.typing import NDArray


class Mix:
    """Adds up tracks in one file, in whatever order their blocks come.

    Attributes:
        waveform: the sum so far.
        parts: what takes the tracks, one for each.

    Args:
        cache: folder for decoded audio.
        file: an open unlinked file there, which is empty.
        n_parts: how many tracks there are.
    """

    def __init__(self, cache: Path, file: io.FileIO, n_parts: int) -> None:
        self._cache = cache
        self.waveform = Waveform(file, 0, 1.0, ())
        self.parts = tuple(MixPart(self) for _ in range(n_parts))

    def add(self, start: int, samples: NDArray[np.float32]) -> None:
        """Add samples, shape (n,), to those from `start` on.

        Raises:
            errors.TransientError: the disk is full.
        """
        stop = start + len(samples)
        self.extend(stop)
        if samples.any():
            self.waveform.replace(start, samples + self.waveform.read(start, stop))

    def extend(self, n_samples: int) -> None:
        """Let it be at least so long.

        Raises:
            errors.TransientError: the disk cannot take a file of that length.
        """
        if n_samples > self.waveform.n_samples:
            with files.explained(NOT_STORED, self._cache):
                self.waveform.file.truncate(stored_bytes(n_samples))
            self.waveform.n_samples = n_samples

    def finish(self) -> Waveform:
        """Return the sum, which was recorded wherever any of the tracks was."""
        pieces: list[tuple[int, int]] = []
        for start, stop in sorted(piece for part in self.parts for piece in part.pieces):
            if pieces and start <= pieces[-1][1]:
                pieces[-1] = pieces[-1][0], max(stop, pieces[-1][1])
            else:
                pieces.append((start, stop))
        self.waveform.pieces = tuple(pieces)
        return self.waveform


class MixPart:
    """Takes one of the tracks of a mix, as a `WaveformWriter` takes one that is kept apart.

    Attributes:
        n_samples: samples so far.
        n_recorded: those of them that are no pauses of the recorder.
        pieces: the samples [start, stop) that were recorded, in order.
    """

    def __init__(self, mix: Mix) -> None:
        self._mix = mix
        self.n_samples = 0
        self.n_recorded = 0
        self.pieces: list[tuple[int, int]] = []

    def append(self, block: NDArray[np.float32], floor: float = 0.0) -> None:  # noqa: ARG002  # as a writer has it
        """Add samples, shape (n,), at the end.

        Raises:
            errors.TransientError: the disk is full.
        """
        if len(block):
            self._mix.add(self.n_samples, np.asarray(block, np.float32))
            goes_on = bool(self.pieces) and self.pieces[-1][1] == self.n_samples
            start = self.pieces.pop()[0] if goes_on else self.n_samples
            self.n_samples += len(block)
            self.n_recorded += len(block)
            self.pieces.append((start, self.n_samples))

    def skip(self, n_samples: int) -> None:
        """Add a pause of the recorder.

        Raises:
            errors.TransientError: the disk cannot take a file of that length.
        """
        self.n_samples += n_samples
        self._mix.extend(self.n_samples)

    def finish(self, gain: float = 1.0) -> Waveform:  # noqa: ARG002  # the mix has a gain of its own
        """Return the waveform of the whole mix, before its gain."""
        return self._mix.waveform
