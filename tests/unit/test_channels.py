"""Two channels with a talker each, as in a telephone call, and recordings that only look like it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from daemon.decode.channels import ChannelWindows
from tests import scenes, voices
from tests.scenes import S, Scene

if TYPE_CHECKING:
    from numpy.typing import NDArray

SENTENCES = (
    "Good morning, how can I help you today?",
    "My order has not arrived yet, and it is now two weeks late.",
    "I am sorry to hear that. Please tell me the number of the order.",
    "It is four seven one two. I paid for it in March.",
)


@pytest.fixture(scope="module")
def turns() -> dict[str, list[NDArray[np.float32]]]:
    """Sentences of four people, each said once."""
    return {voice: [voices.say(voice, words) for words in SENTENCES] for voice in voices.VOICES}


def measure(left: NDArray[np.float32], right: NDArray[np.float32]) -> ChannelWindows:
    windows = ChannelWindows(S, 2)
    stereo = np.stack((left, right)).astype(np.float32)
    for start in range(0, stereo.shape[1], 50_000):
        windows.observe(stereo[:, start : start + 50_000], start / S)
    return windows


def is_call(left: NDArray[np.float32], right: NDArray[np.float32], speech: list[tuple[int, int]]) -> bool:
    windows = measure(left, right)
    return windows.hold_two_talkers(speech) or windows.count_talk_at_once(speech) > 0


def test_38_of_40_calls_with_echo_are_split(turns: dict[str, list[NDArray[np.float32]]]) -> None:
    found = []
    for seed in range(40):
        scene = Scene(turns, seed, overlap=(seed % 4) * 0.12)
        found.append(is_call(*scenes.call(scene), scene.speech))
    assert sum(found) >= 38


@pytest.mark.parametrize("kind", scenes.NO_CALLS)
def test_other_recordings_are_never_split(kind: str, turns: dict[str, list[NDArray[np.float32]]]) -> None:
    for seed in range(8):
        scene = Scene(turns, 100 + seed, overlap=(seed % 4) * 0.12)
        assert not is_call(*scenes.NO_CALLS[kind](scene), scene.speech), f"seed {100 + seed}"


def test_one_talker_on_one_channel_is_no_call(turns: dict[str, list[NDArray[np.float32]]]) -> None:
    scene = Scene(turns, 7, 0.0)
    windows = measure(scene.talkers[0] + scene.talkers[1], scene.noise(-60))
    assert not windows.hold_two_talkers(scene.speech)
    assert windows.count_talk_at_once([]) == 0  # the second channel holds no speech
    assert not is_call(np.zeros(60 * S, np.float32), np.zeros(60 * S, np.float32), [])
