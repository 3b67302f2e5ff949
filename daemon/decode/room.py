"""How much room the audio of a recording takes on the disk, from what its headers say."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, Literal

from daemon import errors
from daemon.decode.packing import stored_bytes
from daemon.decode.readers import open_reader
from daemon.decode.tracks import choose
from daemon.decode.waveform import MAX_STREAMS, SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from daemon.decode.source import RecordingFile
    from daemon.decode.tracks import AudioTrack

_STEREO: Final = 2
# Where no length is declared: 32 kbit/s, which is little for a recording.
_BYTES_PER_S: Final = 4_000


def measure_room(
    source: RecordingFile,
    tracks: Literal["auto", "all"] | int,
    channels: Literal["auto", "mix", "split"],
    limit_s: float,
) -> int | None:
    """Return how many bytes the audio of a recording takes at most, by its headers.

    Silence and copies take less, and of joined files only the first is counted.

    Args:
        source: the recording.
        tracks: the setting `transcribe.tracks`.
        channels: the setting `transcribe.channels`.
        limit_s: the longest recording that is decoded.

    Returns:
        bytes, or None where it will not be decoded; decoding it says why.

    Raises:
        errors.TransientError: its disk or share does not respond.
    """
    try:
        with contextlib.closing(open_reader(source)) as reader:
            heard, _ = choose(reader.tracks, tracks)
    except errors.JobError:
        return None
    lengths_s = [
        min(source.size / _BYTES_PER_S if track.declared_s is None else track.declared_s, limit_s)
        for track in heard
        for _ in range(_count_streams(track, channels))
    ]
    # Those that are mixed together are as long as the longest of them.
    return sum(stored_bytes(round(each_s * SAMPLE_RATE_HZ)) for each_s in sorted(lengths_s)[-MAX_STREAMS:])


def _count_streams(track: AudioTrack, channels: Literal["auto", "mix", "split"]) -> int:
    """Return the most streams that a track becomes."""
    if channels == "split":
        return track.channels
    return _STEREO if channels == "auto" and track.channels == _STEREO else 1
