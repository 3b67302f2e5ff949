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
_TABLE_OF_CONTENTS: Final = 0
_N_AT_ONCE: Final = 5_000  # packets, 1 MB
_N_BEFORE: Final = 10_000  # packets of a picture may lie between


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
        counted = np.flatnonzero(packets[:, 3] & 0x10)  # the others have no number
        packets = packets[counted]
        numbers_of_streams = (packets[:, 1] & 0x1F).astype(np.int64) << 8 | packets[:, 2]
        has_content = (numbers_of_streams >= _FIRST_MEDIA) & (numbers_of_streams != _PADDING)
        for pid in np.unique(numbers_of_streams[has_content]).tolist():
            mine = packets[numbers_of_streams == pid]
            numbers = mine[:, 3] & 0xF
            places = offset + n_bytes * counted[numbers_of_streams == pid]
            steps = np.diff(numbers.astype(np.int64), prepend=last.get(pid, int(numbers[0]))) % 16
            is_announced = (mine[:, 3] & 0x20 > 0) & (mine[:, 4] > 0) & (mine[:, 5] & 0x80 > 0)
            missing = places[(steps > 1) & ~is_announced].tolist()
            if any(not _begins_again(source, place, n_bytes) for place in missing):
                return True
            last[pid] = int(numbers[-1])
    return False


def _begins_again(source: FileContent, place: int, n_bytes: int) -> bool:
    """Return whether a packet is the first one of its stream in a recording that was joined to another.

    Then it has the number 0, and so has the table of contents that precedes it.
    """
    first = max(source.start, place - _N_BEFORE * n_bytes)
    content = np.frombuffer(source.read_at(first, place - first + n_bytes), np.uint8)
    packets = content[: len(content) // n_bytes * n_bytes].reshape(-1, n_bytes)[:, n_bytes - _SIZES[0] :]
    pids = (packets[:, 1] & 0x1F).astype(np.int64) << 8 | packets[:, 2]
    numbers, begins = packets[:, 3] & 0xF, packets[:, 1] & 0x40 > 0
    if numbers[-1] or not begins[-1]:
        return False
    same = np.flatnonzero(pids[:-1] == pids[-1])
    tables = np.flatnonzero(pids == _TABLE_OF_CONTENTS)
    tables = tables[tables > (same[-1] if len(same) else -1)]
    return len(tables) > 0 and not numbers[tables[0]]
