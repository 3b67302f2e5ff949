"""Decoded audio in an unlinked file: of any length, never all in memory, gone when closed."""

from __future__ import annotations

import errno
import io
import math
import os
import tempfile
from bisect import bisect_right
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from daemon import errors
from daemon.decode.packing import BLOCK, BLOCK_SAMPLES, count_blocks, is_heard, pack, stored_bytes, unpack
from daemon.host import files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

SAMPLE_RATE_HZ: Final = 16_000
"""Sample rate of the speech model, the VAD and every waveform."""

MAX_STREAMS: Final = 8
"""How many tracks and channels of one recording are kept apart."""

NOT_STORED: Final = "the decoded audio could not be stored"
"""What went wrong where the disk of the cache does not take the audio."""

# Errors of file systems without unnamed files (NFS, some overlays).
_NO_TMPFILE: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})


class Waveform:
    """Mono float32 audio at 16 kHz, in [-1, 1] unless the recording itself went beyond.

    It owns its file: close it after the last `read` has returned.

    Attributes:
        file: where it is stored, in the blocks of `daemon.decode.packing`, before the gain.
        n_samples: its length.
        gain: linear factor, applied by `read`.
        pieces: the samples [start, stop) that were recorded, in order; pauses of the recorder lie between them.
            They are read as zeros and take no room on the disk.
    """

    __slots__ = ("file", "gain", "n_samples", "pieces")

    def __init__(
        self, file: io.FileIO, n_samples: int, gain: float = 1.0, pieces: tuple[tuple[int, int], ...] | None = None
    ) -> None:
        self.file = file
        self.n_samples = n_samples
        self.gain = gain
        self.pieces = ((0, n_samples),) if pieces is None else pieces

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.n_samples / SAMPLE_RATE_HZ

    @property
    def stored_s(self) -> float:
        """Seconds of audio that take room on the disk."""
        return sum(stop - start for start, stop in self.pieces) / SAMPLE_RATE_HZ

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the samples [start, stop), shape (n,), from any thread.

        Bounds beyond the ends are clipped, as in a slice.

        Raises:
            errors.TransientError: the disk cannot be read.
        """
        start = min(max(start, 0), self.n_samples)
        stop = min(max(stop, start), self.n_samples)
        first = start // BLOCK_SAMPLES
        blocks = np.empty(count_blocks(stop) - first, BLOCK)
        rest, offset = blocks.view(np.uint8).data, first * BLOCK.itemsize
        while rest:
            try:
                n_bytes = os.preadv(self.file.fileno(), [rest], offset)
            except OSError as error:
                raise errors.TransientError(f"The decoded audio cannot be read again ({error.strerror}).") from error
            if n_bytes == 0:
                raise errors.TransientError("The decoded audio is shorter than what was written.")
            rest, offset = rest[n_bytes:], offset + n_bytes
        return unpack(blocks, self.gain)[start - first * BLOCK_SAMPLES : stop - first * BLOCK_SAMPLES]

    def has_audio(self, start: int, stop: int) -> bool:
        """Return whether any of the samples [start, stop) was recorded."""
        at = bisect_right(self.pieces, start, key=lambda piece: piece[1])
        return at < len(self.pieces) and self.pieces[at][0] < stop

    def level(self, start: int, stop: int) -> float:
        """Return the RMS of the samples [start, stop) as they were recorded, before any gain; 0 for none."""
        samples = self.read(start, stop)
        return math.sqrt(float(np.dot(samples, samples)) / len(samples)) / self.gain if len(samples) else 0.0

    def replace(self, start: int, samples: NDArray[np.float32]) -> None:
        """Put samples, shape (n,), in the place of those from `start` on; `read` returns them within rounding.

        Raises:
            errors.TransientError: the disk cannot be read, or does not take them.
        """
        stop = start + len(samples)
        first, last = start // BLOCK_SAMPLES * BLOCK_SAMPLES, count_blocks(stop) * BLOCK_SAMPLES
        before, after = self.read(first, start), self.read(stop, last)  # what shares a block with them
        raw = np.concatenate((before, samples, after)) / np.float32(self.gain)
        rest, offset = pack(raw).view(np.uint8).data, stored_bytes(first)
        while rest:
            try:
                n_bytes = os.pwrite(self.file.fileno(), rest, offset)
            except OSError as error:
                raise errors.TransientError(f"The decoded audio cannot be changed ({error.strerror}).") from error
            rest, offset = rest[n_bytes:], offset + n_bytes

    def blocks(self, n_samples: int) -> Iterator[NDArray[np.float32]]:
        """Yield all audio in blocks of `n_samples`; the last may be shorter."""
        for start in range(0, self.n_samples, n_samples):
            yield self.read(start, start + n_samples)

    def close(self) -> None:
        """Close the file, which frees its disk space."""
        self.file.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()


class MixedWaveform:
    """Several waveforms heard together, as their mean; for people, the model hears each by itself.

    It owns them: closing it closes all.

    Attributes:
        parts: the waveforms.
        n_samples: length of the longest.
    """

    def __init__(self, parts: Sequence[Waveform]) -> None:
        self.parts = parts
        self.n_samples = max(part.n_samples for part in parts)

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.n_samples / SAMPLE_RATE_HZ

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the samples [start, stop), shape (n,); bounds beyond the ends are clipped, as in a slice.

        Raises:
            errors.TransientError: the disk cannot be read.
        """
        start = min(max(start, 0), self.n_samples)
        mixed = np.zeros(min(max(stop, start), self.n_samples) - start, np.float32)
        for part in self.parts:
            samples = part.read(start, stop)
            mixed[: len(samples)] += samples
        return mixed / np.float32(len(self.parts))

    def blocks(self, n_samples: int) -> Iterator[NDArray[np.float32]]:
        """Yield all audio in blocks of `n_samples`; the last may be shorter."""
        for start in range(0, self.n_samples, n_samples):
            yield self.read(start, start + n_samples)

    def close(self) -> None:
        """Close all parts."""
        for part in self.parts:
            part.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close all parts."""
        self.close()


class WaveformWriter:
    """Writes a waveform block by block; leaving the context without `finish` discards it.

    Silence takes no room: it becomes a hole in the file.

    Attributes:
        n_samples: samples so far.
        n_recorded: those of them that are no pauses of the recorder.

    Args:
        cache: folder for decoded audio.
        file: an open unlinked file to write to, instead of a new one there.

    Raises:
        errors.NoPermissionError: the cache folder is not writable.
        errors.TransientError: the disk is full or the folder is gone.
    """

    def __init__(self, cache: Path, file: io.FileIO | None = None) -> None:
        self._cache = cache
        self._file: io.FileIO | None = open_unlinked(cache) if file is None else file
        self._pieces: list[tuple[int, int]] = []
        self._pending = np.zeros(0, np.float32)  # the beginning of a block
        self.n_samples = 0
        self.n_recorded = 0

    def append(self, block: NDArray[np.float32], floor: float = 0.0) -> None:
        """Add samples, shape (n,), at the end.

        Args:
            block: the samples.
            floor: what stays below it, at both ends of the block or all through it, may be stored as silence.

        Raises:
            errors.TransientError: the disk is full.
        """
        self._write(np.asarray(block, np.float32), floor)
        self.n_recorded += len(block)
        if len(block):
            goes_on = bool(self._pieces) and self._pieces[-1][1] == self.n_samples
            start = self._pieces.pop()[0] if goes_on else self.n_samples
            self.n_samples += len(block)
            self._pieces.append((start, self.n_samples))

    def skip(self, n_samples: int) -> None:
        """Add a pause of the recorder, which takes no room.

        Raises:
            errors.TransientError: the disk cannot take a file of that length.
        """
        n_missing = min(-self.n_samples % BLOCK_SAMPLES, n_samples)
        self._write(np.zeros(n_missing, np.float32))
        n_blocks, n_rest = divmod(n_samples - n_missing, BLOCK_SAMPLES)
        with files.explained(NOT_STORED, self._cache):
            self._open_file.truncate(self._open_file.seek(n_blocks * BLOCK.itemsize, os.SEEK_CUR))
        self._write(np.zeros(n_rest, np.float32))
        self.n_samples += n_samples

    def finish(self, gain: float = 1.0) -> Waveform:
        """Return the audio as a waveform that is read with `gain`.

        Raises:
            errors.TransientError: the disk is full.
        """
        self._write(np.zeros(-len(self._pending) % BLOCK_SAMPLES, np.float32))
        with files.explained(NOT_STORED, self._cache):
            self._open_file.truncate(stored_bytes(self.n_samples))  # it may end with a hole
        file, self._file = self._open_file, None
        return Waveform(file, self.n_samples, gain, tuple(self._pieces))

    @property
    def _open_file(self) -> io.FileIO:
        if self._file is None:
            raise ValueError("the waveform is finished")
        return self._file

    def _write(self, samples: NDArray[np.float32], floor: float = 0.0) -> None:
        """Write all whole blocks that there are now, without the silence at both ends of them, and keep the rest."""
        file = self._open_file
        audio = np.concatenate((self._pending, samples)) if len(self._pending) else samples
        n_whole = len(audio) // BLOCK_SAMPLES * BLOCK_SAMPLES
        self._pending = audio[n_whole:].copy()
        blocks = pack(audio[:n_whole])
        heard = np.flatnonzero(is_heard(blocks, floor))
        first, stop = (int(heard[0]), int(heard[-1]) + 1) if len(heard) else (len(blocks), len(blocks))
        rest = blocks[first:stop].view(np.uint8).data
        with files.explained(NOT_STORED, self._cache):
            if first:
                file.seek(first * BLOCK.itemsize, os.SEEK_CUR)
            while rest:
                rest = rest[file.write(rest) :]
            if stop < len(blocks):
                file.seek((len(blocks) - stop) * BLOCK.itemsize, os.SEEK_CUR)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Discard what was not finished."""
        if self._file is not None:
            self._file.close()


def open_unlinked(cache: Path) -> io.FileIO:
    """Return a file without a name, so that no crash leaves speech on the disk.

    Raises:
        errors.NoPermissionError: the cache folder is not writable.
        errors.TransientError: the disk is full or the folder is gone.
    """
    with files.explained(NOT_STORED, cache):
        try:
            descriptor = os.open(cache, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
            descriptor, name = tempfile.mkstemp(prefix=".audio-", dir=cache)
            os.unlink(name)  # noqa: PTH108  # mkstemp returns a string
    return io.FileIO(descriptor, "r+b")
