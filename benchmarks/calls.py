"""Telephone calls: which recordings are treated as calls, and the word errors of each side.

    python benchmarks/calls.py [DIR] [--short] [--docs docs]

The first table shows how many of 40 calls with an echo at -25 dB, and of 40 other recordings, are split into their
channels; each takes a minute. The voices are flite's, or those of the recordings in DIR: one person each, at least ten
seconds.

Then two voices talk for ten minutes, each in its own channel, both at once for a third of the time. The word error of
each side is compared with that of the same side alone. These voices are always those of espeak-ng, the only ones that
the demo model knows; it was trained on the voices, but not on the texts. `--docs` writes the tables to
DOCS/accuracy.md.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import soundfile
import soxr

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
sys.path.insert(0, str(Path(__file__).parents[1]))  # ahead of this folder, whose daemon.py is not the package

from demo_speech import ENGLISH, Espeak, random_text, random_voice, voice_names

from benchmarks.known_speech import Installation, add_options, replace_section
from daemon.config import Preprocess
from daemon.decode import AudioFiles, RecordingFile
from daemon.evaluation import score
from daemon.frontend.messages import Prepare
from daemon.frontend.preparing import find_streams
from tests import scenes, voices
from tests.scenes import S, Scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from daemon.transcript import ModelIdentity, Segment

    Sound = NDArray[np.float32]
    Make = Callable[[Scene], tuple[Sound, Sound]]

N_SCENES: Final = 40
N_SCENES_SHORT: Final = 7
MINUTES: Final = 10.0
MINUTES_SHORT: Final = 1.5
TURN_S: Final = 20.0
SPACING_S: Final = 12.0  # from turn to turn: with the pauses between sentences, both talk for a third of the time
ECHO_DB: Final = -25.0
ECHO_S: Final = 0.12
NOISE: Final = 1e-3
SENTENCES: Final = (
    "Good morning, how can I help you today?",
    "My order has not arrived yet, and it is now two weeks late.",
    "I am sorry to hear that. Please tell me the number of the order.",
    "It is four seven one two. I paid for it in March.",
)


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a call: its sound, shape (n_samples,), and its words."""

    sound: Sound
    words: str


def main() -> None:
    """Measure both tables, print them, and write them where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="recordings of one person each; default: flite's voices")
    parser.add_argument("--short", action="store_true", help="a sixth of it")
    parser.add_argument("--docs", type=Path, help="folder of accuracy.md, to write the tables there")
    add_options(parser)
    options = parser.parse_args()
    minutes, n_scenes = (MINUTES_SHORT, N_SCENES_SHORT) if options.short else (MINUTES, N_SCENES)
    with Installation(options) as installation:
        turns = load_turns(options.folder) if options.folder else say_turns()
        lines = [*count_split(turns, n_scenes, installation.folder), "", *compare_sides(installation, minutes)]
    print("\n".join(lines))
    if options.docs is not None:
        replace_section(options.docs / "accuracy.md", "calls", "\n".join(lines) + "\n")


def say_turns() -> dict[str, list[Sound]]:
    """Return sentences by flite's voices."""
    return {voice: [voices.say(voice, words) for words in SENTENCES] for voice in voices.VOICES}


def load_turns(folder: Path) -> dict[str, list[Sound]]:
    """Return parts of 2 to 4 s of each recording of a folder."""
    found = {}
    for path in sorted(folder.glob("*.flac")) + sorted(folder.glob("*.wav")):
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        sound = np.asarray(soxr.resample(samples.mean(axis=1), rate_hz, S), np.float32)
        sound *= np.float32(0.5) / np.abs(sound).max()
        found[path.name] = [sound[start : start + 3 * S] for start in range(0, len(sound) - 2 * S, 3 * S)]
    return found


def count_split(turns: Mapping[str, Sequence[Sound]], n_scenes: int, cache: Path) -> Iterator[str]:
    """Yield the lines of a table of how many recordings of each kind are split."""
    yield "| recordings | made | split |"
    yield "|---|---|---|"
    yield row("calls with echo", [scenes.call] * n_scenes, turns, cache)
    kinds = list(scenes.NO_CALLS.items())
    for index, (name, make) in enumerate(kinds):
        yield row(name, [make] * len(range(index, n_scenes, len(kinds))), turns, cache)


def row(name: str, makes: Sequence[Make], turns: Mapping[str, Sequence[Sound]], cache: Path) -> str:
    """Return a line of the table; each recording goes through decoder and speech detection."""
    n_split = 0
    for seed, make in enumerate(makes):
        scene = Scene(turns, 1000 + seed, overlap=(seed % 4) * 0.12)
        n_split += is_split(np.stack(make(scene), axis=1), cache)
    return f"| {name} | {len(makes)} | {n_split} |"


def is_split(stereo: Sound, cache: Path) -> bool:
    """Return whether a recording, shape (n_samples, 2), is taken for a call."""
    path = write(cache / "scene.wav", stereo)
    with RecordingFile.open(path) as source, AudioFiles(cache) as files:
        streams, _ = find_streams(source, files, Prepare(Preprocess(), "silero", cache))
    for stream in streams:
        stream.waveform.close()
    return len(streams) > 1


def write(path: Path, sound: Sound) -> Path:
    """Write sound with its peak at half of full scale."""
    soundfile.write(path, sound * (0.5 / np.abs(sound).max()), S, subtype="PCM_16")
    return path


def compare_sides(installation: Installation, minutes: float) -> Iterator[str]:
    """Yield the lines of a table of the word errors of each side: alone, in the call, and in a call with echo."""
    sides = say_sides(minutes)
    yield describe(installation.model, minutes, sides)
    yield ""
    yield "| side | words | alone | in the call | difference | in the call, with echo | difference |"
    yield "|---|---|---|---|---|---|---|"
    noise = NOISE * np.random.default_rng(1).standard_normal((2, len(sides[0].sound)), np.float32)
    calls = [
        installation.transcribe(write(installation.folder / "call.wav", mix(sides, noise, echo))).segments
        for echo in (0.0, 10 ** (ECHO_DB / 20))
    ]
    for at, side in enumerate(sides):
        path = write(installation.folder / "side.wav", side.sound + noise[at])
        alone = error_rate(side.words, installation.transcribe(path).segments)
        cells = [f"{at + 1}", f"{side.words.count(' ') + 1}", f"{100 * alone:.2f} %"]
        for segments in calls:
            heard = error_rate(side.words, [segment for segment in segments if segment.channel == at + 1])
            cells += [f"{100 * heard:.2f} %", f"{100 * (heard - alone):+.2f}"]
        yield f"| {' | '.join(cells)} |"


def mix(sides: Sequence[Side], noise: Sound, echo: float) -> Sound:
    """Return both sides with noise, each with a share of the other a little later, shape (n_samples, 2)."""
    delay = round(ECHO_S * S)
    channels = [
        side.sound + noise[at] + np.float32(echo) * np.roll(sides[1 - at].sound, delay) for at, side in enumerate(sides)
    ]
    return np.stack(channels, axis=1)


def error_rate(words: str, segments: Sequence[Segment]) -> float:
    """Return the word errors for each word."""
    return score("side", words, segments, "standard").counts.wer or 0.0


def describe(model: ModelIdentity, minutes: float, sides: Sequence[Side]) -> str:
    """Return a sentence on what the table is about."""
    talking = [side.sound != 0 for side in sides]
    share = float((talking[0] & talking[1]).mean())
    identity = f"{model.name} ({model.digest[:12]}) in {model.dtype}"
    return f"Model {identity}; {minutes:g} minutes, in {100 * share:.0f} % of which both talk."


def say_sides(minutes: float, seed: int = 1) -> list[Side]:
    """Return two voices of espeak-ng that talk in turns of 20 s, of which 6 s at each end are shared."""
    rng, espeak = random.Random(seed), Espeak()  # noqa: S311  # texts keep no secret
    names = voice_names(ENGLISH, held_out=False)
    sides = []
    for at in range(2):
        voice = random_voice(rng, names, most_stretch=0.0)
        sound, words = np.zeros(round(minutes * 60 * S), np.float32), []
        starts_s = np.arange(at * SPACING_S, minutes * 60 - TURN_S, 2 * SPACING_S)
        for start_s in starts_s.tolist():
            place, stop = round(start_s * S), round((start_s + TURN_S) * S)
            while True:
                text = random_text(rng, ENGLISH, rng.randint(4, 10), held_out=True)
                said = espeak.say(text, voice).samples.astype(np.float32)
                if place + len(said) > stop:
                    break
                sound[place : place + len(said)] = said * np.float32(0.5 / np.abs(said).max())
                words.append(text)
                place += len(said) + S // 4
        sides.append(Side(sound, " ".join(words)))
    return sides


if __name__ == "__main__":
    main()
