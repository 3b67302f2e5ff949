"""Real words: speech of espeak-ng through the demo model, by the code that runs the real one."""

from __future__ import annotations

import io
import subprocess
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
import soxr

from daemon.config import ModelSettings
from daemon.engine import ChunkRequest, Engine, load

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

TIMEOUT_S = 600.0  # only to find out what hangs, however busy the machine
SENTENCES = (
    "please send the report before lunch",
    "the meeting starts on monday at nine thirty and ends before ten",
    "good morning",
    "the manager will call the customer this afternoon",
    "can you check the budget and the contract again tomorrow morning please",
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = load(ModelSettings(path=Path("demo"), device="cpu"), tmp_path_factory.mktemp("cache"), lambda _: None)
    yield engine
    engine.close()


def speak(sentence: str) -> npt.NDArray[np.float32]:
    wav = subprocess.run(["espeak-ng", "-v", "en-us", "--stdout", sentence], capture_output=True, check=True).stdout
    samples, rate_hz = soundfile.read(io.BytesIO(wav), dtype="float32")
    resampled: npt.NDArray[np.float32] = soxr.resample(samples, rate_hz, 16_000)
    return resampled * np.float32(10 ** (-3 / 20) / np.abs(resampled).max())


def test_spoken_words_are_written(engine: Engine) -> None:
    futures = [engine.submit(ChunkRequest(speak(sentence), None, (), "a")) for sentence in SENTENCES]
    answers = [future.result(TIMEOUT_S) for future in futures]
    assert all(answer.is_finished for answer in answers)
    assert {answer.language for answer in answers} == {"English"}
    spoken, written = " ".join(SENTENCES).split(), " ".join(answer.text.lower() for answer in answers).split()
    n_right = sum(block.size for block in SequenceMatcher(a=spoken, b=written, autojunk=False).get_matching_blocks())
    assert n_right >= 0.9 * len(spoken), written


def test_chunks_with_forced_language_and_hotwords_share_a_batch_with_others(engine: Engine) -> None:
    sound = speak(SENTENCES[0])
    plain, forced = (engine.submit(ChunkRequest(sound, language, (), "a")) for language in (None, "English"))
    other = engine.submit(ChunkRequest(speak(SENTENCES[2]), None, ("monday", "budget"), "b"))
    assert forced.result(TIMEOUT_S) == plain.result(TIMEOUT_S)
    assert other.result(TIMEOUT_S).text


def test_audio_without_speech_gives_no_words(engine: Engine) -> None:
    rng = np.random.default_rng(7)
    seconds = np.arange(3 * 16_000) / 16_000
    sounds = {
        "silence": np.zeros(32_000),
        "noise": rng.normal(0, 0.05, 48_000),
        "hum": 0.3 * np.sin(2 * np.pi * 100 * seconds),
        "tone": 0.3 * np.sin(2 * np.pi * 1_000 * seconds),
    }
    futures = {
        name: engine.submit(ChunkRequest(sound.astype(np.float32), None, (), "a")) for name, sound in sounds.items()
    }
    answers = {name: future.result(TIMEOUT_S) for name, future in futures.items()}
    assert {name: (answer.text, answer.language) for name, answer in answers.items()} == dict.fromkeys(
        sounds, ("", None)
    )
