"""Decoding with FFmpeg's libraries, through PyAV: every track that is wanted, in one pass over the file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import av
import av.error

from daemon import errors
from daemon.decode import headers
from daemon.decode.frames import BrokenPackets, Clock, Collector
from daemon.decode.source import FileView, NotARecordingError, RecordingFile
from daemon.decode.tracks import AudioTrack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
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
_SLACK_S: Final = 0.25  # declared durations count encoder delay and padding
# What a track is that is not the programme itself, by FFmpeg's flags.
_EXTRAS: Final = {
    "comment": "a commentary",
    "visual_impaired": "an audio description",
    "descriptions": "an audio description",
    "hearing_impaired": "a version for people who hear badly",
    "clean_effects": "a version without speech",
    "karaoke": "a version without singing",
}
_NO_LANGUAGE: Final = frozenset({"", "und", "mul", "mis", "zxx"})
_MAX_TITLE: Final = 200

_COPY_AGAIN: Final = "Copy it again from the original."


class ContainerReader:
    """Reads any file that FFmpeg's demuxers open.

    Attributes:
        tracks: its audio tracks, at least one of which can be read.

    Args:
        source: the recording.
        is_open_ended: whether its header may declare less than the file holds.
        limit_s: latest time that a pause may reach.

    Raises:
        errors.JobError: none of its tracks can be read.
        errors.TransientError: the file's disk or share does not respond.
    """

    def __init__(self, source: RecordingFile, *, limit_s: float, is_open_ended: bool = False) -> None:
        self._source = source
        self._view = FileView(source)
        self._limit_s = limit_s
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
            raise self._view.error or unreadable_error(source) from error
        try:
            self._streams: list[Any] = list(self._container.streams.audio)
            self.tracks = [self._describe(at, stream, is_open_ended) for at, stream in enumerate(self._streams, 1)]
            self._refuse_unreadable()
        except BaseException:
            self.close()
            raise

    def _describe(self, number: int, stream: Any, is_open_ended: bool) -> AudioTrack:  # noqa: ANN401, FBT001  # PyAV is not typed strictly enough to be checked
        """Return what the file says about a stream."""
        codec = stream.codec_context
        fault = self._find_fault(stream)
        flags = [flag.name for flag in type(stream.disposition) if flag in stream.disposition]
        language = stream.metadata.get("language", "").lower()
        title = stream.metadata.get("title", "").strip()
        return AudioTrack(
            number,
            rate_hz=codec.sample_rate if codec is not None and fault is None else 0,
            channels=_settle_channels(codec) if codec is not None and fault is None else 0,
            codec=codec.name.removesuffix("float") if codec is not None else "unknown",
            declared_s=None if is_open_ended else self._find_declared_s(stream),
            slack_s=_SLACK_S,
            declares_end="matroska" in self._container.format.name,
            fault=fault,
            language=None if language in _NO_LANGUAGE else language[:_MAX_TITLE],
            title=title[:_MAX_TITLE] or None,
            is_default="default" in flags,
            extra=next((_EXTRAS[flag] for flag in flags if flag in _EXTRAS), None),
        )

    def _find_fault(self, stream: Any) -> errors.JobError | None:  # noqa: ANN401  # the same
        """Return why a stream cannot be read, None where it can."""
        if stream.codec_context is None:
            return unreadable_error(self._source)
        if stream.codec_context.codec_tag in _DRM_TAGS:
            return drm_error()
        return None if stream.codec_context.sample_rate else unreadable_error(self._source)

    def _refuse_unreadable(self) -> None:
        """Raise the reason where no track can be read."""
        faults = [track.fault for track in self.tracks if track.fault is not None]
        if not self.tracks:
            kind = headers.audio_format(self._source.head)
            if kind is None:
                raise unreadable_error(self._source)
            raise errors.JobError(f"This {kind} file has no audio track.", "Drop a recording that contains audio.")
        if len(faults) == len(self.tracks):
            raise faults[0]

    def _find_declared_s(self, stream: Any) -> float | None:  # noqa: ANN401  # the same
        """Return the length that the container declares for a stream, None where it is a guess."""
        container = self._container
        name = container.format.name
        if name in _GUESSED_DURATIONS:
            return None
        if name == "mp3":
            return headers.mp3_length_s(self._source)
        is_alone = len(container.streams) == 1
        tag = re.fullmatch(r"(\d+):(\d\d):(\d\d\.\d+)", stream.metadata.get("DURATION", ""))
        if tag:  # Matroska, where FFmpeg gives every track the length of the file
            return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
        if stream.duration is not None and ("matroska" not in name or is_alone):
            # An Ogg stream that was cut out of a longer one ends at the time that it had there.
            start = max(stream.start_time or 0, 0) if name == "ogg" else 0
            return float((stream.duration - start) * stream.time_base)
        return container.duration / av.time_base if is_alone and container.duration is not None else None

    def blocks(
        self, numbers: Sequence[int], raise_if_stopped: Callable[[], None]
    ) -> Iterator[tuple[int, NDArray[np.float32] | float]]:
        """Yield the audio of some tracks from its start; the others, video above all, are skipped unread.

        Args:
            numbers: of the tracks.
            raise_if_stopped: called often.

        Yields:
            (number of the track, its next block of shape (channels, n), or seconds in which nothing was recorded).

        Raises:
            errors.JobError: almost nothing can be decoded.
            errors.TransientError: the file's disk or share does not respond.
        """
        lines = {self._streams[number - 1].index: self._decoder(number) for number in numbers}
        for stream in self._container.streams:
            if stream.index not in lines:
                stream.discard = av.stream.Discard.all
        for packet in self._checked_packets(lines, raise_if_stopped):
            line = lines[packet.stream.index]
            for block in line.push(packet):
                yield line.track.number, block
        for line in lines.values():
            for block in line.drain():
                yield line.track.number, block
        if self._view.error is not None:
            raise self._view.error
        is_cut_off = headers.is_cut_off(self._source)
        for line in lines.values():
            line.finish(is_cut_off=is_cut_off)
        faults = [line.track.fault for line in lines.values() if line.track.fault is not None]
        if len(faults) == len(lines):
            raise faults[0]

    def _decoder(self, number: int) -> _TrackDecoder:
        stream, container = self._streams[number - 1], self._container
        stream.thread_type = "NONE"  # memory and speed stay those of one core
        if stream.codec_context.name == "flac":  # otherwise a damaged frame becomes full-scale noise
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
        name, tick_s = container.format.name, float(stream.time_base)
        clock = Clock(name, stream.codec_context.name, container.start_time, tick_s, self._limit_s)
        return _TrackDecoder(self._source, self.tracks[number - 1], name, clock)

    def _checked_packets(self, lines: dict[int, _TrackDecoder], raise_if_stopped: Callable[[], None]) -> Iterator[Any]:
        """Yield the packets of the streams; every now and then, look for a stop request and for encryption."""
        for index, packet in enumerate(self._packets(lines)):
            if index % _CHECK_EVERY_PACKETS == 0:
                raise_if_stopped()
                if packet.has_sidedata("encryption_info"):
                    raise drm_error()
            yield packet

    def _packets(self, lines: dict[int, _TrackDecoder]) -> Iterator[Any]:
        """Yield the packets of the streams until they end or the demuxer gives up."""
        try:
            yield from self._container.demux([self._container.streams[index] for index in lines])
        except MemoryError:
            raise
        except IndexError:
            # At the very end, after our stream: for streams that began in the middle of the file, PyAV up to 18.1
            # reads beyond the end of a table made at the beginning; what it finds there is chance.
            pass
        except (av.error.FFmpegError, OSError, ValueError):
            for line in lines.values():
                line.track.is_damaged = True

    def close(self) -> None:
        """Free the decoders; the file stays open."""
        self._container.close()


class _TrackDecoder:
    """Decodes one track, packet by packet."""

    def __init__(self, source: RecordingFile, track: AudioTrack, format_name: str, clock: Clock) -> None:
        self.track = track
        self._source = source
        self._is_gapless = format_name in _GAPLESS
        self._clock = clock
        self._collector = Collector(track.rate_hz, track.channels)
        self._broken = BrokenPackets(format_name, track.codec)
        self._n_good = 0

    def push(self, packet: Any) -> Iterator[NDArray[np.float32] | float]:  # noqa: ANN401  # the same
        """Yield what a packet completes, and the seconds that are missing before it or in its place."""
        frames = _decode(packet)
        if frames is None:
            if self._broken.add(bytes(packet)):
                yield from self._collector.drain()
                yield self._clock.skip(packet)
            return
        self._broken.end_run(len(frames))
        self._n_good += len(frames)
        for frame in frames:
            gap_s = self._clock.advance(frame)
            if gap_s:
                self.track.is_damaged |= self._is_gapless
                yield from self._collector.drain()
                yield gap_s
            yield from self._collector.push(frame)

    def drain(self) -> Iterator[NDArray[np.float32]]:
        """Yield what is left after the last packet."""
        yield from self._collector.drain()

    def finish(self, *, is_cut_off: bool) -> None:
        """Note what is missing, at the end of the pass."""
        track, n_lost = self.track, self._broken.n_lost
        if n_lost > _MAX_BROKEN_PER_GOOD * self._n_good:
            track.fault = unreadable_error(self._source)
        if track.is_damaged or n_lost:
            track.is_damaged = True
            track.notes.append("The file is damaged: what could not be read was replaced by silence.")
        if is_cut_off:
            track.is_damaged = True
            track.notes.append("The end of the file is missing: it was cut off while recording or copying.")
        if self._clock.n_jumps:
            times = "once" if self._clock.n_jumps == 1 else f"{self._clock.n_jumps} times"
            track.notes.append(
                f"The time stamps of the file jump {times}, as where parts were cut out; these parts were joined."
            )


def _decode(packet: Any) -> list[Any] | None:  # noqa: ANN401  # the same
    """Return the frames of a packet, None if it cannot be decoded."""
    try:
        frames: list[Any] = packet.decode()
    except MemoryError:  # PyAV's own is an FFmpegError too
        raise
    except (av.error.FFmpegError, ValueError):
        return None
    return frames


def _settle_channels(codec_context: Any) -> int:  # noqa: ANN401  # the same
    """Return the number of channels, and replace an unusual channel order in the decoder.

    PyAV up to 19.0 frees the table of a custom order twice, which crashes the process; the changelog
    of 19.1 has the fix. Reading `layout` once frees it, so it must be replaced right after.
    """
    layout = codec_context.layout
    n_channels: int = layout.nb_channels
    if layout.name.startswith(f"{n_channels} channels ("):  # how FFmpeg describes a custom order
        codec_context.layout = f"{n_channels} channels"
    return n_channels


def drm_error() -> errors.JobError:
    """Return the error of a recording that only its seller's program decodes."""
    return errors.JobError(
        "The recording is protected against copying (DRM).",
        "Export it without protection from the program it comes from.",
    )


def unreadable_error(source: RecordingFile) -> errors.JobError:
    """Return the error of a file in which nothing can be read."""
    kind = headers.audio_format(source.head)
    if kind is None:
        return NotARecordingError(
            "This is not a recording in any known format.", "Drop audio or video files, such as wav, mp3, m4a or mp4."
        )
    return errors.JobError(f"This {kind} file is cut off or damaged: nothing in it can be read.", _COPY_AGAIN)
