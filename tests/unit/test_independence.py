"""Two people in two channels who both speak nearly all the time, and one scene in both channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from daemon.config import Preprocess
from daemon.decode import AudioFiles, RecordingFile
from daemon.decode.channels import ChannelWindows
from daemon.frontend.messages import Prepare
from daemon.frontend.preparing import find_streams
from tests import media, scenes, voices
from tests.scenes import S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Sound = NDArray[np.float32]

ORDER = "My order has not arrived yet, and it is now two weeks late."
NUMBER = "I am sorry to hear that. Please tell me the number of the order."
SHORT = "Good morning, how can I help you today?"
MIXED = [None]
SPLIT = [1, 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sentences of recorded voices, a short one, and two by espeak-ng, each in a file."""
    folder = tmp_path_factory.mktemp("independence")
    said = {"order": voices.say("rms", ORDER), "number": voices.say("slt", NUMBER), "short": voices.say("awb", SHORT)}
    for name, sound in said.items():
        media.write_audio(folder / f"{name}.wav", sound, S)
    media.speak(folder / "english.wav", ORDER, "en-gb")
    media.speak(folder / "american.wav", NUMBER, "en-us+f2")
    media.write_audio(folder / "noisy.wav", said["order"] + media.noise(len(said["order"]) / S, S, 0.02), S)
    return folder


@pytest.fixture(scope="module")
def talkers() -> tuple[Sound, Sound]:
    """Ten seconds of two people without a pause."""
    one, other = (np.tile(voices.say(*each), 4)[: 10 * S] for each in (("rms", ORDER), ("slt", NUMBER)))
    return one, other


def find_channels(path: Path, cache: Path) -> list[int | None]:
    """Return the channel of each stream of a recording."""
    with RecordingFile.open(path) as source, AudioFiles(cache) as files:
        streams, _ = find_streams(source, files, Prepare(Preprocess(), "silero", cache))
    for stream in streams:
        stream.waveform.close()
    return [stream.channel for stream in streams]


def talk_at_once(left: Sound, right: Sound) -> bool:
    windows = ChannelWindows(S, 2)
    stereo = np.stack((left, right)).astype(np.float32)
    for start in range(0, stereo.shape[1], 50_000):
        windows.observe(stereo[:, start : start + 50_000], start / S)
    return windows.count_talk_at_once([(0, stereo.shape[1])]) > 0


@pytest.mark.parametrize(
    ("left", "right"),
    [("order", "number"), ("number", "order"), ("english", "american"), ("order", "short"), ("noisy", "number")],
)
def test_two_short_recordings_side_by_side_are_split(left: str, right: str, folder: Path, tmp_path: Path) -> None:
    media.sox("-M", folder / f"{left}.wav", folder / f"{right}.wav", tmp_path / "r.wav")
    assert find_channels(tmp_path / "r.wav", tmp_path) == SPLIT


@pytest.mark.parametrize(
    ("name", "encoding"), [("r.mp3", ["-b:a", "128k"]), ("r.opus", ["-b:a", "48k"]), ("r.m4a", ["-b:a", "96k"])]
)
def test_two_talkers_are_split_after_lossy_encoding(
    name: str, encoding: list[str], folder: Path, tmp_path: Path
) -> None:
    media.sox("-M", folder / "order.wav", folder / "number.wav", tmp_path / "r.wav")
    media.ffmpeg("-i", tmp_path / "r.wav", *encoding, tmp_path / name)
    assert find_channels(tmp_path / name, tmp_path) == SPLIT


def test_a_talker_beside_music_or_noise_is_mixed(folder: Path, tmp_path: Path) -> None:
    voice, _ = media.read_audio(folder / "order.wav")
    said = np.tile(voice, 4)
    n_s = len(said) / S
    chords = [
        np.sum([media.tone(0.5, S, f * 2 ** (step / 12), 0.06) for f in (220.0, 277.2, 329.6)], axis=0)
        for step in (0, 5, 7, 3, 10, 2, 8, 4)
    ]
    music = np.resize(np.concatenate(chords), len(said))
    for sound in (music, media.noise(n_s, S, 0.05)):
        path = media.write_audio(tmp_path / "beside.wav", np.stack((said, sound.astype(np.float32)), axis=1), S)
        assert find_channels(path, tmp_path) == MIXED


def test_two_talkers_without_a_pause_are_found(talkers: tuple[Sound, Sound]) -> None:
    assert talk_at_once(*talkers)
    for ratio in (0.3, 1.0):
        noises = [media.noise(10, S, 0.02, seed) for seed in (1, 2)]
        assert talk_at_once(talkers[0] + noises[0], ratio * talkers[1] + noises[1])


@pytest.mark.parametrize("length_s", [3, 10])
@pytest.mark.parametrize("delay_s", [0.0, 0.001, 0.005, 0.015, 0.03, 0.05])
def test_a_delayed_copy_is_not_split(delay_s: float, length_s: int, talkers: tuple[Sound, Sound]) -> None:
    one, both = talkers[0][: length_s * S], (talkers[0] + talkers[1])[: length_s * S]
    assert not talk_at_once(*scenes.delayed_copy(one, delay_s))
    assert not talk_at_once(*scenes.delayed_copy(both, delay_s))


@pytest.mark.parametrize("length_s", [3, 10])
@pytest.mark.parametrize("ratio_db", [20, 10, 5, 0, -5])
def test_a_talker_under_two_noises_is_not_split(ratio_db: int, length_s: int, talkers: tuple[Sound, Sound]) -> None:
    assert not talk_at_once(*scenes.noisy_copies(talkers[0][: length_s * S], ratio_db))


@pytest.mark.parametrize("length_s", [3, 10])
@pytest.mark.parametrize("reverberation_s", [0.3, 0.6, 1.0, 1.5])
def test_microphones_metres_apart_are_not_split(
    reverberation_s: float, length_s: int, talkers: tuple[Sound, Sound]
) -> None:
    one, other = (each[: length_s * S] for each in talkers)
    for seed in range(3):
        assert not talk_at_once(*scenes.far_microphones(one, other, reverberation_s, seed)), f"seed {seed}"
        turns = np.arange(len(one)) < len(one) // 2
        in_turn = (one * turns, other * ~turns)
        assert not talk_at_once(*scenes.far_microphones(*in_turn, reverberation_s, seed)), f"seed {seed}, in turn"


@pytest.mark.parametrize("length_s", [3, 10])
@pytest.mark.parametrize(
    "effect",
    [
        lambda sound: (sound, -sound),
        lambda sound: scenes.chorus(sound, 0.5),
        lambda sound: scenes.chorus(sound, 1.5),
        lambda sound: scenes.chorus(sound, 3.0),
        scenes.spread,
    ],
    ids=["inverted", "slow chorus", "chorus", "fast chorus", "spread"],
)
def test_one_scene_made_wide_is_not_split(
    effect: Callable[[Sound], tuple[Sound, Sound]], length_s: int, talkers: tuple[Sound, Sound]
) -> None:
    for sound in (talkers[0], talkers[0] + talkers[1]):
        assert not talk_at_once(*effect(sound[: length_s * S]))


def test_crosstalk_that_a_listener_notices_is_not_split(talkers: tuple[Sound, Sound]) -> None:
    one, other = talkers
    found = [
        talk_at_once(one + share * np.roll(other, 200), other + share * np.roll(one, 90))
        for share in 10 ** (np.array([-40.0, -35.0, -20.0, -15.0, -10.0]) / 20)
    ]
    assert found == [True, True, False, False, False]


@pytest.mark.parametrize("encoding", [("r.mp3", "64k"), ("r.mp3", "32k"), ("r.opus", "32k"), ("r.opus", "16k")])
def test_lossy_stereo_of_one_scene_is_not_split(
    encoding: tuple[str, str], talkers: tuple[Sound, Sound], tmp_path: Path
) -> None:
    stereo = np.stack(scenes.far_microphones(*talkers, 0.4, 1), axis=1)
    media.write_audio(tmp_path / "r.wav", 0.2 * stereo / np.abs(stereo).max(), S)
    name, bit_rate = encoding
    media.ffmpeg("-i", tmp_path / "r.wav", "-b:a", bit_rate, tmp_path / name)
    assert find_channels(tmp_path / name, tmp_path) == MIXED


def test_a_second_in_which_both_sound_is_too_little(talkers: tuple[Sound, Sound]) -> None:
    assert not talk_at_once(*(each[:S] for each in talkers))


def test_long_recordings_keep_excerpts_from_all_over(talkers: tuple[Sound, Sound]) -> None:
    """Ten minutes of one scene after two of two talkers: what came last still counts."""
    one, other = talkers
    windows = ChannelWindows(S, 2)
    copies = scenes.delayed_copy(one + other, 0.03)
    for at in range(72):
        windows.observe(np.stack((one, other) if at < 12 else copies), 10.0 * at)
    assert windows.count_talk_at_once([(0, 120 * S)]) > 0
    assert windows.count_talk_at_once([(0, 720 * S)]) == 0
