"""Decoded audio in an unlinked file: of any length, never all in memory, gone when closed."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from daemon import errors
from daemon.host import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

SAMPLE_RATE_HZ: Final = 16_000
"""Sample rate of the speech model, the VAD and every waveform."""

_SAMPLE_BYTES: Final = 4
_NOT_STORED: Final = "the decoded audio could not be stored"
# Errors of file systems without unnamed files (NFS, some overlays).
_NO_TMPFILE: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})


class Waveform:
    """Mono float32 audio at 16 kHz, in [-1, 1] unless the recording itself went beyond.

    It owns its file: close it after the last `read` has returned.

    Attributes:
        n_samples: its length.
        gain: linear factor, applied by `read`.
    """

    __slots__ = ("_file", "gain", "n_samples")

    def __init__(self, file: io.FileIO, n_samples: int, gain: float = 1.0) -> None:
        self._file = file
        self.n_samples = n_samples
        self.gain = gain

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.n_samples / SAMPLE_RATE_HZ

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the samples [start, stop), shape (n,), from any thread.

        Bounds beyond the ends are clipped, as in a slice.

        Raises:
            errors.TransientError: the disk cannot be read.
        """
        start = min(max(start, 0), self.n_samples)
        samples = np.empty(min(max(stop, start), self.n_samples) - start, np.float32)
        rest, offset = samples.view(np.uint8).data, start * _SAMPLE_BYTES
        while rest:
            try:
                n_bytes = os.preadv(self._file.fileno(), [rest], offset)
            except OSError as error:
                raise errors.TransientError(f"The decoded audio cannot be read again ({error.strerror}).") from error
            if n_bytes == 0:
                raise errors.TransientError("The decoded audio is shorter than what was written.")
            rest, offset = rest[n_bytes:], offset + n_bytes
        if self.gain != 1.0:
            samples *= np.float32(self.gain)
        return samples

    def blocks(self, n_samples: int) -> Iterator[NDArray[np.float32]]:
        """Yield all audio in blocks of `n_samples`; the last may be shorter."""
        for start in range(0, self.n_samples, n_samples):
            yield self.read(start, start + n_samples)

    def close(self) -> None:
        """Close the file, which frees its disk space."""
        self._file.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()


class WaveformWriter:
    """Writes a waveform block by block; leaving the context without `finish` discards it.

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
        self.n_samples = 0

    def append(self, block: NDArray[np.float32]) -> None:
        """Add samples, shape (n,), at the end.

        Raises:
            errors.TransientError: the disk is full.
        """
        if self._file is None:
            raise ValueError("the waveform is finished")
        rest = np.ascontiguousarray(block, np.float32).view(np.uint8).data
        with files.explained(_NOT_STORED, self._cache):
            while rest:
                rest = rest[self._file.write(rest) :]
        self.n_samples += len(block)

    def restart(self) -> None:
        """Discard what was written and start again."""
        if self._file is None:
            raise ValueError("the waveform is finished")
        self._file.seek(0)
        self._file.truncate()
        self.n_samples = 0

    def finish(self, gain: float = 1.0) -> Waveform:
        """Return the audio as a waveform that is read with `gain`."""
        if self._file is None:
            raise ValueError("the waveform is finished")
        file, self._file = self._file, None
        return Waveform(file, self.n_samples, gain)

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
    with files.explained(_NOT_STORED, cache):
        try:
            descriptor = os.open(cache, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
            descriptor, name = tempfile.mkstemp(prefix=".audio-", dir=cache)
            os.unlink(name)  # noqa: PTH108  # mkstemp returns a string
    return io.FileIO(descriptor, "r+b")
