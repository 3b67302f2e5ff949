"""Speech far below the loudest is found, sounds of the room are not, and what is left unheard is named."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest

from daemon.decode import WaveformWriter
from daemon.segment import Span, cut, quiet_speech
from daemon.segment.frames import measure_levels
from daemon.segment.unheard import describe_unheard
from daemon.segment.vad import detect_speech
from tests import backgrounds, media, voices
from tests.voices import VOICES, S

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SENTENCES = (
    "hello and good morning please open the project plan",
    "the new budget is ready and the report is on the network",
    "can you send the report before lunch",
    "the manager will confirm the price today",
    "we need thirty minutes with the customer tomorrow morning",
    "the red folder is not in the office please check the kitchen",
)


@cache
def sentence(voice: str, number: int) -> NDArray[np.float32]:
    return voices.say(voice, SENTENCES[number % len(SENTENCES)])


@cache
def talk(voice: str, first: int = 0) -> NDArray[np.float32]:
    """Return about ten seconds of one voice, at the level of `backgrounds`."""
    said = [(sentence(voice, first + index), np.zeros(S // 2, np.float32)) for index in range(3)]
    sound = np.concatenate([part for pair in said for part in pair])
    return np.asarray(sound * (backgrounds.LEVEL / np.sqrt(np.mean(sound**2))), np.float32)


def find(samples: NDArray[np.float32], cache_folder: Path) -> tuple[Span, ...]:
    """Find speech as after normalization to -3 dBFS."""
    with WaveformWriter(cache_folder) as writer:
        writer.append(samples)
        waveform = writer.finish(float(0.7 / np.abs(samples).max()))
    with waveform:
        return detect_speech(waveform, measure_levels(waveform, lambda: None), "silero", lambda: None)


def seconds(found: Sequence[Span], start: int, stop: int) -> float:
    return sum(max(0, min(span.stop, stop) - max(span.start, start)) for span in found) / S


def decibels(level_db: float) -> np.float32:
    return np.float32(10 ** (level_db / 20))


@pytest.mark.parametrize(("level_db", "floor"), [(-26, 1e-3), (-30, 3e-4), (-36, 3e-4)])
@pytest.mark.parametrize("pair", [("slt", "awb"), ("rms", "kal16"), ("kal16", "slt")])
def test_second_talker_far_below_the_first_is_found(
    pair: tuple[str, str], level_db: float, floor: float, tmp_path: Path
) -> None:
    near, far = talk(pair[0]), talk(pair[1], first=3)
    start = len(near) + S

    def seconds_found(level_db: float) -> float:
        sound = np.concatenate((near, np.zeros(S, np.float32), far * decibels(level_db)))
        found = find(sound + media.noise(len(sound) / S, level=floor / 4), tmp_path)
        return seconds(found, start, len(sound))

    assert seconds_found(level_db) > 0.96 * seconds_found(0)


def test_lone_far_yes_is_found(tmp_path: Path) -> None:
    near, far = talk("slt"), voices.say("awb", "yes") * decibels(-30)
    sound = np.concatenate((near, np.zeros(4 * S, np.float32), far, np.zeros(4 * S, np.float32), near))
    start = len(near) + 4 * S
    found = find(sound + media.noise(len(sound) / S, level=1e-4), tmp_path)
    assert seconds(found, start - S // 5, start + len(far) + S // 5) > 0.2


@pytest.mark.parametrize("level_db", [-20, -26, -32])
@pytest.mark.parametrize("n_voices", [8, 24])
def test_pauses_over_babble_do_not_become_speech(
    n_voices: int, level_db: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [talk(voice, first) for voice in VOICES for first in range(6)]
    n_samples = 60 * S
    chatter = backgrounds.babble(others, n_voices, n_samples, np.random.default_rng(n_voices))
    is_talking = np.arange(n_samples) // (5 * S) % 2 == 0
    sound = np.resize(talk("rms"), n_samples) * is_talking + chatter * decibels(level_db)

    def seconds_found() -> float:
        found = find(sound, tmp_path)
        return sum(seconds(found, at + S // 3, at + 5 * S - S // 3) for at in range(5 * S, n_samples, 10 * S))

    twice = seconds_found()
    monkeypatch.setattr(quiet_speech, "choose_stretches", lambda *_: [])
    assert twice - seconds_found() <= 0.02 * 30


@pytest.mark.parametrize("kind", backgrounds.KINDS)
def test_sounds_of_a_room_are_not_taken_for_speech_when_they_are_raised(kind: str, tmp_path: Path) -> None:
    """After a loud voice there is half a minute of each, 30 dB below it."""
    near = talk("slt")
    sound = np.concatenate((near, backgrounds.KINDS[kind](30 * S, np.random.default_rng(2)) * decibels(-30)))
    found = find(sound + media.noise(len(sound) / S, level=1e-5), tmp_path)
    assert seconds(found, 0, len(near)) > 5
    assert seconds(found, len(near) + S, len(sound)) <= 0.02 * 30


def test_one_even_talker_needs_no_second_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = np.concatenate([part for voice in VOICES for part in (talk(voice), np.zeros(3 * S, np.float32))])
    sound += media.noise(len(sound) / S, level=1e-3)

    def read(*_: object) -> None:
        raise AssertionError("there is a second look")

    monkeypatch.setattr(quiet_speech.EvenWaveform, "read_frames", read)
    found = find(sound, tmp_path)
    assert len(cut(found, len(sound), 30, 5)) == len(VOICES)


# What was not taken for speech


def levels_of(*parts: tuple[float, float]) -> NDArray[np.float32]:
    """Levels of frames from (seconds, dBFS) of each part."""
    return np.concatenate([np.full(round(length_s * S / 512), level, np.float32) for length_s, level in parts])


def test_sound_as_loud_as_speech_is_named_with_its_time() -> None:
    levels = levels_of((60, -20), (10, -60), (5, -22), (60, -60), (0.5, -20), (10, -60), (5, -40))
    said = describe_unheard(levels, (Span(0, 60 * S),))
    assert said == "As loud as speech, but not taken for speech: 00:01:09 to 00:01:15."


def test_steady_noise_in_pauses_is_not_named() -> None:
    assert describe_unheard(levels_of((60, -20), (60, -28)), (Span(0, 60 * S),)) is None
    assert describe_unheard(levels_of((60, -120)), ()) is None
    assert describe_unheard(np.zeros(0, np.float32), ()) is None


def test_recording_without_speech_is_named_as_a_whole() -> None:
    assert (
        describe_unheard(levels_of((300, -20)), ())
        == "As loud as speech, but not taken for speech: 00:00:00 to 00:05:00."
    )


def test_at_most_ten_sounds_are_named_the_longest_ones_in_order() -> None:
    parts = [part for index in range(12) for part in ((10 - index / 2, -20), (10, -60))]
    said = describe_unheard(levels_of((10, -20), (10, -60), *parts), (Span(0, 10 * S),))
    assert said is not None
    times = said.removesuffix(", and 2 shorter ones.").rpartition(": ")[2].split(", ")
    assert len(times) == 10
    assert times == sorted(times)
    assert times[0] == "00:00:19 to 00:00:30"
