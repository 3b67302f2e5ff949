"""Sound out of files: libsndfile for uncompressed containers, FFmpeg's libraries for all others.

Both were tried on whole, cut, corrupted and chained files of each format. libsndfile reads every
kind of WAV, AIFF, AU, CAF and W64 exactly; but it gives up on the first damaged MP3 or FLAC frame
and stops after the first stream of a chained Ogg file. FFmpeg goes on in all three.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Protocol

import av
import av.error
import numpy as np
import soundfile
import soxr

from daemon import errors
from daemon.decode import headers
from daemon.decode.source import FileView, NotARecordingError, RecordingFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

# Demuxers that read one file and nothing but that file; playlists and manifests are not among them.
_DEMUXERS = (
    "wav,w64,mp3,mov,mp4,m4a,3gp,3g2,mj2,flac,ogg,matroska,webm,aac,asf,amr,amrnb,amrwb,aiff,caf,au,ac3,eac3,avi,mpegts"
)
_BLOCK_VALUES = 1 << 17  # samples of all channels in one block: 1.5 s of 44.1 kHz stereo, 0.5 MB
_IO_BUFFER_BYTES = 1 << 18
_MIN_GAP_S = 0.1  # a shorter jump of the time stamps is rounding
_MAX_GAP_S = 30.0  # a longer one is a recorder's pause or a broken clock, and no place for silence
_CHECK_EVERY_PACKETS = 256
_MAX_BROKEN_PER_GOOD = 3
# Formats whose length FFmpeg takes from the bit rate, the file size or the last time stamp.
_GUESSED_DURATIONS = frozenset({"wav", "w64", "aac", "ac3", "eac3", "amr", "mpegts"})
# Formats in which a jump of the time stamps means damage; in the others recorders may leave pauses out.
_GAPLESS = frozenset({"ogg", "flac", "mp3", "aac", "ac3", "eac3", "asf"})
_LOCKED_TAGS = frozenset({"drms", "drmi", "enca"})
# Frame types for comfort noise, lost and empty frames: 3GPP TS 26.101 and TS 26.201, table 1a.
_AMR_PAUSES = {"amrnb": (8, 15), "amrwb": (9, 14, 15)}
_FILE_SLACK_S = 0.01
_CONTAINER_SLACK_S = 0.25  # declared durations count encoder delay and padding

_SF_UNRECOGNISED = 1  # SF_ERR_UNRECOGNISED_FORMAT of libsndfile

_COPY_AGAIN = "Copy it again from where it was recorded."


class Reader(Protocol):
    """One pass over the sound of a recording.

    Attributes:
        rate_hz: sample rate of what `blocks` gives.
        channels: number of channels of what `blocks` gives.
        codec: name of the encoding, such as "pcm_16" or "mp3".
        declared_s: how long the file says it lasts, None where it does not say.
        slack_s: how much shorter the sound may be without anything missing.
        is_damaged: after the pass, whether anything was skipped or replaced by silence.
        notes: plain sentences, all there after the pass.
    """

    rate_hz: int
    channels: int
    codec: str
    declared_s: float | None
    slack_s: float
    is_damaged: bool
    notes: list[str]

    def blocks(self, check: Callable[[], None]) -> Iterator[NDArray[np.float32]]:
        """Yield the sound from its start, each block of shape (channels, n); calls `check` often.

        Raises:
            errors.JobError: nearly nothing can be decoded.
            errors.TransientError: the file's disk or share does not answer.
        """
        ...

    def close(self) -> None:
        """Free the decoder; the file stays open."""
        ...


def open_reader(source: RecordingFile) -> Reader:
    """Find out what a file is, from its content, and open it for one pass.

    Raises:
        NotARecordingError: no sound format was recognised.
        errors.JobError: the file is damaged, protected, or has no sound in it.
        errors.TransientError: the file's disk or share does not answer.
        MemoryError: its headers ask for more memory than there is.
    """
    other = headers.other_kind(source.head)
    if other is not None:
        raise NotARecordingError(f"This is not a recording but {other}.", "Drop the recording itself.")
    if headers.is_locked(source):
        raise _locked_error()
    if not headers.is_pcm_kind(source.head):
        return _ContainerReader(source)
    chunk = headers.sound_chunk(source)
    # FFmpeg can be told to read on to the end of the file, whatever the header says.
    is_open_ended = chunk is not None and (chunk.declared_bytes is None or chunk.has_more)
    if not is_open_ended:
        try:
            return _FileReader(source, chunk)
        except soundfile.LibsndfileError:
            pass  # an encoding that libsndfile does not know; FFmpeg may
    reader = _ContainerReader(source, is_open_ended=is_open_ended)
    if chunk is not None and chunk.has_more:
        reader.notes.append("Its header declares less sound than the file has: all of it was read.")
    return reader


class _FileReader:
    """Reads with libsndfile."""

    slack_s = _FILE_SLACK_S

    def __init__(self, source: RecordingFile, chunk: headers.SoundChunk | None) -> None:
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
            raise soundfile.LibsndfileError(_SF_UNRECOGNISED)  # MP3 in WAV: left to FFmpeg
        self.declared_s: float | None = self._file.frames / max(self.rate_hz, 1)
        # libsndfile counts the frames that are there, not those that the header promises.
        if chunk is not None and chunk.declared_bytes is not None and chunk.available_bytes > 0:
            self.declared_s *= max(1.0, chunk.declared_bytes / chunk.available_bytes)

    def blocks(self, check: Callable[[], None]) -> Iterator[NDArray[np.float32]]:
        n_frames = max(1, _BLOCK_VALUES // self.channels)
        # What has 16 bits stays so until it is sorted by channels: half the memory to move, and numpy converts faster.
        kind = "int16" if self.codec == "pcm_16" else "float32"
        while True:
            check()
            try:
                block = self._file.read(n_frames, dtype=kind, always_2d=True)
            except soundfile.LibsndfileError:
                break  # what is missing shows against the declared length
            if len(block) == 0:
                break
            yield _as_planes(block.T)
        self._source.read_at(self._source.size - 1, 1)  # is its disk still there?

    def close(self) -> None:
        self._file.close()


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

    def _choose_stream(self) -> Any:  # noqa: ANN401 (PyAV is not typed strictly enough to be checked)
        """Return the audio stream to decode; the others, pictures above all, are not even read."""
        known = [stream for stream in self._container.streams.audio if stream.codec_context is not None]
        if not known:
            kind = headers.sound_kind(self._source.head)
            if self._container.streams.audio or kind is None:
                raise _unreadable_error(self._source)
            raise errors.JobError(f"There is no sound in this {kind} file.", "Drop a recording that has a sound track.")
        best = self._container.streams.best("audio")
        chosen = best if best in known else known[0]
        if chosen.codec_context.codec_tag in _LOCKED_TAGS:
            raise _locked_error()
        chosen.thread_type = "NONE"  # memory and speed stay those of one core
        if chosen.codec_context.name == "flac":  # else a damaged frame comes out as full-scale noise
            chosen.codec_context.options = {"err_detect": "crccheck+explode"}
        for stream in self._container.streams:
            if stream is not chosen:
                stream.discard = av.stream.Discard.all
        return chosen

    def _find_declared_s(self) -> float | None:
        """Return how long the container says the stream lasts; None where that is a guess."""
        container, stream = self._container, self._stream
        name = container.format.name
        if name in _GUESSED_DURATIONS or (name == "mp3" and not headers.has_mp3_length(self._source)):
            return None
        if stream.duration is not None:
            return float(stream.duration * stream.time_base)
        tag = re.fullmatch(r"(\d+):(\d\d):(\d\d\.\d+)", stream.metadata.get("DURATION", ""))
        if tag:  # Matroska
            return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
        is_alone = len(container.streams) == 1
        return container.duration / av.time_base if is_alone and container.duration is not None else None

    def blocks(self, check: Callable[[], None]) -> Iterator[NDArray[np.float32]]:
        clock = _Clock(self._container.start_time, float(self._stream.time_base))
        collector = _Collector(self.rate_hz, self.channels)
        n_good = n_broken = 0
        for index, packet in enumerate(self._packets()):
            if index % _CHECK_EVERY_PACKETS == 0:
                check()
                if packet.has_sidedata("encryption_info"):
                    raise _locked_error()
            try:
                frames = packet.decode()
            except MemoryError:
                raise
            except (av.error.FFmpegError, ValueError):
                n_broken += not self._is_pause(packet)
                yield from collector.drain()
                yield from self._silence(clock.skip(packet))
                continue
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
        if n_broken > _MAX_BROKEN_PER_GOOD * n_good:
            raise _unreadable_error(self._source)
        self._write_notes(n_broken)

    def _write_notes(self, n_broken: int) -> None:
        """Say at the end of the pass what was missing."""
        if self.is_damaged or n_broken:
            self.is_damaged = True
            self.notes.append("The file is damaged: what could not be read was replaced by silence.")
        if headers.is_cut_off(self._source):
            self.is_damaged = True
            self.notes.append("The end of the file is missing: it was cut off in recording or copying.")

    def _is_pause(self, packet: Any) -> bool:  # noqa: ANN401 (PyAV is not typed strictly enough to be checked)
        """Return whether a packet stands for a pause: FFmpeg decodes no comfort noise of AMR."""
        return packet.size > 0 and bytes(packet)[0] >> 3 & 0xF in _AMR_PAUSES.get(self.codec, ())

    def _packets(self) -> Iterator[Any]:
        """Yield the packets of the stream up to its end or to where nothing more can be found."""
        try:
            yield from self._container.demux(self._stream)
        except MemoryError:
            raise
        except IndexError:
            # At the very end, after our stream: PyAV up to 18.1 looks up streams that began in the middle of the file
            # in a table made at its beginning, beyond its end, and whether it finds one there is chance.
            pass
        except (av.error.FFmpegError, OSError, ValueError):
            self.is_damaged = True

    def _silence(self, duration_s: float) -> Iterator[NDArray[np.float32]]:
        """Yield silence in blocks: at 768 kHz and 64 channels even seconds are large."""
        n_left = round(duration_s * self.rate_hz)
        while n_left:
            n_frames = min(n_left, max(1, _BLOCK_VALUES // self.channels))
            yield np.zeros((self.channels, n_frames), np.float32)
            n_left -= n_frames

    def close(self) -> None:
        self._container.close()


def _settle_channels(codec_context: Any) -> int:  # noqa: ANN401 (PyAV is not typed strictly enough to be checked)
    """Return the number of channels, and make the decoder forget an unusual order of them.

    PyAV up to 19.0 frees the table of a custom order twice, which ends the process; its changelog
    for 19.1 has it. Reading `layout` once frees it, so it must be replaced in the same breath.
    """
    layout = codec_context.layout
    n_channels: int = layout.nb_channels
    if layout.name.startswith(f"{n_channels} channels ("):  # how FFmpeg describes a custom order
        codec_context.layout = f"{n_channels} channels"
    return n_channels


class _Clock:
    """Finds missing sound by the time stamps of the frames.

    Without it, a page lost in the middle of an Ogg file would shift all that follows.

    Args:
        start_us: earliest time stamp of the container in microseconds, if it has any. In a video
            whose sound begins late, the times then still are those which a player shows.
        tick_s: unit of the frames' time stamps in seconds.
    """

    def __init__(self, start_us: int | None, tick_s: float) -> None:
        self._tick_s = tick_s
        self._expected_s = None if start_us is None else start_us / av.time_base

    def skip(self, packet: Any) -> float:  # noqa: ANN401 (PyAV is not typed strictly enough to be checked)
        """Pass over a packet that cannot be decoded, and return its duration in seconds."""
        duration_s = (packet.duration or 0) * self._tick_s
        if not 0 < duration_s <= _MAX_GAP_S:
            return 0.0
        if self._expected_s is not None:
            self._expected_s += duration_s
        return duration_s

    def advance(self, frame: Any) -> float:  # noqa: ANN401 (the same)
        """Pass over a decoded frame, and return how much sound is missing ahead of it in seconds."""
        stamp, expected_s = frame.pts, self._expected_s
        start_s = expected_s if stamp is None else stamp * self._tick_s  # frame.time reckons in slow fractions
        if start_s is not None:
            self._expected_s = start_s + frame.samples / frame.sample_rate
        gap_s = 0.0 if start_s is None or expected_s is None else start_s - expected_s
        return gap_s if _MIN_GAP_S <= gap_s <= _MAX_GAP_S else 0.0


class _Collector:
    """Collects frames to blocks of one type, rate and number of channels, as chained streams may not keep."""

    def __init__(self, rate_hz: int, channels: int) -> None:
        self._rate_hz = rate_hz
        self._channels = channels
        self._fifo = av.AudioFifo()
        self._shape: tuple[str, int, int] | None = None
        self._resampler: Any = None

    def push(self, frame: Any) -> list[NDArray[np.float32]]:  # noqa: ANN401 (as in _choose_stream)
        """Take a frame in; return blocks, shape (channels, n), whenever there is enough for one."""
        blocks: list[NDArray[np.float32]] = []
        shape = (frame.format.name, frame.sample_rate, frame.layout.nb_channels)
        if shape != self._shape:
            blocks += self.drain()
            self._shape = shape
            if frame.sample_rate != self._rate_hz:
                self._resampler = soxr.ResampleStream(frame.sample_rate, self._rate_hz, self._channels)
        frame.pts = None  # the queue is made for streams without gaps
        self._fifo.write(frame)
        if self._fifo.samples * self._channels >= _BLOCK_VALUES:
            blocks.append(self._take())
        return blocks

    def drain(self) -> Iterator[NDArray[np.float32]]:
        """Yield all that is still inside."""
        if self._fifo.samples:
            yield self._take()
        if self._resampler is not None:
            yield self._resampler.resample_chunk(np.zeros((0, self._channels), np.float32), last=True).T
        self._fifo, self._shape, self._resampler = av.AudioFifo(), None, None

    def _take(self) -> NDArray[np.float32]:
        """Return what the queue holds as float32, shape (channels, n)."""
        frame = self._fifo.read()
        samples = frame.to_ndarray()
        block = _as_planes(samples if frame.format.is_planar else samples.reshape(frame.samples, -1).T)
        if len(block) != self._channels:
            block = np.repeat(block.mean(axis=0, keepdims=True), self._channels, axis=0)
        if self._resampler is not None:
            block = np.ascontiguousarray(self._resampler.resample_chunk(np.ascontiguousarray(block.T)).T)
        return block


def _as_planes(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Return samples of any type, shape (channels, n), as float32 in [-1, 1], each channel in one piece."""
    planes = np.ascontiguousarray(samples)
    if planes.dtype.kind == "f":
        return planes.astype(np.float32, copy=False)
    scaled = np.empty(planes.shape, np.float32)
    np.multiply(planes, np.float32(0.5 ** (8 * planes.dtype.itemsize - 1)), out=scaled, casting="same_kind")
    if planes.dtype == np.uint8:
        scaled -= 1
    return scaled


def _locked_error() -> errors.JobError:
    return errors.JobError(
        "The recording is protected against copying (DRM).",
        "Export it without protection from the program that it comes from.",
    )


def _unreadable_error(source: RecordingFile) -> errors.JobError:
    kind = headers.sound_kind(source.head)
    if kind is None:
        return NotARecordingError(
            "This is not a recording in any known format.", "Drop sound or video files, such as wav, mp3, m4a or mp4."
        )
    return errors.JobError(f"This {kind} file is cut off or damaged: nothing in it can be read.", _COPY_AGAIN)
