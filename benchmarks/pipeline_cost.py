"""What the pipeline itself costs: the same speech as single utterances, and joined and stored in several ways.

    python benchmarks/pipeline_cost.py [--short] [--docs docs]

Cutting, merging and joining may not cost words: where nothing was degraded, the word error of long recordings should be
that of their utterances alone. With `--docs` the table goes into DOCS/accuracy.md. Needs espeak-ng and
ffmpeg; `--voices natural` needs flite, and `--model` measures another model than the demo one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import soundfile
import soxr

sys.path.insert(0, str(Path(__file__).parents[1]))  # ahead of this folder, whose daemon.py is not the package

from benchmarks.known_speech import VOICES_OF, Installation, add_options, replace_section, speak
from daemon.config import change
from daemon.evaluation import bootstrap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from benchmarks.known_speech import Utterance
    from daemon.evaluation import Score
    from daemon.transcript import ModelIdentity

    Samples = NDArray[np.float32]

S: Final = 16_000
_N_WORDS: Final = 10_000
_N_WORDS_SHORT: Final = 600
_EACH: Final = (40, 60)
# So long that no two fit into one chunk. The model then hears as much at once as in the single utterances: the longer
# its input, the more errors the demo model makes by itself (docs/demo-model.md).
_LENGTH_S: Final = (15.3, 28.5)
_PAUSES_S: Final = (0.6, 2.0)
_LEAD_S: Final = 0.5
_MUSIC_EVERY: Final = 4  # utterances
_MUSIC_S: Final = (4.0, 9.0)
_MUSIC_LEVEL: Final = 0.15
_JOINT_S: Final = 0.04  # between utterances without a pause: as long as the closure of a "t"
_NOISE: Final = 0.0002  # of full scale, -74 dBFS


@dataclass(frozen=True, slots=True)
class Form:
    """One way to record the speech.

    Attributes:
        limit: the most points that it may add to the word error; None where the sound itself is degraded.
        assignment: a setting that is changed for it, None for the defaults.
    """

    name: str
    write: Callable[[Sequence[Utterance], Path], Path]
    limit: float | None
    assignment: str | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What was measured of one form: rates with 1 = 100 %, the difference from single utterances, and seams."""

    form: str
    minutes: float
    rate: float
    difference: float | None
    interval: bootstrap.Interval | None
    limit: float | None
    n_seams: int


def join(utterances: Sequence[Utterance], gaps: Iterator[Samples]) -> Samples:
    """Return the utterances with a gap before each and one at the end, over the noise of a microphone."""
    pieces: list[Samples] = []
    for utterance in utterances:
        pieces += [next(gaps), utterance.samples]
    sound = np.concatenate([*pieces, next(gaps)])
    noise = np.random.default_rng(1).standard_normal(len(sound), np.float32)
    return np.asarray(sound + np.float32(_NOISE) * noise, np.float32)


def silences(least_s: float, most_s: float) -> Iterator[Samples]:
    """Yield silence of random length."""
    rng = np.random.default_rng(2)
    while True:
        yield np.zeros(round(rng.uniform(least_s, most_s) * S), np.float32)


def music(rng: np.random.Generator, duration_s: float) -> Samples:
    """Return a melody over chords, with harmonics that fall off, and silence around it: no voice sings."""
    n, beat = round(duration_s * S), S // 3
    sound = np.zeros(n)
    scale = 220.0 * 2 ** (np.array([0, 2, 4, 5, 7, 9, 11, 12]) / 12)
    for start in range(0, n, beat):
        t = np.arange(min(beat, n - start)) / S
        envelope = np.exp(-3 * t) * np.minimum(1.0, t * 200)
        for note in (rng.choice(scale) * 2, *(scale[0] * ratio for ratio in (1.0, 1.25, 1.5))):
            for harmonic in range(1, 5):
                sound[start : start + len(t)] += envelope * np.sin(2 * np.pi * note * harmonic * t) / harmonic**2
    quiet = np.zeros(round(0.8 * S), np.float32)
    played = np.asarray(_MUSIC_LEVEL * sound / np.abs(sound).max(), np.float32)
    return np.concatenate((quiet, played, quiet))


def _gaps_with_music() -> Iterator[Samples]:
    rng = np.random.default_rng(3)
    for index, silence in enumerate(silences(*_PAUSES_S)):
        yield music(rng, rng.uniform(*_MUSIC_S)) if index % _MUSIC_EVERY == _MUSIC_EVERY - 1 else silence


def _with_pauses(utterances: Sequence[Utterance], folder: Path) -> Path:
    return _flac(folder / "pauses.flac", join(utterances, silences(*_PAUSES_S)))


def _with_music(utterances: Sequence[Utterance], folder: Path) -> Path:
    return _flac(folder / "music.flac", join(utterances, _gaps_with_music()))


def _without_pauses(utterances: Sequence[Utterance], folder: Path) -> Path:
    return _flac(folder / "joined.flac", join(utterances, silences(_JOINT_S, _JOINT_S)))


def _at_8_khz(utterances: Sequence[Utterance], folder: Path) -> Path:
    narrow = soxr.resample(join(utterances, silences(*_PAUSES_S)), S, S // 2, quality="HQ")
    return _flac(folder / "narrow.flac", narrow, S // 2)


def _as_mp3(utterances: Sequence[Utterance], folder: Path) -> Path:
    source, target = _with_pauses(utterances, folder), folder / "small.mp3"
    quietly = ["ffmpeg", "-v", "error", "-nostdin", "-y"]
    command = [*quietly, "-i", str(source), "-c:a", "libmp3lame", "-b:a", "32k", str(target)]
    subprocess.run(command, check=True)
    return target


def _flac(path: Path, sound: Samples, rate_hz: int = S) -> Path:
    soundfile.write(path, sound, rate_hz, subtype="PCM_16")
    return path


FORMS: Final = (
    Form("one recording, pauses of 0.6 to 2 s", _with_pauses, 0.3),
    Form("the same with music between", _with_music, 0.3),
    Form("without pauses", _without_pauses, 1.2),
    Form("without pauses, `segment.max_chunk_s: 15`", _without_pauses, 1.2, "segment.max_chunk_s=15"),
    Form("with pauses, at 8 kHz", _at_8_khz, None),
    Form("with pauses, mp3 at 32 kbit/s", _as_mp3, None),
)


def count_errors(scores: Sequence[Score], sizes: Sequence[int]) -> list[int]:
    """Return the errors within each utterance; a word too many counts for the utterance that it follows.

    Args:
        scores: of recordings that have the words of all utterances in order.
        sizes: words of each utterance.
    """
    ends = list(accumulate(sizes))
    errors, at = [0] * len(sizes), 0
    for one in scores:
        for column in one.columns:
            place = at if column.wanted is not None else max(at - 1, 0)
            errors[min(bisect_right(ends, place), len(sizes) - 1)] += not column.is_right
            at += column.wanted is not None
    return errors


def measure(options: argparse.Namespace) -> tuple[ModelIdentity, list[Cost], int]:
    """Return the model, what each form costs, and the number of words."""
    utterances = speak(_N_WORDS_SHORT if options.short else options.words, _EACH, options.voices, _LENGTH_S)
    sizes = [utterance.n_words for utterance in utterances]
    text, n_words = " ".join(utterance.words for utterance in utterances), sum(sizes)
    costs: list[Cost] = []
    with Installation(options) as installation:
        alone = []
        for index, utterance in enumerate(utterances):
            path = installation.folder / f"{index}.flac"
            alone.append((_flac(path, join([utterance], silences(_LEAD_S, _LEAD_S))), utterance.words))
        scores = installation.transcribe_all(alone, installation.config)
        single = count_errors(scores, sizes)
        costs.append(
            Cost("single utterances", _minutes([path for path, _ in alone]), sum(single) / n_words, None, None, None, 0)
        )
        print(_row(costs[-1]), flush=True)
        for form in FORMS:
            path = form.write(utterances, installation.folder)
            config = installation.config
            if form.assignment is not None:
                config = change(config, form.assignment)
            scores = installation.transcribe_all([(path, text)], config)
            errors = count_errors(scores, sizes)
            costs.append(
                Cost(
                    form.name,
                    _minutes([path]),
                    sum(errors) / n_words,
                    (sum(errors) - sum(single)) / n_words,
                    bootstrap.difference_interval(single, errors, sizes, level=bootstrap.LEVEL),
                    form.limit,
                    scores[0].counts.n_seams,
                )
            )
            print(_row(costs[-1]), flush=True)
        return installation.model, costs, n_words


def _minutes(paths: Sequence[Path]) -> float:
    return float(sum(soundfile.info(path).duration for path in paths)) / 60


def _row(cost: Cost) -> str:
    difference = "-"
    if cost.difference is not None and cost.interval is not None:
        bounds = f"{100 * cost.interval.low:+.2f} to {100 * cost.interval.high:+.2f}"
        difference = f"{100 * cost.difference:+.2f} ({bounds})"
    limit = "-" if cost.limit is None else f"{cost.limit:.1f}"
    rate = f"{100 * cost.rate:.2f} %"
    return f"| {cost.form} | {cost.minutes:.0f} | {rate} | {difference} | {limit} | {cost.n_seams} |"


def render_table(model: ModelIdentity, costs: Sequence[Cost], n_words: int, voices: str) -> str:
    """Return the table in Markdown with a sentence on what was measured."""
    what = (
        f"Model {model.name} ({model.digest[:12]}) in {model.dtype} on {model.device}; {n_words} words by "
        f"{VOICES_OF[voices]}. "
        "The difference from single utterances is in points, with its 95 % interval over utterances. Seams are places "
        "where overlapping chunks were merged."
    )
    lines = [
        what,
        "",
        "| the same speech as | minutes | word error | difference | at most | seams |",
        "|---|---|---|---|---|---|",
        *map(_row, costs),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print the table, and write it where that is wanted."""
    parser = argparse.ArgumentParser(description="Word error of the same speech, recorded and joined in several ways.")
    add_options(parser)
    parser.add_argument("--words", type=int, default=_N_WORDS, help="how many words are spoken in each form")
    parser.add_argument("--short", action="store_true", help="little speech; the figures mean little")
    parser.add_argument("--docs", type=Path, help="the folder of accuracy.md, whose table is replaced")
    options = parser.parse_args()
    model, costs, n_words = measure(options)
    table = render_table(model, costs, n_words, options.voices)
    print(table)
    if options.docs is not None:
        replace_section(options.docs / "accuracy.md", "pipeline cost", table)


if __name__ == "__main__":
    main()
