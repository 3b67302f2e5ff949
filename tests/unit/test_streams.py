"""Several streams of one recording to one transcript."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from daemon.config import Config, Folders, RecordingSettings, SegmentSettings
from daemon.decode import Waveform, WaveformWriter
from daemon.documents import render
from daemon.pipeline import Recording, RunControl, transcribe
from daemon.pipeline.crosstalk import keep_once
from daemon.transcript import Segment, Word
from tests import media
from tests.scripted_engine import ScriptedEngine
from tests.unit.test_pipeline import Memory, control

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from daemon.engine import ChunkRequest
    from daemon.frontend import FrontEnd
    from daemon.transcript import Transcript

S = 16_000


# Channels and tracks through the whole line


def write_call(folder: Path) -> Path:
    """Write a tone on the left for 0 to 6 s, and a higher one on the right for 4 to 12 s."""
    call = np.zeros((15 * S, 2), np.float32)
    call[: 6 * S, 0] = media.tone(6, S, 440)
    call[4 * S : 12 * S, 1] = media.tone(8, S, 880)
    return media.write_audio(folder / "call.wav", call, S)


def write_pitch(piece: ChunkRequest) -> str:
    """Say how high the tone of a chunk is, as words."""
    spectrum = np.abs(np.fft.rfft(piece.samples))
    return {440: "low tone", 880: "high tone"}.get(
        round(int(spectrum.argmax()) * S / len(piece.samples) / 440) * 440, "no tone"
    )


def transcribe_call(
    tmp_path: Path, front_end: FrontEnd, follow: RunControl, engine: ScriptedEngine, **asr: object
) -> Transcript:
    folders = {name: tmp_path / name for name in Folders.model_fields}
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    config = Config(folders=Folders(**folders), segment=SegmentSettings(vad="energy"))
    settings = RecordingSettings.of(config)
    settings = replace(settings, asr=settings.asr.model_copy(update=asr))
    return transcribe(Recording("job", write_call(tmp_path), "call.wav", settings), config, front_end, engine, follow)


def test_split_channels_are_transcribed_each_by_itself_and_merged_by_time(tmp_path: Path, front_end: FrontEnd) -> None:
    follow, seen = control(Memory())
    names = {"channels": "split", "channel_names": ("Agent", "Customer")}
    call = transcribe_call(tmp_path, front_end, follow, ScriptedEngine(write=write_pitch), **names)
    assert [(part.channel, part.track, part.text) for part in call.segments] == [
        (1, None, "low tone"),
        (2, None, "high tone"),
    ]
    assert [part.start_s for part in call.segments] == pytest.approx([0, 3.8], abs=0.3)
    assert call.segments[0].end_s > call.segments[1].start_s  # they talk at the same time
    assert call.is_complete
    assert call.coverage.speech_s == pytest.approx(14, abs=1)
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert 0.8 < done[-1] <= 1
    documents = {name: content.decode() for name, content in render(call, ["txt", "md"], has_timestamps=False).items()}
    assert documents["txt"] == "Agent: low tone\n\nCustomer: high tone\n"
    assert "**Customer:** high tone" in documents["md"]


def test_channel_without_a_name_is_called_by_its_number(tmp_path: Path, front_end: FrontEnd) -> None:
    options = {"channels": "split", "channel_names": ("Agent",)}
    call = transcribe_call(tmp_path, front_end, control(Memory())[0], ScriptedEngine(write=write_pitch), **options)
    assert render(call, ["txt"], has_timestamps=False)["txt"].decode() == "Agent: low tone\n\nChannel 2: high tone\n"


def test_mixed_channels_are_one_stream(tmp_path: Path, front_end: FrontEnd) -> None:
    options = {"channels": "mix", "channel_names": ("Agent", "Customer")}
    call = transcribe_call(tmp_path, front_end, control(Memory())[0], ScriptedEngine(), **options)
    assert {part.channel for part in call.segments} == {None}
    assert call.audio.channel_names == ()


def test_finished_chunks_of_each_channel_are_taken_again(tmp_path: Path, front_end: FrontEnd) -> None:
    memory, first, second = Memory(), ScriptedEngine(write=write_pitch), ScriptedEngine()
    before = transcribe_call(tmp_path, front_end, control(memory)[0], first, channels="split")
    again = transcribe_call(tmp_path, front_end, control(memory)[0], second, channels="split")
    assert [part.text for part in again.segments] == [part.text for part in before.segments]
    assert second.pieces == []


# Crosstalk


@pytest.fixture
def waveforms(tmp_path: Path) -> Iterator[list[Waveform]]:
    """Two microphones: the voice of the first is heard in the second for 0 to 10 s, 20 dB down; then the reverse."""
    loud, faint = media.noise(10, S, 0.2, seed=1), media.noise(10, S, 0.02, seed=2)
    made = []
    for parts in ((loud, faint), (faint, loud)):
        with WaveformWriter(tmp_path) as writer:
            writer.append(np.concatenate(parts))
            made.append(writer.finish(gain=1.0 if parts[0] is loud else 3.0))
    yield made
    for waveform in made:
        waveform.close()


def texts(streams: list[tuple[Segment, ...]]) -> list[list[str]]:
    return [[segment.text for segment in segments] for segments in streams]


def test_run_of_words_heard_in_two_microphones_is_kept_in_the_louder(waveforms: list[Waveform]) -> None:
    own = Segment(0.0, 9.0, "Good morning, the report is on the table.", "English")
    faint = Segment(0.2, 8.8, "the report is on the table", "English")
    later = Segment(11.0, 19.0, "I have read it twice already.", "English")
    assert texts(keep_once([[own, replace(later, text="read it twice already")], [faint, later]], waveforms)) == [
        [own.text],
        [later.text],
    ]


def test_words_of_ones_own_beside_crosstalk_are_kept(waveforms: list[Waveform]) -> None:
    own = Segment(0.0, 9.0, "Good morning, the report is on the table.", "English")
    faint = Segment(0.0, 9.5, "Good morning, the report is on the table. Thanks a lot.", "English")
    kept = keep_once([[own], [faint]], waveforms)
    assert texts(kept) == [[own.text], ["Thanks a lot."]]
    assert kept[1][0].start_s > 5
    assert kept[1][0].end_s == 9.5


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Segment(0.0, 2.0, "Good morning."), Segment(0.0, 2.0, "Good morning.")),  # two words are said by chance
        (Segment(0.0, 3.0, "thank you very much"), Segment(7.0, 9.5, "thank you very much")),  # not at the same time
        (Segment(8.0, 10.0, "thank you very much"), Segment(10.0, 12.0, "thank you very much")),  # each on its own
    ],
)
def test_words_that_both_say_are_kept(first: Segment, second: Segment, waveforms: list[Waveform]) -> None:
    assert texts(keep_once([[first], [second]], waveforms)) == [[first.text], [second.text]]


def test_words_with_known_times_are_compared_by_them(waveforms: list[Waveform]) -> None:
    def spoken(start_s: float) -> Segment:
        words = tuple(Word(word, start_s + at, start_s + at + 1, 0.5) for at, word in enumerate(("so", "it", "is")))
        return Segment(0.0, 10.0, "so it is", "English", words=words)

    assert texts(keep_once([[spoken(1.0)], [spoken(3.0)]], waveforms)) == [["so it is"], ["so it is"]]
    assert texts(keep_once([[spoken(1.0)], [spoken(1.25)]], waveforms)) == [["so it is"], []]
