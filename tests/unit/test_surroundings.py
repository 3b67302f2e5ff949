"""Junk and tags around recordings, other recordings behind them, headers that were never finished, and lost sound."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest

from daemon import errors
from daemon.decode import RecordingFile, signatures
from tests import media, tones
from tests.tones import S, encoded

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.transcript import Receipt

ID3V1 = b"TAG" + b"a title".ljust(125)
APE = b"APETAGEX" + struct.pack("<4IQ", 2000, 72, 1, 0xA0000000, 0) + bytes(40)
APE += b"APETAGEX" + struct.pack("<4IQ", 2000, 72, 1, 0x80000000, 0)
DOWNLOAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n"
JUNK = random.Random(1).randbytes(3000)  # noqa: S311  # bytes keep no secret
NOTES = b"These are some notes of the recorder.\r\n" * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tones.write(tmp_path_factory.mktemp("surroundings"))


def read(folder: Path, name: str, content: bytes) -> tuple[list[int], Receipt]:
    """Read a file with some content: the pitches at its beginning and end, and the receipt."""
    path = folder / name
    path.write_bytes(content)
    return tones.read(path)


def assert_whole(receipt: Receipt, duration_s: float = 2.5) -> None:
    assert receipt.duration_s == pytest.approx(duration_s, abs=0.25)
    assert receipt.is_complete
    assert [note for note in receipt.notes if "one after the other" not in note] == []


@pytest.mark.parametrize("before", [bytes(512), DOWNLOAD, JUNK[:700], APE, ID3V1], ids=len)
@pytest.mark.parametrize("ending", tones.FORMATS)
def test_bytes_before_the_audio_change_nothing(ending: str, before: bytes, folder: Path) -> None:
    content = encoded(folder, "low", ending)
    if ending == "ts" and len(before) % 188:
        before = before[: len(before) // 188 * 188]  # FFmpeg finds the packets of a stream only where they belong
    assert_whole(read(folder, f"before.{ending}", before + content)[1])


@pytest.mark.parametrize("after", [bytes(4096), NOTES, JUNK, APE, ID3V1], ids=len)
@pytest.mark.parametrize("ending", tones.FORMATS)
def test_bytes_after_the_audio_are_not_damage(ending: str, after: bytes, folder: Path) -> None:
    alone = read(folder, f"alone.{ending}", encoded(folder, "low", ending))[1]
    receipt = read(folder, f"after.{ending}", encoded(folder, "low", ending) + after)[1]
    assert_whole(receipt)
    assert receipt.duration_s == pytest.approx(alone.duration_s, abs=0.03)
    assert receipt.peak_dbfs == pytest.approx(alone.peak_dbfs, abs=0.5)


@pytest.mark.parametrize("first", ["wav", "caf", "m4a", "mp3", "aac", "ac3", "flac", "ogg", "opus", "ts", "wv"])
@pytest.mark.parametrize("second", ["wav", "mp3", "flac", "ogg", "m4a"])
def test_recordings_in_different_formats_are_read_one_after_the_other(first: str, second: str, folder: Path) -> None:
    content = encoded(folder, "low", first) + encoded(folder, "high", second)
    pitches, receipt = read(folder, f"joined.{first}", content)
    assert pitches == [440, 880]
    assert_whole(receipt, 4.0)


@pytest.mark.parametrize("second", ["ogg", "opus", "spx", "oga"])
@pytest.mark.parametrize("first", ["ogg", "opus", "spx", "oga"])
def test_chained_ogg_streams_may_change_their_codec(first: str, second: str, folder: Path) -> None:
    content = encoded(folder, "low", first) + encoded(folder, "high", second)
    pitches, receipt = read(folder, "chained.ogg", content)
    assert pitches == [440, 880]
    assert_whole(receipt, 4.0)


def test_long_recording_in_front_of_another_is_searched_whole(folder: Path) -> None:
    media.write_audio(folder / "noise.flac", media.noise(60), S)  # 1.6 MB: more than is read at once
    content = (folder / "noise.flac").read_bytes() + encoded(folder, "high", "wav")
    pitches, receipt = read(folder, "long.flac", content)
    assert pitches[1] == 880
    assert_whole(receipt, 61.5)


def unfinished(folder: Path, ending: str, *sizes: tuple[int, int, bytes]) -> bytes:
    """The low tone with some sizes overwritten: each (offset, -1 for that of the audio chunk; shift; bytes)."""
    content = bytearray(encoded(folder, "low", ending))
    audio = content.find(b"data")
    for offset, shift, size in sizes:
        at = (audio if offset < 0 else offset) + shift
        content[at : at + len(size)] = size
    return bytes(content)


@pytest.mark.parametrize("size", [bytes(8), b"\xff" * 8, b"\xff" * 7 + b"\x7f", struct.pack("<Q", 24)], ids=bytes.hex)
def test_unfinished_w64_is_read_whole(size: bytes, folder: Path) -> None:
    assert_whole(read(folder, "unfinished.w64", unfinished(folder, "w64", (16, 0, size), (-1, 16, size)))[1])


@pytest.mark.parametrize("size", [bytes(8), b"\xff" * 8, b"\x7f" + b"\xff" * 7], ids=bytes.hex)
def test_unfinished_caf_is_read_whole(size: bytes, folder: Path) -> None:
    assert_whole(read(folder, "unfinished.caf", unfinished(folder, "caf", (-1, 4, size)))[1])


@pytest.mark.parametrize("size", [bytes(4), b"\xff" * 4], ids=bytes.hex)
def test_unfinished_au_and_avi_are_read_whole(size: bytes, folder: Path) -> None:
    assert_whole(read(folder, "unfinished.au", unfinished(folder, "au", (8, 0, size)))[1])
    avi = bytearray(encoded(folder, "low", "avi"))
    del avi[avi.index(b"idx1") :]
    avi[4:8] = avi[avi.index(b"movi") - 4 : avi.index(b"movi")] = size
    assert_whole(read(folder, "unfinished.avi", bytes(avi))[1])


@pytest.mark.parametrize("size", [bytes(8), b"\xff" * 8], ids=bytes.hex)
def test_unfinished_rf64_is_read_whole(size: bytes, folder: Path) -> None:
    media.ffmpeg("-i", folder / "low.wav", "-rf64", "always", folder / "rf64.wav")
    content = bytearray((folder / "rf64.wav").read_bytes())
    content[20:36] = 2 * size
    assert_whole(read(folder, "unfinished.wav", bytes(content))[1])


@pytest.mark.parametrize(("ending", "name", "order"), [("wav", b"data", "<I"), ("aiff", b"SSND", ">I")])
def test_odd_chunk_without_its_padding_byte_is_skipped(ending: str, name: bytes, order: str, folder: Path) -> None:
    content = encoded(folder, "low", ending)
    at = content.index(name)
    chunk = b"NAME" + struct.pack(order, 7) + b"a title"[:7]
    _, receipt = read(folder, f"odd.{ending}", content[:at] + chunk + content[at:])
    assert_whole(receipt)


@pytest.mark.parametrize("ending", ["wav", "aiff", "w64", "caf", "au", "voc", "flac", "ogg", "mp3", "webm", "tta"])
def test_recording_that_was_cut_off_is_incomplete(ending: str, folder: Path) -> None:
    content = encoded(folder, "low", ending)
    _, receipt = read(folder, f"cut.{ending}", content[: 8 * len(content) // 10])
    assert not receipt.is_complete
    assert receipt.notes


@pytest.mark.parametrize("ending", ["ts", "tta", "ac3", "mp3", "aac"])
@pytest.mark.parametrize("hole", [bytes(2000), JUNK[:400]], ids=len)
def test_hole_in_the_middle_is_damage(ending: str, hole: bytes, folder: Path) -> None:
    content = bytearray(encoded(folder, "low", ending))
    middle = len(content) // 2
    content[middle : middle + len(hole)] = hole
    _, receipt = read(folder, f"hole.{ending}", bytes(content))
    assert not receipt.is_complete
    assert any("damaged" in note for note in receipt.notes)


def test_lost_packets_of_a_transport_stream_are_damage(folder: Path) -> None:
    content = encoded(folder, "low", "ts")
    middle = len(content) // 376 * 188
    assert not read(folder, "lost.ts", content[:middle] + content[middle + 20 * 188 :])[1].is_complete


def test_scrambled_transport_stream_is_named(folder: Path) -> None:
    content = bytearray(encoded(folder, "low", "ts"))
    for at in range(0, len(content), 188):
        if (content[at + 1] & 0x1F) << 8 | content[at + 2] == 0x100:
            content[at + 3] |= 0x80
    with pytest.raises(errors.JobError, match="protected"):
        read(folder, "scrambled.ts", bytes(content))


def test_bytes_that_resemble_a_frame_are_not_several_in_a_row(folder: Path) -> None:
    path = folder / "chance.bin"
    path.write_bytes(bytes(100) + b"\xff\xfb\x90\x64" + JUNK)
    with RecordingFile.open(path) as source:
        assert signatures.find_frames(source, 0, path.stat().st_size) is None
