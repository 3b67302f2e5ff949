"""Audio in half its room: 16 bits for each sample, with a factor for each 16 ms.

The error of a sample is at most a 65,534th of the loudest sample in its block, and quiet passages have quiet errors.
What the model hears changes by less than its own rounding (docs/measurements.md, "Stored audio").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_SAMPLES: Final = 256
"""Samples that share a factor: 16 ms, half a frame of the VAD."""

BLOCK: Final = np.dtype([("factor", "<f4"), ("values", "<i2", (BLOCK_SAMPLES,))])
"""A block as it is stored. One of zero bytes is silence, so a hole in a file reads as silence."""

_HIGHEST: Final = np.float32(32767)
_LOWEST_PEAK: Final = 1e-30  # of a block that is not silence: far below anything that can be heard


def count_blocks(n_samples: int) -> int:
    """Return how many blocks some samples fill; the last may be filled in part."""
    return -(-n_samples // BLOCK_SAMPLES)


def stored_bytes(n_samples: int) -> int:
    """Return how many bytes some samples take."""
    return count_blocks(n_samples) * BLOCK.itemsize


def pack(samples: NDArray[np.float32]) -> NDArray[np.void]:
    """Return samples, shape (n,), as blocks, shape (n_blocks,); the last is filled up with zeros."""
    n_missing = -len(samples) % BLOCK_SAMPLES
    whole = np.concatenate((samples, np.zeros(n_missing, np.float32))) if n_missing else samples
    rows = whole.reshape(-1, BLOCK_SAMPLES)
    scaled = np.abs(rows)  # used again below: a second array would cost as much as the arithmetic
    peaks = scaled.max(axis=1)
    blocks = np.empty(len(rows), BLOCK)
    is_heard = peaks > _LOWEST_PEAK
    inverses = np.divide(_HIGHEST, peaks, out=np.zeros_like(peaks), where=is_heard)
    blocks["factor"] = peaks / _HIGHEST * is_heard
    np.multiply(rows, inverses[:, np.newaxis], out=scaled)
    np.copyto(blocks["values"], np.rint(scaled, out=scaled), casting="unsafe")
    return blocks


def is_heard(blocks: NDArray[np.void], floor: float = 0.0) -> NDArray[np.bool_]:
    """Return for each block whether any of its samples is above a level, shape (n_blocks,)."""
    heard: NDArray[np.bool_] = blocks["factor"] > np.float32(floor) / _HIGHEST
    return heard


def unpack(blocks: NDArray[np.void], gain: float = 1.0) -> NDArray[np.float32]:
    """Return the samples of blocks times a gain, shape (n_blocks * BLOCK_SAMPLES,)."""
    factors = blocks["factor"] * np.float32(gain)
    samples: NDArray[np.float32] = (blocks["values"] * factors[:, np.newaxis]).reshape(-1)
    return samples
