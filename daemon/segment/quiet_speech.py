"""The second look of speech detection: at audio whose level is made even, where quiet speech may hide.

Silero misses half of a talker who is 30 dB below another one. Made as loud as the other, he is found as well. But
an even level turns every pause over a background of voices into speech. So what only the second look finds must
also stand out from the noise floor around it: somewhere by 10 dB, and within a few seconds of that by 6 dB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from daemon.segment.frames import average, find_floors, read_frames, to_db, to_energies, to_mask, to_ranges
from daemon.segment.silero import FRAME_SAMPLES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daemon.decode import Waveform

_MAX_GAIN_DB: Final = 26.0
_TARGET_DBFS: Final = -20.0
_WINDOW_FRAMES: Final = 8  # 256 ms: the level of a syllable or two
_AROUND_WINDOWS: Final = 2  # half a second: gaps between words are raised no more than the words
_MIN_GAIN_DB: Final = 6.0  # speech that close to the target is found without it

_SMOOTHING_FRAMES: Final = 3  # 100 ms
_FLOOR_BLOCK_FRAMES: Final = 156  # 5 s
_FLOOR_AROUND_FRAMES: Final = 469  # 15 s
_LOWEST_FLOOR_DBFS: Final = -75.0
# Proof that someone speaks: a quarter of the frames within a second on either side are this far above the floor, for
# 200 ms or more, in which speech is this probable on average.
_PROOF_DB: Final = 10.0
_PROOF_PROBABILITY: Final = 0.85  # breath and single voices of a babble stay below
_PROOF_SHARE: Final = 0.25
_PROOF_AROUND_FRAMES: Final = 31
_MIN_PROOF_FRAMES: Final = 6
# The rest of what he says is no more than 4 s from a proof, and need not stand out as much.
_REST_DB: Final = 6.0
_REST_SHARE: Final = 0.2
_REST_AROUND_FRAMES: Final = 78
_REACH_FRAMES: Final = 125
_MIN_CANDIDATES: Final = 2  # frames of a stretch: a quarter of the shortest proof
_PADDING_FRAMES: Final = 7  # next to speech that was found, a frame proves nothing


class EvenWaveform:
    """Reads a waveform with a gain that brings each part to the same level, raising it by 26 dB at most.

    Args:
        waveform: the recording.
        levels: of its frames, in dBFS.
    """

    def __init__(self, waveform: Waveform, levels: NDArray[np.float32]) -> None:
        self._waveform = waveform
        n_windows = -(-len(levels) // _WINDOW_FRAMES)
        energies = np.zeros(n_windows * _WINDOW_FRAMES, np.float32)
        energies[: len(levels)] = to_energies(levels)
        windows = to_db(energies.reshape(n_windows, _WINDOW_FRAMES).mean(axis=1))
        padded = np.pad(windows, _AROUND_WINDOWS, mode="edge")
        loudest = np.lib.stride_tricks.sliding_window_view(padded, 2 * _AROUND_WINDOWS + 1).max(axis=1)
        gains_db = np.minimum(_TARGET_DBFS - loudest, _MAX_GAIN_DB)
        centres = (np.arange(n_windows) + 0.5) * _WINDOW_FRAMES
        self.gains_db = np.interp(np.arange(len(levels) + 1), centres, gains_db).astype(np.float32)
        self._gains = np.power(np.float32(10), self.gains_db / 20)

    def read_frames(self, first: int, n_frames: int, n_context: int = 0) -> NDArray[np.float32]:
        """Return the samples of some frames and `n_context` before them, with zeros outside the recording."""
        audio = read_frames(self._waveform, first, n_frames, n_context)
        edges = self._gains[np.clip(np.arange(first, first + n_frames + 1), 0, len(self._gains) - 1), np.newaxis]
        slope = np.arange(FRAME_SAMPLES, dtype=np.float32) / np.float32(FRAME_SAMPLES)
        frames = audio[n_context:].reshape(n_frames, FRAME_SAMPLES)
        frames *= edges[:-1] + (edges[1:] - edges[:-1]) * slope
        audio[:n_context] *= edges[0]
        return audio


def measure_excess(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return by how many dB each frame is above the noise floor around it, shape (n_frames,)."""
    smooth = to_db(average(to_energies(levels), _SMOOTHING_FRAMES))
    return smooth - find_floors(smooth, _FLOOR_BLOCK_FRAMES, _FLOOR_AROUND_FRAMES, _LOWEST_FLOOR_DBFS)


def choose_stretches(
    even: EvenWaveform, excess: NDArray[np.float32], bursts: NDArray[np.int64], stretch_frames: int
) -> list[int]:
    """Return the first frames of the stretches that need a second look: something in them is quiet and stands out.

    Args:
        even: the recording at an even level.
        excess: of its frames, from `measure_excess`.
        bursts: (start, stop) frames of the speech found so far, shape (n, 2).
        stretch_frames: length of a stretch.
    """
    is_near_speech = to_mask(_widen(bursts, _PADDING_FRAMES), len(excess))
    may_hide = (excess >= _PROOF_DB) & ~is_near_speech & (even.gains_db[:-1] >= _MIN_GAIN_DB)
    firsts = np.arange(0, len(may_hide), stretch_frames)
    counts = np.add.reduceat(may_hide, firsts, dtype=np.int64) if len(firsts) else firsts
    chosen: list[int] = firsts[counts >= _MIN_CANDIDATES].tolist()
    return chosen


def confirm(
    found: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    bursts: NDArray[np.int64],
    excess: NDArray[np.float32],
) -> NDArray[np.bool_]:
    """Return the frames that only the second look found and that stand out from their surroundings.

    Args:
        found: (start, stop) frames of speech at an even level, shape (n, 2).
        probabilities: of speech in each frame at an even level.
        bursts: those of the speech found before.
        excess: of the frames, from `measure_excess`.
    """
    n_frames = len(excess)
    is_new = to_mask(found, n_frames) & ~to_mask(bursts, n_frames)
    proofs = to_ranges(_stands_out(is_new, excess >= _PROOF_DB, _PROOF_SHARE, _PROOF_AROUND_FRAMES))
    is_certain = np.array([probabilities[start:stop].mean() for start, stop in proofs.tolist()]) >= _PROOF_PROBABILITY
    proofs = proofs[is_certain & (proofs[:, 1] - proofs[:, 0] >= _MIN_PROOF_FRAMES)]
    is_near_proof = to_mask(_widen(proofs, _REACH_FRAMES), n_frames)
    is_rest = is_near_proof & _stands_out(is_new, excess >= _REST_DB, _REST_SHARE, _REST_AROUND_FRAMES)
    return is_rest | to_mask(proofs, n_frames)


def _stands_out(
    is_new: NDArray[np.bool_], is_high: NDArray[np.bool_], min_share: float, n_around: int
) -> NDArray[np.bool_]:
    """Return the new frames around which, among the new ones, a share is high; speech has pauses between syllables."""
    n_frames = 2 * n_around + 1
    share = average((is_new & is_high).astype(np.float32), n_frames)
    return is_new & (share >= min_share * average(is_new.astype(np.float32), n_frames))


def _widen(ranges: NDArray[np.int64], n_frames: int) -> NDArray[np.int64]:
    """Return (start, stop) ranges with some frames more on either side."""
    return np.asarray(np.maximum(ranges + np.array([-n_frames, n_frames]), 0), np.int64)
