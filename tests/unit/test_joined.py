"""Files that hold several recordings, one after the other: all of them are read, or what is missing is said."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from daemon.config import Preprocess
from tests import media

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.transcript import Receipt

S = 16_000
FORMATS: dict[str, list[str]] = {
    "wav": [],
    "aiff": [],
    "w64": [],
    "caf": ["-c:a", "pcm_s16be"],
    "au": [],
    "m4a": ["-c:a", "aac"],
    "mov": ["-c:a", "pcm_s16le"],
    "mkv": ["-c:a", "aac"],
    "webm": ["-c:a", "libopus"],
    "wma": ["-c:a", "wmav2"],
    "avi": ["-c:a", "libmp3lame"],
    "mp3": ["-c:a", "libmp3lame"],
    "aac": ["-c:a", "aac"],
    "flac": [],
    "ogg": ["-c:a", "libvorbis"],
    "ts": ["-c:a", "mp2"],
    "mpg": ["-c:a", "mp2"],
    "flv": ["-c:a", "libmp3lame", "-ar", "44100"],
    "tta": [],
    "wv": ["-c:a", "wavpack"],
    "voc": ["-c:a", "pcm_s16le"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings in a folder: low.wav, 2.5 s of a low tone; high.wav, 1.5 s of a high one."""
    folder = tmp_path_factory.mktemp("joined")
    media.write_audio(folder / "low.wav", media.tone(2.5, S, 440), S)
    media.write_audio(folder / "high.wav", media.tone(1.5, S, 880), S)
    return folder


def encoded(folder: Path, name: str, ending: str) -> bytes:
    target = folder / f"{name}.{ending}"
    if not target.exists():
        media.ffmpeg("-i", folder / f"{name}.wav", *FORMATS[ending], target)
    return target.read_bytes()


def read(path: Path) -> tuple[list[int], Receipt]:
    """Return the pitches in Hz at 1 s and at 0.75 s before the end, and the receipt."""
    waveform, receipt = media.decode(path, Preprocess(), path.parent)
    with waveform:
        sound = media.samples_of(waveform)
    windows = [sound[start : start + S // 2] for start in (S, len(sound) - S)]
    return [2 * int(np.abs(np.fft.rfft(window)).argmax()) for window in windows], receipt


@pytest.mark.parametrize("ending", FORMATS)
def test_joined_recordings_are_read_one_after_the_other(ending: str, folder: Path) -> None:
    path = folder / f"joined.{ending}"
    path.write_bytes(encoded(folder, "low", ending) + encoded(folder, "high", ending))
    pitches, receipt = read(path)
    assert pitches == [440, 880]
    assert receipt.duration_s == pytest.approx(4.0, abs=0.3)
    assert receipt.is_complete
    assert [note for note in receipt.notes if "one after the other" not in note] == []


def test_recordings_of_different_formats_rates_and_channels_are_joined(folder: Path) -> None:
    media.ffmpeg("-i", folder / "high.wav", "-ar", "44100", "-ac", "2", "-c:a", "aac", folder / "stereo.m4a")
    padding = b"\0" * 5000 + b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)
    path = folder / "mixed.wav"
    path.write_bytes(encoded(folder, "low", "wav") + padding + (folder / "stereo.m4a").read_bytes())
    pitches, receipt = read(path)
    assert pitches == [440, 880]
    assert (receipt.channels, receipt.sample_rate_hz) == (1, S)
    assert receipt.is_complete


def with_two_chunks(first: bytes, second: bytes) -> bytes:
    between = b"LIST" + struct.pack("<I", 4) + b"INFO"
    content = first + between + second[second.index(b"data") :]
    return content[:4] + struct.pack("<I", len(content) - 8) + content[8:]


def test_wav_with_two_chunks_of_samples_is_read_whole(folder: Path) -> None:
    path = folder / "two-chunks.wav"
    path.write_bytes(with_two_chunks(encoded(folder, "low", "wav"), encoded(folder, "high", "wav")))
    pitches, receipt = read(path)
    assert pitches == [440, 880]
    assert receipt.duration_s == pytest.approx(4.0, abs=0.01)
    assert receipt.is_complete


def test_joined_recording_that_cannot_be_read_makes_the_transcript_incomplete(folder: Path) -> None:
    second = encoded(folder, "high", "m4a")
    path = folder / "lost.wav"
    path.write_bytes(encoded(folder, "low", "wav") + second[: second.index(b"moov")])
    _, receipt = read(path)
    assert receipt.duration_s == pytest.approx(2.5, abs=0.01)
    assert not receipt.is_complete
    assert "The file holds 2 recordings; 1 of them could not be read." in receipt.notes


def test_other_bytes_after_a_recording_are_left_alone(folder: Path) -> None:
    path = folder / "tail.aiff"
    path.write_bytes(encoded(folder, "low", "aiff") + b"\0" * 100 + b"some notes of the recorder" * 10)
    _, receipt = read(path)
    assert receipt.duration_s == pytest.approx(2.5, abs=0.01)
    assert receipt.is_complete
    assert receipt.notes == ()
