"""Decoding: libsndfile for uncompressed containers and FLAC, FFmpeg's libraries for all others.

Both were tried on whole, cut, corrupted and chained files of each format. libsndfile reads every
kind of WAV, AIFF, AU, CAF and W64 exactly, and FLAC faster; but it gives up at the first damaged MP3 or
FLAC frame and stops after the first stream of a chained Ogg file. FFmpeg goes on in all three cases.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

import soundfile

from daemon import errors
from daemon.decode import headers, signatures, transport, unfinished
from daemon.decode.containers import ContainerReader, drm_error, unreadable_error
from daemon.decode.frames import BLOCK_VALUES, as_planes
from daemon.decode.source import NotARecordingError, RecordingFile
from daemon.decode.tracks import AudioTrack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

_BLOCKS_READ: Final = 8  # 4 MB of 16 bits
_SLACK_S: Final = 0.01
_READ_AHEAD: Final = 1 << 13  # what libFLAC reads at a time
_SIGNATURE_BYTES: Final = 4

# The length field of FLAC has 36 bits; libsndfile returns its largest number for "unknown".
_UNKNOWN_FRAMES: Final = 1 << 36
_SF_UNRECOGNISED: Final = 1  # SF_ERR_UNRECOGNISED_FORMAT of libsndfile


class DamagedError(Exception):
    """The file is damaged and must be read again by a reader that goes on after damage."""


class Reader(Protocol):
    """One pass over the audio of a recording.

    Attributes:
        tracks: its audio tracks, one or more.
    """

    tracks: list[AudioTrack]

    def blocks(
        self, numbers: Sequence[int], raise_if_stopped: Callable[[], None]
    ) -> Iterator[tuple[int, NDArray[np.float32] | float]]:
        """Yield (number of the track, its next block of shape (channels, n), or seconds without audio).

        Args:
            numbers: of the tracks to read.
            raise_if_stopped: called often.

        Raises:
            errors.JobError: almost nothing can be decoded.
            errors.TransientError: the file's disk or share does not respond.
            DamagedError: see its description.
        """
        ...

    def close(self) -> None:
        """Free the decoder; the file stays open."""
        ...


def open_reader(source: RecordingFile, *, is_damaged: bool = False, limit_s: float = math.inf) -> Reader:
    """Detect the format of a file from its content, and open it for one pass.

    Args:
        source: the file.
        is_damaged: whether an earlier pass ended with DamagedError.
        limit_s: latest time that a pause of the recorder may reach.

    Raises:
        NotARecordingError: the file has no known audio format.
        errors.JobError: the file is damaged, protected, or has no audio.
        errors.TransientError: the file's disk or share does not respond.
        MemoryError: its headers ask for more memory than is allowed.
    """
    _refuse_unreadable(source)
    if headers.audio_format(source.head) == "FLAC" and not is_damaged and not source.is_part:
        with suppress(soundfile.LibsndfileError):
            return _FlacReader(source)
    if not headers.is_pcm_format(source.head):
        return ContainerReader(source, limit_s=limit_s)
    if source.head.startswith((b"RIFF", b"FORM")) and not source.is_part:
        source = unfinished.pad(source)
    chunk = headers.audio_chunk(source)
    has_more = chunk is not None and chunk.has_more and unfinished.goes_on(source, chunk)
    # FFmpeg can read on to the end of the file, whatever the header says.
    is_open_ended = chunk is not None and (chunk.declared_bytes is None or has_more)
    if chunk is not None and chunk.declared_bytes is None:
        source = unfinished.complete(source, chunk)
    if source.is_part:  # libsndfile reads from the start of a file
        if source.head.startswith(b"RIFX"):
            raise unreadable_error(source)
        return ContainerReader(source, limit_s=limit_s, is_open_ended=is_open_ended)
    if not is_open_ended or headers.audio_format(source.head) == "AIFF":  # FFmpeg refuses AIFF without sizes
        with suppress(soundfile.LibsndfileError):  # an encoding that only FFmpeg knows, maybe
            return _FileReader(source, chunk)
    reader = ContainerReader(source, limit_s=limit_s, is_open_ended=is_open_ended)
    if has_more:
        reader.tracks[0].notes.append("The header declares less audio than the file holds; all of it was read.")
    return reader


def _refuse_unreadable(source: RecordingFile) -> None:
    """Raise the reason if the head of a file shows that it cannot be read."""
    other = headers.other_format(source.head)
    if other is not None:
        raise NotARecordingError(f"This is not a recording but {other}.", "Drop the recording itself.")
    if headers.has_drm(source) or headers.audio_format(source.head) == "Audible":
        raise drm_error()
    if headers.audio_format(source.head) == "MPEG-TS" and transport.is_scrambled(source):
        raise drm_error()
    if (refused := headers.refused_dictation(source.head)) is not None:
        raise errors.JobError(*refused)


class _FileReader:
    """Reads with libsndfile, several blocks at a time: soundfile seeks after each read, and FLAC then decodes again."""

    def __init__(self, source: RecordingFile, chunk: headers.AudioChunk | None, codec: str | None = None) -> None:
        self._source = source
        os.lseek(source.descriptor, 0, os.SEEK_SET)  # an earlier pass moved it
        self._file = soundfile.SoundFile(source.descriptor, closefd=False)
        codec = codec or self._file.subtype.lower()
        if codec.startswith("mpeg"):
            self.close()
            raise soundfile.LibsndfileError(_SF_UNRECOGNISED)  # MP3 in WAV: FFmpeg reads it
        self._n_left = self._file.frames
        declared_s = self._file.frames / max(self._file.samplerate, 1)
        # libsndfile counts the frames that are there, not those that the header promises.
        if chunk is not None and chunk.declared_bytes is not None and chunk.available_bytes > 0:
            declared_s *= max(1.0, chunk.declared_bytes / chunk.available_bytes)
        self.tracks = [AudioTrack(1, self._file.samplerate, self._file.channels, codec, declared_s, _SLACK_S)]

    def blocks(
        self, numbers: Sequence[int], raise_if_stopped: Callable[[], None]
    ) -> Iterator[tuple[int, NDArray[np.float32] | float]]:
        # Stereo in blocks as long as mono: 5 % faster here, though 4 % slower with FFmpeg's queue.
        n_frames = max(1, BLOCK_VALUES // max(1, self._file.channels // 2))
        n_read = _BLOCKS_READ * n_frames
        # 16-bit samples are converted after sorting by channel: half the memory to move, and numpy converts faster.
        kind = "int16" if self._file.subtype == "PCM_16" else "float32"
        (number,) = numbers
        # Never beyond the end that the header states: libFLAC would search the rest of the file for more frames.
        while self._n_left > 0:
            try:
                read = self._file.read(min(n_read, self._n_left), dtype=kind, always_2d=True)
            except soundfile.LibsndfileError:
                break  # the declared length shows what is missing
            if len(read) == 0:
                break
            self._n_left -= len(read)
            for first in range(0, len(read), n_frames):
                raise_if_stopped()
                yield number, as_planes(read[first : first + n_frames].T)
        self._source.read_at(self._source.size - 1, 1)  # raises if its disk is gone

    def close(self) -> None:
        self._file.close()


class _FlacReader(_FileReader):
    """Reads undamaged FLAC with libsndfile."""

    def __init__(self, source: RecordingFile) -> None:
        super().__init__(source, None, "flac")
        if not 0 < self._file.frames < _UNKNOWN_FRAMES:  # it was written to a pipe
            self.close()
            raise soundfile.LibsndfileError(_SF_UNRECOGNISED)

    def blocks(
        self, numbers: Sequence[int], raise_if_stopped: Callable[[], None]
    ) -> Iterator[tuple[int, NDArray[np.float32] | float]]:
        yield from super().blocks(numbers, raise_if_stopped)
        # libFLAC stops where the header says, but the header of joined files has the length of the first.
        end = os.lseek(self._source.descriptor, 0, os.SEEK_CUR)
        first = max(self._source.start + _SIGNATURE_BYTES, end - _READ_AHEAD)
        hides_recording = signatures.find(self._source, first, _READ_AHEAD) is not None
        if self._n_left or end < self._source.size or hides_recording:
            raise DamagedError
