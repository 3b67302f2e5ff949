"""The recording's file: opened once, without following links, and read by position."""

from __future__ import annotations

import contextlib
import copy
import errno
import hashlib
import os
from typing import TYPE_CHECKING, Final, Self

from daemon import errors
from daemon.decode import headers, signatures
from daemon.host import files
from daemon.host.turns import waiting

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

_HEAD_BYTES: Final = 4096
_HASHED_BYTES: Final = 1 << 20
_JUNK_BYTES: Final = 1 << 16  # the most junk before a recording: headers of a download, padding, the end of another


class NotARecordingError(errors.JobError):
    """The file is not audio or video: a letter, a picture, a playlist."""


class RecordingFile:
    """A regular file, open for reading.

    Attributes:
        size: its length in bytes when it was opened.
        modified_s: its mtime then, in seconds since 1970.
        start: where its audio format begins, after tags and junk that do not belong to it.
        head: the first bytes from there, which show its format.
        is_part: whether it is one of several recordings in its file.

    Args:
        descriptor: of the open file, which closes with this object.

    Raises:
        errors.JobError: it is empty.
        errors.TransientError: its disk or share does not respond.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        facts = os.fstat(self.descriptor)
        self.size = facts.st_size
        self.modified_s = facts.st_mtime
        self.start = 0
        self.head = b""
        self.is_part = False
        self._header = b""
        self._shift = 0
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.close)
            if self.size == 0:
                raise errors.JobError("The file is empty (0 bytes).", "Copy the recording again.")
            self.head = self.read_at(0, _HEAD_BYTES)
            self.start = headers.skip_tags(self)
            if self.start == 0 and headers.audio_format(self.head) is None:
                self.start = self._skip_junk()
            if self.start:
                self.head = self.read_at(self.start, _HEAD_BYTES)
            on_error.pop_all()

    def _skip_junk(self) -> int:
        """Return where a recording begins after other data; 0 if there is none."""
        if headers.other_format(self.head) not in {None, headers.TEXT}:
            return 0
        return signatures.find(self, 0, _JUNK_BYTES) or signatures.find_frames(self, 0, _JUNK_BYTES) or 0

    @classmethod
    def open(cls, path: Path | int) -> Self:
        """Open a file without following links, or a descriptor again.

        Raises:
            errors.JobError: it is not a regular file, or is empty.
            errors.NoPermissionError: it is not readable.
            errors.TransientError: it is gone, or its disk or share does not respond.
        """
        return cls(files.open_regular(path))

    def part(self, start: int, stop: int, header: bytes = b"") -> RecordingFile:
        """Return the bytes [start, stop) as a recording by itself, of the same open file, which it does not own.

        With a header, the part begins with it, and its offsets count from there.
        """
        part = copy.copy(self)
        part.start, part.size, part.is_part = start, stop, True
        if header:
            part.start, part.size = 0, len(header) + stop - start
            part._header, part._shift = header, start - len(header)  # noqa: SLF001  # of the same class
        part.head = part.read_at(part.start, _HEAD_BYTES)
        return part

    def read_at(self, offset: int, n_bytes: int) -> bytes:
        """Return up to `n_bytes` from `offset` on; fewer at the end of the file.

        Raises:
            errors.TransientError: the disk or share does not respond.
        """
        if offset >= self.size:  # a hostile header can name offsets beyond any C integer
            return b""
        if self.is_part:
            n_bytes = min(n_bytes, self.size - offset)
        ahead = self._header[offset : offset + n_bytes]
        try:
            return ahead + os.pread(self.descriptor, n_bytes - len(ahead), offset + len(ahead) + self._shift)
        except OSError as error:
            raise errors.TransientError(
                f"The recording cannot be read ({error.strerror}).", "Check that its disk or share is available."
            ) from error

    def sha256(self, raise_if_stopped: Callable[[], None] = lambda: None) -> str:
        """Return the SHA-256 of the file in hexadecimal; `raise_if_stopped` is called for each MiB and may raise.

        Raises:
            errors.TransientError: the disk or share does not respond.
        """
        digest = hashlib.sha256()
        with waiting():
            for offset in range(0, self.size, _HASHED_BYTES):
                raise_if_stopped()
                digest.update(self.read_at(offset, min(_HASHED_BYTES, self.size - offset)))
        return digest.hexdigest()

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
    """A file object for PyAV: a `RecordingFile` from its `start` on, with a position of its own.

    PyAV swallows exceptions of the file object, and a share that went away would look like the end
    of the recording. So the error is kept in `error`; check it afterwards.
    """

    def __init__(self, source: RecordingFile) -> None:
        self._source = source
        self._offset = 0
        self.error: errors.TransientError | None = None

    def read(self, n_bytes: int) -> bytes:
        """Return the next bytes, or b"" at the end."""
        try:
            block = self._source.read_at(self._source.start + self._offset, n_bytes)
        except errors.TransientError as error:
            self.error = error
            return b""
        self._offset += len(block)
        return block

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move and return the new position, or a negative errno for a position before the start."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._offset, os.SEEK_END: self._source.size - self._source.start}[whence]
        if base + offset < 0:
            return -errno.EINVAL
        self._offset = base + offset
        return self._offset

    def tell(self) -> int:
        """Return the position."""
        return self._offset
