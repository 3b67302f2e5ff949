"""Echoes between the channels of a call, and between microphones: heard once, where the talker is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from daemon.decode import WaveformWriter
from daemon.segment import Span
from daemon.segment.echoes import leave_out_echoes
from daemon.segment.examination import examine
from tests import media, voices

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


S = 16_000
FIRST = "Good morning, how can I help you today?"
SECOND = "My order has not arrived yet, and it is now two weeks late."


def hear(sounds: list[NDArray[np.float32]], cache: Path) -> tuple[list[tuple[Span, ...]], list[tuple[Span, ...]]]:
    """Return the speech of each stream as it was found, and without echoes."""
    waveforms = []
    for sound in sounds:
        with WaveformWriter(cache) as writer:
            writer.append(sound.astype(np.float32))
            waveforms.append(writer.finish(float(0.7 / np.abs(sound).max())))
    examined = [examine(waveform, "silero", lambda: None) for waveform in waveforms]
    heard = leave_out_echoes(waveforms, examined)
    for waveform in waveforms:
        waveform.close()
    return [each.speech for each in examined], heard


def seconds(speech: tuple[Span, ...], start: int, stop: int) -> float:
    return sum(max(0, min(span.stop, stop) - max(span.start, start)) for span in speech) / S


def turns() -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
    """Two talkers, one after the other with a second between, and where the second begins."""
    one, other = voices.say("slt", FIRST), voices.say("rms", SECOND)
    n_samples, at = len(one) + len(other) + 3 * S, len(one) + 2 * S
    sounds = np.zeros((2, n_samples), np.float32)
    sounds[0, S : S + len(one)] = one
    sounds[1, at : at + len(other)] = other
    return sounds[0], sounds[1], at


@pytest.mark.parametrize("delay_s", [0.0, 0.02, 0.25])
@pytest.mark.parametrize("echo_db", [-20, -25, -35])
def test_echo_of_the_other_side_is_not_heard_twice(echo_db: float, delay_s: float, tmp_path: Path) -> None:
    one, other, at = turns()
    echo, delay = np.float32(10 ** (echo_db / 20)), round(delay_s * S)
    noise = [media.noise(len(one) / S, level=3e-4, seed=seed) for seed in (1, 2)]
    calls = [one + echo * np.roll(other, delay) + noise[0], other + echo * np.roll(one, delay) + noise[1]]
    found, heard = hear(calls, tmp_path)
    assert seconds(heard[0], at, len(one)) < 0.5
    assert seconds(heard[1], 0, at - S) < 0.5
    assert seconds(heard[0], 0, at - S) == pytest.approx(seconds(found[0], 0, at - S), abs=0.3)
    assert seconds(heard[1], at, len(one)) == pytest.approx(seconds(found[1], at, len(one)), abs=0.3)


@pytest.mark.parametrize("lead_s", [0.0, 0.1, 0.5])
def test_echo_at_the_start_of_the_recording_is_not_heard_twice(lead_s: float, tmp_path: Path) -> None:
    lead = round(lead_s * S)
    one, other, at = turns()
    one, other, at = one[S - lead :], other[S - lead :], at - S + lead
    noise = [media.noise(len(one) / S, level=3e-4, seed=seed) for seed in (1, 2)]
    echo = np.concatenate((np.zeros(1920, np.float32), one[:-1920])) * np.float32(0.056)
    found, heard = hear([one + noise[0], other + echo + noise[1]], tmp_path)
    assert seconds(found[1], 0, at - S) > 1.5
    assert seconds(heard[1], 0, at - S) < 0.3
    assert seconds(heard[0], 0, at - S) == pytest.approx(seconds(found[0], 0, at - S), abs=0.3)


def test_microphones_in_one_room_hear_each_talker_once(tmp_path: Path) -> None:
    one, other, at = turns()
    noise = [media.noise(len(one) / S, level=1e-4, seed=seed) for seed in (1, 2)]
    rooms = [
        one + voices.from_afar(other, 0.05) + noise[0],
        other + voices.from_afar(one, 0.05, seed=2) + noise[1],
    ]
    found, heard = hear(rooms, tmp_path)
    assert seconds(found[0], at, len(one)) > 1.0
    assert seconds(heard[0], at, len(one)) < 0.5
    assert seconds(heard[1], 0, at - S) < 0.5


def test_soft_answer_while_the_other_talks_is_not_an_echo(tmp_path: Path) -> None:
    one, other, at = turns()
    answer = voices.say("kal16", "yes of course", level=0.04)
    one[at + S : at + S + len(answer)] += answer
    noise = [media.noise(len(one) / S, level=1e-4, seed=seed) for seed in (1, 2)]
    found, heard = hear([one + noise[0], other + noise[1]], tmp_path)
    assert heard == found
    assert seconds(heard[0], at + S, at + S + len(answer)) > 0.5


def test_stream_that_only_echoes_another_is_left_as_it_is(tmp_path: Path) -> None:
    one, _, _ = turns()
    noise = [media.noise(len(one) / S, level=1e-4, seed=seed) for seed in (1, 2)]
    found, heard = hear([one + noise[0], 0.05 * np.roll(one, 800) + noise[1]], tmp_path)
    assert heard == found


def through_a_loudspeaker(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return sound as a small loudspeaker plays it into a room: no lows, and a diffuse tail of 100 ms."""
    spectrum, hz = np.fft.rfft(sound), np.fft.rfftfreq(len(sound), 1 / S)
    thin = np.fft.irfft(spectrum * (hz / 500) ** 3 / (1 + (hz / 500) ** 3), len(sound))
    delays = np.arange(S // 10)
    response = np.random.default_rng(5).standard_normal(len(delays)) * 10 ** (-3 * delays / len(delays)) * 0.08
    response[20] += 1
    return np.convolve(thin, response)[: len(sound)].astype(np.float32)


@pytest.mark.parametrize("echo_db", [-20, -30])
def test_echo_through_a_loudspeaker_is_not_heard_twice(echo_db: float, tmp_path: Path) -> None:
    one, other, at = turns()
    echo = np.float32(10 ** (echo_db / 20))
    noise = [media.noise(len(one) / S, level=1e-4, seed=seed) for seed in (1, 2)]
    calls = [
        one + echo * np.roll(through_a_loudspeaker(other), 4000) + noise[0],
        other + echo * np.roll(through_a_loudspeaker(one), 4000) + noise[1],
    ]
    found, heard = hear(calls, tmp_path)
    assert seconds(found[0], at, len(one)) > 1.0
    assert seconds(heard[0], at, len(one)) < 0.5
    assert seconds(heard[1], 0, at - S) < 0.5


@pytest.mark.parametrize("answer_db", [-14, -20])
def test_soft_answer_on_top_of_an_echo_stays(answer_db: float, tmp_path: Path) -> None:
    one, other, at = turns()
    answer = voices.say("kal16", "yes of course", level=0.5 * 10 ** (answer_db / 20))
    begin, end = at + S, at + S + len(answer)
    one[begin:end] += answer
    noise = [media.noise(len(one) / S, level=1e-4, seed=seed) for seed in (1, 2)]
    echo = 10 ** np.float32(-32 / 20) * np.roll(other, 1920)
    found, heard = hear([one + echo + noise[0], other + noise[1]], tmp_path)
    kept = seconds(heard[0], begin, end)
    assert kept > 0.9 * seconds(found[0], begin, end)
    assert kept > 0.5
    assert seconds(heard[0], at, len(one)) < seconds(found[0], at, len(one)) - 0.8


def test_both_say_the_same_at_once_with_echoes(tmp_path: Path) -> None:
    one, other, at = turns()
    yes = [voices.say(voice, "yes", level=0.4) for voice in ("slt", "rms")]
    n_samples = max(map(len, yes))
    for sound, word in zip((one, other), yes, strict=True):
        sound[at - S // 2 - len(word) : at - S // 2] = word
    noise = [media.noise(len(one) / S, level=1e-4, seed=seed) for seed in (1, 2)]
    calls = [one + 0.05 * np.roll(other, 1920) + noise[0], other + 0.05 * np.roll(one, 1920) + noise[1]]
    _, heard = hear(calls, tmp_path)
    for speech, word in zip(heard, yes, strict=True):
        assert seconds(speech, at - S // 2 - n_samples, at - S // 2) > 0.9 * len(word) / S


@pytest.mark.parametrize("n_frames", [6, 10])
def test_short_bursts_of_an_echo_are_not_heard_twice(n_frames: int, tmp_path: Path) -> None:
    one, other, at = turns()
    noise = [media.noise(len(one) / S, level=3e-4, seed=seed) for seed in (1, 2)]
    waveforms, examined = [], []
    for sound in (one + 0.056 * np.roll(other, 1920) + noise[0], other + noise[1]):
        with WaveformWriter(tmp_path) as writer:
            writer.append(sound.astype(np.float32))
            waveforms.append(writer.finish(1.0))
        examined.append(examine(waveforms[-1], "silero", lambda: None))
    own = tuple(span for span in examined[0].speech if span.stop < at)
    length = n_frames * 512
    starts = range(at + S // 2, at + 3 * S, length + 4 * 512)
    bursts = tuple(Span(start // 512 * 512, start // 512 * 512 + length) for start in starts)
    heard = leave_out_echoes(waveforms, [replace(examined[0], speech=(*own, *bursts)), examined[1]])
    for waveform in waveforms:
        waveform.close()
    assert heard[0] == own
