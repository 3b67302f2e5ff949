"""The room that decoded audio takes is known before a recording is claimed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest

from daemon.config import Preprocess, Transcribe
from daemon.decode import AudioFiles, RecordingFile, open_unlinked, stored_bytes
from daemon.decode.room import measure_room
from daemon.frontend.messages import AudioReady, Decoding, Prepare, Ready
from daemon.frontend.preparing import find_streams
from daemon.frontend.process import AudioProcess
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


def test_unused_inputs_of_a_recorder_take_no_room_and_what_is_said_late_into_one_does(
    tmp_path: Path, front_end: FrontEnd
) -> None:
    n = 60 * S
    dither = np.random.default_rng(1).integers(-1, 2, (n, 8)).astype(np.float32) / 32_768
    dither[:, 0] += media.noise(60)
    dither[-S:, 7] += media.noise(1, level=0.01, seed=2)
    path = media.write_audio(tmp_path / "room.wav", dither, S)
    with front_end.prepare(path, Preprocess(), "off", asr=Transcribe(channels="split")) as prepared:
        taken = [512 * os.fstat(stream.waveform.file.fileno()).st_blocks for stream in prepared.streams]
        late = prepared.streams[7].waveform
        assert late.level(n - S // 2, n) == pytest.approx(0.01, rel=0.1)
    assert taken[0] > 0.9 * stored_bytes(n)
    assert max(taken[1:7]) < 0.1 * stored_bytes(n)
    assert taken[7] < 0.2 * stored_bytes(n)


def test_time_limit_counts_the_audio_that_was_decoded_and_not_what_it_takes_on_the_disk(tmp_path: Path) -> None:
    path = media.write_audio(tmp_path / "silent.flac", np.zeros(600 * S, np.int16), S)
    process, decoded_s = AudioProcess(), [0.0]
    try:
        while not isinstance(process.channel.poll(0.25), Ready):
            assert process.is_alive()
        with RecordingFile.open(path) as source, open_unlinked(tmp_path) as file:
            process.channel.send(Prepare(Preprocess(), "energy", tmp_path), source.descriptor, file.fileno())
            while not isinstance(response := process.channel.poll(0.25), AudioReady):
                assert process.is_alive()
                decoded_s += [response.audio_s] if isinstance(response, Decoding) else []
            assert 512 * os.fstat(file.fileno()).st_blocks < 0.01 * stored_bytes(600 * S)
    finally:
        process.end()
    assert decoded_s == sorted(decoded_s)
    assert 500 <= decoded_s[-1] <= 600
