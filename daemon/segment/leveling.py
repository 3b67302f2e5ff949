"""Leveling: quiet talkers are made as loud as the others, for the model and for people who listen.

The gain follows the detected speech. In pauses it is 0 dB, so that background and clicks stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from daemon.segment.frames import average, read_frames, to_db, to_energies, to_frames, to_mask, to_ranges
from daemon.segment.silero import FRAME_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from daemon.config import Preprocess
    from daemon.decode import Waveform
    from daemon.segment.chunking import Span

_MAX_GAIN_DB: Final = 26.0
_BELOW_LOUDEST_DB: Final = 3.0  # talkers this far below the loudest stay as they are
_DIFFERENCE_DB: Final = 10.0  # `auto` raises only what is that far below
_MIN_QUIET_FRAMES: Final = 16  # half a second of it
_CLICK_FRAMES: Final = 2  # a click lies in one frame, or across the edge of two; a syllable has four or more
_SYLLABLE_FRAMES: Final = 8  # 256 ms: levels are taken over a syllable or two
_AROUND_FRAMES: Final = 16  # half a second: the gain follows the loudest syllable around
_LOUD_PERCENTILE: Final = 90
_LOUDEST_FRAMES: Final = 62  # 2 s: shorter moments are no measure of how loud someone talks
_HOLD_FRAMES: Final = 16  # half a second into a pause the gain stays
_SLOPE_DB: Final = 3.0  # for each frame: 26 dB take 0.3 s
_BLOCK_FRAMES: Final = 937  # 30 s are read and written at a time


def bring_up_quiet_speech(
    waveform: Waveform,
    levels: NDArray[np.float32],
    speech: Sequence[Span],
    settings: Preprocess,
    raise_if_stopped: Callable[[], None],
) -> float:
    """Raise quiet speech in the waveform, in place and at most to the highest level after normalization.

    Args:
        waveform: the recording.
        levels: of its frames, from `frames.measure_levels`.
        speech: detected in it.
        settings: the `preprocess` section of the configuration.
        raise_if_stopped: called at least every two seconds; it may raise errors.StoppedError to end the work.

    Returns:
        the most gain that was added anywhere, in dB; 0 where the waveform was left as it was.

    Raises:
        errors.TransientError: the disk of the waveform cannot be read or written.
    """
    if settings.leveling == "off" or not speech:
        return 0.0
    wanted = _choose_gains(levels, to_frames(speech), is_always=settings.leveling == "on")
    if not wanted.any():
        return 0.0
    _limit(wanted, waveform, settings.peak_dbfs, raise_if_stopped)
    return _apply(waveform, _smooth(wanted), raise_if_stopped)


def _choose_gains(levels: NDArray[np.float32], bursts: NDArray[np.int64], *, is_always: bool) -> NDArray[np.float32]:
    """Return the gain that each frame should get, in dB, shape (n_frames,)."""
    gains = np.zeros(len(levels), np.float32)
    loudness = _measure_loudness(levels)
    stretches = _join_to_stretches(loudness, bursts)
    around = [_follow(loudness[start:stop]) for start, stop in stretches.tolist()]
    loudest = _find_loudest(np.concatenate(around))
    if is_always:
        quiet = stretches
    else:
        parts = [start + _find_quiet(one, loudest) for start, one in zip(stretches[:, 0], around, strict=True)]
        quiet = np.concatenate(parts)
        if (quiet[:, 1] - quiet[:, 0]).sum() < _MIN_QUIET_FRAMES:
            return gains
    for start, one in zip(stretches[:, 0].tolist(), around, strict=True):
        gains[start : start + len(one)] = np.clip(loudest - _BELOW_LOUDEST_DB - one, 0, _MAX_GAIN_DB)
    is_quiet = to_mask(quiet, len(gains))
    gains *= is_quiet
    gains = _hold(gains, quiet)
    gains[to_mask(stretches, len(gains)) & ~is_quiet] = 0
    return gains


def _measure_loudness(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how loud it is around each frame, in dBFS, shape (n_frames,); clicks do not count."""
    padded = np.pad(to_energies(levels), _CLICK_FRAMES, mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * _CLICK_FRAMES + 1)
    return to_db(average(np.partition(around, _CLICK_FRAMES, axis=1)[:, _CLICK_FRAMES], _SYLLABLE_FRAMES))


def _measure_stretch(loudness: NDArray[np.float32]) -> float:
    """Return how loud a stretch is: in its loudest tenth, which neither a neighbour nor a lone syllable decides."""
    return float(np.percentile(loudness, _LOUD_PERCENTILE))


def _join_to_stretches(loudness: NDArray[np.float32], bursts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the (start, stop) frames of what one talker says without a pause, as far as levels tell, shape (n, 2)."""
    each = np.array([_measure_stretch(loudness[start:stop]) for start, stop in bursts.tolist()])
    is_new = (bursts[1:, 0] - bursts[:-1, 1] >= _HOLD_FRAMES) | (np.abs(np.diff(each)) >= _DIFFERENCE_DB)
    starts = bursts[np.concatenate(([True], is_new)), 0]
    stops = bursts[np.concatenate((is_new, [True])), 1]
    stretches = np.stack((starts, np.minimum(stops, np.append(starts[1:], stops[-1]))), axis=1)  # two may share a frame
    return stretches[stretches[:, 1] > stretches[:, 0]]


def _follow(loudness: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the loudest syllable within half a second of each frame of a stretch, shape (n,)."""
    padded = np.pad(loudness, _AROUND_FRAMES, mode="edge")
    around: NDArray[np.float32] = np.lib.stride_tricks.sliding_window_view(padded, 2 * _AROUND_FRAMES + 1).max(axis=1)
    return around


def _find_quiet(around: NDArray[np.float32], loudest: float) -> NDArray[np.int64]:
    """Return the (start, stop) frames of a stretch in which someone else talks quietly, shape (n, 2).

    The end of a sentence is quiet too; so it has to be half of the stretch, or two seconds of it.
    """
    found = to_ranges(around <= loudest - _DIFFERENCE_DB)
    return found[found[:, 1] - found[:, 0] >= min(_LOUDEST_FRAMES, len(around) / 2)]


def _find_loudest(around: NDArray[np.float32]) -> float:
    """Return the level that speech reaches for two seconds altogether, or for a quarter of it where it is short."""
    n_loudest = min(_LOUDEST_FRAMES, -(-len(around) // 4))
    return float(np.partition(around, -n_loudest)[-n_loudest])


def _hold(gains: NDArray[np.float32], stretches: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return gains that reach into the pauses, at most to their middle, so that no word starts before its gain."""
    before = np.concatenate(([0], stretches[:-1, 1]))
    after = np.concatenate((stretches[1:, 0], [len(gains)]))
    for (start, stop), earliest, latest in zip(stretches.tolist(), before.tolist(), after.tolist(), strict=True):
        gains[max(start - _HOLD_FRAMES, (earliest + start + 1) // 2) : start] = gains[start]
        gains[stop : min(stop + _HOLD_FRAMES, (stop + latest + 1) // 2)] = gains[stop - 1]
    return gains


def _limit(
    gains: NDArray[np.float32], waveform: Waveform, peak_dbfs: float, raise_if_stopped: Callable[[], None]
) -> None:
    """Lower gains, shape (n_frames,), where a frame would exceed the level."""
    for first, n_frames in _blocks(gains > 0):
        raise_if_stopped()
        frames = read_frames(waveform, first, n_frames).reshape(n_frames, FRAME_SAMPLES)
        peaks_dbfs = to_db(np.abs(frames).max(axis=1) ** 2)
        part = gains[first : first + n_frames]
        np.minimum(part, np.maximum(peak_dbfs - peaks_dbfs, 0), out=part)


def _smooth(gains: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the gain at the edges of frames, shape (n_frames + 1,): nowhere higher, and without steps."""
    edges = np.minimum(np.concatenate((gains[:1], gains)), np.concatenate((gains, gains[-1:]))).astype(np.float64)
    ramp = _SLOPE_DB * np.arange(len(edges))
    edges = np.minimum.accumulate(edges - ramp) + ramp
    edges = np.minimum.accumulate((edges + ramp)[::-1])[::-1] - ramp
    return np.asarray(np.maximum(edges, 0), np.float32)


def _apply(waveform: Waveform, edges: NDArray[np.float32], raise_if_stopped: Callable[[], None]) -> float:
    """Raise the frames between edges with a gain; return the most gain, in dB."""
    slope = np.arange(FRAME_SAMPLES, dtype=np.float32) / np.float32(FRAME_SAMPLES)
    factors = np.power(np.float32(10), edges / 20)[:, np.newaxis]
    for first, n_frames in _blocks((edges[:-1] > 0) | (edges[1:] > 0)):
        raise_if_stopped()
        frames = read_frames(waveform, first, n_frames).reshape(n_frames, FRAME_SAMPLES)
        before, after = factors[first : first + n_frames], factors[first + 1 : first + n_frames + 1]
        frames *= before + (after - before) * slope
        start = first * FRAME_SAMPLES
        waveform.replace(start, frames.reshape(-1)[: waveform.n_samples - start])
    return float(edges.max())


def _blocks(is_on: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return (first, number) of frames that are on, in blocks of 30 s at most."""
    return [
        (first, min(_BLOCK_FRAMES, stop - first))
        for start, stop in to_ranges(is_on).tolist()
        for first in range(start, stop, _BLOCK_FRAMES)
    ]
