"""Files that hold several recordings, one after the other: all of them are read, or what is missing is said."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from tests import media, tones
from tests.tones import encoded, read

if TYPE_CHECKING:
    from pathlib import Path

S = 16_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tones.write(tmp_path_factory.mktemp("joined"))


@pytest.mark.parametrize("ending", tones.FORMATS)
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
