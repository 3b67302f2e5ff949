"""Voice-activity detection (VAD): silero's model, or a plain level detector."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from daemon.decode import SAMPLE_RATE_HZ
from daemon.segment import quiet_speech
from daemon.segment.chunking import Span
from daemon.segment.frames import find_floors, has_audio, read_frames, to_mask, to_ranges
from daemon.segment.silero import CONTEXT_SAMPLES, FRAME_SAMPLES, load_silero

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from daemon.decode import Waveform
    from daemon.segment.silero import Silero

    Reader = Callable[[int, int, int], NDArray[np.float32]]

# The model carries a state from frame to frame. Here it runs on stretches of 60 s on an absolute grid,
# each warmed up on the 10 s before it. Compared with one sequential pass this changes under 1 % of the
# decisions (without warm-up: half of them), and stretches run in parallel.
_STRETCH_FRAMES: Final = 60 * SAMPLE_RATE_HZ // FRAME_SAMPLES
_WARM_UP_FRAMES: Final = -(-10 * SAMPLE_RATE_HZ // FRAME_SAMPLES)
_ROWS: Final = 32  # stretches in one batch
_SLAB_FRAMES: Final = 128  # read at a time: 4 s of each row; with all intermediate results that takes 20 MB

_MIN_PAUSE_FRAMES: Final = 4  # over 100 ms; a shorter dip is the closure of a stop consonant
_LONG_FRAMES: Final = 8  # 250 ms
_NEAR_FRAMES: Final = 32  # 1 s
# Of 185 words on their own in four synthetic voices, none lasts less; the first note of music after a pause often does.
_WORD_FRAMES: Final = 3
_BESIDE_FRAMES: Final = 10  # 320 ms: a released consonant at the end of a word
_PADDING_SAMPLES: Final = SAMPLE_RATE_HZ // 5

_FLOOR_FRAMES: Final = 30 * SAMPLE_RATE_HZ // FRAME_SAMPLES
_MIN_FLOOR_DBFS: Final = -70.0


@dataclass(frozen=True, slots=True)
class _Thresholds:
    """What a frame must reach to start speech, to continue it, and to be certain."""

    high: float
    low: float
    certain: float


# The first two are silero's own. A lone short word ("no", "hm") reaches 0.95 or more; clicks, knocks,
# coughs and beeps stay below 0.2 (espeak voices, in silence and in noise at 30 dB).
_PROBABILITY: Final = _Thresholds(high=0.5, low=0.35, certain=0.8)
_DECIBELS_ABOVE_FLOOR: Final = _Thresholds(high=10.0, low=6.0, certain=20.0)


def detect_speech(
    waveform: Waveform,
    levels: NDArray[np.float32],
    method: str,
    raise_if_stopped: Callable[[], None],
) -> tuple[Span, ...]:
    """Find the speech in a recording.

    A lost "yes" is worse than a breath too many: likely frames (0.35) extend speech that reached 0.5,
    and a burst under 250 ms is dropped only if it is both uncertain and alone, with no longer speech
    within 1 s. No word lasts only 64 ms: a burst of up to two frames counts only within 320 ms of longer
    speech. Speech far below the loudest is found by a second look (`daemon.segment.quiet_speech`).
    Each span is padded by 200 ms on either side, or by a quarter of the pause where the pause is shorter
    than 0.8 s, so that no pause disappears.

    Args:
        waveform: the recording.
        levels: of its frames, from `frames.measure_levels`.
        method: "silero", "energy" (levels above the noise floor) or "off" (all is speech).
        raise_if_stopped: called at least every two seconds; it may raise errors.StoppedError to end the work.

    Returns:
        spans in order, without overlaps.

    Raises:
        errors.EngineUnavailableError: silero's weights are not installed.
    """
    if waveform.n_samples == 0:
        return ()
    if method == "off":
        return (Span(0, waveform.n_samples),)
    if method == "energy":
        floors = find_floors(levels, _FLOOR_FRAMES, _FLOOR_FRAMES, _MIN_FLOOR_DBFS)
        bursts = _find_bursts(levels - floors, _DECIBELS_ABOVE_FLOOR)
    else:
        bursts = _find_with_silero(waveform, levels, raise_if_stopped)
    return _padded(bursts * FRAME_SAMPLES, waveform.n_samples)


def _find_with_silero(
    waveform: Waveform, levels: NDArray[np.float32], raise_if_stopped: Callable[[], None]
) -> NDArray[np.int64]:
    """Return the (start, stop) frames of speech, shape (n, 2), after one look or two."""
    silero, n_frames = load_silero(), len(levels)

    def look(read: Reader, starts: Sequence[int]) -> NDArray[np.float32]:
        return _probabilities(silero, read, n_frames, starts, raise_if_stopped)

    starts = [start for start in range(0, n_frames, _STRETCH_FRAMES) if has_audio(waveform, start, _STRETCH_FRAMES)]
    bursts = _find_bursts(look(partial(read_frames, waveform), starts), _PROBABILITY)
    even = quiet_speech.EvenWaveform(waveform, levels)
    excess = quiet_speech.measure_excess(levels)
    starts = quiet_speech.choose_stretches(even, excess, bursts, _STRETCH_FRAMES)
    if not starts:
        return bursts
    probabilities = look(even.read_frames, starts)
    is_new = quiet_speech.confirm(_find_bursts(probabilities, _PROBABILITY), probabilities, bursts, excess)
    more = to_ranges(is_new)
    more = more[_is_long(more) | (_peaks(probabilities, more) >= _PROBABILITY.certain)]
    return _join(to_ranges(to_mask(more, n_frames) | to_mask(bursts, n_frames)))


def _find_bursts(levels: NDArray[np.float32], thresholds: _Thresholds) -> NDArray[np.int64]:
    """Return the (start, stop) frames of speech, shape (n, 2), from one level for each frame."""
    bursts = to_ranges(levels >= thresholds.low)
    bursts = _join(bursts[_peaks(levels, bursts) >= thresholds.high])
    is_long = _is_long(bursts)
    long = bursts[is_long]
    is_word = (bursts[:, 1] - bursts[:, 0] >= _WORD_FRAMES) | _is_near(bursts, long, _BESIDE_FRAMES)
    is_likely = (_peaks(levels, bursts) >= thresholds.certain) | _is_near(bursts, long, _NEAR_FRAMES)
    return bursts[is_long | (is_word & is_likely)]


def _join(bursts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return bursts without the dips between them that are too short for a pause."""
    is_pause = bursts[1:, 0] - bursts[:-1, 1] >= _MIN_PAUSE_FRAMES
    starts = bursts[np.concatenate(([True], is_pause))[: len(bursts)], 0]
    stops = bursts[np.concatenate((is_pause, [True]))[: len(bursts)], 1]
    return np.stack((starts, stops), axis=1)


def _is_long(bursts: NDArray[np.int64]) -> NDArray[np.bool_]:
    is_long: NDArray[np.bool_] = bursts[:, 1] - bursts[:, 0] >= _LONG_FRAMES
    return is_long


def _peaks(levels: NDArray[np.float32], bursts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the highest level in each burst, shape (n,)."""
    if len(bursts) == 0:
        return np.zeros(0, np.float32)
    edges = bursts.reshape(-1)
    inner = edges[:-1] if edges[-1] == len(levels) else edges
    return np.asarray(np.maximum.reduceat(levels, inner)[::2], np.float32)


def _is_near(bursts: NDArray[np.int64], others: NDArray[np.int64], n_frames: int) -> NDArray[np.bool_]:
    """Return for each burst whether one of the others is within so many frames of it, shape (n,)."""
    n_started = np.searchsorted(others[:, 0], bursts[:, 1] + n_frames, side="right")
    n_ended = np.searchsorted(others[:, 1], bursts[:, 0] - n_frames, side="left")
    is_near: NDArray[np.bool_] = n_started > n_ended
    return is_near


def _padded(bursts: NDArray[np.int64], n_samples: int) -> tuple[Span, ...]:
    """Return padded spans from bursts of speech in samples, shape (n, 2)."""
    if len(bursts) == 0:
        return ()
    starts, stops = bursts[:, 0], np.minimum(bursts[:, 1], n_samples)
    paddings = np.minimum(_PADDING_SAMPLES, (starts[1:] - stops[:-1]) // 4)
    starts = np.concatenate(([max(0, starts[0] - _PADDING_SAMPLES)], starts[1:] - paddings))
    stops = np.concatenate((stops[:-1] + paddings, [min(n_samples, stops[-1] + _PADDING_SAMPLES)]))
    return tuple(Span(start, stop) for start, stop in zip(starts.tolist(), stops.tolist(), strict=True))


def _probabilities(
    silero: Silero, read: Reader, n_frames: int, starts: Sequence[int], raise_if_stopped: Callable[[], None]
) -> NDArray[np.float32]:
    """Return the probability of speech for each frame of some stretches, and 0 for all others; shape (n_frames,).

    Args:
        silero: the model.
        read: returns the samples of frames, as `read_frames` does.
        n_frames: of the recording.
        starts: the first frames of the stretches, in order, each a multiple of 1,875.
        raise_if_stopped: called at least every two seconds.
    """
    probabilities = np.zeros(n_frames, np.float32)
    for index in range(0, len(starts), _ROWS):
        some = starts[index : index + _ROWS]
        for start, found in zip(some, _judge_stretches(silero, read, n_frames, some, raise_if_stopped), strict=True):
            probabilities[start : start + _STRETCH_FRAMES] = found[: n_frames - start]
    return probabilities


def _judge_stretches(
    silero: Silero, read: Reader, n_frames: int, starts: Sequence[int], raise_if_stopped: Callable[[], None]
) -> NDArray[np.float32]:
    """Return the probabilities of a few stretches, shape (n_stretches, 1875)."""
    probabilities = np.zeros((len(starts), _STRETCH_FRAMES), np.float32)
    state = silero.begin(len(starts))

    def judge(begin: int, end: int) -> NDArray[np.float32]:
        raise_if_stopped()
        audio = [read(start + begin, end - begin, CONTEXT_SAMPLES) for start in starts]
        return silero.judge(np.stack(audio), state)

    if starts[-1] > 0:
        for begin in range(-_WARM_UP_FRAMES, 0, _SLAB_FRAMES):
            judge(begin, min(begin + _SLAB_FRAMES, 0))
    if starts[0] == 0:
        state[:, 0] = 0  # nothing comes before the first stretch: it starts cold, not warmed up on silence
    n_longest = min(_STRETCH_FRAMES, n_frames - starts[0])
    for begin in range(0, n_longest, _SLAB_FRAMES):
        end = min(begin + _SLAB_FRAMES, n_longest)
        probabilities[:, begin:end] = judge(begin, end)
    return probabilities
