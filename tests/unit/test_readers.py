"""Every format that people drop, and every way in which a file can be broken."""

from __future__ import annotations

import os
import socket
import struct
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest

from daemon import errors
from daemon.config import Preprocess
from daemon.decode import NotARecordingError
from daemon.decode.containers import ContainerReader
from daemon.decode.source import RecordingFile
from tests import media
from tests.media import decode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from daemon.frontend import FrontEnd
    from daemon.transcript import Receipt

RATE_HZ = 44_100
STORED_STEP = 2**-15  # decoded audio is stored in 16 bits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def speech(folder: Path) -> Path:
    """Six seconds of speech as 44.1 kHz stereo, as most recorders write it."""
    media.sox(media.speak(folder / "spoken.wav"), "-r", str(RATE_HZ), "-c", "2", folder / "speech.wav", "gain", "-6")
    return folder / "speech.wav"


@pytest.fixture(scope="module")
def clean(speech: Path, folder: Path) -> NDArray[np.float32]:
    return clean_audio(speech, folder)[0]


def clean_audio(path: Path, cache: Path, **settings: float | str) -> tuple[NDArray[np.float32], Receipt]:
    waveform, receipt = decode(path, Preprocess.model_validate(settings), cache, lambda: None)
    with waveform:
        return media.samples_of(waveform), receipt


def encoded(speech: Path, name: str, *encoding: str) -> Path:
    """The speech in another format, made once."""
    target = speech.with_name(name)
    if not target.exists():
        media.ffmpeg("-i", speech, *encoding, target)
    return target


def refusal(path: Path, **settings: float | str) -> errors.JobError:
    with pytest.raises(errors.JobError) as caught:
        clean_audio(path, path.parent, **settings)
    assert caught.value.what.endswith(".")
    assert caught.value.remedy.endswith(".")
    return caught.value


FORMATS: dict[str, tuple[str, list[str]]] = {
    "16 bit": ("s16.wav", ["-c:a", "pcm_s16le"]),
    "8 bit": ("u8.wav", ["-c:a", "pcm_u8"]),
    "24 bit": ("s24.wav", ["-c:a", "pcm_s24le"]),
    "32 bit": ("s32.wav", ["-c:a", "pcm_s32le"]),
    "float": ("f32.wav", ["-c:a", "pcm_f32le"]),
    "double": ("f64.wav", ["-c:a", "pcm_f64le"]),
    "A-law": ("alaw.wav", ["-c:a", "pcm_alaw"]),
    "mu-law": ("ulaw.au", ["-c:a", "pcm_mulaw"]),
    "Microsoft ADPCM": ("ms.wav", ["-c:a", "adpcm_ms"]),
    "IMA ADPCM": ("ima.wav", ["-c:a", "adpcm_ima_wav"]),
    "RF64": ("rf64.wav", ["-rf64", "always"]),
    "W64": ("t.w64", []),
    "MP3 in WAV": ("mp3.wav", ["-c:a", "libmp3lame"]),
    "aiff": ("t.aiff", []),
    "A-law in aifc": ("alaw.aifc", ["-c:a", "pcm_alaw"]),
    "caf": ("t.caf", ["-c:a", "pcm_s16be"]),
    "ALAC in caf": ("alac.caf", ["-c:a", "alac"]),
    "flac": ("t.flac", []),
    "flac in Ogg": ("flac.ogg", ["-c:a", "flac"]),
    "mp3": ("t.mp3", ["-c:a", "libmp3lame"]),
    "mp3 without a length": ("noxing.mp3", ["-c:a", "libmp3lame", "-write_xing", "0"]),
    "mp2": ("t.mp2", ["-c:a", "mp2"]),
    "ogg": ("t.ogg", ["-c:a", "libvorbis"]),
    "oga": ("t.oga", ["-c:a", "libvorbis"]),
    "opus": ("t.opus", ["-c:a", "libopus"]),
    "m4a": ("t.m4a", ["-c:a", "aac"]),
    "ALAC in m4a": ("alac.m4a", ["-c:a", "alac"]),
    "aac": ("t.aac", ["-c:a", "aac"]),
    "mov": ("t.mov", ["-c:a", "pcm_s16le"]),
    "IMA ADPCM in mov": ("ima.mov", ["-c:a", "adpcm_ima_qt"]),
    "mp4": ("t.mp4", ["-c:a", "aac"]),
    "3gp": ("aac.3gp", ["-c:a", "aac"]),
    "mkv": ("t.mkv", ["-c:a", "aac"]),
    "webm": ("t.webm", ["-c:a", "libopus"]),
    "wma": ("t.wma", ["-c:a", "wmav2"]),
    "avi": ("t.avi", ["-c:a", "libmp3lame"]),
    "ts": ("t.ts", ["-c:a", "aac"]),
    "opus in ts": ("opus.ts", ["-c:a", "libopus"]),
    "ac3": ("t.ac3", ["-c:a", "ac3"]),
    "eac3": ("t.eac3", ["-c:a", "eac3"]),
    "mpg": ("t.mpg", ["-c:a", "mp2"]),
    "vob": ("t.vob", ["-c:a", "ac3", "-ar", "48000"]),
    "mxf": ("t.mxf", ["-f", "lavfi", "-i", "testsrc=s=64x48:r=25", "-shortest", "-c:a", "pcm_s16le", "-ar", "48000"]),
    "flv": ("t.flv", ["-c:a", "libmp3lame"]),
    "WavPack": ("t.wv", ["-c:a", "wavpack"]),
    "TTA": ("t.tta", ["-c:a", "tta"]),
    "VOC": ("t.voc", ["-c:a", "pcm_s16le"]),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_keeps_its_audio_and_length(
    name: str, speech: Path, clean: NDArray[np.float32], folder: Path, front_end: FrontEnd
) -> None:
    ending, encoding = FORMATS[name]
    path = encoded(speech, ending, *encoding)
    audio, receipt = clean_audio(path, folder)
    assert media.similarity(clean, audio) > 0.97
    assert abs(len(audio) - len(clean)) < 0.05 * 16_000
    assert receipt.channels == 2
    assert receipt.is_complete
    assert receipt.notes == ()
    assert front_end.is_recording(path)


def write_dsf(target: Path, samples: NDArray[np.float32]) -> Path:
    """Write mono audio at 44.1 kHz as DSD: of the 64 bits for each sample, as many are 1 as its level asks for."""
    n_ones = np.round((samples * 0.5 + 0.5) * 64).astype(np.int64)
    steps = np.arange(64) * n_ones[:, None]
    bits = (steps % 64) + n_ones[:, None] > 63  # spread evenly
    content = np.packbits(bits.reshape(-1), bitorder="little").tobytes()
    content += bytes(-len(content) % 4096)
    form = struct.pack("<4sQIIIIIIQII", b"fmt ", 52, 1, 0, 1, 1, 64 * RATE_HZ, 1, 64 * len(samples), 4096, 0)
    data = struct.pack("<4sQ", b"data", 12 + len(content)) + content
    target.write_bytes(struct.pack("<4sQQQ", b"DSD ", 28, 28 + len(form) + len(data), 0) + form + data)
    return target


def test_dsd_is_decoded(speech: Path, clean: NDArray[np.float32], tmp_path: Path) -> None:
    samples, _ = media.read_audio(speech)
    audio, receipt = clean_audio(write_dsf(tmp_path / "t.dsf", samples[:, 0]), tmp_path)
    assert media.similarity(clean, audio) > 0.9  # with the noise of such coarse DSD
    assert receipt.is_complete
    assert receipt.notes == ()


TAGGED = ("t.wv", "t.tta", "t.wav", "t.flac", "t.aiff", "t.m4a", "t.ogg")


@pytest.mark.parametrize("name", TAGGED)
def test_id3_tag_before_any_format_changes_nothing(
    name: str, speech: Path, clean: NDArray[np.float32], folder: Path
) -> None:
    encoding = {"t.wv": ["-c:a", "wavpack"], "t.m4a": ["-c:a", "aac"], "t.ogg": ["-c:a", "libvorbis"]}.get(name, [])
    content = encoded(speech, name, *encoding).read_bytes()
    tag = b"ID3\x04\0\0" + bytes([0, 0, 8, 0]) + b"TIT2" + bytes(1020)
    (folder / f"tagged-{name}").write_bytes(tag + content)
    audio, receipt = clean_audio(folder / f"tagged-{name}", folder)
    assert media.similarity(clean, audio) > 0.97
    assert abs(len(audio) - len(clean)) < 0.05 * 16_000
    assert receipt.is_complete
    assert receipt.notes == ()


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"MAC \x96\x0f", "Monkey's Audio"),
        (b"MP+\x07", "Musepack"),
        (b"MPCKSH", "Musepack"),
        (b"ajkg\x02", "Shorten"),
        (b"\x02dss", "DSS"),
        (b"wvpk", "WavPack"),
        (b"TTA1", "TTA"),
        (b"DSD \x1c", "DSF"),
        (b"FLV\x01", "FLV"),
    ],
)
@pytest.mark.parametrize("tag", [b"", b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)], ids=["plain", "tagged"])
def test_damaged_file_is_named_by_its_format(head: bytes, what: str, tag: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken.bin").write_bytes(tag + head + np.random.default_rng(3).bytes(3000))
    error = refusal(tmp_path / "broken.bin")
    assert not isinstance(error, NotARecordingError)
    assert what in error.what


@pytest.mark.parametrize(("head", "what"), [(b"\x03enc", "encrypted"), (b"\x03ds2", "DS2")])
def test_ds2_dictation_is_refused_with_a_remedy(head: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / "dictation.ds2").write_bytes(head + bytes(3000))
    error = refusal(tmp_path / "dictation.ds2")
    assert what in error.what
    assert "Export it as WAV" in error.remedy


NARROW: dict[str, tuple[str, list[str]]] = {
    "GSM": ("gsm.wav", ["-c:a", "libgsm_ms", "-ar", "8000", "-ac", "1"]),
    "G.726": ("g726.wav", ["-c:a", "g726", "-ar", "8000", "-ac", "1"]),
    "Speex": ("t.spx", ["-c:a", "libspeex", "-ar", "16000", "-ac", "1"]),
    "telephone mu-law": ("phone.wav", ["-c:a", "pcm_mulaw", "-ar", "8000", "-ac", "1"]),
}


@pytest.mark.parametrize("name", NARROW)
def test_telephone_codecs_keep_speech(name: str, speech: Path, clean: NDArray[np.float32], folder: Path) -> None:
    ending, encoding = NARROW[name]
    audio, receipt = clean_audio(encoded(speech, ending, *encoding), folder)
    assert media.similarity(clean, audio) > 0.8
    assert abs(len(audio) - len(clean)) < 0.05 * 16_000
    assert receipt.channels == 1
    assert receipt.is_complete
    assert receipt.notes == ()


def test_wideband_amr_keeps_its_length(tmp_path: Path) -> None:
    """No encoder for it is at hand: frames of 6.6 kbit/s with chance in them, which any decoder takes for audio."""
    chance = np.random.default_rng(5)
    frames = b"".join(b"\x04" + chance.bytes(17) for _ in range(300))
    (tmp_path / "phone.awb").write_bytes(b"#!AMR-WB\n" + frames)
    audio, receipt = clean_audio(tmp_path / "phone.awb", tmp_path)
    assert receipt.codec == "amrwb"
    assert receipt.duration_s == pytest.approx(300 * 0.02, rel=0.01)
    assert audio.std() > 0.01
    assert receipt.is_complete


@pytest.mark.parametrize("ending", ["phone.amr", "phone.3gp"])
def test_phone_recordings_keep_their_pauses(ending: str, speech: Path, folder: Path) -> None:
    words, _ = media.read_audio(speech)
    silence = np.zeros(2 * RATE_HZ, np.float32)
    audio = np.concatenate((words[:, 0], silence, words[:, 0]))
    expected, _ = clean_audio(media.write_audio(folder / "paused.wav", audio, RATE_HZ), folder)
    got, receipt = clean_audio(media.write_amr(folder / ending, audio, RATE_HZ), folder)
    assert abs(len(got) - len(expected)) < 0.05 * 16_000
    assert media.similarity(expected, got) > 0.8  # 8 kHz at 12 kbit/s
    assert receipt.is_complete
    assert (receipt.codec, receipt.sample_rate_hz, receipt.channels) == ("amrnb", 8000, 1)


@pytest.fixture(scope="module")
def video(speech: Path, folder: Path) -> Path:
    target = folder / "video.mp4"
    picture = ["-f", "lavfi", "-i", "testsrc=d=9:s=64x48:r=5"]
    media.ffmpeg(*picture, "-i", speech, "-c:v", "mpeg4", "-c:a", "aac", target)
    return target


def test_audio_shorter_than_its_video_is_complete(video: Path, clean: NDArray[np.float32], folder: Path) -> None:
    audio, receipt = clean_audio(video, folder)
    assert media.similarity(clean, audio) > 0.97
    assert receipt.is_complete


def test_audio_that_begins_late_in_a_video_keeps_its_time(speech: Path, video: Path, folder: Path) -> None:
    target = folder / "late.mkv"
    media.ffmpeg("-i", video, "-itsoffset", "2", "-i", speech, "-map", "0:v", "-map", "1:a", "-c:v", "copy", target)
    audio, receipt = clean_audio(target, folder)
    assert abs(receipt.duration_s - 7.9) < 0.1
    assert np.abs(audio[: int(1.9 * 16_000)]).max() < 1e-4
    assert receipt.is_complete


def test_cover_art_is_ignored(speech: Path, clean: NDArray[np.float32], folder: Path) -> None:
    cover = [
        "-f",
        "lavfi",
        "-i",
        "testsrc=s=64x64:d=1:r=1",
        "-map",
        "0:a",
        "-map",
        "1:v",
        "-disposition:v",
        "attached_pic",
    ]
    media.ffmpeg("-i", speech, *cover, "-c:v", "mjpeg", folder / "cover.mp3")
    assert media.similarity(clean, clean_audio(folder / "cover.mp3", folder)[0]) > 0.97


def test_format_is_detected_from_content_not_from_the_name(
    speech: Path, clean: NDArray[np.float32], folder: Path
) -> None:
    path = encoded(speech, "t.opus", "-c:a", "libopus").rename(folder / "really-opus.wav")
    audio, receipt = clean_audio(path, folder)
    assert receipt.codec == "opus"
    assert media.similarity(clean, audio) > 0.97


@pytest.mark.parametrize("name", ["ogg", "opus"])
def test_all_streams_of_a_chained_file_are_read(name: str, speech: Path, folder: Path) -> None:
    ending, encoding = FORMATS[name]
    chained = folder / f"chained.{name}"
    chained.write_bytes(2 * encoded(speech, ending, *encoding).read_bytes())
    assert abs(clean_audio(chained, folder)[1].duration_s - 2 * 5.89) < 0.05


def test_flac_is_read_to_the_end_if_its_header_declares_less(speech: Path, folder: Path) -> None:
    once = encoded(speech, "t.flac")
    media.ffmpeg("-stream_loop", "1", "-i", once, "-c", "copy", folder / "twice.flac")
    assert abs(clean_audio(folder / "twice.flac", folder)[1].duration_s - 2 * 5.89) < 0.05


def test_file_may_change_its_rate_and_channels(speech: Path, folder: Path) -> None:
    ending, encoding = FORMATS["mp3 without a length"]
    stereo = encoded(speech, ending, *encoding).read_bytes()
    mono = encoded(speech, "mono.mp3", *encoding, "-ar", "22050", "-ac", "1").read_bytes()
    (folder / "mixed.mp3").write_bytes(stereo + mono + stereo)
    audio, receipt = clean_audio(folder / "mixed.mp3", folder)
    third = len(audio) // 3
    assert abs(receipt.duration_s - 3 * 5.9) < 0.2
    assert media.similarity(audio[:third], audio[third : 2 * third + 1600]) > 0.95
    assert media.similarity(audio[:third], audio[2 * third :]) > 0.95


def test_unusual_channel_order_does_not_crash(speech: Path, folder: Path) -> None:
    media.ffmpeg("-i", speech, "-af", "pan=3.0|c0=c0|c1=c1|c2=c0", "-c:a", "pcm_s16le", folder / "three.mov")
    content = (folder / "three.mov").read_bytes()
    # MPEG_3_0_A (L R C) becomes MPEG_3_0_B (C L R), which FFmpeg keeps as a custom order.
    usual, unusual = struct.pack(">I", 113 << 16 | 3), struct.pack(">I", 114 << 16 | 3)
    at = content.index(b"chan") + 8
    assert content[at : at + 4] == usual
    (folder / "order.mov").write_bytes(content[:at] + unusual + content[at + 4 :])
    assert clean_audio(folder / "order.mov", folder)[1].channels == 3


# Headers that lie


def wav_with_sizes(speech: Path, riff_bytes: int, data_bytes: int) -> bytes:
    content = bytearray(speech.read_bytes())
    assert content[36:40] == b"data"
    content[4:8], content[40:44] = struct.pack("<I", riff_bytes), struct.pack("<I", data_bytes)
    return bytes(content)


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x80000000, 0xFFFFFFDB, 0xFFFFFFFF])
def test_streamed_wav_without_sizes_is_complete(
    size: int, speech: Path, clean: NDArray[np.float32], folder: Path
) -> None:
    target = folder / f"streamed-{size}.wav"
    target.write_bytes(wav_with_sizes(speech, size, size))
    audio, receipt = clean_audio(target, folder)
    assert np.abs(audio - clean).max() < STORED_STEP
    assert receipt.is_complete
    assert receipt.notes == ()


def test_wav_is_read_to_the_end_if_its_header_declares_less(
    speech: Path, clean: NDArray[np.float32], folder: Path
) -> None:
    target = folder / "lying.wav"
    target.write_bytes(wav_with_sizes(speech, 46, 10))
    audio, receipt = clean_audio(target, folder)
    assert np.abs(audio - clean).max() < STORED_STEP
    assert receipt.notes == ("The header declares less audio than the file holds; all of it was read.",)


@pytest.mark.parametrize(
    ("name", "chunk"),
    [
        ("24 bit", b"id3 " + struct.pack("<I", 1000)),
        ("aiff", b"ANNO" + struct.pack(">I", 1000)),
        ("caf", b"info" + struct.pack(">Q", 1000)),
    ],
)
def test_chunks_after_the_audio_are_not_read_as_audio(
    name: str, chunk: bytes, speech: Path, clean: NDArray[np.float32], folder: Path
) -> None:
    ending, encoding = FORMATS[name]
    content = encoded(speech, ending, *encoding).read_bytes()
    tagged = folder / f"tagged-{ending}"
    tagged.write_bytes(content + chunk + bytes(range(250)) * 4)
    audio, receipt = clean_audio(tagged, folder)
    assert len(audio) == len(clean)
    assert receipt.notes == ()
    assert receipt.is_complete


def test_wav_without_audio_data_is_refused(tmp_path: Path) -> None:
    media.write_audio(tmp_path / "nothing.wav", np.zeros(0), 16_000)
    with (tmp_path / "nothing.wav").open("ab") as file:
        file.write(b"LIST" + struct.pack("<I", 400) + b"INFO" + bytes(396))
    assert "only a header" in refusal(tmp_path / "nothing.wav").what


TRUNCATED = ["24 bit", "aiff", "mu-law", "W64", "caf", "flac", "mp3", "ogg", "opus", "webm", "mkv", "wma", "avi"]


@pytest.mark.parametrize("name", TRUNCATED)
def test_truncated_file_gives_its_remaining_audio_with_a_note(
    name: str, speech: Path, clean: NDArray[np.float32], folder: Path
) -> None:
    ending, encoding = FORMATS[name]
    content = encoded(speech, ending, *encoding).read_bytes()
    assert_half_is_read(content, folder / f"half-{ending}", clean)


@pytest.mark.parametrize("n_zeroed", [1, 2, 3])
def test_unfinished_aiff_is_read_whole(n_zeroed: int, speech: Path, clean: NDArray[np.float32], folder: Path) -> None:
    content = bytearray(encoded(speech, "t.aiff").read_bytes())
    sizes = (4, content.index(b"SSND") + 4, content.index(b"COMM") + 10)  # of the form, of the audio, number of frames
    for offset in sizes[:n_zeroed]:
        content[offset : offset + 4] = bytes(4)
    (folder / "unfinished.aiff").write_bytes(content)
    audio, receipt = clean_audio(folder / "unfinished.aiff", folder)
    assert np.abs(audio - clean).max() < STORED_STEP
    assert receipt.is_complete
    assert receipt.notes == ()


ID3 = b"ID3\x04\0\x10\0\0\x08\0" + bytes(1024)
ID3V1 = b"TAG" + b"a title".ljust(125)
LYRICS = b"LYRICSBEGIN" + b"LYR01000" + b"words " * 160 + b"001024LYRICS200"
APE = b"APETAGEX" + struct.pack("<IIIIQ", 2000, 500, 3, 0xA0000000, 0) + b"x" * 468


@pytest.mark.parametrize("after", [bytes(20_000), b"\xff" * 20_000, ID3, LYRICS + ID3V1, APE + ID3V1], ids=len)
@pytest.mark.parametrize("name", ["mp3", "mp3 without a length", "aac"])
def test_padding_and_tags_after_the_audio_are_not_damage(
    name: str, after: bytes, speech: Path, clean: NDArray[np.float32], folder: Path
) -> None:
    ending, encoding = FORMATS[name]
    path = folder / f"padded-{ending}"
    path.write_bytes(encoded(speech, ending, *encoding).read_bytes() + after)
    audio, receipt = clean_audio(path, folder)
    assert abs(len(audio) - len(clean)) < 0.05 * 16_000
    assert receipt.is_complete
    assert receipt.notes == ()


@pytest.mark.parametrize("between", [b"", bytes(5000), ID3, LYRICS + ID3V1, APE], ids=len)
@pytest.mark.parametrize("name", ["mp3", "mp3 without a length"])
def test_joined_mp3_files_are_read_whole(
    name: str, between: bytes, speech: Path, clean: NDArray[np.float32], folder: Path
) -> None:
    ending, encoding = FORMATS[name]
    content = encoded(speech, ending, *encoding).read_bytes()
    tagged = content if content.startswith(b"ID3") else ID3 + content
    (folder / f"joined-{ending}").write_bytes(content + between + tagged)
    audio, receipt = clean_audio(folder / f"joined-{ending}", folder)
    assert abs(len(audio) - 2 * len(clean)) < 0.1 * 16_000
    assert receipt.is_complete
    assert receipt.notes == ()


def test_hole_of_zeros_within_an_mp3_is_damage(speech: Path, folder: Path) -> None:
    ending, encoding = FORMATS["mp3 without a length"]
    content = bytearray(encoded(speech, ending, *encoding).read_bytes())
    content[30_000:40_000] = bytes(10_000)
    (folder / "hole.mp3").write_bytes(content)
    _, receipt = clean_audio(folder / "hole.mp3", folder)
    assert not receipt.is_complete
    assert any("damaged" in note for note in receipt.notes)


def test_truncated_mp4_with_its_index_first_gives_its_remaining_audio(
    speech: Path, clean: NDArray[np.float32], folder: Path
) -> None:
    path = encoded(speech, "fast.m4a", "-c:a", "aac", "-movflags", "faststart")
    assert_half_is_read(path.read_bytes(), folder / "half.m4a", clean)


def assert_half_is_read(content: bytes, half: Path, clean: NDArray[np.float32]) -> None:
    half.write_bytes(content[: len(content) // 2 + 1])
    audio, receipt = clean_audio(half, half.parent)
    assert not receipt.is_complete
    assert any("only" in note or "cut off" in note for note in receipt.notes)
    assert 1.5 < receipt.duration_s < 4
    assert media.similarity(audio[: int(1.5 * 16_000)], clean) > 0.95


@pytest.mark.parametrize("name", ["flac", "opus", "ogg", "m4a", "wma"])
def test_damage_in_the_middle_does_not_shift_later_times(
    name: str, speech: Path, clean: NDArray[np.float32], folder: Path
) -> None:
    ending, encoding = FORMATS[name]
    content = bytearray(encoded(speech, ending, *encoding).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 1500] = np.random.default_rng(1).bytes(1500)
    damaged = folder / f"damaged-{ending}"
    damaged.write_bytes(content)
    audio, receipt = clean_audio(damaged, folder)
    assert not receipt.is_complete
    assert any("damaged" in note for note in receipt.notes)
    assert abs(len(audio) - len(clean)) < 0.05 * 16_000
    end = 4 * 16_000
    assert media.similarity(clean[end:], audio[end:]) > 0.95
    assert np.abs(audio).max() < 0.72  # no burst of noise holds the gain down


def test_damaged_flac_frame_becomes_silence_not_noise(speech: Path, clean: NDArray[np.float32], folder: Path) -> None:
    content = bytearray(encoded(speech, "t.flac").read_bytes())
    for place in range(len(content) // 3, len(content) // 2, 20_000):
        content[place] ^= 0xFF
    (folder / "flipped.flac").write_bytes(content)
    audio, receipt = clean_audio(folder / "flipped.flac", folder)
    assert not receipt.is_complete
    assert len(audio) == len(clean)
    end = len(clean) // 2 + 8000
    assert np.abs(audio[end:] - clean[end:]).max() < 1e-4  # noise would have set the gain


# Refusals


def test_empty_file_is_refused(tmp_path: Path, front_end: FrontEnd) -> None:
    (tmp_path / "empty.mp3").touch()
    assert refusal(tmp_path / "empty.mp3").what == "The file is empty (0 bytes)."
    assert not front_end.is_recording(tmp_path / "empty.mp3")


def test_header_without_audio_is_refused(tmp_path: Path) -> None:
    media.write_audio(tmp_path / "nothing.wav", np.zeros(0), 16_000)
    assert "only a header" in refusal(tmp_path / "nothing.wav").what


def test_video_without_audio_is_refused(tmp_path: Path) -> None:
    media.ffmpeg("-f", "lavfi", "-i", "testsrc=d=1:s=64x48:r=5", "-c:v", "mpeg4", tmp_path / "mute.mp4")
    assert refusal(tmp_path / "mute.mp4").what == "This MP4 file has no audio track."


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("letter.txt", "Dear colleague, " * 100)


@pytest.mark.parametrize(
    ("write", "what"),
    [
        (lambda path: path.write_text("Dear colleague,\nplease find enclosed ...\n" * 20), "a text"),
        (lambda path: path.write_text("Grüße, wie besprochen\r\n" * 9, encoding="latin-1"), "a text"),
        (lambda path: path.write_text("Dear colleague,\r\n" * 20, encoding="utf-16"), "a text"),
        (write_zip, "a ZIP archive"),
        (lambda path: path.write_bytes(b"%PDF-1.7\n" + bytes(2000)), "a PDF"),
        (lambda path: path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(2000)), "a picture"),
        (lambda path: path.write_text("#EXTM3U\n#EXTINF:10,\nspeech.wav\n"), "a playlist"),
        (lambda path: path.write_text("ffconcat version 1.0\nfile speech.wav\n"), "a playlist"),
        (lambda path: path.write_text("v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n"), "a playlist"),
        (lambda path: path.write_text('<?xml version="1.0"?>\n<MPD type="static"></MPD>'), "a playlist"),
        (lambda path: path.write_bytes(np.random.default_rng(2).bytes(50_000)), "in any known format"),
        (lambda path: path.write_bytes(bytes(50_000)), "in any known format"),
    ],
)
def test_other_kinds_of_files_are_named(
    write: Callable[[Path], object], what: str, tmp_path: Path, front_end: FrontEnd
) -> None:
    write(tmp_path / "renamed.mp3")
    error = refusal(tmp_path / "renamed.mp3")
    assert isinstance(error, NotARecordingError)
    assert what in error.what
    assert not front_end.is_recording(tmp_path / "renamed.mp3")


def test_playlists_open_neither_files_nor_sockets(
    speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are known by their first words; and were one not, FFmpeg still may not follow it."""
    monkeypatch.chdir(speech.parent)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/speech.wav"
        for entry in (speech.name, str(speech), speech.as_uri(), url):
            for content in (
                f"ffconcat version 1.0\nfile {entry}\n",
                f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{entry}\n#EXT-X-ENDLIST\n",
            ):
                (tmp_path / "list.mp3").write_text(content)
                refusal(tmp_path / "list.mp3")
                with RecordingFile.open(tmp_path / "list.mp3") as source, pytest.raises(errors.JobError):
                    ContainerReader(source, limit_s=3600)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("ending", ["m4a", "mov"])
def test_unfinished_mp4_is_reported_as_damaged(ending: str, speech: Path, folder: Path, front_end: FrontEnd) -> None:
    whole, half = encoded(speech, f"whole.{ending}", "-c:a", "aac"), folder / f"no-index.{ending}"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    error = refusal(half)
    assert not isinstance(error, NotARecordingError)
    assert "cut off or damaged" in error.what
    assert front_end.is_recording(half)  # it must move to failed with its reason, not stay in the inbox


def test_protected_recordings_are_refused(speech: Path, folder: Path) -> None:
    key, key_id = "76a6c65c5ea762046bd749a2e632ccbb", "a7e61c373e219033c21091fa607bf3b8"
    lock = ["-encryption_scheme", "cenc-aes-ctr", "-encryption_key", key, "-encryption_kid", key_id]
    encoded(speech, "locked.m4a", "-c:a", "aac", *lock)
    content = encoded(speech, "t.m4a", "-c:a", "aac").read_bytes()
    (folder / "bought.m4a").write_bytes(content.replace(b"mp4a", b"drms", 1))
    (folder / "book.aax").write_bytes(content.replace(b"mp4a", b"aavd", 1))
    (folder / "book.aa").write_bytes(b"\0\0\x10\0\x57\x90\x75\x36" + bytes(4000))
    content = encoded(speech, "t.wma", "-c:a", "wmav2").read_bytes()
    size, count = struct.unpack("<QI", content[16:28])
    encryption = bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e") + struct.pack("<Q", 40) + bytes(16)
    header = content[:16] + struct.pack("<QI", size + 40, count + 1) + content[28:30] + encryption
    (folder / "locked.wma").write_bytes(header + content[30:])
    for name in ("locked.m4a", "bought.m4a", "book.aax", "book.aa", "locked.wma"):
        assert "protected against copying" in refusal(folder / name).what


@pytest.mark.parametrize("rate_hz", [1, 3999, 768_001])
def test_impossible_sample_rates_are_refused(rate_hz: int, speech: Path, tmp_path: Path) -> None:
    content = bytearray(speech.read_bytes())
    content[24:28], content[28:32] = struct.pack("<I", rate_hz), struct.pack("<I", rate_hz * 4)
    (tmp_path / "rate.wav").write_bytes(content)
    assert f"{rate_hz} Hz" in refusal(tmp_path / "rate.wav").what


def test_too_many_channels_are_refused(tmp_path: Path) -> None:
    media.write_audio(tmp_path / "many.wav", np.zeros((100, 65)), 16_000)
    assert "65 channels" in refusal(tmp_path / "many.wav").what


def test_declared_length_over_the_limit_is_refused_before_decoding(tmp_path: Path) -> None:
    media.write_audio(tmp_path / "long.wav", media.tone(5), 16_000)
    calls: list[None] = []
    with pytest.raises(errors.JobError, match="longer than the"):
        decode(tmp_path / "long.wav", Preprocess(max_duration_h=0.001), tmp_path, lambda: calls.append(None))
    assert calls == []


def test_undeclared_length_over_the_limit_is_refused_while_decoding(speech: Path) -> None:
    ending, encoding = FORMATS["mp3 without a length"]
    assert "longer than" in refusal(encoded(speech, ending, *encoding), max_duration_h=0.001).what


def test_links_pipes_and_folders_are_refused(speech: Path, tmp_path: Path, front_end: FrontEnd) -> None:
    (tmp_path / "link.wav").symlink_to(speech)
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    for name in ("link.wav", "pipe.wav", "folder.wav"):
        refusal(tmp_path / name)
        assert not front_end.is_recording(tmp_path / name)


def test_missing_recording_is_transient(tmp_path: Path) -> None:
    with pytest.raises(errors.TransientError):
        clean_audio(tmp_path / "gone.wav", tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_recording_has_a_remedy(tmp_path: Path) -> None:
    media.write_audio(tmp_path / "secret.wav", media.tone(1), 16_000).chmod(0)
    with pytest.raises(errors.NoPermissionError):
        clean_audio(tmp_path / "secret.wav", tmp_path)


@pytest.mark.parametrize("seed", range(6))
def test_random_damage_ends_in_audio_or_in_a_reason(seed: int, speech: Path, folder: Path) -> None:
    chance = np.random.default_rng(seed)
    for name in ("24 bit", "aiff", "W64", "flac", "m4a", "ogg", "webm"):
        ending, encoding = FORMATS[name]
        content = bytearray(encoded(speech, ending, *encoding).read_bytes())
        # Half of the damage goes to the headers, where it does the most.
        places = chance.integers(0, [200, len(content)], (10, 2)).reshape(-1)
        for place in places.tolist():
            content[place] = int(chance.integers(256))
        mutant = folder / f"mutant-{seed}-{ending}"
        mutant.write_bytes(content)
        try:
            audio, receipt = clean_audio(mutant, folder, max_duration_h=0.1)
        except errors.JobError:
            continue
        assert np.isfinite(audio).all()
        assert receipt.duration_s <= 360
