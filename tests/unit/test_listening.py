"""Listening copies, made by a real audio process in its sandbox and read back by FFmpeg."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import av
import numpy as np
import pytest
import soundfile

from daemon.config import Preprocess, Transcribe
from daemon.decode import SAMPLE_RATE_HZ
from daemon.errors import StoppedError, TransientError
from daemon.frontend import Encoding, FrontEnd
from daemon.segment import Span
from tests.conftest import SAMPLES

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from daemon.frontend import Prepared


@pytest.fixture(scope="module")
def prepared(front_end: FrontEnd) -> Iterator[Prepared]:
    sound = front_end.prepare(SAMPLES / "memo.wav", Preprocess(), "off")
    yield sound
    sound.close()


def read_back(copy: io.FileIO) -> tuple[NDArray[np.float32], dict[str, str], float]:
    """Return the audio of a copy, its tags, and the length that its head declares."""
    container: Any
    with copy, av.open(copy) as container:
        tags = {**container.metadata, **container.streams[0].metadata}
        resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE_HZ)
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        samples = np.concatenate([frame.to_ndarray().ravel() for frame in (*frames, *resampler.resample(None))])
        return samples.astype(np.float32), tags, container.duration / av.time_base


@pytest.mark.parametrize("form", ["mp3", "m4a", "opus"])
def test_listening_copy_sounds_like_the_cleaned_audio_and_has_tags(
    front_end: FrontEnd, prepared: Prepared, form: Literal["mp3", "m4a", "opus"]
) -> None:
    waveform = prepared.waveform
    copy = front_end.encode(waveform, Encoding(form, "Größe 中", "2026-01-30"))
    assert os.fstat(copy.fileno()).st_size < 2 * waveform.n_samples / 4  # PCM of 16 bits takes four times as much
    heard, tags, declared_s = read_back(copy)
    assert (tags["title"], tags["date"]) == ("Größe 中", "2026-01-30")
    assert declared_s == pytest.approx(waveform.duration_s, abs=0.05)
    expected = waveform.read(0, waveform.n_samples)
    n_lags = 3000  # encoders delay
    spectrum = np.fft.rfft(heard, 1 << 18) * np.conj(np.fft.rfft(expected, 1 << 18))
    lags = np.fft.irfft(spectrum)
    best = max(lags[:n_lags].max(), lags[-n_lags:].max())
    assert best / (np.linalg.norm(heard) * np.linalg.norm(expected)) > 0.9


def test_part_of_a_recording_is_encoded(front_end: FrontEnd, prepared: Prepared) -> None:
    copy = front_end.encode(prepared.waveform, Encoding("mp3"), Span(SAMPLE_RATE_HZ, 3 * SAMPLE_RATE_HZ))
    assert read_back(copy)[2] == pytest.approx(2.0, abs=0.1)


def test_channels_that_were_split_are_heard_together(front_end: FrontEnd, tmp_path: Path) -> None:
    rate_hz, seconds = 16_000, np.arange(4 * 16_000) / 16_000
    left, right = (np.sin(2 * np.pi * hz * seconds) * 0.3 for hz in (500.0, 900.0))
    soundfile.write(tmp_path / "call.wav", np.stack([left, right], axis=1), rate_hz)
    split = Transcribe(channels="split")
    with front_end.prepare(tmp_path / "call.wav", Preprocess(), "off", asr=split) as sound:
        assert len(sound.streams) == 2
        heard = read_back(front_end.encode(sound.waveform, Encoding("m4a")))[0][rate_hz : 3 * rate_hz]
    spectrum = np.abs(np.fft.rfft(heard))
    assert sorted(np.argsort(spectrum)[-2:] / 2.0) == pytest.approx([500.0, 900.0], abs=1.0)


def test_encoding_stops_when_asked(front_end: FrontEnd, prepared: Prepared) -> None:
    def stop() -> None:
        raise StoppedError("stop")

    with pytest.raises(StoppedError):
        front_end.encode(prepared.waveform, Encoding("mp3"), None, stop)
    with front_end.encode(prepared.waveform, Encoding("mp3")) as copy:
        assert os.fstat(copy.fileno()).st_size > 10_000


def test_copy_of_audio_that_was_cut_short_is_refused(front_end: FrontEnd) -> None:
    sound = front_end.prepare(SAMPLES / "memo.wav", Preprocess(), "off")
    with sound:
        waveform = sound.streams[0].waveform
        os.ftruncate(waveform.file.fileno(), 4 * SAMPLE_RATE_HZ)
        with pytest.raises(TransientError, match="shorter than what was written"):
            front_end.encode(waveform, Encoding("mp3"))
