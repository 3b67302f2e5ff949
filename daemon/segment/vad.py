"""Voice-activity detection (VAD): silero's model, or a plain level detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from daemon.decode import SAMPLE_RATE_HZ, Waveform
from daemon.segment.chunking import Span
from daemon.segment.silero import CONTEXT_SAMPLES, FRAME_SAMPLES, Silero

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

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
_PADDING_SAMPLES: Final = SAMPLE_RATE_HZ // 5

_FLOOR_WINDOW_FRAMES: Final = 30 * SAMPLE_RATE_HZ // FRAME_SAMPLES
_FLOOR_PERCENTILE: Final = 10  # even in speech without pauses a tenth of the frames lie between syllables
_MIN_FLOOR_DBFS: Final = -70.0
_NOTHING_DB: Final = -120.0


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


def detect_speech(waveform: Waveform, method: str, raise_if_stopped: Callable[[], None]) -> tuple[Span, ...]:
    """Find the speech in a recording.

    A lost "yes" is worse than a breath too many: likely frames (0.35) extend speech that reached 0.5,
    and a burst under 250 ms is dropped only if it is both uncertain and alone, with no longer speech
    within 1 s. Each span is padded by 200 ms on either side, or by a quarter of the pause where the
    pause is shorter than 0.8 s, so that no pause disappears.

    Args:
        waveform: the recording.
        method: "silero", "energy" (levels above the noise floor) or "off" (all is speech).
        raise_if_stopped: called at least every two seconds; it may raise errors.StoppedError to end the work.

    Returns:
        spans in order, without overlaps.

    Raises:
        errors.EngineUnavailableError: silero's weights are not installed.
    """
    if method == "off":
        return (Span(0, waveform.n_samples),) if waveform.n_samples else ()
    if method == "energy":
        bursts = _find_bursts(_levels_above_floor(waveform, raise_if_stopped), _DECIBELS_ABOVE_FLOOR)
    else:
        bursts = _find_bursts(_probabilities(waveform, raise_if_stopped), _PROBABILITY)
    return _padded(bursts * FRAME_SAMPLES, waveform.n_samples)


def _find_bursts(levels: NDArray[np.float32], thresholds: _Thresholds) -> NDArray[np.int64]:
    """Return the (start, stop) frames of speech, shape (n, 2), from one level for each frame."""
    is_on = np.concatenate(([False], levels >= thresholds.low, [False]))
    bursts = np.flatnonzero(is_on[1:] != is_on[:-1]).reshape(-1, 2)
    bursts = bursts[_peaks(levels, bursts) >= thresholds.high]
    is_pause = bursts[1:, 0] - bursts[:-1, 1] >= _MIN_PAUSE_FRAMES
    starts = bursts[np.concatenate(([True], is_pause))[: len(bursts)], 0]
    stops = bursts[np.concatenate((is_pause, [True]))[: len(bursts)], 1]
    bursts = np.stack((starts, stops), axis=1)
    is_long = bursts[:, 1] - bursts[:, 0] >= _LONG_FRAMES
    return bursts[is_long | (_peaks(levels, bursts) >= thresholds.certain) | _is_near(bursts, bursts[is_long])]


def _peaks(levels: NDArray[np.float32], bursts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the highest level of each burst, shape (n,); levels between bursts are lower."""
    return np.maximum.reduceat(levels, bursts[:, 0]) if len(bursts) else np.zeros(0, np.float32)


def _is_near(bursts: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return for each burst whether one of the others is within 1 s of it, shape (n,)."""
    n_started = np.searchsorted(others[:, 0], bursts[:, 1] + _NEAR_FRAMES, side="right")
    n_ended = np.searchsorted(others[:, 1], bursts[:, 0] - _NEAR_FRAMES, side="left")
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


def _probabilities(waveform: Waveform, raise_if_stopped: Callable[[], None]) -> NDArray[np.float32]:
    """Return silero's probability of speech for each frame, shape (n_frames,)."""
    n_frames = -(-waveform.n_samples // FRAME_SAMPLES)
    silero = Silero()
    stretches = np.zeros((-(-n_frames // _STRETCH_FRAMES), _STRETCH_FRAMES), np.float32)
    starts = [start for start in range(0, n_frames, _STRETCH_FRAMES) if _has_audio(waveform, start, _STRETCH_FRAMES)]
    for index in range(0, len(starts), _ROWS):
        rows = starts[index : index + _ROWS]
        stretches[np.array(rows) // _STRETCH_FRAMES] = _judge_stretches(silero, waveform, rows, raise_if_stopped)
    return stretches.reshape(-1)[:n_frames]


def _has_audio(waveform: Waveform, first: int, n_frames: int) -> bool:
    """Return whether any of some frames was recorded; a pause of the recorder is not examined."""
    return waveform.has_audio(first * FRAME_SAMPLES, (first + n_frames) * FRAME_SAMPLES)


def _judge_stretches(
    silero: Silero, waveform: Waveform, starts: Sequence[int], raise_if_stopped: Callable[[], None]
) -> NDArray[np.float32]:
    """Return the probabilities of stretches, given by their first frames, shape (n_stretches, 1875)."""
    n_frames = -(-waveform.n_samples // FRAME_SAMPLES)
    probabilities = np.zeros((len(starts), _STRETCH_FRAMES), np.float32)
    state = silero.begin(len(starts))

    def judge(begin: int, end: int) -> NDArray[np.float32]:
        raise_if_stopped()
        audio = [_read_frames(waveform, start + begin, end - begin, CONTEXT_SAMPLES) for start in starts]
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


def _read_frames(waveform: Waveform, first: int, n_frames: int, n_context: int = 0) -> NDArray[np.float32]:
    """Return the samples of some frames and `n_context` before them, with zeros outside the recording."""
    start, stop = first * FRAME_SAMPLES - n_context, (first + n_frames) * FRAME_SAMPLES
    samples = np.zeros(stop - start, np.float32)
    audio = waveform.read(max(0, start), max(0, stop))
    n_before = max(0, -start)
    samples[n_before : n_before + len(audio)] = audio
    return samples


def _levels_above_floor(waveform: Waveform, raise_if_stopped: Callable[[], None]) -> NDArray[np.float32]:
    """Return the level of each frame in dB above the noise around it, shape (n_frames,)."""
    n_frames = -(-waveform.n_samples // FRAME_SAMPLES)
    levels = np.zeros(n_frames, np.float32)
    for first in range(0, n_frames, _FLOOR_WINDOW_FRAMES):
        if not _has_audio(waveform, first, _FLOOR_WINDOW_FRAMES):
            levels[first : first + _FLOOR_WINDOW_FRAMES] = _NOTHING_DB
            continue
        raise_if_stopped()
        frames = _read_frames(waveform, first, min(_FLOOR_WINDOW_FRAMES, n_frames - first)).reshape(-1, FRAME_SAMPLES)
        energies = np.einsum("ij,ij->i", frames, frames) / FRAME_SAMPLES
        levels[first : first + len(frames)] = 10 * np.log10(energies + 10 ** (_NOTHING_DB / 10))
    floors = np.empty_like(levels)
    for first in range(0, n_frames, _FLOOR_WINDOW_FRAMES):
        around = levels[max(0, first - _FLOOR_WINDOW_FRAMES) : first + 2 * _FLOOR_WINDOW_FRAMES]
        floors[first : first + _FLOOR_WINDOW_FRAMES] = max(
            _MIN_FLOOR_DBFS, float(np.percentile(around, _FLOOR_PERCENTILE))
        )
    return levels - floors
