"""MPEG transport streams: where the packets end, and whether they are encrypted or some are missing.

https://www.itu.int/rec/T-REC-H.222.0
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from daemon.decode.headers import FileContent

_SYNC: Final = 0x47
_SIZES: Final = (188, 192)  # 192 with a time stamp before each packet, as cameras write it
_TAIL_BYTES: Final = 1 << 16
_SAMPLE_BYTES: Final = 1 << 18
_N_IN_A_ROW: Final = 3
_MIN_SCRAMBLED: Final = 0.5  # of the packets with content
_FIRST_MEDIA: Final = 0x20  # lower PIDs are for tables
_PADDING: Final = 0x1FFF
_N_AT_ONCE: Final = 5_000  # packets, 1 MB


def packet_bytes(head: bytes) -> int:
    """Return the length of the packets of the stream that begins with these bytes."""
    return _SIZES[0] if head[:1] == b"G" and head[188:189] == b"G" else _SIZES[1]


def end_of_packets(source: FileContent) -> int:
    """Return where the last whole packet ends; the end of the file where there are none."""
    n_bytes = packet_bytes(source.head)
    lead = n_bytes - _SIZES[0]
    first = max(source.start, source.size - _TAIL_BYTES)
    tail = source.read_at(first, _TAIL_BYTES)
    for at in range(len(tail) - n_bytes, (_N_IN_A_ROW - 1) * n_bytes - 1, -1):
        if all(tail[at + lead - back * n_bytes] == _SYNC for back in range(_N_IN_A_ROW)):
            return first + at + n_bytes
    return source.size


def is_scrambled(source: FileContent) -> bool:
    """Return whether most packets with content are marked as encrypted."""
    n_bytes = packet_bytes(source.head)
    content = source.read_at(source.start + n_bytes - _SIZES[0], _SAMPLE_BYTES)
    heads = [content[at : at + 4] for at in range(0, len(content) - 3, n_bytes)]
    is_media = [((head[1] & 0x1F) << 8 | head[2]) >= _FIRST_MEDIA and bool(head[3] & 0x10) for head in heads]
    flags = [head[3] >> 6 != 0 for head, is_one in zip(heads, is_media, strict=True) if is_one and head[0] == _SYNC]
    return sum(flags) > _MIN_SCRAMBLED * len(flags)


def has_lost_packets(source: FileContent) -> bool:
    """Return whether packets are missing: those of each stream are numbered from 0 to 15, over and over."""
    n_bytes = packet_bytes(source.head)
    last: dict[int, int] = {}
    for offset in range(source.start, source.size - n_bytes, _N_AT_ONCE * n_bytes):
        content = source.read_at(offset, min(_N_AT_ONCE * n_bytes, source.size - offset))
        packets = np.frombuffer(content, np.uint8, len(content) // n_bytes * n_bytes).reshape(-1, n_bytes)
        packets = packets[:, n_bytes - _SIZES[0] :]
        if (packets[:, 0] != _SYNC).any():
            return True
        packets = packets[packets[:, 3] & 0x10 > 0]  # the others are not counted
        numbers_of_streams = (packets[:, 1] & 0x1F).astype(np.int64) << 8 | packets[:, 2]
        for pid in np.unique(numbers_of_streams[numbers_of_streams != _PADDING]).tolist():
            mine = packets[numbers_of_streams == pid]
            numbers = mine[:, 3] & 0xF
            steps = np.diff(numbers.astype(np.int64), prepend=last.get(pid, int(numbers[0]))) % 16
            is_announced = (mine[:, 3] & 0x20 > 0) & (mine[:, 4] > 0) & (mine[:, 5] & 0x80 > 0)
            if ((steps > 1) & ~is_announced).any():
                return True
            last[pid] = int(numbers[-1])
    return False
