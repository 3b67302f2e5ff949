"""Long speech without a pause: chunks overlap, and each word appears once."""

from __future__ import annotations

import random
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from daemon import engine
from daemon.config import Config, Folders, ModelSettings, Preprocess, RecordingSettings, SegmentSettings
from daemon.engine import ChunkRequest, ChunkResponse
from daemon.pipeline import Recording, RunControl, transcribe
from daemon.text import count_word_errors
from daemon.transcript import ModelIdentity
from tests import media

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from daemon.engine import Engine
    from daemon.frontend import FrontEnd
    from daemon.journal.records import ChunkText
    from daemon.transcript import Transcript

S = 16_000
TEN_MINUTES_S, FIVE_MINUTES_S = 600, 300
SENTENCES = (
    "please send the report before lunch",
    "the meeting starts on monday at nine thirty",
    "the manager will call the customer this afternoon",
    "can you check the budget and the contract again",
    "the delivery from march twelve is late",
    "the folder is on the table in room seven",
    "the training ends on friday in the hotel",
    "will you bring the laptop and the printer",
    "open the window and the door of the kitchen",
    "the invoice is not ready thank you",
)


@dataclass(slots=True)
class Chunks:
    """Keeps the text of each chunk, as the journal does."""

    texts: dict[tuple[int, int], str] = field(default_factory=dict)

    def recall(self, resume_key: str) -> Mapping[tuple[int, int], ChunkText]:
        del resume_key
        return {}

    def remember(self, resume_key: str, span: tuple[int, int], said: ChunkText) -> None:
        del resume_key
        self.texts[span] = said.text


def run(
    sound: NDArray[np.float32], folder: Path, segment: SegmentSettings, front_end: FrontEnd, model: Engine
) -> tuple[Transcript, Chunks]:
    folders = Folders(**dict.fromkeys(Folders.model_fields, folder))
    # Without the filter: tones and words keep their levels and places.
    config = Config(folders=folders, preprocess=Preprocess(highpass_hz=0), segment=segment)
    path = media.write_audio(folder / "long.wav", sound, S)
    memory = Chunks()
    recording = Recording("job", path, path.name, RecordingSettings.of(config))
    follow = RunControl(lambda: None, lambda _: None, memory)
    return transcribe(recording, config, front_end, model, follow), memory


# With a model that errs only where a cut goes through a word


N_WORDS = 250
FIRST_HZ, STEP_HZ = 200, 20
FRAME = 800  # 50 ms: enough to tell tones 20 Hz apart


@dataclass(slots=True)
class ToneListener:
    """Recognizes words that are tones; of a word cut to less than 60 %, it writes another or none."""

    max_in_flight: int = 4
    identity: ModelIdentity = field(default_factory=lambda: ModelIdentity("tones", "0", "float32", "cpu"))

    def submit(self, piece: ChunkRequest) -> Future[ChunkResponse]:
        frames = piece.samples[: len(piece.samples) // FRAME * FRAME].reshape(-1, FRAME)
        peaks = np.abs(np.fft.rfft(frames, axis=1)).argmax(axis=1)
        heard = [(int(peak) * S // FRAME - FIRST_HZ) // STEP_HZ for peak in peaks]
        runs: list[list[int]] = []
        for word in heard:
            if runs and runs[-1][0] == word:
                runs[-1][1] += 1
            else:
                runs.append([word, 1])
        words = [f"w{word}" for word, n_frames in runs if n_frames >= 3]
        for edge in (0, -1):
            if runs[edge][1] < 3 and runs[edge][1] == 2:
                words.insert(0 if edge == 0 else len(words), "mumble")
        future: Future[ChunkResponse] = Future()
        future.set_result(ChunkResponse(" ".join(words), "English", is_finished=True))
        return future

    def fit_hotwords(self, hotwords: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
        return hotwords, 0

    def is_alive(self) -> bool:
        return True

    def close(self) -> None:
        pass


@pytest.mark.parametrize("seed", range(3))
def test_merged_text_is_the_reference(seed: int, tmp_path: Path, front_end: FrontEnd) -> None:
    chance = random.Random(seed)  # noqa: S311  # no secret
    words: list[int] = []
    tones: list[NDArray[np.float32]] = []
    while sum(map(len, tones)) < TEN_MINUTES_S * S:
        words.append(chance.choice([word for word in range(N_WORDS) if word not in words[-1:]]))
        n_samples = chance.randrange(4, 12) * FRAME
        tones.append(media.tone(n_samples / S, frequency_hz=FIRST_HZ + STEP_HZ * words[-1]))
    segment = SegmentSettings(vad="off", max_chunk_s=30, overlap_s=5)
    transcript, chunks = run(np.concatenate(tones), tmp_path, segment, front_end, ToneListener())
    assert len(chunks.texts) >= TEN_MINUTES_S / 30
    assert transcript.text.split() == [f"w{word}" for word in words]
    assert transcript.is_complete


# With the demo model, which makes errors of its own


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    loaded = engine.load(
        ModelSettings(path=Path("demo"), device="cpu"), tmp_path_factory.mktemp("cache"), lambda _: None
    )
    yield loaded
    loaded.close()


@dataclass(frozen=True, slots=True)
class Spoken:
    """A sentence and its place in the recording, in samples."""

    words: str
    start: int
    stop: int


@pytest.fixture(scope="module")
def breathless(tmp_path_factory: pytest.TempPathFactory) -> tuple[NDArray[np.float32], list[Spoken]]:
    """Return ten minutes of sentences without a pause between them."""
    folder = tmp_path_factory.mktemp("breathless")
    sounds: list[NDArray[np.float32]] = []
    for number, sentence in enumerate(SENTENCES):
        spoken = media.speak(folder / "spoken.wav", sentence)
        trim = ["silence", "1", "0.01", "0.5%", "reverse", "silence", "1", "0.01", "0.5%", "reverse"]
        media.sox(spoken, "-r", str(S), folder / f"{number}.wav", "gain", "-n", "-6", *trim)
        sounds.append(media.read_audio(folder / f"{number}.wav")[0])
    chance = random.Random(1)  # noqa: S311  # no secret
    order: list[int] = []
    said: list[Spoken] = []
    at = 0
    while at < TEN_MINUTES_S * S:
        order.append(chance.choice([number for number in range(len(SENTENCES)) if number not in order[-3:]]))
        said.append(Spoken(SENTENCES[order[-1]], at, at + len(sounds[order[-1]])))
        at = said[-1].stop
    return np.concatenate([sounds[number] for number in order]), said


def test_merging_adds_no_error_to_those_of_the_chunks(
    breathless: tuple[NDArray[np.float32], list[Spoken]], tmp_path: Path, front_end: FrontEnd, model: Engine
) -> None:
    """Every word error of the transcript is one of the model in a chunk: no seam loses or doubles words."""
    sound, said = breathless
    segment = SegmentSettings(vad="off", max_chunk_s=15, overlap_s=5)
    transcript, chunks = run(sound, tmp_path, segment, front_end, model)
    reference = " ".join(sentence.words for sentence in said)
    n_errors, n_words = count_word_errors(reference, transcript.text.lower())
    n_heard_wrong = 0
    for (start, stop), text in chunks.texts.items():
        whole = [sentence for sentence in said if sentence.stop > start and sentence.start < stop]
        n_heard_wrong += count_word_errors(" ".join(sentence.words for sentence in whole), text.lower())[0]
        n_heard_wrong -= sum(
            round(len(sentence.words.split()) * cut_off / (sentence.stop - sentence.start))
            for sentence in whole
            if (cut_off := max(0, start - sentence.start) + max(0, sentence.stop - stop))
        )
    print(f"{n_errors} errors in {n_words} words; in {len(chunks.texts)} chunks {n_heard_wrong}")  # noqa: T201  # shown with -s
    assert len(chunks.texts) >= TEN_MINUTES_S / 15
    assert transcript.is_complete
    assert n_errors <= n_heard_wrong


def test_seams_add_at_most_1_2_points_of_word_error(
    breathless: tuple[NDArray[np.float32], list[Spoken]], tmp_path: Path, front_end: FrontEnd, model: Engine
) -> None:
    """Five minutes without a pause, against the same sentences transcribed one by one.

    In chunks of 15 s: in 30 s without a pause the demo model skips whole sentences, seam or not.
    """
    sound, spoken = breathless
    spoken = [sentence for sentence in spoken if sentence.stop <= FIVE_MINUTES_S * S]
    segment = SegmentSettings(vad="off", max_chunk_s=15, overlap_s=5)
    transcript, _ = run(sound[: spoken[-1].stop], tmp_path, segment, front_end, model)
    joined, n_words = count_word_errors(" ".join(sentence.words for sentence in spoken), transcript.text)
    errors_of: dict[str, int] = {}
    for sentence in spoken:
        if sentence.words not in errors_of:
            alone, _ = run(sound[sentence.start : sentence.stop], tmp_path, segment, front_end, model)
            errors_of[sentence.words] = count_word_errors(sentence.words, alone.text)[0]
    one_by_one = sum(errors_of[sentence.words] for sentence in spoken)
    print(f"{joined} errors in {n_words} words joined, {one_by_one} one by one")  # noqa: T201  # shown with -s
    assert transcript.is_complete
    assert 100 * (joined - one_by_one) / n_words <= 1.2
