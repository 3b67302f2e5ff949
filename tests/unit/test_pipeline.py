"""The line of one recording, with engines that fail on purpose."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from daemon.config import Config, Folders, Output, Preprocess, RecordingSettings, SegmentSettings
from daemon.decode import SAMPLE_RATE_HZ
from daemon.errors import JobError, StoppedError
from daemon.pipeline import Progress, Recording, RunControl, recognition, transcribe
from daemon.transcript import ModelIdentity
from tests.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from daemon.engine import ChunkRequest
    from daemon.frontend import FrontEnd
    from daemon.journal.records import ChunkText


class Memory:
    """Keeps chunks as the journal does."""

    def __init__(self) -> None:
        self.texts: dict[str, dict[tuple[int, int], ChunkText]] = {}

    def recall(self, resume_key: str) -> Mapping[tuple[int, int], ChunkText]:
        return dict(self.texts.get(resume_key, {}))

    def remember(self, resume_key: str, span: tuple[int, int], said: ChunkText) -> None:
        self.texts.setdefault(resume_key, {})[span] = said


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return a configuration that treats all audio as speech, so that the chunks are known."""
    folders = {name: tmp_path / name for name in Folders.model_fields}
    for folder in folders.values():
        folder.mkdir()
    return Config(folders=Folders(**folders), segment=SegmentSettings(vad="off", max_chunk_s=10, overlap_s=2))


def recording(tmp_path: Path, duration_s: float, config: Config, hotwords: tuple[str, ...] = ()) -> Recording:
    times = np.arange(int(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    path = tmp_path / "sound.wav"
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 440 * times), SAMPLE_RATE_HZ)
    return Recording("job", path, "sub/sound.wav", RecordingSettings.of(config).with_hotwords(hotwords))


def control(memory: Memory, raise_if_stopped: Callable[[], None] = lambda: None) -> tuple[RunControl, list[Progress]]:
    seen: list[Progress] = []
    return RunControl(raise_if_stopped, seen.append, memory), seen


def test_all_audio_is_submitted_and_progress_reaches_the_end(
    tmp_path: Path, config: Config, front_end: FrontEnd
) -> None:
    engine = ScriptedEngine()
    follow, seen = control(Memory())
    transcript = transcribe(recording(tmp_path, 25.0, config), config, front_end, engine, follow)
    assert transcript.is_complete
    assert transcript.coverage.transcribed_s == pytest.approx(25.0, abs=0.01)
    assert all(piece.duration_s <= 10.0 for piece in engine.pieces)
    assert sum(piece.duration_s for piece in engine.pieces) == pytest.approx(
        25.0 + 2.0 * (len(engine.pieces) - 1), abs=0.1
    )
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert seen[-1].done == pytest.approx(1.0)
    assert transcript.source.name == "sound.wav"
    assert transcript.source.path == "sub/sound.wav"


def test_audio_waiting_for_the_engine_is_bounded(
    tmp_path: Path, config: Config, front_end: FrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recognition, "_MAX_WAITING_S", 20.0)
    for max_chunk_s, n_ahead in ((30, 5), (10, 8)):  # 140 s of audio, or twice the slots
        longer = config.model_copy(update={"segment": SegmentSettings(vad="off", max_chunk_s=max_chunk_s)})
        engine = ScriptedEngine(max_in_flight=4)
        assert count_before_first(recording(tmp_path, 300.0, longer), longer, front_end, engine) == n_ahead


def count_before_first(long: Recording, config: Config, front_end: FrontEnd, engine: ScriptedEngine) -> int:
    """Return how many chunks were submitted when the first result came."""
    submitted: list[int] = []

    def note(_: Progress) -> None:
        submitted.append(len(engine.pieces))

    assert transcribe(long, config, front_end, engine, RunControl(lambda: None, note, Memory())).is_complete
    return submitted[0]


def test_unfinished_chunk_is_split_not_shortened(tmp_path: Path, config: Config, front_end: FrontEnd) -> None:
    engine = ScriptedEngine(longest_s=7.0)
    transcript = transcribe(recording(tmp_path, 9.0, config), config, front_end, engine, control(Memory())[0])
    assert transcript.is_complete
    assert len(transcript.segments) == 2
    assert all("retried" in segment.flags for segment in transcript.segments)
    assert transcript.text == "piece2 piece3"


def test_chunk_unfinished_after_splitting_is_a_marked_gap(tmp_path: Path, config: Config, front_end: FrontEnd) -> None:
    engine = ScriptedEngine(longest_s=0.0)
    transcript = transcribe(recording(tmp_path, 9.0, config), config, front_end, engine, control(Memory())[0])
    assert not transcript.is_complete
    assert transcript.text == ""
    gaps = transcript.coverage.gaps
    assert len(gaps) == 4  # cut in two, twice
    assert gaps[0].start_s == 0.0
    assert gaps[-1].end_s == pytest.approx(9.0, abs=0.01)
    assert transcript.coverage.transcribed_s == 0.0


def test_loop_is_split_and_a_persistent_one_is_a_gap(tmp_path: Path, config: Config, front_end: FrontEnd) -> None:
    shy = ScriptedEngine()
    shy.write = lambda piece: "and the " * 200 if piece.duration_s > 7 else f"part{len(shy.pieces)}"
    transcript = transcribe(recording(tmp_path, 9.0, config), config, front_end, shy, control(Memory())[0])
    assert transcript.is_complete
    assert transcript.text == "part2 part3"
    stubborn = ScriptedEngine(write=lambda _: "and the " * 200)
    transcript = transcribe(recording(tmp_path, 9.0, config), config, front_end, stubborn, control(Memory())[0])
    assert transcript.text == ""
    assert len(transcript.coverage.gaps) == 4
    assert "no reliable transcription" in transcript.coverage.gaps[0].reason
    assert len(stubborn.pieces) == 1 + 2 + 4


def test_repetition_at_the_speed_of_speech_is_kept(tmp_path: Path, config: Config, front_end: FrontEnd) -> None:
    def write(piece: ChunkRequest) -> str:
        return "no " * round(3 * piece.duration_s)

    transcript = transcribe(
        recording(tmp_path, 9.0, config), config, front_end, ScriptedEngine(write=write), control(Memory())[0]
    )
    assert transcript.is_complete
    assert transcript.text.split().count("no") >= 27


def test_hotwords_echoed_without_speech_are_dropped(tmp_path: Path, config: Config, front_end: FrontEnd) -> None:
    def write(piece: ChunkRequest) -> str:
        return ", ".join(piece.hotwords)

    engine = ScriptedEngine(write=write)
    quiet = recording(tmp_path, 3.0, config, hotwords=("Ulm", "Dr. Meyer"))
    transcript = transcribe(quiet, config, front_end, engine, control(Memory())[0])
    assert transcript.segments == ()
    assert transcript.is_complete
    assert [piece.hotwords for piece in engine.pieces] == [("Ulm", "Dr. Meyer"), ()]


def test_hotword_that_was_said_is_kept(tmp_path: Path, config: Config, front_end: FrontEnd) -> None:
    engine = ScriptedEngine(write=lambda piece: "Ulm" if piece.hotwords else "Olm")
    short = recording(tmp_path, 3.0, config, hotwords=("Ulm",))
    assert transcribe(short, config, front_end, engine, control(Memory())[0]).text == "Ulm"


def test_finished_chunks_are_not_transcribed_again(tmp_path: Path, config: Config, front_end: FrontEnd) -> None:
    memory, first = Memory(), ScriptedEngine(longest_s=7.0)
    whole = transcribe(recording(tmp_path, 25.0, config), config, front_end, first, control(memory)[0])
    again = ScriptedEngine(error=AssertionError("asked again"))
    resumed = transcribe(recording(tmp_path, 25.0, config), config, front_end, again, control(memory)[0])
    assert resumed.segments == whole.segments
    assert again.pieces == []


def test_another_model_or_hotword_discards_remembered_text(tmp_path: Path, config: Config, front_end: FrontEnd) -> None:
    memory = Memory()
    transcribe(recording(tmp_path, 9.0, config), config, front_end, ScriptedEngine(), control(memory)[0])
    other = ScriptedEngine(identity=ModelIdentity("scripted", "1", "float32", "cpu"))
    transcribe(recording(tmp_path, 9.0, config), config, front_end, other, control(memory)[0])
    assert len(other.pieces) == 1
    hotter = ScriptedEngine()
    transcribe(recording(tmp_path, 9.0, config, hotwords=("Ulm",)), config, front_end, hotter, control(memory)[0])
    assert hotter.pieces[0].hotwords == ("Ulm",)


def test_hotwords_beyond_what_the_model_takes_are_reported(tmp_path: Path, config: Config, front_end: FrontEnd) -> None:
    engine = ScriptedEngine()
    words = ("a", "b", "c", "d")
    transcript = transcribe(
        recording(tmp_path, 3.0, config, hotwords=words), config, front_end, engine, control(Memory())[0]
    )
    assert engine.pieces[0].hotwords == ("a", "b")
    assert any("2 of 4 hotwords" in note for note in transcript.audio.notes)


def test_language_in_the_name_reaches_the_engine_and_the_receipt(
    tmp_path: Path, config: Config, front_end: FrontEnd
) -> None:
    memory, named = Memory(), replace(recording(tmp_path, 3.0, config), path="sub/talk.yue.wav")
    engine = ScriptedEngine()
    transcript = transcribe(named, config, front_end, engine, control(memory)[0])
    assert engine.pieces[0].language == "Cantonese"
    assert "the language, Cantonese, is taken from the name of the file" in transcript.audio.notes
    other = ScriptedEngine()  # under another name the remembered text would be in the wrong language
    transcribe(replace(named, path="sub/talk.wav"), config, front_end, other, control(memory)[0])
    assert other.pieces[0].language is None


def test_formats_and_device_do_not_discard_remembered_text(tmp_path: Path, config: Config, front_end: FrontEnd) -> None:
    memory = Memory()
    transcribe(recording(tmp_path, 9.0, config), config, front_end, ScriptedEngine(), control(memory)[0])
    other = config.model_copy(update={"output": Output(formats=("vtt",), timestamps=True)})
    elsewhere = ScriptedEngine(
        identity=ModelIdentity("scripted", "0", "float32", "cuda:1"), error=AssertionError("asked again")
    )
    transcript = transcribe(recording(tmp_path, 9.0, other), other, front_end, elsewhere, control(memory)[0])
    assert elsewhere.pieces == []
    assert transcript.text == "piece1"
    assert transcript.model.device == "cuda:1"


def test_each_recording_is_prepared_with_its_own_settings(tmp_path: Path, config: Config, front_end: FrontEnd) -> None:
    one = recording(tmp_path, 3.0, config)
    raw = replace(one, settings=replace(one.settings, audio=Preprocess(normalize="off")))
    gains = [
        transcribe(each, config, front_end, ScriptedEngine(), control(Memory())[0]).audio.gain_db for each in (one, raw)
    ]
    assert gains[0] > 5
    assert gains[1] == 0


def test_stop_request_and_engine_errors_are_raised(tmp_path: Path, config: Config, front_end: FrontEnd) -> None:
    def stop() -> None:
        raise StoppedError("now")

    with pytest.raises(StoppedError):
        transcribe(recording(tmp_path, 9.0, config), config, front_end, ScriptedEngine(), control(Memory(), stop)[0])
    broken = ScriptedEngine(error=JobError("not this one"))
    with pytest.raises(JobError, match="not this one"):
        transcribe(recording(tmp_path, 9.0, config), config, front_end, broken, control(Memory())[0])
    assert list(config.folders.cache.iterdir()) == []  # decoded audio has no name


def test_silence_is_not_sent_to_the_engine(tmp_path: Path, config: Config, front_end: FrontEnd) -> None:
    engine = ScriptedEngine()
    silent = config.model_copy(update={"segment": SegmentSettings(vad="silero")})
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(5 * SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)
    quiet = Recording("job", path, "silence.wav", RecordingSettings.of(silent))
    transcript = transcribe(quiet, silent, front_end, engine, control(Memory())[0])
    assert engine.pieces == []
    assert transcript.segments == ()
    assert transcript.is_complete
    assert transcript.language is None
