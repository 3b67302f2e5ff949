"""How much of a quiet talker is found and understood, and what background is mistaken for speech.

    python benchmarks/quiet_voice.py            # voices of flite and espeak-ng
    python benchmarks/quiet_voice.py DIR        # recordings of one person each, ten seconds or more

"one look" is speech detection on the audio as it is; "two looks" is the program. A pair is ten seconds of
one voice, then ten of another that is quieter, over white noise. Pauses are those of one voice, five seconds each.
Sounds of rooms are generated (`tests/backgrounds.py`): alone, and 30 dB below a voice that talks for the
first ten seconds. The hour is as many recordings as there are voices, each of one voice with pauses of up to eight
seconds.

Word errors are those of the demo model. It knows the voices of espeak-ng only, so these pairs always are espeak-ng's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from unittest import mock

import numpy as np
import soundfile
import soxr

sys.path.insert(0, str(Path(__file__).parents[1]))  # ahead of this folder, whose daemon.py is not the package

from daemon import engine
from daemon.config import Config, Folders, ModelSettings, Preprocess, RecordingSettings
from daemon.decode import WaveformWriter
from daemon.frontend import FrontEnd
from daemon.pipeline import Forgetful, Recording, RunControl, transcribe
from daemon.segment import cut, quiet_speech
from daemon.segment.frames import measure_levels
from daemon.segment.vad import detect_speech
from daemon.text import count_word_errors
from tests import backgrounds, media, voices
from tests.backgrounds import LEVEL, S

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from daemon.engine import Engine
    from daemon.segment import Span

    Sound = NDArray[np.float32]

PAIRS: Final = ((0, 3e-4), (0, 1e-3), (-12, 3e-4), (-20, 3e-4), (-26, 3e-4), (-26, 1e-3), (-30, 3e-4), (-36, 3e-4))
BABBLE: Final = tuple((n_voices, level_db) for n_voices in (8, 24) for level_db in (-20, -26, -32))
ROOM_DB: Final = -30
LEVELINGS: Final[tuple[Literal["off", "auto"], ...]] = ("off", "auto")
PEAK: Final = 10 ** (-3 / 20)
SENTENCES: Final = (
    "hello and good morning please open the project plan",
    "the new budget is ready and the report is on the network",
    "can you send the report before lunch",
    "the manager will confirm the price today",
    "we need thirty minutes with the customer tomorrow morning",
    "the red folder is not in the office please check the kitchen",
)
ESPEAK: Final = ("en-us+f2", "en-us+m3", "en-gb+m1", "en-gb+f4", "en-us+m7", "en-us+f5", "en-gb+m5", "en-gb+f1")
ROW: Final = "{:<34}{:>12}{:>12}"


def main() -> None:
    """Measure everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="recordings of one person each; default: synthetic voices")
    parser.add_argument("--minutes", type=float, default=5.0, help="length of each background")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scribed-bench-") as name:
        cache = Path(name)
        talkers = load_voices(options.folder) if options.folder else make_voices(cache)
        print(f"{len(talkers)} voices")
        bench = Detection(cache)
        bench.measure_pairs(talkers)
        bench.measure_babble(talkers)
        bench.measure_rooms(talkers[0], round(options.minutes * 60 * S))
        bench.measure_hour(talkers)
        measure_words(cache)


def load_voices(folder: Path) -> list[Sound]:
    """Return each recording of a folder, mono, 16 kHz, at one level."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in {".wav", ".flac", ".ogg", ".mp3"}:
            samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
            found.append(at_level(np.asarray(soxr.resample(samples.mean(axis=1), rate_hz, S), np.float32)))
    if len(found) < 2:  # noqa: PLR2004  # a pair
        raise SystemExit(f"{folder} has fewer than two recordings.")
    return found


def make_voices(folder: Path) -> list[Sound]:
    """Return about twelve seconds of each voice of flite and of eight of espeak-ng."""
    pause = np.zeros(S // 2, np.float32)
    found = []
    for index, voice in enumerate(voices.VOICES):
        said = [voices.say(voice, SENTENCES[(index + number) % len(SENTENCES)]) for number in range(4)]
        found.append(at_level(np.concatenate([part for one in said for part in (one, pause)])))
    for index, voice in enumerate(ESPEAK):
        words = ". ".join(SENTENCES[(index + number) % len(SENTENCES)] for number in range(4))
        samples, rate_hz = media.read_audio(media.speak(folder / "spoken.wav", words, voice))
        found.append(at_level(np.asarray(soxr.resample(samples, rate_hz, S), np.float32)))
    return found


def at_level(sound: Sound) -> Sound:
    """Return a voice at the level of `backgrounds`, measured while it talks."""
    frames = np.sqrt(np.mean(sound[: len(sound) // 512 * 512].reshape(-1, 512) ** 2, axis=1))
    talking = frames[frames > frames.max() / 20]
    return np.asarray(sound * (LEVEL / np.sqrt(np.mean(talking**2))), np.float32)


def factor(level_db: float) -> np.float32:
    """Return decibels as a factor."""
    return np.float32(10 ** (level_db / 20))


def share(found: Sequence[Span], start: int, stop: int) -> float:
    """Return the share of the samples [start, stop) that was found to be speech."""
    return sum(max(0, min(span.stop, stop) - max(span.start, start)) for span in found) / (stop - start)


class Detection:
    """Finds speech with one look and with two.

    Args:
        cache: folder for waveforms.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def look(self, sound: Sound) -> Iterator[tuple[Span, ...]]:
        """Yield the speech with one look, then with two, as after normalization."""
        with WaveformWriter(self._cache) as writer:
            writer.append(sound)
            waveform = writer.finish(float(PEAK / np.abs(sound).max()))
        with waveform:
            levels = measure_levels(waveform, lambda: None)
            with mock.patch.object(quiet_speech, "choose_stretches", return_value=[]):
                yield detect_speech(waveform, levels, "silero", lambda: None)
            yield detect_speech(waveform, levels, "silero", lambda: None)

    def measure_pairs(self, talkers: Sequence[Sound]) -> None:
        """Print how much of the second voice is found, by its level."""
        print("\n" + ROW.format("second voice, noise floor", "one look", "two looks"))
        pairs = list(zip(talkers[::2], talkers[1::2], strict=False))
        pause = np.zeros(10 * S, np.float32)
        for level_db, floor in PAIRS:
            parts: list[Sound] = []
            for pair in pairs:
                first, second = (np.resize(one, 10 * S) for one in pair)
                loud = np.float32(PEAK / np.abs(first).max())
                parts += [first * loud, second * loud * factor(level_db), pause]
            sound = np.concatenate(parts)
            sound += media.noise(len(sound) / S, level=floor)
            starts = range(10 * S, len(sound), 30 * S)
            show(f"{level_db} dB, {floor:g}", [mean_share(spans, starts, 10 * S) for spans in self.look(sound)])

    def measure_babble(self, talkers: Sequence[Sound]) -> None:
        """Print how much of the pauses over a babble of voices is taken for speech."""
        print("\n" + ROW.format("pauses over babble", "one look", "two looks"))
        n_samples = 40 * S
        is_talking = np.arange(n_samples) // (5 * S) % 2 == 0
        for n_voices, level_db in BABBLE:
            parts: list[Sound] = []
            for index, talker in enumerate(talkers[:8]):
                others = [*talkers[:index], *talkers[index + 1 :]]
                chatter = backgrounds.babble(others, n_voices, n_samples, np.random.default_rng(index))
                sound = np.resize(talker, n_samples) * is_talking + chatter * factor(level_db)
                parts.append(sound * np.float32(PEAK / np.abs(sound).max()))
            sound = np.concatenate(parts)
            sound += media.noise(len(sound) / S, level=1e-5)
            starts = range(5 * S + S // 3, len(sound), 10 * S)
            show(
                f"{n_voices} voices at {level_db} dB",
                [mean_share(spans, starts, 5 * S - 2 * S // 3) for spans in self.look(sound)],
            )

    def measure_rooms(self, talker: Sound, n_samples: int) -> None:
        """Print how much of the sounds of rooms is taken for speech."""
        print("\n" + ROW.format("sounds of rooms", "one look", "two looks"))
        for kind, make in backgrounds.KINDS.items():
            sound = make(n_samples, np.random.default_rng(1))
            show(f"{kind} alone", [share(spans, 0, n_samples) for spans in self.look(sound)])
            below = sound * factor(ROOM_DB) + media.noise(n_samples / S, level=3e-5)
            below[: 10 * S] += np.resize(talker, 10 * S)
            show(f"{kind} at {ROOM_DB} dB", [share(spans, 11 * S, n_samples) for spans in self.look(below)])

    def measure_hour(self, talkers: Sequence[Sound]) -> None:
        """Print into how many chunks an hour of one voice with pauses is cut, and how much speech it has."""
        print("\n" + ROW.format("an hour, one voice at a time", "one look", "two looks"))
        chance = np.random.default_rng(1)
        n_chunks, speech_s = np.zeros(2, np.int64), np.zeros(2)
        for talker in talkers:
            parts: list[Sound] = []
            while sum(map(len, parts)) < 3600 * S / len(talkers):
                parts += [talker, np.zeros(round(chance.uniform(0.3, 8) * S), np.float32)]
            sound = np.concatenate(parts)
            sound += media.noise(len(sound) / S, level=1e-3)
            for index, spans in enumerate(self.look(sound)):
                n_chunks[index] += len(cut(spans, len(sound), 30, 5))
                speech_s[index] += share(spans, 0, len(sound)) * len(sound) / S
        print(ROW.format("chunks", *n_chunks))
        print(ROW.format("minutes of speech", *(f"{each / 60:.1f}" for each in speech_s)))


def mean_share(found: Sequence[Span], starts: Sequence[int], n_samples: int) -> float:
    """Return the share of several parts, of equal length, that was found to be speech."""
    return statistics.fmean(share(found, start, start + n_samples) for start in starts)


def show(name: str, shares: Sequence[float]) -> None:
    """Print a row."""
    print(ROW.format(name, *(f"{100 * each:.1f} %" for each in shares)), flush=True)


def measure_words(cache: Path) -> None:
    """Print the word errors of the demo model in what quiet and loud voices say, with leveling and without."""
    folders = Folders(**{name: cache / name for name in Folders.model_fields})
    folders.cache.mkdir()
    config = Config(folders=folders, model=ModelSettings(path=Path("demo"), device="cpu"))
    model, front_end = engine.load(config.model, cache, lambda _: None), FrontEnd(folders.cache, 1)
    print("\n" + ROW.format("word errors: second voice, floor", "off", "auto"))
    try:
        for level_db, floor in ((0, 1e-4), (-12, 3e-4), (-20, 3e-4), (-26, 1e-3), (-30, 1e-4), (-36, 1e-4)):
            errors, n_words = np.zeros(2, np.int64), 0
            for index in range(len(ESPEAK)):
                path, words = write_pair(cache, index, level_db, floor)
                n_words += len(words.split())
                for arm, leveling in enumerate(LEVELINGS):
                    settings = config.model_copy(update={"preprocess": Preprocess(leveling=leveling)})
                    errors[arm] += count_word_errors(words, hear(path, settings, front_end, model))[0]
            print(
                ROW.format(f"{level_db} dB, {floor:g}", *(f"{100 * each / n_words:.1f} %" for each in errors)),
                flush=True,
            )
    finally:
        front_end.close()
        model.close()


def write_pair(folder: Path, index: int, level_db: float, floor: float) -> tuple[Path, str]:
    """Write two turns by two voices of espeak-ng, the second one quieter; return the file and what is said."""
    parts: list[Sound] = [np.zeros(S // 2, np.float32)]
    said = [SENTENCES[index % len(SENTENCES)], SENTENCES[(index + 1) % len(SENTENCES)]]
    for turn, words in enumerate(said):
        samples, rate_hz = media.read_audio(
            media.speak(folder / "spoken.wav", words, ESPEAK[(index + turn) % len(ESPEAK)])
        )
        spoken = at_level(np.asarray(soxr.resample(samples, rate_hz, S), np.float32))
        parts += [spoken * factor(level_db if turn else 0), np.zeros(S // 2, np.float32)]
    sound = np.concatenate(parts) * 4
    path = folder / "pair.wav"
    soundfile.write(
        path, sound + media.noise(len(sound) / S, level=floor, seed=index)[: len(sound)], S, subtype="FLOAT"
    )
    return path, " ".join(said)


def hear(path: Path, config: Config, front_end: FrontEnd, model: Engine) -> str:
    """Return the text of one recording."""
    control = RunControl(lambda: None, lambda _: None, Forgetful())
    return transcribe(
        Recording("pair", path, path.name, RecordingSettings.of(config)), config, front_end, model, control
    ).text


if __name__ == "__main__":
    main()
