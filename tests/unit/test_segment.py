"""Where speech is found, and that cutting loses and doubles nothing."""

from __future__ import annotations

import sys
import warnings
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon import errors
from daemon.decode import SAMPLE_RATE_HZ, Waveform, WaveformWriter
from daemon.segment import Chunk, Span, cut, silero, split, vad
from daemon.segment.frames import count_frames, measure_levels, read_frames
from daemon.segment.silero import Silero
from daemon.segment.vad import detect_speech
from tests import media

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

S = SAMPLE_RATE_HZ


def spans(*bounds_s: float) -> tuple[Span, ...]:
    """Spans from starts and stops in seconds, one after the other."""
    samples = [round(bound * S) for bound in bounds_s]
    return tuple(Span(start, stop) for start, stop in zip(samples[::2], samples[1::2], strict=True))


def bounds(chunks: Sequence[Chunk]) -> list[tuple[float, float]]:
    return [(chunk.start / S, chunk.stop / S) for chunk in chunks]


# Cutting


def test_sentences_fill_a_chunk_up_to_the_limit() -> None:
    speech = spans(0, 9, 9.5, 19, 19.5, 28, 28.5, 40)
    assert bounds(cut(speech, 60 * S, 30, 5)) == [(0, 28), (28.5, 40)]


def test_chunk_ends_at_the_longest_late_pause() -> None:
    speech = spans(0, 10, 11.5, 21, 22.2, 25, 25.3, 28, 28.2, 45)
    assert bounds(cut(speech, 60 * S, 30, 5)) == [(0, 21), (22.2, 45)]


def test_chunk_ends_at_the_last_pause_if_none_is_late() -> None:
    speech = spans(0, 5, 5.5, 12, 12.2, 40)
    assert bounds(cut(speech, 60 * S, 30, 5)) == [(0, 12), (12.2, 40)]


def test_long_pause_starts_a_new_chunk() -> None:
    assert bounds(cut(spans(1, 4, 6, 9, 10.9, 12), 60 * S, 30, 5)) == [(1, 4), (6, 12)]


def test_speech_without_a_pause_is_cut_with_overlap() -> None:
    chunks = cut(spans(0, 70), 70 * S, 30, 5)
    assert [chunk.is_joined for chunk in chunks] == [False, True, True]
    assert chunks[0].start == 0
    assert chunks[-1].stop == 70 * S
    assert all(before.stop - after.start == 5 * S for before, after in pairwise(chunks))
    assert all(before.own_stop == after.own_start == after.start + 5 * S // 2 for before, after in pairwise(chunks))


def test_speech_after_a_long_stretch_without_pause_joins_its_last_chunk() -> None:
    chunks = cut(spans(0, 40, 40.3, 44), 60 * S, 30, 5)
    assert bounds(chunks) == [(0, 22.5), (17.5, 44)]


def test_short_chunk_is_widened_to_one_second() -> None:
    assert bounds(cut(spans(10, 10.2), 60 * S, 30, 5)) == [(9.6, 10.6)]
    assert bounds(cut(spans(0.1, 0.3), 60 * S, 30, 5)) == [(0, 1)]
    assert bounds(cut(spans(9.9, 10), 10 * S, 30, 5)) == [(9, 10)]
    assert bounds(cut(spans(0.1, 0.3), S // 2, 30, 5)) == [(0, 0.5)]


def test_widening_does_not_reach_into_other_speech() -> None:
    chunks = cut(spans(0, 30, 30.3, 30.5, 30.7, 60.5), 61 * S, 30, 5)
    assert bounds(chunks) == [(0, 30), (30, 30.7), (30.7, 60.5)]
    assert [(chunk.own_start / S, chunk.own_stop / S) for chunk in chunks] == [(0, 30), (30.3, 30.5), (30.7, 60.5)]


def test_no_speech_gives_no_chunks() -> None:
    assert cut((), 60 * S, 30, 5) == ()


@st.composite
def recordings(draw: st.DrawFn) -> tuple[tuple[Span, ...], int]:
    """Speech with pauses of all lengths, now and then minutes without one."""
    at, found = draw(st.integers(0, 5 * S)), []
    for _ in range(draw(st.integers(0, 15))):
        length = draw(st.one_of(st.integers(1, 3 * S), st.integers(S, 20 * S), st.integers(20 * S, 100 * S)))
        found.append(Span(at, at + length))
        at += length + draw(st.one_of(st.integers(1, S // 4), st.integers(1, 2 * S), st.integers(2 * S, 60 * S)))
    return tuple(found), (found[-1].stop if found else 0) + draw(st.integers(0, 5 * S))


LIMITS = st.tuples(st.floats(5, 60), st.floats(0, 10))
# A machine under load is not an error.
patiently = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@patiently
@given(recordings(), LIMITS)
def test_every_speech_sample_is_in_exactly_one_own_part(
    recording: tuple[tuple[Span, ...], int], limits: tuple[float, float]
) -> None:
    speech, n_samples = recording
    chunks = cut(speech, n_samples, *limits)
    for before, after in pairwise(chunks):
        assert before.own_stop <= after.own_start
    for span in speech:
        covered = sum(max(0, min(c.own_stop, span.stop) - max(c.own_start, span.start)) for c in chunks)
        assert covered == span.stop - span.start


@patiently
@given(recordings(), LIMITS)
def test_chunks_stay_within_their_limits(recording: tuple[tuple[Span, ...], int], limits: tuple[float, float]) -> None:
    speech, n_samples = recording
    max_chunk_s, overlap_s = limits
    chunks = cut(speech, n_samples, max_chunk_s, overlap_s)
    overlap = min(int(overlap_s * S), int(max_chunk_s * S) // 3)
    for chunk in chunks:
        assert 0 <= chunk.start <= chunk.own_start < chunk.own_stop <= chunk.stop <= n_samples
        assert chunk.stop - chunk.start <= max_chunk_s * S
    for before, after in pairwise(chunks):
        assert before.start < after.start
        assert before.stop < after.stop
        if after.is_joined:
            assert before.stop - after.start == overlap
            assert before.own_stop == after.own_start
        else:
            assert before.stop <= after.start
    if chunks:
        assert not chunks[0].is_joined
        assert chunks[-1].own_stop == speech[-1].stop  # the tail is not lost


@patiently
@given(recordings(), LIMITS)
def test_repeated_splitting_ends_and_loses_nothing(
    recording: tuple[tuple[Span, ...], int], limits: tuple[float, float]
) -> None:
    speech, n_samples = recording
    for chunk in cut(speech, n_samples, *limits)[:3]:
        leaves = list(split_fully(chunk, speech))
        assert leaves[0].own_start == chunk.own_start
        assert leaves[-1].own_stop == chunk.own_stop
        assert leaves[0].is_joined == chunk.is_joined
        for before, after in pairwise(leaves):
            lost = Span(before.own_stop, after.own_start)
            assert lost.start <= lost.stop
            assert not any(max(span.start, lost.start) < min(span.stop, lost.stop) for span in speech)
            assert after.is_joined or before.stop <= after.start
            assert not after.is_joined or after.start <= before.stop


def split_fully(chunk: Chunk, speech: Sequence[Span]) -> Iterator[Chunk]:
    parts = split(chunk, speech)
    if not parts:
        yield chunk
        return
    assert len(parts) == 2
    for part in parts:
        assert part.stop - part.start < chunk.stop - chunk.start
        assert chunk.start <= part.start <= part.own_start < part.own_stop <= part.stop <= chunk.stop
        yield from split_fully(part, speech)


def test_splits_at_the_longest_pause_near_the_middle() -> None:
    speech = spans(0, 2, 3.9, 12, 12.5, 16, 16.2, 28)
    (chunk,) = cut(speech, 30 * S, 30, 5)
    left, right = split(chunk, speech)
    assert bounds((left, right)) == [(0, 12), (12.5, 28)]
    assert not right.is_joined


def test_splits_speech_without_a_pause_in_its_middle() -> None:
    speech = spans(0, 28)
    (chunk,) = cut(speech, 30 * S, 30, 5)
    left, right = split(chunk, speech)
    assert bounds((left, right)) == [(0, 16.5), (11.5, 28)]
    assert left.own_stop == right.own_start == 14 * S
    assert right.is_joined


def test_short_chunks_are_not_split() -> None:
    assert split(Chunk(0, int(1.9 * S), 0, int(1.9 * S)), spans(0, 1.9)) == ()


# Finding speech


def waveform_of(samples: NDArray[np.float32], cache: Path) -> Waveform:
    with WaveformWriter(cache) as writer:
        writer.append(samples)
        return writer.finish()


def find(samples: NDArray[np.float32], cache: Path, method: str) -> tuple[Span, ...]:
    with waveform_of(samples, cache) as waveform:
        return detect_speech(waveform, measure_levels(waveform, lambda: None), method, lambda: None)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.float32]:
    """Six seconds of speech at 16 kHz."""
    folder = tmp_path_factory.mktemp("words")
    media.sox(media.speak(folder / "spoken.wav"), "-r", "16000", folder / "words.wav", "gain", "-n", "-6")
    return media.read_audio(folder / "words.wav")[0]


@pytest.mark.parametrize("method", ["silero", "energy"])
def test_speech_between_silences_is_detected(method: str, words: NDArray[np.float32], tmp_path: Path) -> None:
    silence = np.zeros(5 * S, np.float32)
    samples = np.concatenate((silence, words, silence, words)) + media.noise(10 + 2 * len(words) / S, level=0.002)
    found = find(samples, tmp_path, method)
    assert abs(found[0].start - 5 * S) < 0.4 * S
    assert abs(found[-1].stop - len(samples)) < 0.8 * S
    gap = max(pairwise(found), key=lambda pair: pair[1].start - pair[0].stop)
    assert abs(gap[0].stop - 5 * S - len(words)) < 0.8 * S
    assert abs(gap[1].start - 10 * S - len(words)) < 0.4 * S
    assert sum(span.stop - span.start for span in found) > 0.8 * 2 * len(words)


@pytest.mark.parametrize("method", ["silero", "energy"])
@pytest.mark.parametrize("audio", ["silence", "noise", "hum"])
def test_noise_is_not_detected_as_speech(method: str, audio: str, tmp_path: Path) -> None:
    samples = {
        "silence": np.zeros(8 * S, np.float32),
        "noise": media.noise(8),
        "hum": media.tone(8, frequency_hz=100.0) + media.noise(8, level=0.01),
    }[audio]
    assert find(samples, tmp_path, method) == ()


@pytest.mark.parametrize("word", ["yes", "no", "hm"])
def test_lone_short_word_is_detected(word: str, tmp_path: Path) -> None:
    media.sox(media.speak(tmp_path / "spoken.wav", word), "-r", "16000", tmp_path / "word.wav", "gain", "-n", "-6")
    audio, _ = media.read_audio(tmp_path / "word.wav")
    samples = media.noise(8, level=0.002)
    samples[4 * S : 4 * S + len(audio)] += audio
    (span,) = find(samples, tmp_path, "silero")
    assert 3.6 * S < span.start < span.stop < 4 * S + len(audio) + 0.3 * S


def test_vad_off_marks_everything_as_speech(tmp_path: Path) -> None:
    assert find(np.zeros(1234, np.float32), tmp_path, "off") == (Span(0, 1234),)
    assert find(np.zeros(0, np.float32), tmp_path, "off") == ()


@pytest.mark.parametrize("method", ["silero", "energy"])
@pytest.mark.parametrize("n_samples", [0, 1, 511, 512, 513])
def test_very_short_recordings_are_searched_for_speech(method: str, n_samples: int, tmp_path: Path) -> None:
    assert find(np.zeros(n_samples, np.float32), tmp_path, method) == ()


def test_parallel_stretches_equal_single_stretches(
    words: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = np.resize(words, 130 * S) + media.noise(130, level=0.01)
    together = find(samples, tmp_path, "silero")
    monkeypatch.setattr(vad, "_ROWS", 1)
    assert find(samples, tmp_path, "silero") == together


def judged_by_its_makers(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the model says as the package silero_vad has it for torch, in one sequential pass."""
    (folder,) = find_spec("silero_vad").submodule_search_locations  # type: ignore[union-attr, misc]
    load: Any = torch.jit.load
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = load(Path(folder, "data", "silero_vad.jit"))
        frames = torch.from_numpy(samples[: len(samples) // 512 * 512]).reshape(-1, 512)
        return np.array([model(frame, S).item() for frame in frames], np.float32)


def test_stretches_agree_with_one_sequential_pass(words: NDArray[np.float32], tmp_path: Path) -> None:
    """The first stretch begins cold like a sequential pass, the second is warmed up on 10 s."""
    samples = np.resize(words, 75 * S) + media.noise(75, level=0.01)
    with waveform_of(samples, tmp_path) as waveform:
        n_all = count_frames(waveform)
        starts = range(0, n_all, vad._STRETCH_FRAMES)
        found = vad._probabilities(Silero(), partial(read_frames, waveform), n_all, starts, lambda: None)
    expected = judged_by_its_makers(samples)
    n_frames = len(expected)
    assert np.abs(found[:1875] - expected[:1875]).max() < 1e-3
    assert ((found[:n_frames] >= 0.5) != (expected >= 0.5)).mean() < 0.01


def test_padding_closes_no_pause() -> None:
    bursts = np.array([[1000, 3000], [3200, 5000], [7000, 9000], [60_000, 61_000]])
    found = vad._padded(bursts, 62_000)
    assert found == (Span(0, 3050), Span(3150, 5500), Span(6500, 12_200), Span(56_800, 62_000))


def test_bursts_are_joined_dropped_or_kept() -> None:
    levels = np.zeros(300, np.float32)
    levels[10:30] = 0.9  # long
    levels[33:36] = 0.6  # after a dip of 3 frames: the same burst
    levels[45:48] = 0.6  # short and unsure, but near
    levels[150:153] = 0.6  # short, unsure and alone
    levels[200:203] = 0.95  # short and alone, but sure
    levels[230:232] = 0.95  # sure, but alone and shorter than any word
    levels[250:270] = 0.45  # long, but never speech
    found = vad._find_bursts(levels, vad._PROBABILITY)
    assert found.tolist() == [[10, 36], [45, 48], [200, 203]]


def test_burst_shorter_than_a_word_counts_only_beside_longer_speech() -> None:
    levels = np.zeros(100, np.float32)
    levels[10:30] = 0.9
    levels[38:40] = 0.6  # a released consonant
    levels[55:57] = 0.9  # within a second, but not next to it
    found = vad._find_bursts(levels, vad._PROBABILITY)
    assert found.tolist() == [[10, 30], [38, 40]]


def test_stop_interrupts_speech_detection(tmp_path: Path) -> None:
    def stop() -> None:
        raise errors.StoppedError("enough")

    with waveform_of(media.noise(1), tmp_path) as waveform:
        with pytest.raises(errors.StoppedError):
            measure_levels(waveform, stop)
        with pytest.raises(errors.StoppedError):
            detect_speech(waveform, measure_levels(waveform, lambda: None), "silero", stop)


def test_missing_weights_name_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silero.load_silero.cache_clear()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "silero_vad", raising=False)
    with pytest.raises(errors.EngineUnavailableError, match="vad to energy") as caught:
        find(media.noise(1), tmp_path, "silero")
    assert "silero-vad" in caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"\x3a\x7f", b"no such thing" * 99])
def test_invalid_weights_name_the_remedy(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silero.load_silero.cache_clear()
    package = tmp_path / "silero_vad"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "data" / "silero_vad_16k_op15.onnx").write_bytes(content)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "silero_vad", raising=False)
    with pytest.raises(errors.EngineUnavailableError, match="not installed"):
        find(media.noise(1), tmp_path, "silero")
