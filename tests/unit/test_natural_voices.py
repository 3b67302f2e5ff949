"""Speech that sounds like people: found between pauses, cut at them, and not lost when it is quiet."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.pipeline_cost import music
from daemon.config import Preprocess
from daemon.decode import Waveform, WaveformWriter
from daemon.segment import Span, cut
from daemon.segment.frames import measure_levels
from daemon.segment.vad import detect_speech
from tests import media, voices
from tests.voices import VOICES, S, Turn

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TURNS = (
    ("slt", "hello and good morning please open the project plan"),
    ("rms", "the new budget is ready and the report is on the network"),
    ("awb", "can you send the report before lunch"),
    ("kal16", "the manager will confirm the price today"),
    ("slt", "we need thirty minutes with the customer tomorrow morning"),
    ("awb", "the red folder is not in the office please check the kitchen"),
    ("rms", "the delivery is late and the invoice is not ready"),
    ("kal16", "please call the team again this afternoon"),
)


@pytest.fixture(scope="module")
def meeting() -> tuple[NDArray[np.float32], list[Turn]]:
    return voices.conversation(TURNS, pauses_s=(0.7, 1.1, 0.5, 1.6))


def find(samples: NDArray[np.float32], cache: Path, method: str) -> tuple[Span, ...]:
    with WaveformWriter(cache) as writer:
        writer.append(samples)
        waveform: Waveform = writer.finish()
    with waveform:
        return detect_speech(waveform, measure_levels(waveform, lambda: None), method, lambda: None)


def share_found(found: tuple[Span, ...], turn: Turn) -> float:
    covered = sum(max(0, min(span.stop, turn.stop) - max(span.start, turn.start)) for span in found)
    return covered / (turn.stop - turn.start)


@pytest.mark.parametrize("method", ["silero", "energy"])
@pytest.mark.parametrize("voice", VOICES)
def test_each_voice_is_found_between_silences(voice: str, method: str, tmp_path: Path) -> None:
    sound, (first, second) = voices.conversation([(voice, TURNS[0][1]), (voice, TURNS[1][1])], [4.0], lead_s=4.0)
    found = find(sound + media.noise(len(sound) / S, level=0.002), tmp_path, method)
    assert share_found(found, first) > 0.95
    assert share_found(found, second) > 0.95
    assert abs(found[0].start - first.start) < 0.4 * S
    between = max(pairwise(found), key=lambda pair: pair[1].start - pair[0].stop)
    assert abs(between[0].stop - first.stop) < 0.6 * S
    assert abs(between[1].start - second.start) < 0.4 * S


def test_mains_hum_between_turns_is_not_taken_for_speech(
    meeting: tuple[NDArray[np.float32], list[Turn]], tmp_path: Path
) -> None:
    sound, turns = meeting
    hum = voices.mains_hum(6 * S, level=0.02)
    samples = np.concatenate((hum, sound + np.resize(hum, len(sound)), hum))
    found = find(samples, tmp_path, "silero")
    moved = [Turn(turn.voice, turn.words, turn.start + 6 * S, turn.stop + 6 * S) for turn in turns]
    assert min(share_found(found, turn) for turn in moved) > 0.95
    assert found[0].start > moved[0].start - 0.4 * S
    assert found[-1].stop < moved[-1].stop + 0.6 * S


def test_first_note_of_music_after_speech_is_rarely_taken_for_speech(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    pieces: list[NDArray[np.float32]] = []
    notes: list[int] = []
    for voice, words in TURNS:
        pieces.append(voices.say(voice, words))
        notes.append(sum(map(len, pieces)) + S)
        pieces += [np.zeros(S // 5, np.float32), music(rng, 4.0)]  # which begins after another 0.8 s
    sound = np.concatenate(pieces)
    found = find(sound + media.noise(len(sound) / S, level=0.0002), tmp_path, "silero")
    taken = [note for note in notes if any(span.start < note + S // 2 and span.stop > note for span in found)]
    assert len(taken) <= 1


@pytest.mark.parametrize("voice", VOICES)
def test_short_words_on_their_own_are_found(voice: str, tmp_path: Path) -> None:
    words = ("no", "yes", "in", "at", "it", "two", "not", "and", "is", "on")
    turns = [(voice, word) for word in words]
    sound, placed = voices.conversation(turns, [2.0], lead_s=2.0)
    found = find(sound + media.noise(len(sound) / S, level=0.0002), tmp_path, "silero")
    assert [turn.words for turn in placed if share_found(found, turn) < 0.5] == []


def test_quiet_far_speaker_is_not_lost(tmp_path: Path) -> None:
    near = voices.say("slt", TURNS[0][1])
    far = voices.from_afar(voices.say("awb", TURNS[5][1]), level=0.04)
    pause = np.zeros(S, np.float32)
    samples = np.concatenate((pause, near, pause, far, pause, near, pause))
    start = 2 * S + len(near)
    found = find(samples + media.noise(len(samples) / S, level=0.0005), tmp_path, "silero")
    assert share_found(found, Turn("awb", TURNS[5][1], start, start + len(far))) > 0.9


def test_voices_on_two_channels_are_both_found(tmp_path: Path) -> None:
    turns = [(voice, words) for (_, words), voice in zip(TURNS[:6], ("slt", "rms") * 3, strict=True)]
    sound, placed = voices.conversation(turns, pauses_s=(0.9, 1.4))
    channels = np.zeros((len(sound), 2), np.float32)
    for turn in placed:
        channels[turn.start : turn.stop, ("slt", "rms").index(turn.voice)] = sound[turn.start : turn.stop]
    channels += media.noise(len(sound) / S, level=0.0005)[:, None]
    path = media.write_audio(tmp_path / "call.wav", channels, S)
    waveform, receipt = media.decode(path, Preprocess(), tmp_path)
    with waveform:
        found = find(media.samples_of(waveform), tmp_path, "silero")
    assert receipt.channels == 2
    assert min(share_found(found, turn) for turn in placed) > 0.95


@pytest.mark.parametrize("max_chunk_s", [8.0, 15.0, 30.0])
def test_no_cut_falls_into_a_turn(
    max_chunk_s: float, meeting: tuple[NDArray[np.float32], list[Turn]], tmp_path: Path
) -> None:
    sound, turns = meeting
    found = find(sound + media.noise(len(sound) / S, level=0.001), tmp_path, "silero")
    chunks = cut(found, len(sound), max_chunk_s, 2.0)
    assert not any(chunk.is_joined for chunk in chunks)
    assert max(chunk.stop - chunk.start for chunk in chunks) <= max_chunk_s * S
    borders = [border for chunk in chunks for border in (chunk.start, chunk.stop)]
    in_turns = [border / S for border in borders for turn in turns if turn.start < border < turn.stop]
    assert in_turns == []
