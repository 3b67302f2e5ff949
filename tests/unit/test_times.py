"""Late starts, pauses of the recorder and broken clocks: times are those that a player shows."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from daemon.config import Preprocess
from daemon.decode import AudioFiles, RecordingFile
from daemon.decode.asf import has_lost_packets
from daemon.decode.frames import Clock
from daemon.frontend.messages import Prepare
from daemon.frontend.preparing import find_streams
from tests import media

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.transcript import Receipt

S = 16_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("times")
    media.write_audio(folder / "first.wav", media.tone(2.5, S, 440), S)
    media.write_audio(folder / "second.wav", media.tone(1.5, S, 880), S)
    return folder


def read(path: Path) -> tuple[list[float], int, Receipt]:
    """Return the edges of the recorded pieces in seconds, the bytes on the disk, and the receipt."""
    waveform, receipt = media.decode(path, Preprocess(), path.parent)
    with waveform:
        edges = [edge / S for piece in waveform.pieces for edge in piece]
        return edges, 512 * os.fstat(waveform.file.fileno()).st_blocks, receipt


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "mpg", "wmv", "avi"])
def test_sound_that_starts_long_after_the_picture_keeps_its_time(ending: str, folder: Path) -> None:
    picture = ["-f", "lavfi", "-i", "color=s=64x64:r=2:d=48"]
    sound = ["-itsoffset", "45", "-i", str(folder / "first.wav")]
    path = folder / f"late.{ending}"
    video = {"mpg": ["mpeg1video", "-r", "25"], "wmv": ["wmv2"]}.get(ending, ["mpeg4"])
    audio = {"mpg": "mp2", "wmv": "wmav2", "avi": "libmp3lame"}.get(ending, "aac")
    media.ffmpeg(*picture, *sound, "-map", "0", "-map", "1", "-c:v", *video, "-c:a", audio, path)
    edges, _, receipt = read(path)
    assert edges == pytest.approx([45, 47.5], abs=0.1)
    assert receipt.tracks[0].start_s == pytest.approx(45, abs=0.1)
    assert receipt.is_complete
    assert receipt.notes == ()


def test_clock_that_does_not_begin_at_0_is_not_missing_audio(folder: Path) -> None:
    path = folder / "offset.mka"
    media.ffmpeg("-itsoffset", "3", "-i", folder / "first.wav", "-c:a", "aac", path)
    edges, _, receipt = read(path)
    assert edges == pytest.approx([0, 2.5], abs=0.2)
    assert receipt.is_complete


def test_codec_tag_without_letters_is_read(folder: Path) -> None:
    path = folder / "aac.asf"
    media.ffmpeg("-i", folder / "first.wav", "-c:a", "aac", "-f", "asf", path)
    assert read(path)[2].is_complete


def test_pause_in_an_ogg_file_is_not_a_lost_page(folder: Path) -> None:
    sounds = ["-i", str(folder / "first.wav"), "-itsoffset", "6", "-i", str(folder / "second.wav")]
    path = folder / "two.ogg"
    media.ffmpeg(*sounds, "-map", "0", "-map", "1", "-c:a", "libvorbis", path)
    with RecordingFile.open(path) as source:
        request = Prepare(Preprocess(), "off", folder)
        with AudioFiles(folder) as files:
            streams, receipt = find_streams(source, files, request)
    for stream in streams:
        stream.waveform.close()
    assert [track.start_s for track in receipt.tracks] == pytest.approx([0, 6], abs=0.1)
    assert receipt.is_complete


@pytest.mark.parametrize("pause_s", [50, 72_000])
def test_pause_of_the_recorder_keeps_its_time_and_takes_no_room(pause_s: int, folder: Path) -> None:
    for name in ("first", "second"):
        media.ffmpeg("-i", folder / f"{name}.wav", "-c:a", "libopus", folder / f"{name}.mka")
    (folder / "list.txt").write_text(f"file first.mka\nduration {pause_s}\nfile second.mka\n")
    path = folder / f"paused-{pause_s}.webm"
    media.ffmpeg("-f", "concat", "-i", folder / "list.txt", "-c", "copy", path)
    edges, n_bytes, receipt = read(path)
    assert edges == pytest.approx([0, 2.5, pause_s, pause_s + 1.5], abs=0.1)
    assert receipt.duration_s == pytest.approx(pause_s + 1.5, abs=0.1)
    assert n_bytes < 1 << 20
    assert receipt.is_complete
    assert not any("time stamps" in note or "could be read" in note for note in receipt.notes)


def paused(folder: Path, ending: str, codec: str) -> Path:
    """Two sounds of 2.5 s and 1.5 s in one file, 50 s from start to start."""
    for name in ("first", "second"):
        media.ffmpeg("-i", folder / f"{name}.wav", "-ar", "48000", "-c:a", codec, folder / f"{name}-{codec}.mka")
    (folder / "pause.txt").write_text(f"file first-{codec}.mka\nduration 50\nfile second-{codec}.mka\n")
    path = folder / f"pause-{codec}.{ending}"
    media.ffmpeg("-f", "concat", "-i", folder / "pause.txt", "-c", "copy", path)
    return path


@pytest.mark.parametrize(
    ("ending", "codec"),
    [
        ("avi", "libmp3lame"),
        ("avi", "ac3"),
        ("wma", "wmav2"),
        ("asf", "libmp3lame"),
        ("ogg", "libopus"),
        ("ogg", "libvorbis"),
        ("oga", "flac"),
        ("mov", "aac"),
        ("mkv", "ac3"),
    ],
)
def test_pause_keeps_its_place_in_every_container_and_is_no_damage(ending: str, codec: str, folder: Path) -> None:
    edges, _, receipt = read(paused(folder, ending, codec))
    assert edges == pytest.approx([0, 2.5, 50, 51.5], abs=0.1)
    assert receipt.is_complete
    assert receipt.notes == ()


def test_windows_media_file_without_one_of_its_packets_is_damaged(folder: Path) -> None:
    content = paused(folder, "wma", "wmav2").read_bytes()
    start = struct.unpack("<Q", content[16:24])[0] + 50
    n_bytes = 3200
    assert (len(content) - start) // n_bytes > 10
    path = folder / "lost.wma"
    path.write_bytes(content[: start + 4 * n_bytes] + content[start + 6 * n_bytes :])
    assert not read(path)[2].is_complete


def asf(*numbers: int) -> bytes:
    """A Windows Media file whose packets hold three small objects each; the first of each has the given number."""
    properties = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365") + struct.pack("<Q", 104) + bytes(68)
    properties += struct.pack("<3I", 64, 64, 1000)
    guid = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
    packets = b""
    for number in numbers:
        packet = bytes([0x82, 0, 0, 0x08, 0x5D, 9]) + bytes(6)  # nine bytes of padding
        packet += bytes([1, number]) + bytes(4) + bytes([1, 20])  # the times of the objects are 20 ms apart
        packet += (b"\x0a" + bytes(10)) * 2 + b"\x0c" + bytes(12)
        packets += packet.ljust(64, b"\0")
    data = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c") + struct.pack("<Q", 50 + len(packets)) + bytes(26)
    header = guid + struct.pack("<QIH", 30 + len(properties), 1, 0x201)
    return header + properties + data + packets


@pytest.mark.parametrize(("numbers", "is_lost"), [((254, 1, 4), False), ((0, 3, 9), True), ((0, 3, 3), True)])
def test_small_objects_of_windows_media_are_counted_in_their_packets(
    numbers: tuple[int, ...],
    is_lost: bool,  # noqa: FBT001  # a parameter of the test
    tmp_path: Path,
) -> None:
    (tmp_path / "small.wma").write_bytes(asf(*numbers))
    with RecordingFile.open(tmp_path / "small.wma") as source:
        assert has_lost_packets(source) == is_lost


@pytest.mark.parametrize(("ending", "codec"), [("ts", "mp2"), ("ts", "aac"), ("mpg", "mp2")])
def test_joined_broadcasts_a_few_seconds_apart_keep_the_pause(ending: str, codec: str, folder: Path) -> None:
    parts = []
    for name, offset_s in (("first", "0"), ("second", "8")):
        path = folder / f"{name}-joined.{ending}"
        media.ffmpeg("-i", folder / f"{name}.wav", "-c:a", codec, "-output_ts_offset", offset_s, path)
        parts.append(path.read_bytes())
    (folder / f"apart-{codec}.{ending}").write_bytes(b"".join(parts))
    edges, _, receipt = read(folder / f"apart-{codec}.{ending}")
    assert edges[-1] == pytest.approx(9.5, abs=0.6)  # ffmpeg moves the clock of the first file by up to half a second
    assert receipt.is_complete
    assert receipt.notes == ()


def test_jump_of_the_clock_in_a_broadcast_is_joined_and_noted(folder: Path) -> None:
    for name, offset_s in (("first", "0"), ("second", "500")):
        source = folder / f"{name}.wav"
        media.ffmpeg("-i", source, "-c:a", "mp2", "-output_ts_offset", offset_s, folder / f"{name}.ts")
    (folder / "jump.ts").write_bytes((folder / "first.ts").read_bytes() + (folder / "second.ts").read_bytes())
    _, _, receipt = read(folder / "jump.ts")
    assert receipt.duration_s == pytest.approx(4, abs=0.1)
    assert receipt.is_complete
    assert any("time stamps of the file jump once" in note for note in receipt.notes)


def checksum(page: bytes) -> int:
    """The checksum of an Ogg page (RFC 3533)."""
    register = 0
    for byte in page:
        register ^= byte << 24
        for _ in range(8):
            register = (register << 1 ^ (0x04C11DB7 if register & 0x80000000 else 0)) & 0xFFFFFFFF
    return register


def rewrite_pages(content: bytes, *, later_s: int, has_end: bool) -> bytes:
    """Move the times of an Ogg Opus stream, and take away the mark of its last page."""
    pages: list[bytearray] = []
    while content:
        n_bytes = 27 + content[26] + sum(content[27 : 27 + content[26]])
        pages.append(bytearray(content[:n_bytes]))
        content = content[n_bytes:]
    for page in pages[2:]:
        page[6:14] = struct.pack("<q", struct.unpack("<q", page[6:14])[0] + 48_000 * later_s)
    if not has_end:
        pages[-1][5] &= ~4
    for page in pages:
        page[22:26] = bytes(4)
        page[22:26] = struct.pack("<I", checksum(bytes(page)))
    return b"".join(pages)


@pytest.mark.parametrize(("later_s", "has_end"), [(600, True), (0, False), (600, False)])
def test_ogg_that_was_cut_out_of_a_longer_stream_is_whole(later_s: int, has_end: bool, folder: Path) -> None:  # noqa: FBT001  # a parameter of the test
    media.ffmpeg("-i", folder / "first.wav", "-c:a", "libopus", folder / "whole.opus")
    path = folder / "cut.opus"
    path.write_bytes(rewrite_pages((folder / "whole.opus").read_bytes(), later_s=later_s, has_end=has_end))
    _, _, receipt = read(path)
    assert receipt.duration_s == pytest.approx(2.5, abs=0.05)
    assert receipt.is_complete
    assert receipt.notes == ()


@dataclass
class Frame:
    """What a clock looks at in a decoded frame: a second of audio at a time stamp in milliseconds."""

    pts: int | None
    samples: int = S
    sample_rate: int = S


def gaps(clock: Clock, *stamps_ms: int | None) -> list[float]:
    return [round(clock.advance(Frame(stamp)), 3) for stamp in stamps_ms]


def test_pause_beyond_the_longest_recording_is_a_broken_clock() -> None:
    clock = Clock("matroska,webm", "opus", 0, 0.001, limit_s=100.0)
    assert gaps(clock, 0, 90_000, 200_000, 201_000) == [0, 89, 0, 0]
    assert clock.n_jumps == 1


def test_time_stamps_of_wma_lossless_are_no_pauses() -> None:
    """One time stamp for several frames: FFmpeg gives them to the wrong ones."""
    assert gaps(Clock("asf", "wmalossless", 0, 0.001, 100.0), 0, 3_000, 2_000) == [0, 0, 0]
    assert gaps(Clock("asf", "wmav2", 0, 0.001, 100.0), 0, 3_000) == [0, 2]


def test_late_start_of_a_broadcast_is_no_jump() -> None:
    clock = Clock("mpegts", "mp2", 0, 0.001, limit_s=1000.0)
    assert gaps(clock, 45_000, 46_000, 600_000, 20_000) == [45, 0, 0, 0]
    assert clock.n_jumps == 2
