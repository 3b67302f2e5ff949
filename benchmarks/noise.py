"""Does cleaning help? Word error over kinds and levels of noise, with and without each step of the preprocessing.

    python benchmarks/noise.py [--short] [--docs docs]

The same speech is spoiled in each way, transcribed by the real pipeline with the default settings and with one of them
changed, and compared word by word. With `--docs` the table goes into DOCS/accuracy.md and the plot into
DOCS/images/noise.svg. Needs espeak-ng; `--voices natural` needs flite
instead, and `--model` measures another model than the demo one.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1]))  # ahead of this folder, whose daemon.py is not the package

from benchmarks.known_speech import VOICES_OF, Installation, add_options, replace_section, speak
from benchmarks.noise_plot import Panel, Point, draw
from daemon.config import change
from daemon.evaluation import bootstrap
from daemon.evaluation.report import compare
from daemon.evaluation.scoring import add
from tests.voices import from_afar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from benchmarks.known_speech import Utterance
    from daemon.evaluation import Score
    from daemon.evaluation.report import Difference
    from daemon.transcript import ModelIdentity

    Samples = NDArray[np.float32]

S: Final = 16_000
# The name of each arm in the table, and the setting that it changes.
ARMS: Final = {
    "default": None,
    "no high-pass": "preprocess.highpass_hz=0",
    "no normalization": "preprocess.normalize=off",
    "loudness": "preprocess.normalize=loudness",
}
_N_WORDS: Final = 320
_N_WORDS_SHORT: Final = 120
_EACH: Final = (14, 22)
_LEAD_S: Final = 0.7
_QUIET: Final = 0.0002  # of full scale: the noise of a good microphone, -74 dBFS


@dataclass(frozen=True, slots=True)
class Condition:
    """One way to spoil speech.

    Attributes:
        kind: of the noise.
        level: how much, for people, such as "10 dB".
        is_short: whether the short form measures it too.
        spoil: makes the recording from speech that has silence before and after it.
    """

    kind: str
    level: str
    spoil: Callable[[Samples, np.random.Generator], Samples]
    is_short: bool = False


def coloured(rng: np.random.Generator, n: int, slope: float, low_hz: float = 20.0, high_hz: float = 8_000.0) -> Samples:
    """Return noise whose power falls with frequency to the power `slope`, within a band, RMS 1."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    hz = np.fft.rfftfreq(n, 1 / S)
    spectrum *= np.maximum(hz, low_hz) ** (-slope / 2) * ((hz >= low_hz) & (hz <= high_hz))
    return _unit(np.fft.irfft(spectrum, n))


def hum(rng: np.random.Generator, n: int, base_hz: float) -> Samples:
    """Return mains hum with harmonics, RMS 1."""
    t = np.arange(n) / S
    parts = [np.sin(2 * np.pi * base_hz * k * t + rng.uniform(0, 6.28)) / k**1.5 for k in range(1, 9)]
    return _unit(np.sum(parts, axis=0))


def fan(rng: np.random.Generator, n: int) -> Samples:
    """Return the noise of a fan: air, and the tone of its blades, RMS 1."""
    t = np.arange(n) / S
    blades = np.sum([np.sin(2 * np.pi * 118 * k * t) / k for k in range(1, 6)], axis=0)
    return _unit(coloured(rng, n, 1.2) + 0.4 * _unit(blades))


def office(rng: np.random.Generator, n: int) -> Samples:
    """Return the noise of an office: air conditioning, a keyboard, and a murmur without words, RMS 1."""
    murmur = coloured(rng, n, 1.0, 150.0, 3_000.0) * np.repeat(rng.uniform(0.1, 1.0, n // 3_200 + 1), 3_200)[:n]
    keys = np.zeros(n)
    for start in rng.integers(0, max(1, n - 600), max(1, n // (S // 4))):
        keys[start : start + 600] += rng.standard_normal(600) * np.exp(-np.arange(600) / 90)
    return _unit(coloured(rng, n, 1.6) + murmur + 3 * keys * rng.uniform(0.5, 1.0))


def _unit(sound: NDArray[np.float64] | Samples) -> Samples:
    return np.asarray(sound / np.sqrt(np.mean(sound**2)), np.float32)


def _rms(speech: Samples) -> float:
    """Return the RMS of what is not silence."""
    return float(np.sqrt(np.mean(speech[speech != 0] ** 2)))


def _noisy(
    make: Callable[[np.random.Generator, int], Samples], snr_db: float
) -> Callable[[Samples, np.random.Generator], Samples]:
    def spoil(speech: Samples, rng: np.random.Generator) -> Samples:
        return speech + make(rng, len(speech)) * np.float32(_rms(speech) * 10 ** (-snr_db / 20))

    return spoil


def _telephone(low_hz: float, high_hz: float) -> Callable[[Samples, np.random.Generator], Samples]:
    def spoil(speech: Samples, rng: np.random.Generator) -> Samples:
        spectrum, hz = np.fft.rfft(speech), np.fft.rfftfreq(len(speech), 1 / S)
        band = np.fft.irfft(spectrum * ((hz > low_hz) & (hz < high_hz)), len(speech))
        return np.asarray(band + _QUIET * rng.standard_normal(len(speech)), np.float32)

    return spoil


def _clipped(over_db: float) -> Callable[[Samples, np.random.Generator], Samples]:
    def spoil(speech: Samples, rng: np.random.Generator) -> Samples:
        loud = speech / np.abs(speech).max() * 10 ** (over_db / 20) + _QUIET * rng.standard_normal(len(speech))
        return np.asarray(np.clip(loud, -1.0, 1.0), np.float32)

    return spoil


def _far(peak_dbfs: float) -> Callable[[Samples, np.random.Generator], Samples]:
    def spoil(speech: Samples, rng: np.random.Generator) -> Samples:
        return from_afar(speech, 10 ** (peak_dbfs / 20)) + _QUIET * coloured(rng, len(speech), 0.0)

    return spoil


def _at_levels(
    kind: str, make: Callable[[np.random.Generator, int], Samples], snrs_db: Sequence[float], short: float | None = None
) -> list[Condition]:
    return [Condition(kind, f"{snr:.0f} dB", _noisy(make, snr), snr == short) for snr in snrs_db]


CONDITIONS: Final = (
    Condition(
        "clean", "-74 dBFS", lambda speech, rng: speech + _QUIET * coloured(rng, len(speech), 0.0), is_short=True
    ),
    *_at_levels("hum, 50 Hz", lambda rng, n: hum(rng, n, 50.0), (0, -10, -20), short=0),
    *_at_levels("hum, 60 Hz", lambda rng, n: hum(rng, n, 60.0), (0, -10, -20)),
    *_at_levels("rumble", lambda rng, n: coloured(rng, n, 2.0, 5.0, 60.0), (-10, -20, -30), short=-30),
    *_at_levels("fan", fan, (10, 5, 0)),
    *_at_levels("office", office, (10, 5, 0), short=10),
    *(
        Condition("telephone band", f"{low} to {high} Hz", _telephone(low, high))
        for low, high in ((200, 3700), (300, 3400), (400, 2700))
    ),
    *(Condition("clipping", f"{over} dB over", _clipped(over)) for over in (10, 20, 30)),
    Condition("far speaker", "-30 dBFS", _far(-30)),
    Condition("far speaker", "-45 dBFS", _far(-45), is_short=True),
    Condition("far speaker", "-60 dBFS", _far(-60), is_short=True),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One condition: scores and, for each changed setting, the difference from the default ones."""

    condition: Condition
    scores: dict[str, list[Score]]
    differences: dict[str, Difference]


def measure(options: argparse.Namespace) -> tuple[ModelIdentity, list[Measured]]:
    """Spoil, transcribe and compare."""
    utterances = speak(_N_WORDS_SHORT if options.short else _N_WORDS, _EACH, options.voices)
    conditions = [condition for condition in CONDITIONS if condition.is_short or not options.short]
    level = 1 - (1 - bootstrap.LEVEL) / (len(conditions) * (len(ARMS) - 1))  # Bonferroni
    rows = []
    with Installation(options) as installation:
        for index, condition in enumerate(conditions):
            recordings = [
                (
                    _write(installation.folder / f"{at}.wav", utterance, condition, seed=1_000 * index + at),
                    utterance.words,
                )
                for at, utterance in enumerate(utterances)
            ]
            scores = {}
            for arm, assignment in ARMS.items():
                config = installation.config if assignment is None else change(installation.config, assignment)
                scores[arm] = installation.transcribe_all(recordings, config)
            compared = {arm: compare(scores["default"], scores[arm], level) for arm in ARMS if arm != "default"}
            row = Measured(condition, scores, {arm: one for arm, one in compared.items() if one is not None})
            print(_row(row), flush=True)
            rows.append(row)
        return installation.model, rows


def _write(path: Path, utterance: Utterance, condition: Condition, seed: int) -> Path:
    silence = np.zeros(round(_LEAD_S * S), np.float32)
    speech = np.concatenate((silence, 0.5 * utterance.samples, silence))  # peak -12 dBFS
    spoiled = condition.spoil(speech, np.random.default_rng(seed))
    loudest = float(np.abs(spoiled).max())
    soundfile.write(path, spoiled / max(1.0, loudest), S, subtype="PCM_16")
    return path


def _row(row: Measured) -> str:
    default = _point("", row.scores["default"])
    cells = [f"{100 * default.rate:.1f} ({100 * default.low:.1f} to {100 * default.high:.1f})"]
    for arm in ARMS:
        if arm != "default":
            one = row.differences[arm]
            text = f"{100 * one.wer:+.1f} ({100 * one.interval.low:+.1f} to {100 * one.interval.high:+.1f})"
            cells.append(f"**{text}**" if one.verdict in {"better", "worse"} else text)
    return f"| {row.condition.kind} | {row.condition.level} | {' | '.join(cells)} |"


def _point(label: str, scores: Sequence[Score]) -> Point:
    total = add([one.counts for one in scores])
    interval = bootstrap.rate_interval(
        [one.counts.n_errors for one in scores], [one.counts.n_words for one in scores]
    ) or bootstrap.Interval(0.0, 0.0)
    return Point(label, total.wer or 0.0, interval.low, interval.high)


def render_table(model: ModelIdentity, rows: Sequence[Measured], voices: str) -> str:
    """Return the table in Markdown with a sentence on what was measured."""
    scores = rows[0].scores["default"]
    n_words = sum(one.counts.n_words for one in scores)
    head = " | ".join(arm for arm in ARMS if arm != "default")
    n_compared = len(rows) * (len(ARMS) - 1)
    what = (
        f"Model {model.name} ({model.digest[:12]}) in {model.dtype} on {model.device}; {len(scores)} recordings, "
        f"{n_words} words, in each row, by {VOICES_OF[voices]}. Word error in per cent with its 95 % interval, then "
        f"what each change adds to it, in points; its interval is wide enough for all {n_compared} comparisons to hold "
        "together at 95 %. Bold: more than chance."
    )
    lines = [
        what,
        "",
        f"| noise | level | default | {head} |",
        "|---|---|---|---|---|---|",
        *map(_row, rows),
    ]
    return "\n".join(lines) + "\n"


def make_panels(rows: Sequence[Measured]) -> list[Panel]:
    """Return one panel for each kind of noise, with the clean speech at its left."""
    clean, *others = rows
    kinds = list(dict.fromkeys(row.condition.kind for row in others))
    panels = []
    for kind in kinds:
        members = [clean, *(row for row in others if row.condition.kind == kind)]
        labels = ["clean", *(row.condition.level for row in members[1:])]
        curves = {
            arm: [_point(label, row.scores[arm]) for label, row in zip(labels, members, strict=True)] for arm in ARMS
        }
        panels.append(Panel(kind, curves))
    return panels


def main() -> None:
    """Measure, print the table, and write it and the plot where that is wanted."""
    parser = argparse.ArgumentParser(description="Word error over noise, with and without each step of the cleaning.")
    add_options(parser)
    parser.add_argument("--short", action="store_true", help="a few conditions and little speech")
    parser.add_argument("--docs", type=Path, help="the folder of accuracy.md, whose table is replaced")
    options = parser.parse_args()
    model, rows = measure(options)
    table = render_table(model, rows, options.voices)
    print(table)
    if options.docs is not None:
        replace_section(options.docs / "accuracy.md", "noise", table)
        draw(make_panels(rows), options.docs / "images" / "noise.svg")


if __name__ == "__main__":
    main()
