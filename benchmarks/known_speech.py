"""Speech whose words are known, and its way through the real pipeline."""

from __future__ import annotations

import logging
import math
import random
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import structlog

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
sys.path.insert(0, str(Path(__file__).parents[1]))  # ahead of this folder, whose daemon.py is not the package

from demo_speech import ENGLISH, SAMPLE_RATE_HZ, Espeak, random_text, random_voice, voice_names

from daemon import engine
from daemon.config import Config, Folders, ModelSettings, RecordingSettings
from daemon.evaluation import score
from daemon.frontend import FrontEnd
from daemon.pipeline import Forgetful, Recording, RunControl, transcribe
from daemon.spool.names import new_job_id
from tests.voices import VOICES, say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from daemon.evaluation import Score
    from daemon.transcript import ModelIdentity, Transcript

# What may be chosen, and how tables name it.
VOICES_OF: Final = {
    "espeak": "espeak-ng, voices and texts that the training never used",
    "natural": "flite's four voices",
}
_N_CORES: Final = 2
_IN_FLIGHT: Final = 6


@dataclass(frozen=True, slots=True)
class Utterance:
    """What one voice says without a pause: samples are float32, shape (n_samples,), 16 kHz, peak 0.5."""

    voice: str
    words: str
    samples: NDArray[np.float32]

    @property
    def n_words(self) -> int:
        """How many words it has."""
        return self.words.count(" ") + 1


def speak(
    n_words: int, each: tuple[int, int], voices: str, length_s: tuple[float, float] = (0.0, math.inf), seed: int = 1
) -> list[Utterance]:
    """Return utterances of `each` (least, most) words, at least `n_words` words in all.

    The texts are those that the training of the demo model never uses.

    Args:
        n_words: in all.
        each: least and most words of an utterance.
        voices: "espeak" for the voices of espeak-ng that the training never uses, "natural" for flite's four.
        length_s: least and most seconds of an utterance; others are left out.
        seed: of texts, voices and speeds.
    """
    rng = random.Random(seed)  # noqa: S311  # texts keep no secret
    say_next = _espeak(rng) if voices == "espeak" else _flite(rng)
    utterances: list[Utterance] = []
    while sum(utterance.n_words for utterance in utterances) < n_words:
        utterance = say_next(random_text(rng, ENGLISH, rng.randint(*each), held_out=True))
        if length_s[0] <= len(utterance.samples) / SAMPLE_RATE_HZ <= length_s[1]:
            utterances.append(utterance)
    return utterances


def _espeak(rng: random.Random) -> Callable[[str], Utterance]:
    names, espeak = voice_names(ENGLISH, held_out=True), Espeak()

    def say_next(text: str) -> Utterance:
        voice = random_voice(rng, names, most_stretch=0.05)
        sound = espeak.say(text, voice).samples.astype(np.float32)
        return Utterance(voice.name, text, sound * np.float32(0.5 / np.abs(sound).max()))

    return say_next


def _flite(rng: random.Random) -> Callable[[str], Utterance]:
    voices = cycle(VOICES)

    def say_next(text: str) -> Utterance:
        voice = next(voices)
        return Utterance(voice, text, say(voice, text, speed=rng.uniform(0.9, 1.2)))

    return say_next


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the model and the voices."""
    parser.add_argument("--model", default="demo", help="the folder of a model; the demo model without it")
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda")
    parser.add_argument(
        "--voices",
        choices=VOICES_OF,
        default="espeak",
        help="who speaks: voices of espeak-ng, which the demo model knows, or natural ones of flite",
    )


class Installation:
    """The real pipeline with one model, without a daemon.

    Attributes:
        config: the defaults, with this model and a temporary folder.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        self.config = Config(
            folders=Folders(**dict.fromkeys(Folders.model_fields, self.folder)),
            model=ModelSettings(path=options.model, device=options.device),
        )
        self._engine = engine.load(self.config.model, self.folder, lambda _: None)
        self._front_end = FrontEnd(self.folder, n_processes=_N_CORES)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the model and the audio processes, and delete the folder."""
        self._front_end.close()
        self._engine.close()
        self._folder.cleanup()

    @property
    def model(self) -> ModelIdentity:
        """Which model writes the texts."""
        return self._engine.identity

    def transcribe_all(self, recordings: Sequence[tuple[Path, str]], config: Config) -> list[Score]:
        """Transcribe (file, words spoken in it) side by side under `config` and score each."""
        with ThreadPoolExecutor(_IN_FLIGHT) as pool:
            return list(pool.map(lambda recording: self._score(recording[0], recording[1], config), recordings))

    def _score(self, path: Path, words: str, config: Config) -> Score:
        return score(path.name, words, self.transcribe(path, config).segments, "standard")

    def transcribe(self, path: Path, config: Config | None = None) -> Transcript:
        """Return the transcript of a recording, under the defaults where no configuration is given."""
        config = config or self.config
        work = Recording(new_job_id(), path, path.name, RecordingSettings.of(config))
        control = RunControl(lambda: None, lambda _: None, Forgetful())
        return transcribe(work, config, self._front_end, self._engine, control)


def replace_section(page: Path, name: str, text: str) -> None:
    """Replace what a page has between `<!-- name -->` and `<!-- end of name -->`.

    Raises:
        ValueError: the page has no such marks.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{page} has no section {name}")
    page.write_text(f"{before}{begin}{text}{end}{after}", encoding="utf-8")
