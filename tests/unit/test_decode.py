"""Cleaned audio compared with sox and ffmpeg, the receipt, and the waveform's file."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import signal

from daemon import errors
from daemon.config import Preprocess
from daemon.decode import SAMPLE_RATE_HZ, Waveform, WaveformWriter
from daemon.decode.conditioning import Highpass, coefficients
from daemon.decode.dynamics import Dynamics
from daemon.decode.envelope import Envelope, outline
from daemon.decode.levels import Levels
from daemon.decode.loudness import LoudnessMeter
from tests import media
from tests.media import decode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daemon.transcript import Receipt


def clean(path: Path, cache: Path, **settings: float | str) -> tuple[NDArray[np.float32], Receipt]:
    waveform, receipt = decode(path, Preprocess.model_validate(settings), cache, lambda: None)
    with waveform:
        return media.samples_of(waveform), receipt


def clean_samples(
    tmp_path: Path, samples: NDArray[np.float32], rate_hz: int = 16_000, subtype: str = "FLOAT", **settings: float | str
) -> tuple[NDArray[np.float32], Receipt]:
    return clean(media.write_audio(tmp_path / "audio.wav", samples, rate_hz, subtype), tmp_path, **settings)


# Equal to sox


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return media.speak(tmp_path_factory.mktemp("spoken") / "spoken.wav")


def by_sox(source: Path, target: Path) -> NDArray[np.float32]:
    """What sox makes of a file, mixing it first."""
    effects = ["channels", "1", "highpass", "80", "rate", "16k", "gain", "-n", "-3"]
    media.sox(source, "-e", "float", "-b", "32", target, *effects)
    return media.read_audio(target)[0]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
def test_equals_sox(rate_hz: int, channels: int, spoken: Path, tmp_path: Path) -> None:
    source = tmp_path / "source.wav"
    media.sox(spoken, "-r", str(rate_hz), source, "gain", "-9")
    words, _ = media.read_audio(source)
    # Two different channels, so that the mix is tested too, and a hum for the filter to remove.
    hum = media.tone(len(words) / rate_hz, rate_hz, 50.0, 0.1)
    samples = np.stack((words + hum, np.roll(words, rate_hz // 3)), axis=1)[:, :channels]
    media.write_audio(source, samples, rate_hz)
    media.write_audio(tmp_path / "source.flac", samples, rate_hz)
    expected = by_sox(source, tmp_path / "sox.wav")
    for path in (source, tmp_path / "source.flac"):
        got, receipt = clean(path, tmp_path)
        n_samples = min(len(got), len(expected))
        assert abs(len(got) - len(expected)) <= 2
        assert np.abs(got[:n_samples] - expected[:n_samples]).max() < 3e-4
        assert receipt.is_complete
        assert (receipt.sample_rate_hz, receipt.channels) == (rate_hz, channels)


def test_equals_sox_on_noise_at_all_frequencies(tmp_path: Path) -> None:
    source = media.write_audio(tmp_path / "noise.wav", media.noise(3, 44_100), 44_100, "PCM_24")
    expected = by_sox(source, tmp_path / "sox.wav")
    got, _ = clean(source, tmp_path)
    assert np.abs(got - expected).max() < 1e-3


def test_result_does_not_depend_on_the_block_size(spoken: Path, tmp_path: Path) -> None:
    """libsndfile gives blocks of 131,072 samples, FFmpeg whatever its frames add up to."""
    samples, rate_hz = media.read_audio(spoken)
    pcm, _ = clean(media.write_audio(tmp_path / "a.wav", samples, rate_hz), tmp_path)
    flac, _ = clean(media.write_audio(tmp_path / "a.flac", samples, rate_hz), tmp_path)
    assert np.abs(pcm - flac).max() < 1e-6


def test_equals_plain_sox_if_the_channels_are_equal(spoken: Path, tmp_path: Path) -> None:
    """With -c 1 sox 14.4 mixes last, so its gain comes from the loudest channel; here it is the same."""
    media.sox(spoken, "-c", "2", "-r", "44100", tmp_path / "both.wav", "gain", "-6")
    wanted = ["-c", "1", "-e", "float", "-b", "32"]
    media.sox(tmp_path / "both.wav", *wanted, tmp_path / "sox.wav", "highpass", "80", "rate", "16k", "gain", "-n", "-3")
    got, _ = clean(tmp_path / "both.wav", tmp_path)
    assert np.abs(got - media.read_audio(tmp_path / "sox.wav")[0]).max() < 1e-4


@pytest.mark.parametrize("rate_hz", [4_000, 44_100, 768_000])
def test_highpass_equals_a_recursion_in_double_precision(rate_hz: int) -> None:
    audio = media.noise(100_000 / rate_hz, rate_hz, 0.3) + np.float32(0.5)  # with a DC offset to remove
    expected = signal.lfilter(*coefficients(rate_hz, 80.0), audio.astype(np.float64))
    highpass, found, start = Highpass(rate_hz, 80.0), [], 0
    for n_block in (*range(1, 70), 10_000, 100_000):  # whole rows, parts of one, and both
        found.append(highpass.push(audio[start : start + n_block]))
        start += n_block
    assert np.abs(np.concatenate(found) - expected).max() < 1e-6


# Normalisation


def test_peak_normalization_reaches_the_configured_level(tmp_path: Path) -> None:
    audio, receipt = clean_samples(tmp_path, media.tone(2, level=0.1), peak_dbfs=-6.0)
    assert np.abs(audio).max() == pytest.approx(10 ** (-6 / 20), rel=1e-5)
    assert receipt.peak_dbfs is not None
    assert receipt.peak_dbfs == pytest.approx(-20, abs=1)  # the filter swings when the tone sets in
    assert receipt.peak_dbfs + receipt.gain_db == pytest.approx(-6, abs=1e-4)


def test_normalize_off_keeps_the_level(tmp_path: Path) -> None:
    samples = media.tone(1, level=0.1)
    audio, receipt = clean_samples(tmp_path, samples, normalize="off", highpass_hz=0)
    assert np.array_equal(audio, media.as_stored(samples))
    assert receipt.gain_db == 0


def test_silence_gets_no_gain(tmp_path: Path) -> None:
    audio, receipt = clean_samples(tmp_path, np.zeros(16_000, np.float32))
    assert not audio.any()
    assert receipt.peak_dbfs is None
    assert receipt.gain_db == 0
    assert receipt.notes == ("The recording is silent from start to end.",)


def ffmpeg_loudness(path: Path) -> tuple[float, float]:
    """Return ffmpeg's (integrated LUFS, true peak dBFS) of a file."""
    command: list[str | Path] = [
        "ffmpeg",
        "-hide_banner",
        "-nostats",
        "-i",
        path,
        "-af",
        "ebur128=peak=true",
        "-f",
        "null",
        "-",
    ]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stderr.splitlines()
    found = {line.split(":")[0].strip(): line.split()[1] for line in lines if line.startswith(("    I:", "    Peak:"))}
    return float(found["I"]), float(found["Peak"])


def test_loudness_normalization_meets_ebu_r128(spoken: Path, tmp_path: Path) -> None:
    words, rate_hz = media.read_audio(spoken)
    # A second, 30 dB quieter half: the gate must leave it out.
    samples = np.concatenate((0.3 * words, 0.01 * words))
    media.write_audio(tmp_path / "uneven.wav", samples, rate_hz)
    audio, _ = clean(tmp_path / "uneven.wav", tmp_path, normalize="loudness")
    loudness_lufs, true_peak_dbfs = ffmpeg_loudness(media.write_audio(tmp_path / "out.wav", audio, 16_000, "FLOAT"))
    assert loudness_lufs == pytest.approx(-23, abs=0.15)
    assert true_peak_dbfs < -1


def test_loudness_normalization_stays_below_the_true_peak_ceiling(tmp_path: Path) -> None:
    samples = media.noise(4, level=0.001)
    samples[30_000] = 0.9  # a click: at -23 LUFS it would be far beyond full scale
    audio, _ = clean_samples(tmp_path, samples, normalize="loudness")
    loudness_lufs, true_peak_dbfs = ffmpeg_loudness(media.write_audio(tmp_path / "out.wav", audio, 16_000, "FLOAT"))
    assert true_peak_dbfs == pytest.approx(-1, abs=0.15)
    assert loudness_lufs < -30


def test_loudness_meter_reads_the_sine_of_the_standard() -> None:
    """EBU Tech 3341, case 1: 1 kHz at -23 dBFS in both channels reads -23 LUFS; one channel -3 LU."""
    meter = LoudnessMeter()
    for _ in range(20):
        meter.push(media.tone(1, frequency_hz=1000.0, level=10 ** (-23 / 20)))
    assert meter.integrated_lufs() == pytest.approx(-26, abs=0.05)


def test_loudness_of_a_very_short_recording_and_of_silence(tmp_path: Path) -> None:
    audio, _ = clean_samples(tmp_path, media.tone(0.2, level=0.01), normalize="loudness")
    assert 0.03 < np.abs(audio).max() < 0.3
    assert not clean_samples(tmp_path, np.zeros(8000, np.float32), normalize="loudness")[0].any()


# What the receipt says


def test_clean_recording_has_no_notes(spoken: Path, tmp_path: Path) -> None:
    media.sox(spoken, tmp_path / "quieter.wav", "gain", "-6")
    receipt = clean(tmp_path / "quieter.wav", tmp_path)[1]
    assert receipt.notes == ()
    assert receipt.codec == "pcm_16"
    assert receipt.clipped_s == 0
    assert receipt.is_complete


@pytest.mark.parametrize("inverted_first", [True, False])
def test_inverted_stereo_uses_the_stronger_channel(inverted_first: bool, spoken: Path, tmp_path: Path) -> None:  # noqa: FBT001  # a parameter of the test
    words, rate_hz = media.read_audio(spoken)
    words = 0.5 * words
    stereo = np.stack((-0.9 * words, words) if inverted_first else (words, -0.9 * words), axis=1)
    media.write_audio(tmp_path / "mono.wav", words, rate_hz)
    expected, _ = clean(tmp_path / "mono.wav", tmp_path)
    got, receipt = clean(media.write_audio(tmp_path / "stereo.wav", stereo, rate_hz), tmp_path)
    assert np.abs(got - expected).max() < 1e-3
    name = "right" if inverted_first else "left"
    (note,) = receipt.notes
    assert note == f"The two channels are inverted copies and would cancel: only the {name} channel was used."


def test_two_different_voices_are_not_called_inverted(tmp_path: Path) -> None:
    stereo = np.stack((media.noise(2, seed=1), media.noise(2, seed=2)), axis=1)
    assert clean_samples(tmp_path, stereo)[1].notes == ()


def test_notes_name_each_defect(tmp_path: Path) -> None:
    voice = media.noise(2, level=0.05)
    one_sided = np.stack((np.zeros_like(voice), voice), axis=1)
    assert clean_samples(tmp_path, one_sided)[1].notes == ("The left channel is silent.",)
    surround = np.stack((voice, voice, voice, np.zeros_like(voice)), axis=1)
    assert clean_samples(tmp_path, surround)[1].notes == ("Silent channels: 1 of 4.",)
    assert clean_samples(tmp_path, voice + np.float32(0.2))[1].notes == (
        "The recording has a DC offset of 20 % of full scale.",
    )
    quiet = media.tone(2, level=0.001)
    assert clean_samples(tmp_path, quiet)[1].notes == (
        "The recording is very quiet: its loudest moment is at -59 dBFS.",
    )


def test_clipping_time_is_measured(tmp_path: Path) -> None:
    samples = np.clip(media.tone(2, frequency_hz=200.0, level=2.0), np.float32(-1), np.float32(1))
    n_flat = int((np.abs(samples) >= 0.999).sum())
    receipt = clean_samples(tmp_path, samples)[1]
    assert receipt.clipped_s == pytest.approx(n_flat / 16_000, abs=0.01)
    assert receipt.notes == (f"The recording is clipped for {receipt.clipped_s:.1f} s.",)


def test_float_above_full_scale_is_not_clipped(tmp_path: Path) -> None:
    loud = media.tone(2, level=1.8)
    _, receipt = clean_samples(tmp_path, loud, subtype="FLOAT")
    assert receipt.clipped_s == 0
    assert receipt.notes == ()
    _, receipt = clean_samples(tmp_path, np.clip(loud, -1, 1), subtype="FLOAT")
    assert receipt.clipped_s > 0.5


@pytest.mark.parametrize("n_block", [1, 2, 3, 7, 1000])
def test_clipped_runs_are_counted_across_blocks(n_block: int) -> None:
    chance = np.random.default_rng(3)
    samples = np.where(chance.random(1000) < 0.6, 1.0, 0.2).astype(np.float32)
    levels = Levels(1, 1)
    for start in range(0, 1000, n_block):
        levels.observe(samples[np.newaxis, start : start + n_block])
    runs = "".join("1" if sample == 1 else " " for sample in samples).split()
    assert levels.clipped_s == sum(len(run) for run in runs if len(run) >= 3)


def test_invalid_samples_become_silence_and_are_counted(tmp_path: Path) -> None:
    samples = media.noise(2)
    samples[[100, 5000, 20_000, 20_001]] = [np.nan, np.inf, -np.inf, 1e30]
    audio, receipt = clean_samples(tmp_path, samples)
    assert np.isfinite(audio).all()
    assert np.abs(audio).max() == pytest.approx(10 ** (-3 / 20), rel=1e-5)
    assert receipt.notes == ("4 samples were not valid numbers and were replaced by silence.",)


def test_receipt_has_the_figures_behind_the_notes(tmp_path: Path) -> None:
    samples = media.tone(4, level=0.2) + np.float32(0.1)
    samples[[7, 8]] = np.nan
    receipt = clean_samples(tmp_path, samples)[1]
    assert receipt.level_dbfs == pytest.approx(20 * np.log10(0.2) - 3.01, abs=0.2)
    assert receipt.peak_dbfs is not None
    assert receipt.level_dbfs is not None
    assert receipt.crest_db == pytest.approx(receipt.peak_dbfs - receipt.level_dbfs)
    assert receipt.dc_offset == pytest.approx(0.1, abs=1e-3)
    assert receipt.n_invalid == 2
    silent = clean_samples(tmp_path, np.zeros(40_000, np.float32))[1]
    assert (silent.level_dbfs, silent.crest_db, silent.snr_db) == (None, None, None)


def test_click_that_limits_normalization_is_noted(spoken: Path, tmp_path: Path) -> None:
    words, rate_hz = media.read_audio(spoken)
    words = 0.1 * words
    words[3 * rate_hz : 3 * rate_hz + 3] = 0.95
    receipt = clean(media.write_audio(tmp_path / "click.wav", words, rate_hz), tmp_path)[1]
    assert len(receipt.notes) == 1
    assert receipt.notes[0].startswith("A click or DC step at 3.0 s is 2")
    assert receipt.notes[0].endswith(" dB louder than the rest and limits normalization.")
    assert receipt.crest_db is not None
    assert receipt.crest_db > 30


@pytest.mark.parametrize("snr_db", [15, 25, 40])
def test_noise_level_is_estimated_from_speech(snr_db: float, spoken: Path, tmp_path: Path) -> None:
    words, rate_hz = media.read_audio(spoken)
    frames = words[: len(words) // 400 * 400].reshape(-1, 400)
    energies = (frames**2).mean(axis=1)
    level = np.sqrt(energies[energies > energies.max() / 1000].mean())  # of the words without the pauses
    words = 0.4 * (words + media.noise(len(words) / rate_hz, rate_hz, level * 10 ** (-snr_db / 20)))
    receipt = clean(media.write_audio(tmp_path / "noisy.wav", words, rate_hz, "FLOAT"), tmp_path)[1]
    assert receipt.snr_db == pytest.approx(snr_db, abs=3)


@pytest.mark.parametrize("n_block", [1, 319, 320, 4999])
def test_dynamics_do_not_depend_on_the_block_size(n_block: int) -> None:
    audio = media.noise(0.5, seed=4)
    audio[5000] = 0.9
    whole, pieces = Dynamics(), Dynamics()
    whole.push(audio)
    for start in range(0, len(audio), n_block):
        pieces.push(audio[start : start + n_block])
    whole.drain()
    pieces.drain()
    assert pieces.peak == whole.peak == np.abs(audio).max()
    assert pieces.level_dbfs == pytest.approx(whole.level_dbfs, abs=1e-9)
    assert pieces.find_click() == whole.find_click()


def test_peaks_outline_what_the_model_hears(tmp_path: Path) -> None:
    silence = np.zeros(16_000, np.float32)
    audio = np.concatenate((media.tone(1, level=0.25), silence, media.tone(1, level=0.125)))
    loud, silent, soft = np.array_split(clean_samples(tmp_path, audio, peak_dbfs=0.0, highpass_hz=0)[1].peaks, 3)
    assert loud.size == silent.size == soft.size == 50  # one for each 20 ms
    assert [float(np.median(part)) for part in (loud, silent, soft)] == [1.0, 0.0, 0.5]


def test_peaks_are_at_most_1() -> None:
    envelope = Envelope()
    envelope.push(np.array([0.25, 1.0], np.float32))
    assert outline([(envelope, 2.0)]) == (0.5, 1.0)


def test_peaks_of_sounds_heard_together_are_those_of_the_louder() -> None:
    first, second = Envelope(), Envelope()
    first.push(np.array([0.5, 0.25], np.float32))
    second.push(np.array([0.25, 0.75, 0.125], np.float32))
    assert outline([(first, 1.0), (second, 1.0)]) == (0.5, 0.75, 0.125)


@pytest.mark.parametrize(
    ("n_frames", "n_block"), [(0, 1), (1, 1), (4000, 7), (4001, 100), (40_001, 997), (200_003, 5000)]
)
def test_peaks_of_any_length_are_at_most_4000_in_their_places(n_frames: int, n_block: int) -> None:
    frames = np.random.default_rng(2).uniform(0, 0.1, n_frames).astype(np.float32)
    loud = sorted({n_frames // 5, n_frames // 2, max(n_frames - 1, 0)}) if n_frames else []
    frames[loud] = 1.0
    envelope = Envelope()
    for start in range(0, n_frames, n_block):
        envelope.push(frames[start : start + n_block])
    values = outline([(envelope, 1.0)])
    assert len(values) <= 4000
    places = [at for at, value in enumerate(values) if value == 1.0]
    expected = [at * len(values) // n_frames for at in loud]
    assert len(places) == len(expected)
    assert all(abs(place - right) <= 1 for place, right in zip(places, expected, strict=True))


@pytest.mark.parametrize("n_samples", [1, 160, 6400])
def test_very_short_recordings_are_decoded(n_samples: int, tmp_path: Path) -> None:
    audio, receipt = clean_samples(tmp_path, media.noise(n_samples / 16_000))
    assert len(audio) == n_samples
    assert receipt.duration_s == pytest.approx(n_samples / 16_000)


# Stopping, memory, disk


def open_files() -> list[str]:
    return sorted(str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.exists())


def test_stop_interrupts_decoding_and_closes_all_files(tmp_path: Path) -> None:
    path = media.write_audio(tmp_path / "minutes.flac", media.noise(60), 16_000)
    open_before = open_files()
    calls = 0

    def stop_at_the_fifth() -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise errors.StoppedError("enough")

    with pytest.raises(errors.StoppedError):
        decode(path, Preprocess(), tmp_path, stop_at_the_fifth)
    assert calls == 5
    assert open_files() == open_before


LONG_RECORDING = """
import resource, sys
from pathlib import Path
from daemon.config import Preprocess
from tests.media import decode

path, cache = Path(sys.argv[1]), Path(sys.argv[2])
decode(path.with_name("short.wav"), Preprocess(), cache, lambda: None)[0].close()  # what loads once is loaded
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[3]), used + int(sys.argv[3])))
waveform, receipt = decode(path, Preprocess(normalize="loudness"), cache, lambda: None)
print(round(waveform.duration_s), receipt.is_complete)
"""


@pytest.mark.parametrize("data_bytes", [None, 0xFFFFFFFF])
def test_memory_does_not_grow_with_the_recording(data_bytes: int | None, tmp_path: Path) -> None:
    """20 minutes take 77 MB as float32, and get by with 48 MB; with libsndfile and with FFmpeg."""
    media.write_audio(tmp_path / "short.wav", media.noise(20, 8000), 8000, "PCM_U8")
    header = (tmp_path / "short.wav").read_bytes()[:44]
    n_bytes = 1200 * 8000
    size = (n_bytes if data_bytes is None else data_bytes).to_bytes(4, "little")
    with (tmp_path / "long.wav").open("wb") as file:
        file.write(header[:40] + size)
        file.truncate(44 + n_bytes)  # a hole costs no time to write
    command: list[str | Path] = [sys.executable, "-c", LONG_RECORDING, tmp_path / "long.wav", tmp_path, str(48 << 20)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1200", "True"]


def write_waveform(cache: Path, samples: NDArray[np.float32], gain: float = 1.0) -> Waveform:
    with WaveformWriter(cache) as writer:
        for start in range(0, len(samples), 1000):
            writer.append(samples[start : start + 1000])
        return writer.finish(gain)


def test_waveform_reads_any_range_with_its_gain(tmp_path: Path) -> None:
    samples = media.noise(1)
    heard = media.as_stored(samples, gain=2.0)
    with write_waveform(tmp_path, samples, gain=2.0) as waveform:
        assert waveform.n_samples == len(samples)
        assert waveform.duration_s == 1
        assert np.array_equal(waveform.read(10, 5000), heard[10:5000])
        assert np.array_equal(waveform.read(-5, 3), heard[:3])
        assert np.array_equal(waveform.read(15_999, 99_999), heard[15_999:])
        assert len(waveform.read(20_000, 30_000)) == len(waveform.read(7, 7)) == len(waveform.read(9, 7)) == 0
        assert np.array_equal(np.concatenate(list(waveform.blocks(777))), heard)


def test_waveform_can_be_read_by_many_threads(tmp_path: Path) -> None:
    samples = np.arange(200_000, dtype=np.float32)
    heard = media.as_stored(samples)
    wrong: list[int] = []
    with write_waveform(tmp_path, samples) as waveform:

        def read(seed: int) -> None:
            starts = np.random.default_rng(seed).integers(0, 190_000, 200).tolist()
            wrong.extend(start for start in starts if waveform.read(start, start + 5000)[0] != heard[start])

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_decoded_audio_has_no_name_on_the_disk(tmp_path: Path) -> None:
    with write_waveform(tmp_path, media.noise(1)):
        assert list(tmp_path.iterdir()) == []


def test_decoding_works_on_file_systems_without_unnamed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = os.open

    def open_as_nfs_does(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real_open(path, flags, mode)

    monkeypatch.setattr(os, "open", open_as_nfs_does)
    samples = media.noise(0.1)
    with write_waveform(tmp_path, samples) as waveform:
        assert list(tmp_path.iterdir()) == []
        assert np.array_equal(media.samples_of(waveform), media.as_stored(samples))


def test_full_disk_is_transient_with_a_remedy(tmp_path: Path) -> None:
    path = media.write_audio(tmp_path / "audio.wav", media.noise(60), 16_000)
    # A limit of the file size makes the kernel itself refuse a write; /dev/full is not a folder.
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from daemon import errors\n"
        "from daemon.config import Preprocess\n"
        "from tests import media\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try:\n"
        "    media.decode(Path(sys.argv[1]), Preprocess(), Path(sys.argv[2]), lambda: None)\n"
        "except errors.TransientError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path, tmp_path], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("the decoded audio could not be stored: File too large.")
    assert str(tmp_path) in done.stdout


def test_missing_cache_folder_is_transient(tmp_path: Path) -> None:
    path = media.write_audio(tmp_path / "audio.wav", media.noise(1), 16_000)
    with pytest.raises(errors.TransientError):
        clean(path, tmp_path / "gone")


def test_sample_rate_is_16_khz() -> None:
    assert SAMPLE_RATE_HZ == 16_000
