"""Leveling: quiet talkers come up; loud ones, pauses, background and clicks stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
import soundfile

from daemon import errors
from daemon.config import Preprocess, Transcribe
from daemon.decode import WaveformWriter
from daemon.segment import Span
from daemon.segment.frames import measure_levels
from daemon.segment.leveling import bring_up_quiet_speech
from tests import media, voices
from tests.voices import S

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from daemon.frontend import FrontEnd

LOUD, QUIET = Span(S, 6 * S), Span(8 * S, 13 * S)
PEAK = 10 ** (-3 / 20)


def syllables(length_s: float, peak: float) -> NDArray[np.float32]:
    """Return noise that swells four times a second, as speech does."""
    sound = media.noise(length_s) * np.sin(2 * np.pi * 2 * np.arange(round(length_s * S)) / S) ** 2
    return np.asarray(sound * (peak / np.abs(sound).max()), np.float32)


def conversation(quiet_db: float = -20, floor: float = 1e-4) -> NDArray[np.float32]:
    """Return a second of pause, a loud voice, a pause of two seconds, a quieter voice, and a pause of five."""
    pause = np.zeros(S, np.float32)
    quiet = syllables(5, PEAK * 10 ** (quiet_db / 20))
    sound = np.concatenate((pause, syllables(5, PEAK), pause, pause, quiet, np.tile(pause, 5)))
    return np.asarray(np.clip(sound + media.noise(len(sound) / S, level=floor), -PEAK, PEAK), np.float32)


def level(
    samples: NDArray[np.float32],
    cache: Path,
    leveling: Literal["auto", "off", "on"] = "auto",
    speech: tuple[Span, ...] = (LOUD, QUIET),
    gain: float = 1.0,
) -> tuple[NDArray[np.float32], float]:
    with WaveformWriter(cache) as writer:
        writer.append(samples / np.float32(gain))
        waveform = writer.finish(gain)
    with waveform:
        levels = measure_levels(waveform, lambda: None)
        leveled_db = bring_up_quiet_speech(waveform, levels, speech, Preprocess(leveling=leveling), lambda: None)
        return media.samples_of(waveform), leveled_db


def rms_db(samples: NDArray[np.float32], span: Span) -> float:
    return float(10 * np.log10(np.mean(samples[span.start : span.stop].astype(np.float64) ** 2)))


@pytest.mark.parametrize("quiet_db", [-12, -20, -26])
@pytest.mark.parametrize("gain", [1.0, 3.7])
def test_quiet_talker_comes_up_and_all_else_stays(quiet_db: float, gain: float, tmp_path: Path) -> None:
    before = conversation(quiet_db)
    after, leveled_db = level(before, tmp_path, gain=gain)
    assert rms_db(after, LOUD) - rms_db(after, QUIET) < 6
    assert leveled_db == pytest.approx(-quiet_db - 3, abs=2)
    untouched = media.as_stored(before / np.float32(gain), gain)
    assert np.array_equal(after[: LOUD.stop + S // 2], untouched[: LOUD.stop + S // 2])
    assert np.array_equal(after[QUIET.stop + S :], untouched[QUIET.stop + S :])


def test_gain_is_bounded(tmp_path: Path) -> None:
    after, leveled_db = level(conversation(-45, floor=1e-5), tmp_path)
    assert leveled_db == pytest.approx(26, abs=0.01)
    assert rms_db(after, LOUD) - rms_db(after, QUIET) == pytest.approx(45 - 26, abs=1)


@pytest.mark.parametrize("quiet_db", [0, -6, -9])
def test_auto_changes_nothing_where_talkers_differ_by_less_than_10_db(quiet_db: float, tmp_path: Path) -> None:
    before = conversation(quiet_db)
    after, leveled_db = level(before, tmp_path)
    assert leveled_db == 0
    assert np.array_equal(media.as_stored(before), after)


def test_on_levels_smaller_differences_too_and_off_none(tmp_path: Path) -> None:
    before = conversation(-8)
    after, leveled_db = level(before, tmp_path, "on")
    assert leveled_db == pytest.approx(5, abs=1)
    assert rms_db(after, QUIET) > rms_db(before, QUIET) + 3
    before = conversation(-26)
    after, leveled_db = level(before, tmp_path, "off")
    assert leveled_db == 0
    assert np.array_equal(media.as_stored(before), after)


@pytest.mark.parametrize("speech", [(), (Span(0, 512),), (Span(0, 100),), (LOUD,)])
def test_recordings_with_little_or_no_speech_are_left_alone(speech: tuple[Span, ...], tmp_path: Path) -> None:
    before = conversation()
    after, leveled_db = level(before, tmp_path, speech=speech)
    assert leveled_db == 0
    assert np.array_equal(media.as_stored(before), after)


def test_click_in_quiet_speech_stays_below_the_peak(tmp_path: Path) -> None:
    before = conversation(-26)
    at = QUIET.start + 2 * S
    before[at : at + 20] = PEAK * np.resize([1, -1], 20)
    after, leveled_db = level(before, tmp_path)
    assert leveled_db > 15
    assert np.abs(after).max() <= PEAK * 1.0001
    assert np.abs(after[at : at + 20]).max() == pytest.approx(PEAK, rel=1e-3)


def test_gain_rises_and_falls_without_steps(tmp_path: Path) -> None:
    """The background gives the gain away: within a frame it changes by 3 dB at most."""
    before = media.as_stored(conversation(-26, floor=1e-3))
    after, _ = level(before, tmp_path)
    heard = np.abs(before) > 2e-3  # quieter samples are rounded by more than is looked for here
    gains_db = 20 * np.log10(np.abs(after[heard]) / np.abs(before[heard]))
    position = np.flatnonzero(heard)
    steps = np.abs(np.diff(gains_db)) - 3.1 * np.diff(position) / 512 * 2
    assert steps.max() < 0.1
    pauses = (position < LOUD.stop + S) | (position > QUIET.stop + S)
    assert np.abs(gains_db[pauses]).max() < 1e-3


def test_answers_right_after_a_louder_voice_are_raised_too(tmp_path: Path) -> None:
    pause = np.zeros(S // 4, np.float32)
    turns = [syllables(3, PEAK if index % 2 == 0 else PEAK / 10) for index in range(6)]
    before = np.concatenate([part for turn in turns for part in (turn, pause)])
    starts = [index * (3 * S + S // 4) for index in range(6)]
    speech = tuple(Span(start, start + 3 * S) for start in starts)
    after, _ = level(before, tmp_path, speech=speech)
    rise = [rms_db(after, span) - rms_db(before, span) for span in speech]
    assert np.abs(rise[::2]).max() < 0.1
    assert min(rise[1::2]) > 14


def test_long_recordings_are_leveled_in_blocks(tmp_path: Path) -> None:
    before = np.concatenate((syllables(10, PEAK), syllables(100, PEAK / 20)))
    after, leveled_db = level(before, tmp_path, speech=(Span(0, 10 * S), Span(10 * S, 110 * S)))
    assert leveled_db == pytest.approx(23, abs=1)
    assert rms_db(after, Span(12 * S, 110 * S)) > rms_db(before, Span(12 * S, 110 * S)) + 21


def test_stop_request_ends_leveling(tmp_path: Path) -> None:
    def stop() -> None:
        raise errors.StoppedError("enough")

    with WaveformWriter(tmp_path) as writer:
        writer.append(conversation())
        waveform = writer.finish()
    with waveform:
        levels = measure_levels(waveform, lambda: None)
        with pytest.raises(errors.StoppedError):
            bring_up_quiet_speech(waveform, levels, (LOUD, QUIET), Preprocess(), stop)


# Through the audio process


def prepare(
    front_end: FrontEnd, samples: NDArray[np.float32], folder: Path, **settings: str
) -> tuple[NDArray[np.float32], float]:
    path = folder / "talk.wav"
    soundfile.write(path, samples, S, subtype="FLOAT")
    prepared = front_end.prepare(path, Preprocess.model_validate(settings), "silero")
    with prepared:
        return media.samples_of(prepared.streams[0].waveform), prepared.receipt.leveled_db


def test_far_voice_is_leveled_in_the_audio_process_and_the_receipt_says_so(front_end: FrontEnd, tmp_path: Path) -> None:
    near = voices.say("slt", "hello and good morning please open the project plan")
    far = voices.say("awb", "the red folder is not in the office please check the kitchen", level=0.02)
    pause = np.zeros(S, np.float32)
    sound = np.concatenate((pause, near, pause, far, pause))
    sound += media.noise(len(sound) / S, level=1e-4)
    plain, leveled_db = prepare(front_end, sound, tmp_path, leveling="off")
    assert leveled_db == 0
    leveled, leveled_db = prepare(front_end, sound, tmp_path)
    assert leveled_db > 15
    where = Span(2 * S + len(near), 2 * S + len(near) + len(far))
    assert rms_db(leveled, where) > rms_db(plain, where) + 12
    assert np.array_equal(leveled[: S + len(near)], plain[: S + len(near)])
    assert np.abs(leveled).max() <= np.abs(plain).max() * 1.0001


def test_even_recording_equals_sox_with_leveling_auto(front_end: FrontEnd, tmp_path: Path) -> None:
    source = media.speak(tmp_path / "spoken.wav")
    media.sox(
        source, "-e", "float", "-b", "32", tmp_path / "sox.wav", "highpass", "80", "rate", "16k", "gain", "-n", "-3"
    )
    prepared = front_end.prepare(source, Preprocess(), "silero")
    with prepared:
        waveform = prepared.streams[0].waveform
        assert np.abs(media.samples_of(waveform) - media.read_audio(tmp_path / "sox.wav")[0]).max() < 1e-3
    assert prepared.receipt.leveled_db == 0


@pytest.mark.parametrize("vad", ["energy", "off"])
def test_leveling_works_with_every_way_to_find_speech(
    vad: Literal["energy", "off"], front_end: FrontEnd, tmp_path: Path
) -> None:
    near = voices.say("slt", "hello and good morning please open the project plan")
    far = voices.say("awb", "the red folder is not in the office please check the kitchen", level=0.03)
    sound = np.concatenate((near, np.zeros(2 * S, np.float32), far))
    path = tmp_path / "talk.wav"
    soundfile.write(path, sound + media.noise(len(sound) / S, level=1e-4), S, subtype="FLOAT")
    prepared = front_end.prepare(path, Preprocess(), vad)
    prepared.close()
    assert prepared.receipt.leveled_db > 10
    assert (prepared.streams[0].speech == (Span(0, len(sound)),)) == (vad == "off")


def test_echo_of_the_other_side_in_a_split_channel_is_neither_heard_nor_leveled(
    front_end: FrontEnd, tmp_path: Path
) -> None:
    left = np.concatenate((voices.say("slt", "hello and good morning please open the project plan"), np.zeros(5 * S)))
    right = np.concatenate((np.zeros(5 * S), voices.say("awb", "the red folder is not in the office")))
    n = max(len(left), len(right))
    sides = np.zeros((n, 2), np.float32)
    sides[: len(left), 0], sides[: len(right), 1] = left, right
    call = sides + sides[:, ::-1] / 20 + media.noise(n / S + 1, level=1e-4)[:n, np.newaxis]
    soundfile.write(tmp_path / "call.wav", call, S)
    prepared = front_end.prepare(tmp_path / "call.wav", Preprocess(), "silero", asr=Transcribe(channels="split"))
    prepared.close()
    assert [stream.channel for stream in prepared.streams] == [1, 2]
    assert prepared.streams[0].speech[-1].stop < 5 * S
    assert prepared.streams[1].speech[0].start > 4 * S
    assert prepared.receipt.leveled_db == 0


def test_second_talker_far_from_the_microphone_of_a_split_channel_is_leveled(
    front_end: FrontEnd, tmp_path: Path
) -> None:
    near = voices.say("slt", "hello and good morning please open the project plan")
    far = voices.say("kal16", "the red folder is not in the office please check the kitchen", level=0.02)
    left = np.concatenate((near, np.zeros(6 * S, np.float32), far))
    right = np.zeros(len(left), np.float32)
    answer = voices.say("awb", "the new budget is ready and the report is on the network")
    right[len(near) + S : len(near) + S + len(answer)] = answer
    call = np.stack((left, right), axis=1) + media.noise(len(left) / S + 1, level=1e-4)[: len(left), np.newaxis]
    soundfile.write(tmp_path / "far.wav", call, S)
    prepared = front_end.prepare(tmp_path / "far.wav", Preprocess(), "silero", asr=Transcribe(channels="split"))
    prepared.close()
    assert prepared.streams[0].speech[-1].start > len(left) - len(far) - S
    assert prepared.receipt.leveled_db > 15


def test_the_one_track_that_is_heard_of_two_is_leveled(front_end: FrontEnd, tmp_path: Path) -> None:
    near = voices.say("slt", "hello and good morning please open the project plan")
    far = voices.say("awb", "the red folder is not in the office please check the kitchen", level=0.02)
    sound = np.concatenate((near, np.zeros(2 * S, np.float32), far))
    media.write_audio(tmp_path / "microphone.wav", sound + media.noise(len(sound) / S, level=1e-4)[: len(sound)], S)
    media.write_audio(tmp_path / "desktop.wav", np.zeros(len(sound)), S)
    inputs = ("-i", tmp_path / "desktop.wav", "-i", tmp_path / "microphone.wav", "-map", "0", "-map", "1")
    media.ffmpeg(*inputs, "-c:a", "flac", tmp_path / "screen.mkv")
    prepared = front_end.prepare(tmp_path / "screen.mkv", Preprocess(), "silero")
    prepared.close()
    assert [stream.track for stream in prepared.streams] == [2]
    assert prepared.receipt.leveled_db > 15
