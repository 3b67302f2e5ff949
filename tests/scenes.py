"""Two people in two channels: telephone calls, and recordings that only look like calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests import media, voices

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Sound = NDArray[np.float32]
    Turns = Mapping[str, Sequence[Sound]]

S = 16_000
_SOUND_M_PER_S = 343.0
_REFLECTIONS = 3  # in each direction of a room


class Scene:
    """Who talks when, at random: two people in turns for a minute, who talk over each other for some of the time.

    Attributes:
        talkers: the sound of each, shape (n_samples,).
        speech: the samples (start, stop) where anyone talks, in order.

    Args:
        turns: what each of several people says.
        seed: of all that is drawn.
        overlap: the share of a turn in which the next has begun already.
    """

    def __init__(self, turns: Turns, seed: int, overlap: float) -> None:
        self.chance = np.random.default_rng(seed)
        names = self.chance.permutation(list(turns))[:2]
        self.talkers = [np.zeros(60 * S, np.float32) for _ in names]
        at = S
        spans: list[tuple[int, int]] = []
        while True:
            which = len(spans) % 2
            said = turns[str(names[which])]
            sound = said[int(self.chance.integers(len(said)))]
            if at + len(sound) > 59 * S:
                break
            self.talkers[which][at : at + len(sound)] += sound * 10 ** (self.chance.uniform(-3, 3) / 20)
            spans.append((at, at + len(sound)))
            at += round(len(sound) * (1 - overlap)) if self.chance.random() < 0.7 else len(sound) + S // 2
        self.speech = _merge(spans)

    def noise(self, level_db: float) -> Sound:
        """Return the noise of a microphone."""
        return (10 ** (level_db / 20) * self.chance.standard_normal(60 * S)).astype(np.float32)


def _merge(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def _delayed(sound: Sound, delay_s: float) -> Sound:
    n = round(delay_s * S)
    return np.concatenate((np.zeros(n, np.float32), sound[: len(sound) - n]))


def call(scene: Scene) -> tuple[Sound, Sound]:
    """A telephone call: each hears an echo of itself in the other channel, 25 dB down, sometimes at once."""
    one, other = scene.talkers
    echo, delay_s = 10 ** (-25 / 20), scene.chance.choice([0.0, 0.02, 0.12, 0.25])
    level_db = scene.chance.uniform(-65, -45)
    return (
        one + echo * _delayed(other, delay_s) + scene.noise(level_db),
        other + echo * _delayed(one, delay_s) + scene.noise(level_db),
    )


def dual_mono(scene: Scene) -> tuple[Sound, Sound]:
    """One sound in both channels."""
    mono = scene.talkers[0] + scene.talkers[1] + scene.noise(-60)
    return mono, mono * scene.chance.uniform(0.1, 1)


def ab_meeting(scene: Scene) -> tuple[Sound, Sound]:
    """Two microphones a step apart: each talker is nearer to one, and reaches the other a little later."""
    near, far = scene.chance.uniform(0.8, 1), 10 ** (-scene.chance.uniform(3, 8) / 20)
    one, other = (sound + 0.5 * voices.from_afar(sound, 0.3) for sound in scene.talkers)
    lag_s = scene.chance.uniform(0.001, 0.004)
    return (
        near * one + far * _delayed(other, lag_s) + scene.noise(-55),
        near * other + far * _delayed(one, lag_s) + scene.noise(-55),
    )


def xy_meeting(scene: Scene) -> tuple[Sound, Sound]:
    """Two microphones at one place: only levels differ, and there is the room."""
    weak = 10 ** (-scene.chance.uniform(4, 9) / 20)
    one, other = scene.talkers
    room = voices.from_afar(one + other, 0.1)
    return one + weak * other + room + scene.noise(-60), other + weak * one + room + scene.noise(-60)


def ab_meeting_in_a_room(scene: Scene) -> tuple[Sound, Sound]:
    """Two microphones on a table, 20 cm to a metre apart, and people who sit around it."""
    room = _Room(scene.chance)
    gap_m = scene.chance.uniform(0.2, 1.0)
    left, right = (
        sum(room.hear(sound, seat, microphone) for sound, seat in zip(scene.talkers, room.seats, strict=True))
        for microphone in (room.at(-gap_m / 2, 0, 0), room.at(gap_m / 2, 0, 0))
    )
    return left + scene.noise(-55), right + scene.noise(-55)


def xy_meeting_in_a_room(scene: Scene) -> tuple[Sound, Sound]:
    """Two cardioids at one place on the table, at a right angle to each other."""
    room = _Room(scene.chance)
    left, right = (
        sum(room.hear(sound, seat, room.table, side) for sound, seat in zip(scene.talkers, room.seats, strict=True))
        for side in (np.array([-1, 1, 0]), np.array([1, 1, 0]))
    )
    return left + scene.noise(-55), right + scene.noise(-55)


def music(scene: Scene) -> tuple[Sound, Sound]:
    """A singer in the middle, instruments at the sides."""
    notes = scene.chance.choice([196.0, 220.0, 247.0, 262.0, 294.0, 330.0], (2, 120))
    left, right = (np.concatenate([media.tone(0.5, S, f, 0.2) for f in part]) for part in notes)
    voice = scene.talkers[0] + scene.talkers[1]
    return left + 0.2 * right + voice, right + 0.2 * left + voice


def panned_podcast(scene: Scene) -> tuple[Sound, Sound]:
    """Two hosts whom a mixer put to the sides, as far as it usually goes."""
    angle = np.pi / 4 * (1 - scene.chance.uniform(0.3, 0.9))
    strong, weak = np.cos(angle), np.sin(angle)
    one, other = scene.talkers
    return strong * one + weak * other + scene.noise(-65), strong * other + weak * one + scene.noise(-65)


NO_CALLS: dict[str, Callable[[Scene], tuple[Sound, Sound]]] = {
    "dual mono": dual_mono,
    "AB meeting": ab_meeting,
    "AB meeting in a room": ab_meeting_in_a_room,
    "XY meeting": xy_meeting,
    "XY meeting in a room": xy_meeting_in_a_room,
    "music": music,
    "panned podcast": panned_podcast,
}


def far_microphones(one: Sound, other: Sound, reverberation_s: float, seed: int) -> tuple[Sound, Sound]:
    """Two microphones metres apart, one near each talker; much of what they hear comes back from the walls."""
    chance = np.random.default_rng(seed)

    def hear(sound: Sound, distance_m: float) -> Sound:
        delay = round(distance_m / _SOUND_M_PER_S * S)
        times_s = np.arange(round(reverberation_s * S)) / S
        echoes = chance.standard_normal(len(times_s)) * 10 ** (-3 * times_s / reverberation_s)
        response = np.concatenate((np.zeros(delay), echoes / np.linalg.norm(echoes)))
        response[delay] += 1 / distance_m
        return _filter(sound, response)

    return hear(one, 0.5) + hear(other, 3.0), hear(one, 3.0) + hear(other, 0.5)


def delayed_copy(sound: Sound, delay_s: float) -> tuple[Sound, Sound]:
    """One sound, later in one channel."""
    return sound, 0.7 * _delayed(sound, delay_s)


def noisy_copies(sound: Sound, ratio_db: float) -> tuple[Sound, Sound]:
    """One sound in both channels, under noise of its own in each: two bad amplifiers."""
    level = float(np.sqrt(np.mean(sound**2))) * 10 ** (-ratio_db / 20)
    return sound + media.noise(len(sound) / S, S, level, 1), sound + media.noise(len(sound) / S, S, level, 2)


def chorus(sound: Sound, rate_hz: float) -> tuple[Sound, Sound]:
    """One sound made wide: each channel has it with a delay of its own that sways."""
    times_s = np.arange(len(sound)) / S
    delays_s = [0.012 + 0.003 * np.sin(2 * np.pi * rate_hz * times_s + phase) for phase in (0, 2)]
    left, right = (np.interp(times_s - delay_s, times_s, sound).astype(np.float32) for delay_s in delays_s)
    return left, right


def spread(sound: Sound) -> tuple[Sound, Sound]:
    """One sound made wide: each channel has it through a filter of its own, 50 ms long."""
    chance = np.random.default_rng(1)
    fading = np.exp(-np.arange(800) / 320)
    left, right = (_filter(sound, chance.standard_normal(800) * fading) for _ in range(2))
    return left, right


def _filter(sound: Sound, response: NDArray[np.float64]) -> Sound:
    size = 1 << (len(sound) + len(response)).bit_length()
    heard = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(response, size), size)[: len(sound)]
    return np.asarray(heard, np.float32)


class _Room:
    """A room of some size with a table in the middle; sound comes straight and from its walls (image sources).

    Attributes:
        table: where the microphones stand, in metres.
        seats: where two people sit around it.
    """

    def __init__(self, chance: np.random.Generator) -> None:
        self._size = np.array([chance.uniform(3, 7), chance.uniform(3, 6), chance.uniform(2.4, 3)])
        self._reflection = chance.uniform(0.6, 0.85)
        self.table = np.array([self._size[0] / 2, self._size[1] / 2, 0.8])
        angles = [chance.uniform(0, 2 * np.pi)]
        angles.append(angles[0] + chance.uniform(0.5, np.pi))
        far_m = chance.uniform(0.6, 1.2, 2)
        self.seats = [
            self.at(m * np.cos(angle), m * np.sin(angle), 0.4) for m, angle in zip(far_m, angles, strict=True)
        ]

    def at(self, x_m: float, y_m: float, z_m: float) -> NDArray[np.float64]:
        """Return a place by its distance from the table's."""
        return np.asarray(self.table + np.array([x_m, y_m, z_m]))

    def hear(
        self,
        sound: Sound,
        seat: NDArray[np.float64],
        microphone: NDArray[np.float64],
        direction: NDArray[np.int64] | None = None,
    ) -> Sound:
        """Return a voice as a microphone picks it up, a cardioid if it has a direction."""
        response = np.zeros(S)
        for grid in np.ndindex(*[2 * _REFLECTIONS + 1] * 3):
            number = np.array(grid) - _REFLECTIONS
            image = np.where(number % 2 == 0, number * self._size + seat, (number + 1) * self._size - seat)
            way = image - microphone
            way_m = float(np.linalg.norm(way))
            gain = self._reflection ** np.abs(number).sum() / way_m
            if direction is not None:
                gain *= 0.5 + 0.5 * float(way @ direction) / way_m / float(np.linalg.norm(direction))
            response[round(way_m / _SOUND_M_PER_S * S)] += gain
        return _filter(sound, response)
