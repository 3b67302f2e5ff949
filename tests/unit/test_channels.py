"""Two channels with a talker each, as in a telephone call, and recordings that only look like it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from daemon.decode.channels import ChannelWindows
from tests import media, voices

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


S = 16_000
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


class Scene:
    """Who talks when, at random: two people in turns, who talk over each other for some of the time."""

    def __init__(self, turns: dict[str, list[NDArray[np.float32]]], seed: int, overlap: float) -> None:
        self.chance = np.random.default_rng(seed)
        names = self.chance.permutation(list(turns))[:2]
        self.talkers = [np.zeros(60 * S, np.float32) for _ in names]
        at = S
        spans: list[tuple[int, int]] = []
        while True:
            which = len(spans) % 2
            said = turns[str(names[which])][self.chance.integers(len(SENTENCES))]
            if at + len(said) > 59 * S:
                break
            self.talkers[which][at : at + len(said)] += said * 10 ** (self.chance.uniform(-3, 3) / 20)
            spans.append((at, at + len(said)))
            at += round(len(said) * (1 - overlap)) if self.chance.random() < 0.7 else len(said) + S // 2
        self.speech = merge(spans)

    def noise(self, level_db: float) -> NDArray[np.float32]:
        return (10 ** (level_db / 20) * self.chance.standard_normal(60 * S)).astype(np.float32)


def merge(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def is_call(left: NDArray[np.float32], right: NDArray[np.float32], speech: list[tuple[int, int]]) -> bool:
    windows = ChannelWindows(S, 2)
    stereo = np.stack((left, right)).astype(np.float32)
    for start in range(0, stereo.shape[1], 50_000):
        windows.observe(stereo[:, start : start + 50_000], start / S)
    return windows.hold_two_talkers(speech)


def delayed(sound: NDArray[np.float32], delay_s: float) -> NDArray[np.float32]:
    n = round(delay_s * S)
    return np.concatenate((np.zeros(n, np.float32), sound[: len(sound) - n]))


def call(scene: Scene) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A telephone call: each hears an echo of itself in the other channel, 25 dB down, sometimes at once."""
    one, other = scene.talkers
    echo, delay_s = 10 ** (-25 / 20), scene.chance.choice([0.0, 0.02, 0.12, 0.25])
    level_db = scene.chance.uniform(-65, -45)
    return (
        one + echo * delayed(other, delay_s) + scene.noise(level_db),
        other + echo * delayed(one, delay_s) + scene.noise(level_db),
    )


def dual_mono(scene: Scene) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    mono = scene.talkers[0] + scene.talkers[1] + scene.noise(-60)
    return mono, mono * scene.chance.uniform(0.1, 1)


def ab_meeting(scene: Scene) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two microphones a step apart: each talker is nearer to one, and reaches the other a little later."""
    near, far = scene.chance.uniform(0.8, 1), 10 ** (-scene.chance.uniform(3, 8) / 20)
    one, other = (sound + 0.5 * voices.from_afar(sound, 0.3) for sound in scene.talkers)
    lag_s = scene.chance.uniform(0.001, 0.004)
    return (
        near * one + far * delayed(other, lag_s) + scene.noise(-55),
        near * other + far * delayed(one, lag_s) + scene.noise(-55),
    )


def xy_meeting(scene: Scene) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two microphones at one place: only levels differ, and there is the room."""
    weak = 10 ** (-scene.chance.uniform(4, 9) / 20)
    one, other = scene.talkers
    room = voices.from_afar(one + other, 0.1)
    return one + weak * other + room + scene.noise(-60), other + weak * one + room + scene.noise(-60)


def music(scene: Scene) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A singer in the middle, instruments at the sides."""
    notes = scene.chance.choice([196.0, 220.0, 247.0, 262.0, 294.0, 330.0], (2, 120))
    left, right = (np.concatenate([media.tone(0.5, S, f, 0.2) for f in part]) for part in notes)
    voice = scene.talkers[0] + scene.talkers[1]
    return left + 0.2 * right + voice, right + 0.2 * left + voice


def panned_podcast(scene: Scene) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two hosts whom a mixer put to the sides, as far as it usually goes."""
    angle = np.pi / 4 * (1 - scene.chance.uniform(0.3, 0.9))
    strong, weak = np.cos(angle), np.sin(angle)
    one, other = scene.talkers
    return strong * one + weak * other + scene.noise(-65), strong * other + weak * one + scene.noise(-65)


def test_38_of_40_calls_with_echo_are_split(turns: dict[str, list[NDArray[np.float32]]]) -> None:
    found = []
    for seed in range(40):
        scene = Scene(turns, seed, overlap=(seed % 4) * 0.12)
        found.append(is_call(*call(scene), scene.speech))
    assert sum(found) >= 38


@pytest.mark.parametrize("kind", [dual_mono, ab_meeting, xy_meeting, music, panned_podcast])
def test_other_recordings_are_never_split(
    kind: Callable[[Scene], tuple[NDArray[np.float32], NDArray[np.float32]]],
    turns: dict[str, list[NDArray[np.float32]]],
) -> None:
    for seed in range(8):
        scene = Scene(turns, 100 + seed, overlap=(seed % 4) * 0.12)
        assert not is_call(*kind(scene), scene.speech), f"seed {100 + seed}"


def test_one_talker_on_one_channel_is_no_call(turns: dict[str, list[NDArray[np.float32]]]) -> None:
    scene = Scene(turns, 7, 0.0)
    assert not is_call(scene.talkers[0] + scene.talkers[1], scene.noise(-60), scene.speech)
    assert not is_call(np.zeros(60 * S, np.float32), np.zeros(60 * S, np.float32), [])
