"""Pauses in AVI files.

AVI has no time stamps: each chunk follows the one before. FFmpeg therefore writes empty chunks for the time in which
nothing was recorded, and does not count them when it reads the file.
https://learn.microsoft.com/windows/win32/directshow/avi-riff-file-reference
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from daemon.decode.headers import FileContent

_LISTS: Final = frozenset({b"RIFF", b"LIST"})
_ENTERED: Final = frozenset({b"AVI ", b"AVIX", b"hdrl", b"strl", b"movi", b"rec "})
_HEAD_BYTES: Final = 12
_WINDOW_BYTES: Final = 1 << 16
_MAX_CHUNKS: Final = 10_000_000  # 24 hours have 6 million


class Pauses(NamedTuple):
    """The pauses of a stream, in its time unit, which is one frame of its codec.

    Attributes:
        places: the number of the frame that follows each pause.
        totals: for each, how many frames long it is and all before it.
    """

    places: list[int]
    totals: list[int]


def list_pauses(source: FileContent, stream: int) -> Pauses:
    """Return the pauses of a stream, counted from 0; none if its chunks do not stand for frames."""
    pauses, n_frames, n_empty, n_streams = Pauses([], []), 0, 0, 0
    sample_bytes = frame_bytes = 0
    names = {b"%02dwb" % stream, b"%02dWB" % stream}
    for name, offset, n_bytes in _list_chunks(source):
        if name == b"strh":
            n_streams += 1
            if n_streams == stream + 1:
                (sample_bytes,) = struct.unpack("<I", source.read_at(offset + 44, 4).ljust(4, b"\0"))
        elif name == b"strf" and n_streams == stream + 1:
            (frame_bytes,) = struct.unpack("<H", source.read_at(offset + 12, 2).ljust(2, b"\0"))
            if sample_bytes or not frame_bytes:
                return pauses
        elif name in names and not n_bytes:
            n_empty += 1
        elif name in names:
            if n_empty > (pauses.totals[-1] if pauses.totals else 0):
                pauses.places.append(n_frames if n_frames > 1 else 0)  # FFmpeg writes one frame before it pauses
                pauses.totals.append(n_empty)
            n_frames += -(-n_bytes // max(1, frame_bytes))
    return pauses


def place_pauses(packets: Iterable[Any], pauses: Mapping[int, Pauses]) -> Iterator[Any]:
    """Yield packets with their time stamps moved by the pauses before them.

    Args:
        packets: of PyAV.
        pauses: of each stream, by its index.
    """
    for packet in packets:
        if packet.pts is not None and (mine := pauses.get(packet.stream.index)) is not None:
            n_pauses = bisect_right(mine.places, packet.pts)
            packet.pts += mine.totals[n_pauses - 1] if n_pauses else 0
        yield packet


def _list_chunks(source: FileContent) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, offset of its content, length) for each chunk of all lists."""
    at, first, window = source.start, source.start, b""
    for _ in range(_MAX_CHUNKS):
        if not first <= at <= first + len(window) - _HEAD_BYTES:
            first, window = at, source.read_at(at, _WINDOW_BYTES)
        head = window[at - first : at - first + _HEAD_BYTES]
        if len(head) < 8:  # noqa: PLR2004  # name and length
            return
        name, n_bytes = struct.unpack("<4sI", head[:8])
        if name in _LISTS and head[8:] in _ENTERED:
            at += _HEAD_BYTES
            continue
        yield name, at + 8, n_bytes
        at += 8 + n_bytes + n_bytes % 2
