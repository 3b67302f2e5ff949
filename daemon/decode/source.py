"""The recording's file: opened once, without following links, and read by position."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Self

from daemon import errors
from daemon.host import files

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_HEAD_BYTES = 4096


class NotARecordingError(errors.JobError):
    """What was dropped is no sound at all: a letter, a picture, a playlist."""


class RecordingFile:
    """A regular file, open for reading.

    Attributes:
        size: its length in bytes when it was opened.
        head: its first bytes, which tell its kind.

    Args:
        descriptor: of the open file, which closes with this object.

    Raises:
        errors.JobError: it is empty.
        errors.TransientError: its disk or share does not answer.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size = os.fstat(self.descriptor).st_size
        self.head = b""
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.close)
            if self.size == 0:
                raise errors.JobError("The file is empty (0 bytes).", "Copy the recording again.")
            self.head = self.read_at(0, _HEAD_BYTES)
            on_error.pop_all()

    @classmethod
    def open(cls, path: Path | int) -> Self:
        """Open a file without following links, or a descriptor again.

        Raises:
            errors.JobError: it is not a regular file, or is empty.
            errors.NoPermissionError: it may not be read.
            errors.TransientError: it is gone, or its disk or share does not answer.
        """
        return cls(files.open_regular(path))

    def read_at(self, offset: int, n_bytes: int) -> bytes:
        """Return up to `n_bytes` from `offset` on; fewer at the end of the file.

        Raises:
            errors.TransientError: the disk or share does not answer.
        """
        if offset >= self.size:  # a hostile header can name places that no integer of C can
            return b""
        try:
            return os.pread(self.descriptor, n_bytes, offset)
        except OSError as error:
            raise errors.TransientError(
                f"The recording cannot be read ({error.strerror}).", "See whether its disk or share is still there."
            ) from error

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()


class FileView:
    """A reader of a `RecordingFile` with a position of its own, as PyAV wants it.

    PyAV swallows exceptions of the file object, and then a share which went away would look like
    the end of the recording. So an error is kept in `error` for whoever asks afterwards.
    """

    def __init__(self, source: RecordingFile) -> None:
        self._source = source
        self._offset = 0
        self.error: errors.TransientError | None = None

    def read(self, n_bytes: int) -> bytes:
        """Return the next bytes, or b"" at the end."""
        try:
            piece = self._source.read_at(self._offset, n_bytes)
        except errors.TransientError as error:
            self.error = error
            return b""
        self._offset += len(piece)
        return piece

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move and return the new position, or a negative errno for a place ahead of the start."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._offset, os.SEEK_END: self._source.size}[whence]
        if base + offset < 0:
            return -errno.EINVAL
        self._offset = base + offset
        return self._offset

    def tell(self) -> int:
        """Return the position."""
        return self._offset
