"""Decoding: libsndfile for uncompressed containers and FLAC, FFmpeg's libraries for all others.

Both were tried on whole, cut, corrupted and chained files of each format. libsndfile reads every
kind of WAV, AIFF, AU, CAF and W64 exactly, and FLAC faster; but it gives up at the first damaged MP3 or
FLAC frame and stops after the first stream of a chained Ogg file. FFmpeg goes on in all three cases.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

import av
import av.error
import numpy as np
import soundfile

from daemon import errors
from daemon.decode import headers
from daemon.decode.frames import BLOCK_VALUES, BrokenPackets, Clock, Collector, as_planes
from daemon.decode.source import FileView, NotARecordingError, RecordingFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

# Demuxers that read one file and open no other; playlists and manifests are not among them.
_DEMUXERS: Final = (
    "wav,w64,mp3,mov,mp4,m4a,3gp,3g2,mj2,flac,ogg,matroska,webm,aac,asf,amr,amrnb,amrwb,aiff,caf,au,ac3,eac3,avi,mpegts"
    ",mpeg,mxf,flv,wv,tta,ape,mpc,mpc8,tak,shn,dsf,dss,voc"
)
_IO_BUFFER_BYTES: Final = 1 << 18
_CHECK_EVERY_PACKETS: Final = 256
_MAX_BROKEN_PER_GOOD: Final = 3
# Formats whose length FFmpeg takes from the bit rate, the file size or the last time stamp.
_GUESSED_DURATIONS: Final = frozenset({"wav", "w64", "aac", "ac3", "eac3", "amr", "mpegts", "mpeg", "dss"})
# Formats in which a jump of the time stamps means damage; in the others recorders may skip pauses.
_GAPLESS: Final = frozenset({"ogg", "flac", "mp3", "aac", "ac3", "eac3", "asf"})
_DRM_TAGS: Final = frozenset({"drms", "drmi", "enca", "aavd"})
_BLOCKS_READ: Final = 8  # 4 MB of 16 bits
_FILE_SLACK_S: Final = 0.01
_CONTAINER_SLACK_S: Final = 0.25  # declared durations count encoder delay and padding

# The length field of FLAC has 36 bits; libsndfile returns its largest number for "unknown".
_UNKNOWN_FRAMES: Final = 1 << 36
_SF_UNRECOGNISED: Final = 1  # SF_ERR_UNRECOGNISED_FORMAT of libsndfile

_COPY_AGAIN: Final = "Copy it again from the original."


class DamagedError(Exception):
    """The file is damaged and must be read again by a reader that goes on after damage."""


class Reader(Protocol):
    """One pass over the audio of a recording.

    Attributes:
        rate_hz: sample rate of what `blocks` gives.
        channels: number of channels of what `blocks` gives.
        codec: name of the encoding, such as "pcm_16" or "mp3".
        declared_s: length that the file declares, None if it declares none.
        slack_s: how much shorter the audio may be without anything missing.
        is_damaged: after the pass, whether anything was skipped or replaced by silence.
        notes: sentences for people, complete after the pass.
    """

    rate_hz: int
    channels: int
    codec: str
    declared_s: float | None
    slack_s: float
    is_damaged: bool
    notes: list[str]

    def blocks(self, raise_if_stopped: Callable[[], None]) -> Iterator[NDArray[np.float32]]:
        """Yield the audio from its start, each block of shape (channels, n); calls `raise_if_stopped` often.

        Raises:
            errors.JobError: almost nothing can be decoded.
            errors.TransientError: the file's disk or share does not respond.
            DamagedError: see its description.
        """
        ...

    def close(self) -> None:
        """Free the decoder; the file stays open."""
        ...


def open_reader(source: RecordingFile, *, is_damaged: bool = False) -> Reader:
    """Detect the format of a file from its content, and open it for one pass.

    Args:
        source: the file.
        is_damaged: whether an earlier pass ended with DamagedError.

    Raises:
        NotARecordingError: the file has no known audio format.
        errors.JobError: the file is damaged, protected, or has no audio.
        errors.TransientError: the file's disk or share does not respond.
        MemoryError: its headers ask for more memory than is allowed.
    """
    other = headers.other_format(source.head)
    if other is not None:
        raise NotARecordingError(f"This is not a recording but {other}.", "Drop the recording itself.")
    if headers.has_drm(source):
        raise _drm_error()
    if (refused := headers.refused_dictation(source.head)) is not None:
        raise errors.JobError(*refused)
    if headers.audio_format(source.head) == "FLAC" and not is_damaged:
        with suppress(soundfile.LibsndfileError):
            return _FlacReader(source)
    if not headers.is_pcm_format(source.head):
        return _ContainerReader(source)
    chunk = headers.audio_chunk(source)
    # FFmpeg can read on to the end of the file, whatever the header says.
    is_open_ended = chunk is not None and (chunk.declared_bytes is None or chunk.has_more)
    if not is_open_ended or headers.audio_format(source.head) == "AIFF":  # FFmpeg refuses AIFF without sizes
        with suppress(soundfile.LibsndfileError):  # an encoding that only FFmpeg knows, maybe
            return _FileReader(source, chunk)
    reader = _ContainerReader(source, is_open_ended=is_open_ended)
    if chunk is not None and chunk.has_more:
        reader.notes.append("The header declares less audio than the file holds; all of it was read.")
    return reader


class _FileReader:
    """Reads with libsndfile, several blocks at a time: soundfile seeks after each read, and FLAC then decodes again."""

    slack_s = _FILE_SLACK_S

    def __init__(self, source: RecordingFile, chunk: headers.AudioChunk | None) -> None:
        self._source = source
        os.lseek(source.descriptor, 0, os.SEEK_SET)  # an earlier pass moved it
        self._file = soundfile.SoundFile(source.descriptor, closefd=False)
        self.rate_hz: int = self._file.samplerate
        self.channels: int = self._file.channels
        self.codec: str = self._file.subtype.lower()
        self.is_damaged = False
        self.notes: list[str] = []
        if self.codec.startswith("mpeg"):
            self.close()
            raise soundfile.LibsndfileError(_SF_UNRECOGNISED)  # MP3 in WAV: FFmpeg reads it
        self.declared_s: float | None = self._file.frames / max(self.rate_hz, 1)
        # libsndfile counts the frames that are there, not those that the header promises.
        if chunk is not None and chunk.declared_bytes is not None and chunk.available_bytes > 0:
            self.declared_s *= max(1.0, chunk.declared_bytes / chunk.available_bytes)

    def blocks(self, raise_if_stopped: Callable[[], None]) -> Iterator[NDArray[np.float32]]:
        # Stereo in blocks as long as mono: 5 % faster here, though 4 % slower with FFmpeg's queue.
        n_frames = max(1, BLOCK_VALUES // max(1, self.channels // 2))
        n_read = _BLOCKS_READ * n_frames
        # 16-bit samples are converted after sorting by channel: half the memory to move, and numpy converts faster.
        kind = "int16" if self._file.subtype == "PCM_16" else "float32"
        while True:
            try:
                read = self._file.read(n_read, dtype=kind, always_2d=True)
            except soundfile.LibsndfileError:
                break  # the declared length shows what is missing
            if len(read) == 0:
                break
            for first in range(0, len(read), n_frames):
                raise_if_stopped()
                yield as_planes(read[first : first + n_frames].T)
        self._source.read_at(self._source.size - 1, 1)  # raises if its disk is gone

    def close(self) -> None:
        self._file.close()


class _FlacReader(_FileReader):
    """Reads undamaged FLAC with libsndfile."""

    def __init__(self, source: RecordingFile) -> None:
        super().__init__(source, None)
        self.codec = "flac"
        if not 0 < self._file.frames < _UNKNOWN_FRAMES:  # it was written to a pipe
            self.close()
            raise soundfile.LibsndfileError(_SF_UNRECOGNISED)

    def blocks(self, raise_if_stopped: Callable[[], None]) -> Iterator[NDArray[np.float32]]:
        yield from super().blocks(raise_if_stopped)
        # libFLAC stops where the header says, but the header of joined files has the length of the first.
        if (
            self._file.tell() < self._file.frames
            or os.lseek(self._source.descriptor, 0, os.SEEK_CUR) < self._source.size
        ):
            raise DamagedError


class _ContainerReader:
    """Reads with FFmpeg's libraries, through PyAV."""

    slack_s = _CONTAINER_SLACK_S

    def __init__(self, source: RecordingFile, *, is_open_ended: bool = False) -> None:
        self._source = source
        self._view = FileView(source)
        self.is_damaged = False
        self.notes: list[str] = []
        options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "none"}
        if is_open_ended:
            options["ignore_length"] = "1"
        try:
            self._container = av.open(
                self._view,
                options=options,
                metadata_errors="ignore",
                buffer_size=_IO_BUFFER_BYTES,
            )
        except MemoryError:  # PyAV's own is an FFmpegError too
            raise
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._view.error or _unreadable_error(source) from error
        try:
            self._stream = self._choose_stream()
            self.rate_hz: int = self._stream.codec_context.sample_rate
            self.channels = _settle_channels(self._stream.codec_context)
            self.codec: str = self._stream.codec_context.name.removesuffix("float")
            self.declared_s = None if is_open_ended else self._find_declared_s()
        except BaseException:
            self.close()
            raise

    def _choose_stream(self) -> Any:  # noqa: ANN401  # PyAV is not typed strictly enough to be checked
        """Return the audio stream to decode; the others, video above all, are skipped unread."""
        known = [stream for stream in self._container.streams.audio if stream.codec_context is not None]
        if not known:
            kind = headers.audio_format(self._source.head)
            if self._container.streams.audio or kind is None:
                raise _unreadable_error(self._source)
            raise errors.JobError(f"This {kind} file has no audio track.", "Drop a recording that contains audio.")
        best = self._container.streams.best("audio")
        chosen = best if best in known else known[0]
        if chosen.codec_context.codec_tag in _DRM_TAGS:
            raise _drm_error()
        if not chosen.codec_context.sample_rate:
            raise _unreadable_error(self._source)
        chosen.thread_type = "NONE"  # memory and speed stay those of one core
        if chosen.codec_context.name == "flac":  # otherwise a damaged frame becomes full-scale noise
            chosen.codec_context.options = {"err_detect": "crccheck+explode"}
        for stream in self._container.streams:
            if stream is not chosen:
                stream.discard = av.stream.Discard.all
        return chosen

    def _find_declared_s(self) -> float | None:
        """Return the length that the container declares for the stream, None where it is a guess."""
        container, stream = self._container, self._stream
        name = container.format.name
        if name in _GUESSED_DURATIONS:
            return None
        if name == "mp3":
            return headers.mp3_length_s(self._source)
        if stream.duration is not None:
            return float(stream.duration * stream.time_base)
        tag = re.fullmatch(r"(\d+):(\d\d):(\d\d\.\d+)", stream.metadata.get("DURATION", ""))
        if tag:  # Matroska
            return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
        is_alone = len(container.streams) == 1
        return container.duration / av.time_base if is_alone and container.duration is not None else None

    def blocks(self, raise_if_stopped: Callable[[], None]) -> Iterator[NDArray[np.float32]]:
        clock = Clock(self._container.start_time, float(self._stream.time_base))
        collector = Collector(self.rate_hz, self.channels)
        broken = BrokenPackets(self._container.format.name, self.codec)
        n_good = 0
        for packet in self._checked_packets(raise_if_stopped):
            frames = _decode(packet)
            if frames is None:
                if broken.add(bytes(packet)):
                    yield from collector.drain()
                    yield from self._silence(clock.skip(packet))
                continue
            broken.end_run(len(frames))
            n_good += len(frames)
            for frame in frames:
                gap_s = clock.advance(frame)
                if gap_s:
                    self.is_damaged |= self._container.format.name in _GAPLESS
                    yield from collector.drain()
                    yield from self._silence(gap_s)
                yield from collector.push(frame)
        yield from collector.drain()
        if self._view.error is not None:
            raise self._view.error
        if broken.n_lost > _MAX_BROKEN_PER_GOOD * n_good:
            raise _unreadable_error(self._source)
        self._write_notes(is_damaged=self.is_damaged or broken.n_lost > 0)

    def _write_notes(self, *, is_damaged: bool) -> None:
        """Add notes about what is missing, at the end of the pass."""
        if is_damaged:
            self.is_damaged = True
            self.notes.append("The file is damaged: what could not be read was replaced by silence.")
        if headers.is_cut_off(self._source):
            self.is_damaged = True
            self.notes.append("The end of the file is missing: it was cut off while recording or copying.")

    def _checked_packets(self, raise_if_stopped: Callable[[], None]) -> Iterator[Any]:
        """Yield the packets of the stream; every now and then, look for a stop request and for encryption."""
        for index, packet in enumerate(self._packets()):
            if index % _CHECK_EVERY_PACKETS == 0:
                raise_if_stopped()
                if packet.has_sidedata("encryption_info"):
                    raise _drm_error()
            yield packet

    def _packets(self) -> Iterator[Any]:
        """Yield the packets of the stream until it ends or the demuxer gives up."""
        try:
            yield from self._container.demux(self._stream)
        except MemoryError:
            raise
        except IndexError:
            # At the very end, after our stream: for streams that began in the middle of the file, PyAV up to 18.1
            # reads beyond the end of a table made at the beginning; what it finds there is chance.
            pass
        except (av.error.FFmpegError, OSError, ValueError):
            self.is_damaged = True

    def _silence(self, duration_s: float) -> Iterator[NDArray[np.float32]]:
        """Yield silence in blocks: at 768 kHz and 64 channels even seconds are large."""
        n_left = round(duration_s * self.rate_hz)
        while n_left:
            n_frames = min(n_left, max(1, BLOCK_VALUES // self.channels))
            yield np.zeros((self.channels, n_frames), np.float32)
            n_left -= n_frames

    def close(self) -> None:
        self._container.close()


def _decode(packet: Any) -> list[Any] | None:  # noqa: ANN401  # PyAV is not typed strictly enough to be checked
    """Return the frames of a packet, None if it cannot be decoded."""
    try:
        frames: list[Any] = packet.decode()
    except MemoryError:  # PyAV's own is an FFmpegError too
        raise
    except (av.error.FFmpegError, ValueError):
        return None
    return frames


def _settle_channels(codec_context: Any) -> int:  # noqa: ANN401  # PyAV is not typed strictly enough to be checked
    """Return the number of channels, and replace an unusual channel order in the decoder.

    PyAV up to 19.0 frees the table of a custom order twice, which crashes the process; the changelog
    of 19.1 has the fix. Reading `layout` once frees it, so it must be replaced right after.
    """
    layout = codec_context.layout
    n_channels: int = layout.nb_channels
    if layout.name.startswith(f"{n_channels} channels ("):  # how FFmpeg describes a custom order
        codec_context.layout = f"{n_channels} channels"
    return n_channels


def _drm_error() -> errors.JobError:
    return errors.JobError(
        "The recording is protected against copying (DRM).",
        "Export it without protection from the program it comes from.",
    )


def _unreadable_error(source: RecordingFile) -> errors.JobError:
    kind = headers.audio_format(source.head)
    if kind is None:
        return NotARecordingError(
            "This is not a recording in any known format.", "Drop audio or video files, such as wav, mp3, m4a or mp4."
        )
    return errors.JobError(f"This {kind} file is cut off or damaged: nothing in it can be read.", _COPY_AGAIN)
