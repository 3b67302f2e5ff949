"""The room that decoded audio takes is known before a recording is claimed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest

from daemon.config import Preprocess, Transcribe
from daemon.decode import AudioFiles, RecordingFile, stored_bytes
from daemon.decode.room import measure_room
from daemon.frontend.messages import Prepare
from daemon.frontend.preparing import find_streams
from tests import media

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.frontend import FrontEnd

S = 16_000
DAY_S = 24 * 3600.0


def record(path: Path, n_tracks: int, n_channels: int, seconds: float) -> Path:
    """Write a recording in which every channel has noise of its own."""
    inputs: list[str] = []
    for track in range(n_tracks):
        wav = path.with_name(f"{path.stem}-{track}.wav")
        sound = np.stack([media.noise(seconds, seed=8 * track + channel) for channel in range(n_channels)])
        inputs += ["-i", str(media.write_audio(wav, sound.T, S))]
    maps = [word for track in range(n_tracks) for word in ("-map", str(track))]
    media.ffmpeg(*inputs, *maps, "-c:a", "pcm_s16le", path)
    return path


@pytest.mark.parametrize(
    ("n_tracks", "n_channels", "channels", "n_streams"),
    [
        (1, 1, "auto", 1),
        (1, 2, "mix", 1),
        (1, 2, "split", 2),
        (4, 1, "auto", 4),
        (4, 2, "split", 8),
        (1, 8, "split", 8),
    ],
)
def test_headers_tell_how_much_room_the_audio_will_take(
    n_tracks: int, n_channels: int, channels: Literal["mix", "split"], n_streams: int, tmp_path: Path
) -> None:
    path = record(tmp_path / "wide.mkv", n_tracks, n_channels, 4)
    with RecordingFile.open(path) as source, AudioFiles(tmp_path) as files:
        expected = measure_room(source, "auto", channels, DAY_S)
        streams, _ = find_streams(source, files, Prepare(Preprocess(), "off", tmp_path, "auto", channels))
    taken = sum(os.fstat(stream.waveform.file.fileno()).st_size for stream in streams)
    for stream in streams:
        stream.waveform.close()
    assert len(streams) == n_streams
    assert expected == pytest.approx(taken, rel=0.02)


def test_call_may_become_two_streams_and_a_meeting_with_many_channels_no_more_than_eight(tmp_path: Path) -> None:
    def measure(path: Path, channels: Literal["auto", "split"]) -> int | None:
        with RecordingFile.open(path) as source:
            return measure_room(source, "auto", channels, DAY_S)

    assert measure(record(tmp_path / "call.mkv", 1, 2, 4), "auto") == pytest.approx(2 * stored_bytes(4 * S), rel=0.02)
    assert measure(record(tmp_path / "room.mkv", 5, 2, 4), "split") == pytest.approx(8 * stored_bytes(4 * S), rel=0.02)


def test_what_will_not_be_decoded_needs_no_room(tmp_path: Path, front_end: FrontEnd) -> None:
    (tmp_path / "notes.txt").write_text("nothing to hear")
    assert front_end.measure_room(tmp_path / "notes.txt", Preprocess(), Transcribe()) is None


def test_room_is_measured_in_an_audio_process_for_the_tracks_that_are_asked_for(
    tmp_path: Path, front_end: FrontEnd
) -> None:
    path = record(tmp_path / "tracks.mkv", 3, 1, 4)
    one, three = (
        front_end.measure_room(path, Preprocess(), Transcribe(tracks=tracks, channels="split")) for tracks in (2, "all")
    )
    assert one == pytest.approx(stored_bytes(4 * S), rel=0.02)
    assert three == pytest.approx(3 * stored_bytes(4 * S), rel=0.02)
