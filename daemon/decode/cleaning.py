"""From a recording to its cleaned tracks, in one pass.

The result equals `sox IN -c 1 OUT highpass 80 rate 16k gain -n -3` within 1e-3 of full scale, for
recordings of any length, in bounded memory. One thing differs: with -c 1, sox 14.4 mixes last and
takes its gain from the loudest channel. Here the mix itself is brought to the level, as by
`sox IN OUT channels 1 highpass 80 rate 16k gain -n -3`; where all channels agree it is the same.

The gain depends on the whole recording (its peak, its loudness), so it is computed at the end and
applied when the waveform is read.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from daemon import errors
from daemon.decode import readers
from daemon.decode.frames import BLOCK_VALUES
from daemon.decode.joined import Adapter, list_parts
from daemon.decode.levels import SILENT_RMS, Levels
from daemon.decode.source import NotARecordingError
from daemon.decode.stream_cleaner import StreamCleaner, mix_channels, set_gain
from daemon.decode.tracks import choose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from daemon.config import Preprocess
    from daemon.decode.audio_files import AudioFiles
    from daemon.decode.dynamics import Dynamics
    from daemon.decode.mixing import MixPart
    from daemon.decode.source import RecordingFile
    from daemon.decode.tracks import AudioTrack
    from daemon.decode.waveform import Waveform, WaveformWriter

# Below 4 kHz speech is unintelligible, and a header that says 1 Hz turns 32 kB into hours. 768 kHz and
# 64 channels are the most that recording devices offer.
_MIN_RATE_HZ: Final = 4_000
_MAX_RATE_HZ: Final = 768_000
_MAX_CHANNELS: Final = 64
# A shorter pause of the recorder is stored as zeros, a longer one takes no room.
_MAX_STORED_PAUSE_S: Final = 2.0
# A channel that is so far below the others, and below what an unused input gives, is not stored: 60 dB. The quietest
# talker who can be found is 36 dB below another.
_UNUSED_SHARE: Final = 1e-3
# Float PCM, by the names of libsndfile and of FFmpeg: it may exceed full scale without being clipped.
_FLOAT_CODECS: Final = frozenset({"float", "double", *(f"pcm_f{kind}" for kind in ("32le", "32be", "64le", "64be"))})


def is_recording(source: RecordingFile) -> bool:
    """Return whether a file is a recording, a damaged one included; only its headers are read.

    Raises:
        errors.TransientError: its disk or share does not respond.
    """
    try:
        readers.open_reader(source).close()
    except NotARecordingError:
        return False
    except errors.JobError:
        return True
    return True


@dataclass(frozen=True, slots=True)
class CleanedStream:
    """One track, or one channel of it, as mono at 16 kHz.

    Attributes:
        waveform: read with its gain; its time 0 is that of the recording.
        channel: from 1; None where several channels were mixed, or one stands for all.
        dynamics: its levels before the gain.
    """

    waveform: Waveform
    channel: int | None
    dynamics: Dynamics


@dataclass(frozen=True, slots=True)
class CleanedTrack:
    """What was decoded of one track.

    Attributes:
        streams: one, or one for each channel; () where there was nothing to decode. Tracks that were mixed have the
            same waveform, each with its own levels.
        levels: what was measured in its channels.
        start_s: when its first sample was recorded, from the start of the recording.
        end_s: when its last sample was.
    """

    track: AudioTrack
    streams: tuple[CleanedStream, ...]
    levels: Levels
    start_s: float
    end_s: float

    @property
    def is_short(self) -> bool:
        """Whether less could be read than the file declares."""
        start_s = 0.0 if self.track.declares_end else self.start_s
        return self.end_s - start_s < (self.track.declared_s or 0.0) - self.track.slack_s

    @property
    def is_complete(self) -> bool:
        """Whether everything that the file declares of this track could be decoded."""
        return self.track.fault is None and not self.track.is_damaged and not self.is_short


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be heard of a recording.

    Attributes:
        tracks: the setting `transcribe.tracks`, or the numbers of tracks.
        is_split: whether each channel becomes a stream.
    """

    tracks: Literal["auto", "all"] | int | tuple[int, ...] = "auto"
    is_split: bool = False


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What was decoded of a recording.

    Attributes:
        all_tracks: every audio track of the file, in order.
        tracks: those that were read.
        left_out: why each of the others was not, by its number.
    """

    all_tracks: tuple[AudioTrack, ...]
    tracks: tuple[CleanedTrack, ...]
    left_out: Mapping[int, str]


_EVERYTHING: Final = Wanted()


def decode(
    source: RecordingFile,
    files: AudioFiles,
    settings: Preprocess,
    wanted: Wanted = _EVERYTHING,
    raise_if_stopped: Callable[[], None] = lambda: None,
) -> Cleaned:
    """Decode and clean the tracks of a recording.

    This runs codecs on files from strangers: the daemon does it in a separate process (`daemon.frontend`).

    Args:
        source: the recording.
        files: receive the audio; they belong to the caller, also after an error.
        settings: the `preprocess` section of the configuration.
        wanted: which tracks and channels.
        raise_if_stopped: called at least every two seconds; it may raise errors.StoppedError to end the work.

    Raises:
        errors.JobError: the file is not a recording, or damaged beyond reading, protected, empty or too long.
        errors.TransientError: its share does not respond, or the cache disk is full.
        MemoryError: it takes more memory than allowed.
    """
    run = _Pass(source, files, settings, wanted, raise_if_stopped)
    # What is rare and shows only at the end costs a second pass.
    try:
        cleaned = run.decode()
        tracks = [each.track for each in cleaned.tracks]
        is_again = any(track.is_damaged or track.has_junk for track in tracks) and run.hides_recordings()
    except readers.DamagedError:
        is_again = True
    except errors.JobError:
        if not run.hides_recordings():
            raise
        is_again = True
    if is_again:
        files.release_all()
        run = replace(run, is_damaged=True)
        cleaned = run.decode()
    inverted = {} if wanted.is_split else _find_inverted(cleaned)
    if not inverted:
        return cleaned
    # Reading them again is cheaper than keeping two mixes; and what was mixed with them is in the same file.
    spoilt = {part.waveform for each in cleaned.tracks if each.track.number in inverted for part in each.streams}
    numbers = [each.track.number for each in cleaned.tracks if any(part.waveform in spoilt for part in each.streams)]
    files.release(*spoilt)
    again = replace(run, wanted=Wanted(tuple(numbers)), alone=inverted).decode()
    found = {each.track.number: each for each in again.tracks}
    return replace(cleaned, tracks=tuple(found.get(each.track.number, each) for each in cleaned.tracks))


def _find_inverted(cleaned: Cleaned) -> dict[int, int]:
    """Return the tracks whose two channels would cancel each other, by number, and the channel to use alone."""
    channels = {each.track.number: each.levels.inverted_channel for each in cleaned.tracks}
    return {number: channel for number, channel in channels.items() if channel is not None}


@dataclass(frozen=True, slots=True)
class _Pass:
    """One pass over a recording; `alone` has the channel, from 0, that stands for all of its track, by its number."""

    source: RecordingFile
    files: AudioFiles
    settings: Preprocess
    wanted: Wanted
    raise_if_stopped: Callable[[], None]
    is_damaged: bool = False
    alone: Mapping[int, int] = field(default_factory=dict)

    def decode(self) -> Cleaned:
        parts = list_parts(self.source, is_thorough=self.is_damaged)
        with contextlib.closing(self._open(parts[0])) as reader:
            heard, left_out = choose(reader.tracks, self.wanted.tracks)
            for track in heard:
                track.fault = track.fault or _find_impossible(track)
            readable = [track for track in heard if track.fault is None]
            if not readable:
                raise next(track.fault for track in heard if track.fault is not None)
            if any((track.declared_s or 0.0) > self._limit_s for track in readable):
                raise _too_long_error(self.settings)
            n_apart = len(readable) if len(readable) <= self.files.n_free else self.files.n_free - 1
            mix = self.files.make_mix(len(readable) - n_apart) if n_apart < len(readable) else None
            cleaners = {
                track.number: self._cleaner(track, n_apart - 1 - at) for at, track in enumerate(readable[:n_apart])
            }
            for track, part in zip(readable[n_apart:], mix.parts if mix is not None else (), strict=True):
                cleaners[track.number] = _TrackCleaner(track, self._all_channels(track), [part], self.settings)
            self._read(reader, cleaners)
        if len(parts) > 1:
            self._read_on(parts[1:], cleaners)
        tracks = self._finish(cleaners.values())
        if mix is not None and any(part.waveform is mix.waveform for each in tracks for part in each.streams):
            set_gain(mix.finish(), self.settings, self.raise_if_stopped)
        if not any(each.streams for each in tracks):
            raise errors.JobError("The file holds no audio, only a header.", "Copy the recording again.")
        return Cleaned(tuple(reader.tracks), tracks, left_out)

    def _finish(self, cleaners: Iterable[_TrackCleaner]) -> tuple[CleanedTrack, ...]:
        """Return the tracks, without the files of those in which there was nothing to decode."""
        found = [(cleaner.has_begun, cleaner.finish()) for cleaner in cleaners]
        used = {part.waveform for has_begun, each in found if has_begun for part in each.streams}
        unused = {part.waveform for _, each in found for part in each.streams} - used
        self.files.release(*unused)
        return tuple(each if has_begun else replace(each, streams=()) for has_begun, each in found)

    def hides_recordings(self) -> bool:
        """Return whether what looks like damage is another recording, in a format that does not state where it ends."""
        return len(list_parts(self.source, is_thorough=True)) > len(list_parts(self.source))

    @property
    def _limit_s(self) -> float:
        return self.settings.max_duration_h * 3600

    def _open(self, part: RecordingFile) -> readers.Reader:
        return readers.open_reader(part, is_damaged=self.is_damaged, limit_s=self._limit_s)

    def _read(self, reader: readers.Reader, cleaners: Mapping[int, _TrackCleaner]) -> None:
        for number, block in reader.blocks(tuple(cleaners), self.raise_if_stopped):
            self.raise_if_stopped()
            cleaner = cleaners[number]
            if isinstance(block, float):
                cleaner.pause(block)
            else:
                cleaner.push(block)
            if cleaner.time_s > self._limit_s:
                raise _too_long_error(self.settings)

    def _read_on(self, parts: Sequence[RecordingFile], cleaners: Mapping[int, _TrackCleaner]) -> None:
        """Read the recordings that are joined to the first; each begins when the one before has ended."""
        n_lost = 0
        for part in parts:
            end_s = max(cleaner.time_s for cleaner in cleaners.values())
            try:
                with contextlib.closing(self._open(part)) as reader:
                    found = {
                        track.number: cleaners[track.number]
                        for track in reader.tracks
                        if track.number in cleaners and track.fault is None and _find_impossible(track) is None
                    }
                    for cleaner in found.values():
                        cleaner.begin_part(end_s, reader.tracks[cleaner.number - 1])
                    self._read(reader, found)
                    for cleaner in found.values():
                        cleaner.end_part(reader.tracks[cleaner.number - 1])
                    n_lost += not found
            except errors.JobError as error:
                if error.what == _too_long_error(self.settings).what:
                    raise
                n_lost += 1
        first = next(iter(cleaners.values()))
        first.note_joined(1 + len(parts), n_lost)

    def _cleaner(self, track: AudioTrack, n_left: int) -> _TrackCleaner:
        """Return the cleaner of a track; it is split where that is wanted and leaves room for tracks that follow."""
        n_most = self.files.n_free - n_left
        channels = self._all_channels(track)
        if self.wanted.is_split and track.channels > 1:
            n_apart = track.channels if track.channels <= n_most else n_most - 1
            channels = [slice(channel, channel + 1) for channel in range(n_apart)]
            if n_apart < track.channels:
                channels.append(slice(n_apart, None))
                which = f"Its channels {n_apart + 1} to" if n_apart else "Its"
                track.notes.append(
                    f"{which} {track.channels}{'' if n_apart else ' channels'} were mixed: there are too many to"
                    " transcribe each alone."
                )
        return _TrackCleaner(track, channels, [self.files.make_writer() for _ in channels], self.settings)

    def _all_channels(self, track: AudioTrack) -> list[slice]:
        """Return all channels of a track together, or the one that stands for all."""
        alone = self.alone.get(track.number)
        return [slice(None) if alone is None else slice(alone, alone + 1)]


class _TrackCleaner:
    """Cleans one track block by block, as one stream or as several, each of some channels."""

    def __init__(
        self,
        track: AudioTrack,
        channels: Sequence[slice],
        writers: Sequence[WaveformWriter | MixPart],
        settings: Preprocess,
    ) -> None:
        self._track = track
        self._levels = Levels(track.rate_hz, track.channels, has_headroom=track.codec in _FLOAT_CODECS)
        self._channels = channels
        self._streams = [StreamCleaner(track.rate_hz, writer, settings) for writer in writers]
        self._adapter: Adapter | None = None
        self._start_s: float | None = None
        self._paused_s = 0.0

    @property
    def time_s(self) -> float:
        """Time so far, from the start of the recording."""
        return self._paused_s + self._levels.duration_s

    @property
    def has_begun(self) -> bool:
        """Whether there was anything to decode."""
        return self._start_s is not None

    @property
    def number(self) -> int:
        """Number of the track."""
        return self._track.number

    def begin_part(self, start_s: float, track: AudioTrack) -> None:
        """Go on with the same track of a recording that is joined to the first, at `start_s`."""
        self._adapter = Adapter(track.rate_hz, self._track.rate_hz, self._track.channels)
        if start_s > self.time_s:
            self.pause(start_s - self.time_s)

    def end_part(self, track: AudioTrack) -> None:
        """Take over what is known of the joined recording at its end."""
        for block in self._adapter.drain() if self._adapter is not None else ():
            self._clean(block)
        self._adapter = None
        both = self._track.declared_s is not None and track.declared_s is not None
        self._track.declared_s = (self._track.declared_s or 0.0) + (track.declared_s or 0.0) if both else None
        self._track.is_damaged |= track.is_damaged
        self._track.notes += [note for note in track.notes if note not in self._track.notes]

    def note_joined(self, n_parts: int, n_lost: int) -> None:
        """Note that the file consists of several recordings, and how many of them could not be read."""
        if n_lost:
            self._track.is_damaged = True
            self._track.notes.append(f"The file holds {n_parts} recordings; {n_lost} of them could not be read.")
        else:
            self._track.notes.append(f"The file consists of {n_parts} recordings, one after the other.")

    def push(self, block: NDArray[np.float32]) -> None:
        """Clean a block, shape (channels, n)."""
        self._clean(block if self._adapter is None else self._adapter.push(block))

    def _clean(self, block: NDArray[np.float32]) -> None:
        if self._start_s is None:
            self._start_s = self.time_s
        block = self._levels.observe(block, self.time_s)
        floor = self._find_floor()
        for channels, stream in zip(self._channels, self._streams, strict=True):
            stream.push(mix_channels(block[channels]), floor)

    def _find_floor(self) -> float:
        """Return the level below which a channel is silent, as far as the other channels show."""
        if len(self._streams) == 1:
            return 0.0
        return min(SILENT_RMS, _UNUSED_SHARE * max(stream.dynamics.peak for stream in self._streams))

    def pause(self, duration_s: float) -> None:
        """Note that nothing was recorded for some time."""
        if self._start_s is not None and duration_s <= _MAX_STORED_PAUSE_S:
            n_left = round(duration_s * self._track.rate_hz)
            while n_left:  # at 768 kHz and 64 channels even seconds are large
                n_frames = min(n_left, max(1, BLOCK_VALUES // self._track.channels))
                self._clean(np.zeros((self._track.channels, n_frames), np.float32))
                n_left -= n_frames
            return
        self._paused_s += duration_s
        for stream in self._streams:
            stream.skip_to(self.time_s)

    def finish(self) -> CleanedTrack:
        """Return the cleaned track."""
        end_s, is_split = self.time_s, len(self._streams) > 1
        start_s = end_s if self._start_s is None else self._start_s
        finished = [
            CleanedStream(
                stream.finish(), channels.start + 1 if is_split and channels.stop is not None else None, stream.dynamics
            )
            for channels, stream in zip(self._channels, self._streams, strict=True)
        ]
        return CleanedTrack(self._track, tuple(finished), self._levels, start_s, end_s)


def _find_impossible(track: AudioTrack) -> errors.JobError | None:
    """Return why a track cannot be speech, or would take far too long; None for any other."""
    if not _MIN_RATE_HZ <= track.rate_hz <= _MAX_RATE_HZ:
        return errors.JobError(
            f"The file has a sample rate of {track.rate_hz} Hz; {_MIN_RATE_HZ} to {_MAX_RATE_HZ} Hz are supported.",
            "Export it at 16000 Hz or more.",
        )
    if not 1 <= track.channels <= _MAX_CHANNELS:
        return errors.JobError(
            f"The file has {track.channels} channels; 1 to {_MAX_CHANNELS} are supported.", "Mix it down first."
        )
    return None


def _too_long_error(settings: Preprocess) -> errors.JobError:
    return errors.JobError(
        f"The recording is longer than the limit of {settings.max_duration_h:g} hours.",
        "Cut it into parts, or raise preprocess.max_duration_h.",
    )
