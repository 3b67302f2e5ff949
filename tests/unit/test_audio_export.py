"""The audio files that `scribed prepare` writes."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from daemon import audio_export, errors
from daemon.config import Preprocess
from daemon.decode import Waveform, WaveformWriter, stored_bytes
from daemon.host import files
from tests import media
from tests.media import decode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def waveform(tmp_path: Path) -> Iterator[Waveform]:
    with decode(media.speak(tmp_path / "spoken.wav"), Preprocess(), tmp_path, lambda: None)[0] as waveform:
        yield waveform


def silent_waveform(duration_s: float, cache: Path) -> Waveform:
    """A waveform whose file is one hole."""
    with WaveformWriter(cache) as writer:
        waveform = writer.finish()
    waveform.n_samples = round(duration_s * 16_000)
    os.ftruncate(waveform.file.fileno(), stored_bytes(waveform.n_samples))
    return waveform


def test_wav_is_exactly_what_the_model_hears(waveform: Waveform, tmp_path: Path) -> None:
    audio_export.write(waveform, tmp_path / "out.wav")
    sound, rate_hz = media.read_audio(tmp_path / "out.wav")
    assert rate_hz == 16_000
    assert np.array_equal(sound, media.samples_of(waveform))


@pytest.mark.parametrize("ending", [".mp3", ".m4a", ".opus", ".MP3"])
def test_compressed_file_sounds_like_the_waveform(ending: str, waveform: Waveform, tmp_path: Path) -> None:
    target = tmp_path / f"out{ending}"
    audio_export.write(waveform, target)
    heard, receipt = decode(target, Preprocess(highpass_hz=0), tmp_path, lambda: None)
    with heard:
        assert media.similarity(media.samples_of(waveform), media.samples_of(heard)) > 0.97
        assert abs(heard.duration_s - waveform.duration_s) < 0.07
    assert receipt.is_complete
    media.ffmpeg("-i", target, tmp_path / "played.wav")  # as a player reads it
    sound, rate_hz = media.read_audio(tmp_path / "played.wav")
    assert abs(len(sound) / rate_hz - waveform.duration_s) < 0.1


def test_loud_audio_is_clipped_not_wrapped(tmp_path: Path) -> None:
    samples = media.tone(2, level=1.0)
    with WaveformWriter(tmp_path) as writer:
        writer.append(samples)
        with writer.finish(gain=2.0) as waveform:
            audio_export.write(waveform, tmp_path / "out.mp3")
    with decode(tmp_path / "out.mp3", Preprocess(), tmp_path, lambda: None)[0] as heard:
        assert media.similarity(np.clip(2 * samples, np.float32(-1), np.float32(1)), media.samples_of(heard)) > 0.99


def test_existing_file_is_overwritten_only_if_forced(waveform: Waveform, tmp_path: Path) -> None:
    (tmp_path / "out.wav").write_text("old")
    before = set(tmp_path.iterdir())
    with pytest.raises(errors.CannotWriteError, match="already exists"):
        audio_export.write(waveform, tmp_path / "out.wav")
    assert (tmp_path / "out.wav").read_text() == "old"
    audio_export.write(waveform, tmp_path / "out.wav", is_forced=True)
    assert set(tmp_path.iterdir()) == before
    assert (tmp_path / "out.wav").stat().st_size > 100_000


def test_link_planted_at_a_guessable_temporary_name_is_not_written_through(waveform: Waveform, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    files.temporary_beside(tmp_path / "out.wav").hardlink_to(tmp_path / "victim")
    audio_export.write(waveform, tmp_path / "out.wav")
    assert (tmp_path / "victim").read_text() == "precious"


def test_file_gets_the_mode_of_the_umask(waveform: Waveform, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        audio_export.write(waveform, tmp_path / "out.wav")
    finally:
        os.umask(old)
    assert (tmp_path / "out.wav").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["out.flac", "out", "out.wav.part"])
def test_unknown_ending_is_refused_and_lists_the_known_ones(name: str, waveform: Waveform, tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="known ending") as caught:
        audio_export.write(waveform, tmp_path / name)
    assert caught.value.remedy == "Write to a .wav, .mp3, .m4a or .opus file."
    assert not (tmp_path / name).exists()


def test_compressed_file_of_more_than_two_hours_is_refused(tmp_path: Path) -> None:
    with silent_waveform(7201, tmp_path) as waveform, pytest.raises(errors.UsageError, match="2 hours"):
        audio_export.write(waveform, tmp_path / "out.mp3")


def test_missing_ffmpeg_is_reported_with_its_remedy(
    waveform: Waveform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.UsageError, match="needs ffmpeg") as caught:
        audio_export.check_target(tmp_path / "out.mp3")
    assert "sudo apt-get install ffmpeg" in caught.value.remedy
    audio_export.write(waveform, tmp_path / "out.wav")


def test_import_is_quiet_where_ffmpeg_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", "import daemon.audio_export"]
    subprocess.run(command, check=True, env={**os.environ, "PATH": str(tmp_path)})


def test_missing_folder_is_reported(waveform: Waveform, tmp_path: Path) -> None:
    with pytest.raises(errors.TransientError, match="could not be written"):
        audio_export.write(waveform, tmp_path / "gone" / "out.wav")


def test_wav_over_four_gigabytes_has_an_rf64_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_export, "_MAX_WAV_BYTES", 1 << 20)
    with silent_waveform(60, tmp_path) as waveform:
        audio_export.write(waveform, tmp_path / "out.wav")
    head = (tmp_path / "out.wav").read_bytes()[:28]
    assert head[:4] + head[8:16] == b"RF64WAVEds64"
    assert struct.unpack("<Q", head[20:28])[0] == (tmp_path / "out.wav").stat().st_size - 8
    with decode(tmp_path / "out.wav", Preprocess(), tmp_path, lambda: None)[0] as again:
        assert again.duration_s == 60
