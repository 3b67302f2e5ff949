"""Decoding with FFmpeg's libraries, through PyAV: every track that is wanted, in one pass over the file."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import av
import av.error

from daemon import errors
from daemon.decode import asf, avi, headers, ogg, signatures, transport
from daemon.decode.frames import MIN_GAP_S, BrokenPackets, Clock, Collector
from daemon.decode.source import FileView, NotARecordingError, RecordingFile
from daemon.decode.tracks import AudioTrack

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

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
_GAPLESS: Final = frozenset({"flac", "mp3", "aac", "ac3", "eac3"})
_DRM_TAGS: Final = frozenset({"drms", "drmi", "enca", "aavd"})
# Formats in which FFmpeg puts junk and the frame before it into one packet.
_GLUED: Final = frozenset({"ac3", "eac3"})
# Formats that number their pages or packets.
_LOSSES: Final = {"ogg": ogg.has_lost_pages, "mpegts": transport.has_lost_packets, "asf": asf.has_lost_packets}
_CHECKED: Final = frozenset({"flac", "tta", "wavpack"})
_BROADCAST: Final = frozenset({"mpegts", "mpeg"})
# Audio may begin up to an hour into a slow stream.
_LONG_PROBE: Final = {"probesize": str(1 << 28), "analyzeduration": str(3_600_000_000)}
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
        self._is_lossy: bool | None = None  # not known yet
        self._container = self._open({"ignore_length": "1"} if is_open_ended else {})
        if self._container.format.name in _BROADCAST and not all(map(_has_rate, self._container.streams.audio)):
            self._container.close()  # the audio begins late, and only its first packet shows the format
            self._container = self._open(_LONG_PROBE)
        try:
            self._streams: list[Any] = list(self._container.streams.audio)
            self.tracks = [self._describe(at, stream, is_open_ended) for at, stream in enumerate(self._streams, 1)]
            self._refuse_unreadable()
        except BaseException:
            self.close()
            raise

    def _open(self, options: dict[str, str]) -> Any:  # noqa: ANN401  # PyAV is not typed strictly enough to be checked
        """Open the file, from its beginning."""
        self._view.seek(0)
        try:
            return av.open(
                self._view,
                options={"format_whitelist": _DEMUXERS, "protocol_whitelist": "none", **options},
                metadata_errors="ignore",
                buffer_size=_IO_BUFFER_BYTES,
            )
        except MemoryError:  # PyAV's own is an FFmpegError too
            raise
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._view.error or unreadable_error(self._source) from error

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
        with suppress(UnicodeDecodeError):  # other tags are not text
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
        if name in _GUESSED_DURATIONS or headers.has_no_length(self._source):
            return None
        if name == "mp3":
            return headers.mp3_length_s(self._source)
        is_alone = len(container.streams) == 1
        tag = re.fullmatch(r"(\d+):(\d\d):(\d\d\.\d+)", stream.metadata.get("DURATION", ""))
        if tag:  # Matroska, where FFmpeg gives every track the length of the file
            end_s = int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
            return float(end_s - max(container.start_time or 0, 0) / av.time_base)
        if stream.duration is not None and (is_alone or ("matroska" not in name and name != "asf")):
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
        for packet in self._place_pauses(self._checked_packets(lines, raise_if_stopped), lines):
            line = lines[packet.stream.index]
            for block in line.push(packet):
                yield line.track.number, block
        for line in lines.values():
            for block in line.drain():
                yield line.track.number, block
        if self._view.error is not None:
            raise self._view.error
        self._finish(lines.values())

    def _finish(self, lines: Collection[_TrackDecoder]) -> None:
        """Record what is missing in the tracks that were read; raise an error if nothing could be read."""
        if self._container.format.name == "aac" and not signatures.ends_with_frames(self._source):
            self.tracks[0].has_junk = True  # FFmpeg ends there without an error
        is_cut_off = headers.is_cut_off(self._source)
        for line in lines:
            line.finish(is_cut_off=is_cut_off)
        faults = [line.track.fault for line in lines if line.track.fault is not None]
        if len(faults) == len(lines):
            raise faults[0]

    def _decoder(self, number: int) -> _TrackDecoder:
        stream, container = self._streams[number - 1], self._container
        stream.thread_type = "NONE"  # memory and speed stay those of one core
        if stream.codec_context.name in _CHECKED:  # otherwise a damaged frame becomes full-scale noise
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
        name, tick_s = container.format.name, float(stream.time_base)
        clock = Clock(name, stream.codec_context.name, container.start_time, tick_s, self._limit_s)
        return _TrackDecoder(self._source, self.tracks[number - 1], name, clock, self._has_losses)

    def _place_pauses(self, packets: Iterator[Any], lines: dict[int, _TrackDecoder]) -> Iterator[Any]:
        """Return the packets with their time stamps corrected where FFmpeg does not see a pause."""
        if self._container.format.name == "ogg":
            return ogg.place_pauses(packets, MIN_GAP_S, self._has_losses)
        if self._container.format.name != "avi":
            return packets
        pauses = {}
        for index, line in lines.items():
            stream = self._container.streams[index]
            entries = stream.index_entries
            n_frames = entries[len(entries) - 1].timestamp + 1 if len(entries) else 0
            if (stream.duration or 0) > n_frames:  # the header declares more than the index has
                pauses[index] = avi.list_pauses(self._source, index)
                line.track.declares_end |= bool(pauses[index].places)
        return avi.place_pauses(packets, pauses) if pauses else packets

    def _has_losses(self) -> bool:
        """Return whether a jump of the time stamps means that audio was lost; the file is searched once.

        Recorders skip pauses, too; only lost pages and packets leave a gap in the numbering.
        """
        if self._is_lossy is None:
            name = self._container.format.name
            self._is_lossy = _LOSSES[name](self._source) if name in _LOSSES else name in _GAPLESS
        return self._is_lossy

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

    def __init__(
        self,
        source: RecordingFile,
        track: AudioTrack,
        format_name: str,
        clock: Clock,
        has_losses: Callable[[], bool],
    ) -> None:
        self.track = track
        self._source = source
        self._format_name = format_name
        self._clock = clock
        self._has_losses = has_losses
        self._collector = Collector(track.rate_hz, track.channels)
        self._broken = BrokenPackets(format_name, track.codec)
        self._n_good = 0
        self._n_packet_bytes = 0  # of the last good one

    def push(self, packet: Any) -> Iterator[NDArray[np.float32] | float]:  # noqa: ANN401  # the same
        """Yield what a packet completes, and the seconds that are missing before it or in its place."""
        frames, rest = _decode(packet), b""
        if frames is None and self._format_name in _GLUED and 0 < self._n_packet_bytes < packet.size:
            frames, rest = self._decode_beginning(packet), bytes(packet)[self._n_packet_bytes :]
        if frames is None:
            yield from self._skip(self._broken.add(bytes(packet), self._clock.measure(packet)))
            return
        if frames and self._broken.is_waiting:
            duration_s, is_lost = self._broken.end_run(bytes(packet))
            if is_lost:
                yield from self._skip(duration_s)
            else:
                self.track.has_junk = True
                self._clock.skip(duration_s, is_audio=False)
        elif frames and not self._n_good:
            self._broken.end_run(b"")
        self._n_good += len(frames)
        self._n_packet_bytes = packet.size - len(rest) or self._n_packet_bytes
        for frame in frames:
            is_first = not self._clock.has_begun
            gap_s = self._clock.advance(frame)
            if gap_s:
                self.track.is_damaged |= not is_first and self._has_losses()
                yield from self._collector.drain()
                yield gap_s
            yield from self._collector.push(frame)
        if rest:
            self._broken.add(rest, self._clock.measure(packet))

    def _decode_beginning(self, packet: Any) -> list[Any] | None:  # noqa: ANN401  # the same
        """Return the frames of a packet with junk at its end, which is longer than the one before."""
        beginning = av.Packet(bytes(packet)[: self._n_packet_bytes])
        beginning.pts, beginning.time_base, beginning.stream = packet.pts, packet.time_base, packet.stream
        return _decode(beginning)

    def _skip(self, duration_s: float) -> Iterator[NDArray[np.float32] | float]:
        """Yield silence in place of packets that could not be decoded."""
        if duration_s:
            self._clock.skip(duration_s)
            yield from self._collector.drain()
            yield duration_s

    def drain(self) -> Iterator[NDArray[np.float32]]:
        """Yield what is left after the last packet."""
        yield from self._collector.drain()

    def finish(self, *, is_cut_off: bool) -> None:
        """Note what is missing, at the end of the pass."""
        self.track.has_junk |= self._broken.is_waiting
        self._broken.finish()
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


def _has_rate(stream: Any) -> bool:  # noqa: ANN401  # the same
    return stream.codec_context is not None and bool(stream.codec_context.sample_rate)


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
