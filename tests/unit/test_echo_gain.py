"""Echoes between two sentences of a chunk: the model hears them 40 dB lower, and people as they were recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from daemon.config import Config, Folders, Preprocess, RecordingSettings, Transcribe
from daemon.pipeline import Forgetful, Recording, RunControl, transcribe
from daemon.segment import Span, lower_echoes
from daemon.segment.echo_gain import find_echoes
from tests import media, voices
from tests.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.frontend import FrontEnd

S = 16_000
Q = S // 4


@pytest.mark.parametrize(
    ("found", "kept", "echoes"),
    [
        ([], [], []),
        ([(0, 9 * S)], [(0, 9 * S)], []),
        ([(S, 2 * S)], [], [(S - Q, 2 * S + Q)]),
        ([(0, 3 * S)], [(0, S), (2 * S, 3 * S)], [(S, 2 * S)]),
        ([(0, S), (2 * S, 3 * S), (3 * S + Q, 4 * S)], [(0, S)], [(2 * S - Q, 4 * S + Q)]),
        ([(0, S), (S + 100, 2 * S), (9 * S, 10 * S)], [(0, S)], [(S, 2 * S + Q), (9 * S - Q, 10 * S)]),
        ([(S, 4 * S)], [(2 * S, 2 * S + 10)], [(S - Q, 2 * S), (2 * S + 10, 4 * S + Q)]),
    ],
)
def test_echoes_are_what_is_not_kept_and_a_little_more(
    found: list[tuple[int, int]], kept: list[tuple[int, int]], echoes: list[tuple[int, int]]
) -> None:
    spans = find_echoes([Span(*each) for each in found], [Span(*each) for each in kept], 10 * S)
    assert [(span.start, span.stop) for span in spans] == echoes


def test_only_the_echo_is_lowered_and_without_a_step() -> None:
    samples = np.ones(4 * S, np.float32)
    lower_echoes(samples, 10 * S, [Span(0, S), Span(11 * S, 12 * S), Span(20 * S, 21 * S)])
    assert (samples[: S + 1] == 1).all()
    assert (samples[2 * S :] == 1).all()
    assert samples[S + 400 : 2 * S - 400] == pytest.approx(0.01)
    assert np.abs(np.diff(samples)).max() < 0.004


def test_two_parts_of_an_echo_are_lowered_as_the_whole() -> None:
    whole = np.ones(2 * S, np.float32)
    parts = [whole[:9_000].copy(), whole[9_000:].copy()]
    echoes = [Span(8_900, 30_000)]
    lower_echoes(whole, 0, echoes)
    for part, start in zip(parts, (0, 9_000), strict=True):
        lower_echoes(part, start, echoes)
    assert (np.concatenate(parts) == whole).all()


def test_model_hears_echoes_lowered_and_people_hear_them_as_they_are(front_end: FrontEnd, tmp_path: Path) -> None:
    question = voices.say("rms", "Has the order not arrived yet?", level=0.5)
    one, more = (voices.say("slt", words) for words in ("Good morning to you.", "It has not arrived yet, I am sorry."))
    at = S + len(one)
    again = at + len(question)
    n_samples = again + len(more) + S
    sides = np.zeros((n_samples, 2), np.float32)
    sides[S:at, 0] = one
    sides[again : again + len(more), 0] = more
    sides[at:again, 1] = question
    call = sides + 0.1 * sides[:, ::-1] + media.noise(n_samples / S + 1, level=1e-4)[:n_samples, np.newaxis]
    soundfile.write(tmp_path / "call.wav", call, S)

    asr = Transcribe(channels="split")
    with front_end.prepare(tmp_path / "call.wav", Preprocess(), "silero", asr=asr) as prepared:
        stream = prepared.streams[0]
        (echo,) = [span for span in stream.echoes if at - Q < span.start < again]
        first = stream.speech[0].start
        recorded = stream.waveform.read(first, echo.stop)
    quiet = slice(echo.start - first + 400, echo.stop - first - 400)
    assert np.abs(recorded[quiet]).max() > 0.02

    folders = {name: tmp_path / name for name in Folders.model_fields}
    for folder in folders.values():
        folder.mkdir()
    config = Config(folders=Folders(**folders), transcribe=asr)
    work = Recording("job", tmp_path / "call.wav", "call.wav", RecordingSettings.of(config))
    engine = ScriptedEngine()
    transcribe(work, config, front_end, engine, RunControl(lambda: None, lambda _: None, Forgetful()))
    heard = engine.pieces[0].samples  # both sentences, in one chunk
    assert len(heard) > len(recorded)
    assert heard[quiet] == pytest.approx(0.01 * recorded[quiet], abs=1e-6)
    assert heard[: echo.start - first] == pytest.approx(recorded[: echo.start - first])
