"""Files that hold several recordings, one after the other, as `cat one.wav two.wav` makes them."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final

import numpy as np
import soxr

from daemon.decode import headers, ogg, signatures, transport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from daemon.decode.source import RecordingFile

_MAX_PARTS: Final = 1000
_MAX_BOXES: Final = 100_000
_CAF_CHUNK_BYTES: Final = 12
_W64_HEADER_BYTES: Final = 104
_SIZE_BYTES: Final = 4
_TAG_HEADER_BYTES: Final = 32
_FLV_HEADER_BYTES: Final = 13
_TTA_HEADER_BYTES: Final = 22
_WAVPACK_INITIAL: Final = 0x800  # the first block of several that hold the same samples
_PADDING_BYTES: Final = 1 << 16
# A few bytes that prove little; FFmpeg reads joined files of these formats by itself.
_WEAK: Final = frozenset({"MP3 or AAC", "AC-3"})
# Formats that end with their last frame; FFmpeg reads joined files of the same format by itself.
_ENDLESS: Final = frozenset({"MP3 or AAC", "AC-3", "FLAC"})
# Formats in which the libraries mistake what follows for audio or damage.
_BOUNDED: Final = frozenset({"MPEG-TS", "WavPack", "W64"})
_SIGNATURE_BYTES: Final = 4
_LARGEST_RIFF: Final = 0x7FFF_0000  # what a recorder that writes to a pipe states, and more


def list_parts(source: RecordingFile, *, is_thorough: bool = False) -> list[RecordingFile]:
    """Return the recordings that a file consists of: itself alone, but for joined files.

    Args:
        source: the file.
        is_thorough: whether to search formats that do not say where they end (FLAC, MP3, AAC) for the beginning of
            another recording. Two of the same format are read as one even without it.
    """
    parts: list[RecordingFile] = []
    start: int | None = source.start
    while start is not None and len(parts) < _MAX_PARTS:
        part = source.part(start, source.size)
        kind = headers.audio_format(part.head)
        if kind == "Ogg":
            links, start = _list_ogg_parts(part)
            parts += links
            continue
        end = _ENDS[kind](part) if kind in _ENDS else None
        following = None if end is None or end <= start else _find_start(source, end)
        if is_thorough and kind in _ENDLESS:
            first = start + _SIGNATURE_BYTES
            following = signatures.find(source, first, source.size, has_mp3=not signatures.is_mp3(part))
        parts += _list_chunk_parts(source.part(start, following or source.size))
        start = following
    if parts[0].head.startswith(b"RIFX"):  # which only libsndfile reads, from the start of a file
        parts[0] = source
    if len(parts) > 1:
        return parts
    kind = headers.audio_format(source.head)
    end = _ENDS[kind](source) if kind in _BOUNDED else None
    return [source if end is None or not source.start < end < source.size else source.part(source.start, end)]


def _list_ogg_parts(part: RecordingFile) -> tuple[list[RecordingFile], int | None]:
    """Return the chained recordings of an Ogg file, and where another one begins after them."""
    links = ogg.list_links(part)
    if not links:
        return [part], None
    stops = [*(start for start, _ in links[1:]), links[-1][1]]
    following = _find_start(part, stops[-1]) if stops[-1] < part.size else None
    stops[-1] = following or part.size
    starts = [part.start, *stops[:-1]]
    return [part.part(start, stop) for start, stop in zip(starts, stops, strict=True)], following


def _list_chunk_parts(part: RecordingFile) -> list[RecordingFile]:
    """Return a WAV file with several chunks of samples as one recording for each, any other by itself."""
    if not part.head.startswith((b"RIFF", b"RIFX")):
        return [part]
    chunks = [(offset, n_bytes) for name, offset, n_bytes in headers.list_chunks(part) if name == b"data"]
    if len(chunks) < 2 or chunks[1][0] >= part.size:  # noqa: PLR2004  # two
        return [part]
    header = part.read_at(part.start, chunks[0][0] - part.start - _SIZE_BYTES)
    order = ">I" if part.head.startswith(b"RIFX") else "<I"
    return [
        part.part(offset, offset + n_bytes, header + struct.pack(order, n_bytes))
        for offset, n_bytes in chunks
        if n_bytes and offset + n_bytes <= part.size
    ]


def _find_start(source: RecordingFile, end: int) -> int | None:
    """Return where the next recording begins, after padding, tags and junk; None if none does."""
    while (n_bytes := headers.tag_bytes(source.read_at(end, _TAG_HEADER_BYTES))) > 0:
        end += n_bytes
    if signatures.has_frames(source, end):
        return end
    content = source.read_at(end, _PADDING_BYTES)
    n_zeros = len(content) - len(content.lstrip(b"\0"))
    # The first bytes of an MP4 file are its first size, and may be zeros.
    for at in dict.fromkeys((end, *(end + n_zeros - n_own for n_own in range(min(_SIZE_BYTES, n_zeros + 1))))):
        at_format = headers.skip_tags(source.part(at, source.size))
        kind = headers.audio_format(source.part(at_format, source.size).head)
        if kind is not None and kind not in _WEAK:
            return at_format
    return signatures.find(source, end, _PADDING_BYTES)


def _end_of_aiff(part: RecordingFile) -> int | None:
    (n_bytes,) = struct.unpack(">I", part.head[4:8])
    return part.start + 8 + int(n_bytes) + n_bytes % 2 if 0 < n_bytes < _LARGEST_RIFF else None


def _end_of_au(part: RecordingFile) -> int | None:
    offset, n_bytes = struct.unpack(">2I", part.head[4:12].ljust(8, b"\0"))
    return part.start + int(offset) + int(n_bytes) if 0 < n_bytes < _LARGEST_RIFF else None


def _end_of_w64(part: RecordingFile) -> int | None:
    (n_bytes,) = struct.unpack("<Q", part.head[16:24].ljust(8, b"\0"))
    return part.start + int(n_bytes) if n_bytes > _W64_HEADER_BYTES else None  # less: never finished


def _end_of_dsf(part: RecordingFile) -> int | None:
    (n_bytes,) = struct.unpack("<Q", part.head[12:20].ljust(8, b"\0"))
    return part.start + int(n_bytes)


def _end_of_caf(part: RecordingFile) -> int | None:
    """Return where another recording begins: its first bytes look like a chunk."""
    starts = (offset - _CAF_CHUNK_BYTES for _, offset, _ in headers.list_chunks(part))
    return next((at for at in starts if _begins_recording(part, at)), None)


def _begins_recording(source: RecordingFile, at: int) -> bool:
    kind = headers.audio_format(source.read_at(at, _TAG_HEADER_BYTES))
    return (kind is not None and kind not in _WEAK) or signatures.has_frames(source, at)


def _end_of_others(part: RecordingFile) -> int | None:
    n_bytes = headers.declared_end(part)
    return part.start + n_bytes if n_bytes else None


def _end_of_riff(part: RecordingFile) -> int | None:
    """Return where the RIFF chunks of a WAV or AVI file end; those of an AVI file over 1 GB have more than one."""
    at = part.start
    while True:
        head = part.read_at(at, 28)
        (n_bytes,) = struct.unpack(">I" if head.startswith(b"RIFX") else "<I", head[4:8].ljust(4, b"\0"))
        if head.startswith((b"RF64", b"BW64")):
            (n_bytes,) = struct.unpack("<Q", head[20:28].ljust(8, b"\0"))
        elif not 0 < n_bytes < _LARGEST_RIFF:
            return None
        at += 8 + int(n_bytes + n_bytes % 2)
        if not re.match(rb"RIFF....AVIX", part.read_at(at, 12), re.DOTALL):
            return at


def _end_of_boxes(part: RecordingFile) -> int | None:
    """Return where a second MP4 file begins."""
    at = part.start
    for index in range(_MAX_BOXES):
        head = part.read_at(at, 16)
        if len(head) < 8:  # noqa: PLR2004  # a box begins with 8 bytes
            return None
        n_bytes, name = struct.unpack(">I4s", head[:8])
        if index and name == b"ftyp":
            return at
        if n_bytes == 1 and len(head) == 16:  # noqa: PLR2004  # 64-bit size after the name
            (n_bytes,) = struct.unpack(">Q", head[8:])
        if n_bytes < 8 or name not in headers.MP4_BOXES:  # noqa: PLR2004  # 0: to the end; else another format
            return at if n_bytes or name not in headers.MP4_BOXES else None
        at += int(n_bytes)
    return None


def _end_of_flv(part: RecordingFile) -> int | None:
    """Return where a second FLV file begins."""
    at = part.start + _FLV_HEADER_BYTES
    for _ in range(_MAX_BOXES):
        head = part.read_at(at, 4)
        if head.startswith(b"FLV"):
            return at
        if len(head) < 4:  # noqa: PLR2004  # type and size of a tag
            return None
        at += 11 + int.from_bytes(head[1:], "big") + 4
    return None


def _end_of_tta(part: RecordingFile) -> int | None:
    """Return where the last frame of a TTA file ends, by its table of sizes."""
    rate_hz, n_samples = struct.unpack("<2I", part.head[10:18].ljust(8, b"\0"))
    n_frames = -(-n_samples // max(1, 256 * rate_hz // 245))
    table = part.read_at(part.start + _TTA_HEADER_BYTES, 4 * min(n_frames, 1 << 20))
    sizes = struct.unpack(f"<{len(table) // 4}I", table[: len(table) // 4 * 4])
    return part.start + _TTA_HEADER_BYTES + len(table) + 4 + sum(map(int, sizes))


def _end_of_wavpack(part: RecordingFile) -> int | None:
    """Return where a second WavPack file begins: its blocks count their samples from 0 again."""
    at = part.start
    for index in range(_MAX_BOXES):
        head = part.read_at(at, 28)
        if len(head) < 28 or not head.startswith(b"wvpk"):  # noqa: PLR2004  # up to the flags
            return at if index else None
        n_bytes, first, flags = struct.unpack("<I8xI4xI", head[4:])
        if index and first == 0 and flags & _WAVPACK_INITIAL:
            return at
        at += 8 + int(n_bytes)
    return None


_ENDS: Final = {
    "WAV": _end_of_riff,
    "AVI": _end_of_riff,
    "AIFF": _end_of_aiff,
    "AU": _end_of_au,
    "W64": _end_of_w64,
    "DSF": _end_of_dsf,
    "CAF": _end_of_caf,
    "MP4": _end_of_boxes,
    "FLV": _end_of_flv,
    "MPEG-TS": transport.end_of_packets,
    "TTA": _end_of_tta,
    "WavPack": _end_of_wavpack,
    "VOC": headers.end_of_voc,
    "Windows Media": _end_of_others,
    "Matroska or WebM": _end_of_others,
}


class Adapter:
    """Brings the blocks of a later recording to the sample rate and the channels of the first.

    Args:
        rate_hz: of the later recording.
        to_rate_hz: of the first.
        to_channels: of the first.
    """

    def __init__(self, rate_hz: int, to_rate_hz: int, to_channels: int) -> None:
        self._to_channels = to_channels
        self._resampler = (
            None if rate_hz == to_rate_hz else soxr.ResampleStream(rate_hz, to_rate_hz, to_channels, dtype="float32")
        )

    def push(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a block, shape (channels, n), as the first recording would have it, shape (to_channels, m)."""
        if len(block) != self._to_channels:
            block = np.repeat(block.mean(axis=0, keepdims=True), self._to_channels, axis=0)
        return block if self._resampler is None else self._resample(block, is_last=False)

    def drain(self) -> Iterator[NDArray[np.float32]]:
        """Yield what is left after the last block."""
        if self._resampler is not None:
            yield self._resample(np.zeros((self._to_channels, 0), np.float32), is_last=True)

    def _resample(self, block: NDArray[np.float32], *, is_last: bool) -> NDArray[np.float32]:
        if self._resampler is None:
            return block
        return np.ascontiguousarray(self._resampler.resample_chunk(np.ascontiguousarray(block.T), last=is_last).T)
