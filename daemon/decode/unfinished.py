"""PCM files whose header does not state their length, or states less than the file contains."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import numpy as np

from daemon.decode import headers

if TYPE_CHECKING:
    from daemon.decode.headers import AudioChunk, FileContent
    from daemon.decode.source import RecordingFile

_WINDOW_BYTES: Final = 1 << 16
_MIN_BYTES: Final = 200
_TAG_BYTES: Final = 32
_PCM_16: Final = 16
_FORM_BYTES: Final = 12
_AUDIO_CHUNKS: Final = frozenset({b"data", b"SSND"})
_FORMAT_CHUNKS: Final = frozenset({b"fmt ", b"fact", b"COMM", b"FVER"})
# Read as 16-bit samples, text and compressed data are far louder than recordings: text lies on one side of zero, and
# compressed data jumps over the whole range.
_MAX_MEAN: Final = 0.5  # of the RMS
_LOUD: Final = 0.05 * (1 << 15)
_DEAFENING: Final = 0.4 * (1 << 15)
_MIN_CORRELATION: Final = 0.3


def complete(source: RecordingFile, chunk: AudioChunk) -> RecordingFile:
    """Return a recording whose header was written before its length was known, with the length filled in.

    FFmpeg reads WAV, AIFF and CAF files without a length, but not every way to mark the length as unknown.
    """
    kind, start, n_bytes = headers.audio_format(source.head), source.start, chunk.available_bytes
    header = bytearray(source.read_at(start, chunk.offset - start))
    if kind == "W64":
        header[16:24] = struct.pack("<Q", source.size - start)
        header[-8:] = struct.pack("<Q", n_bytes + 24)
    elif kind == "CAF":
        header[-8:] = struct.pack(">Q", n_bytes)
    elif kind == "AU":
        header[8:12] = struct.pack(">I", min(n_bytes, 0xFFFF_FFFE))
    elif bytes(header[:4]) in {b"RF64", b"BW64"} and bytes(header[12:16]) == b"ds64":
        header[20:44] = struct.pack("<3Q", source.size - start - 8, n_bytes, 0)
        header[-4:] = b"\xff" * 4
    else:
        return source
    return source.part(chunk.offset, source.size, bytes(header))


def pad(source: RecordingFile) -> RecordingFile:
    """Return a WAV or AIFF file whose odd chunks lack their padding byte with a padded header; others unchanged."""
    header = source.read_at(source.start, _FORM_BYTES)
    is_odd = False
    for name, offset, n_bytes in headers.list_chunks(source):
        is_odd |= bool((offset - source.start) % 2)
        if name in _AUDIO_CHUNKS:
            return source.part(offset, source.size, header + source.read_at(offset - 8, 8)) if is_odd else source
        if name in _FORMAT_CHUNKS:
            header += source.read_at(offset - 8, 8 + n_bytes) + bytes(n_bytes % 2)
    return source


def goes_on(source: FileContent, chunk: AudioChunk) -> bool:
    """Return whether what follows the audio that a WAV header declares is audio too, and not a tag, padding or junk."""
    at = chunk.offset + (chunk.declared_bytes or 0)
    at += at % 2
    while (n_bytes := headers.tag_bytes(head := source.read_at(at, _TAG_BYTES)) or headers.id3_bytes(head)) > 0:
        at += n_bytes
    while (content := source.read_at(at, _WINDOW_BYTES)) and not content.strip(b"\0"):
        at += len(content)
    if len(content) < _MIN_BYTES or headers.is_tag(content):
        return False
    if _sample_bits(source) != _PCM_16:
        return True
    before = source.read_at(max(chunk.offset, at - _WINDOW_BYTES), min(_WINDOW_BYTES, at - chunk.offset))
    return _is_like_audio(_to_samples(content), _to_samples(before))


def _sample_bits(source: FileContent) -> int:
    """Return the bits of a sample of PCM in a WAV file; 0 for any other encoding."""
    for name, offset, _ in headers.list_chunks(source):
        if name == b"fmt ":
            form, bits = struct.unpack("<H12xH", source.read_at(offset, 16).ljust(16, b"\0"))
            return int(bits) if form in {1, 0xFFFE} else 0
    return 0


def _to_samples(content: bytes) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.frombuffer(content, "<i2", len(content) // 2).astype(np.float64)


def _is_like_audio(
    samples: np.ndarray[tuple[int], np.dtype[np.float64]], before: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> bool:
    level = float(np.sqrt(np.mean(samples**2)))
    centre = float(before.mean()) if len(before) else 0.0
    if level > _LOUD and abs(float(samples.mean()) - centre) > _MAX_MEAN * level:
        return False
    correlation = float(np.dot(samples[1:], samples[:-1])) / max(float(np.dot(samples, samples)), 1.0)
    return level < _DEAFENING or correlation > _MIN_CORRELATION
