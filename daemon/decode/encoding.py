"""Listening copies: the cleaned audio in a small file that browsers play, encoded as a stream."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import av
import numpy as np

from daemon.decode.waveform import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    import io
    from collections.abc import Mapping

    from daemon.decode.waveform import MixedWaveform, Waveform

_BLOCK_SAMPLES: Final = 10 * SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True)
class _Encoding:
    """FFmpeg's names of a container and an encoder, and a bit rate at which speech is clear."""

    container: str
    encoder: str
    bits_per_s: int


_ENCODINGS: Final = {
    "mp3": _Encoding("mp3", "libmp3lame", 48_000),
    "m4a": _Encoding("ipod", "aac", 48_000),
    "opus": _Encoding("ogg", "libopus", 24_000),
}
ENCODED_FORMATS: Final = tuple(_ENCODINGS)
"""The formats of listening copies, by the endings of their names."""


def encode(
    waveform: Waveform | MixedWaveform,
    file: io.FileIO,
    form: str,
    tags: Mapping[str, str],
    span: tuple[int, int] | None = None,
) -> None:
    """Write audio to a file, in memory that does not depend on its length.

    Args:
        waveform: mono audio at 16 kHz.
        file: an empty file, open for reading and writing.
        form: one of ENCODED_FORMATS.
        tags: such as title and date.
        span: the samples [start, stop) to write; None for all.

    Raises:
        errors.TransientError: the audio cannot be read again.
        OSError: the disk is full.
    """
    encoding = _ENCODINGS[form]
    start, stop = span or (0, waveform.n_samples)
    with av.open(file, "w", format=encoding.container) as container:
        container.metadata.update(tags)
        stream: Any = container.add_stream(encoding.encoder, rate=SAMPLE_RATE_HZ, layout="mono")
        stream.bit_rate = encoding.bits_per_s
        stream.codec_context.thread_count = 1
        for first in range(start, stop, _BLOCK_SAMPLES):
            block = waveform.read(first, min(first + _BLOCK_SAMPLES, stop))
            frame = av.AudioFrame.from_ndarray(np.clip(block, -1, 1)[np.newaxis], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE_HZ, first - start, Fraction(1, SAMPLE_RATE_HZ)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
