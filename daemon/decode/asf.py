"""Windows Media files (ASF): whether any of their packets are lost.

The objects of a stream, frames of audio for instance, are numbered one after the other. Recorders leave out pauses, so
only the numbers tell a pause from a loss. Microsoft's "Advanced Systems Format (ASF) Specification" describes all this.
"""

from __future__ import annotations

import struct
import uuid
from typing import TYPE_CHECKING, Final

from daemon.decode import headers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.decode.headers import FileContent

_DATA: Final = uuid.UUID("75b22636-668e-11cf-a6d9-00aa0062ce6c").bytes_le
_DATA_HEADER_BYTES: Final = 50
_MAX_PACKET_BYTES: Final = 1 << 20
_READ_BYTES: Final = 1 << 20
_FIELD_BYTES: Final = (0, 1, 2, 4)
_COMPRESSED: Final = 1  # this length of the replicated data marks several small objects in one payload


def has_lost_packets(source: FileContent) -> bool:
    """Return whether the objects of any stream are not numbered one after the other, or a packet cannot be parsed."""
    last: dict[int, tuple[int, int]] = {}
    try:
        for packet in _list_packets(source):
            for stream, number, n_objects, n_bytes in _list_objects(packet):
                before, was_bytes = last.get(stream, (number, n_bytes))
                step = (number - before) % (1 << 8 * min(n_bytes, was_bytes))
                if step > 1:
                    return True
                last[stream] = number + n_objects - 1, n_bytes
    except (struct.error, IndexError, ValueError):
        return True
    return False


def _list_packets(source: FileContent) -> Iterator[bytes]:
    """Yield the data packets, which all have the same length."""
    (header_bytes,) = struct.unpack("<Q", source.head[16:24])
    start = source.start + int(header_bytes)
    data = source.read_at(start, _DATA_HEADER_BYTES)
    n_bytes = headers.asf_packet_bytes(source.head)
    if not data.startswith(_DATA) or not 0 < n_bytes <= _MAX_PACKET_BYTES:
        raise ValueError("no packets of a known length")
    (data_bytes,) = struct.unpack("<Q", data[16:24])
    stop = min(start + int(data_bytes), source.size) if data_bytes > _DATA_HEADER_BYTES else source.size
    at, n_at_once = start + _DATA_HEADER_BYTES, max(1, _READ_BYTES // n_bytes)
    while at + n_bytes <= stop:
        content = source.read_at(at, min(n_at_once, (stop - at) // n_bytes) * n_bytes)
        yield from (content[first : first + n_bytes] for first in range(0, len(content), n_bytes))
        at += max(len(content), n_bytes)


def _list_objects(packet: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield (stream, number of the first object, number of objects, bytes of that field) for each payload."""
    at = 1 + (packet[0] & 0xF) if packet[0] & 0x80 else 0  # after the data for error correction
    lengths, properties = packet[at], packet[at + 1]
    at += 2
    packet_bytes, at = _field(packet, at, lengths >> 5)
    _, at = _field(packet, at, lengths >> 1)
    n_padding, at = _field(packet, at, lengths >> 3)
    at += 6  # time and duration
    stop = (packet_bytes or len(packet)) - n_padding
    is_alone = not lengths & 1
    n_payloads, length_field = (1, 0) if is_alone else (packet[at] & 0x3F, packet[at] >> 6)
    at += not is_alone
    for _ in range(n_payloads):
        stream = packet[at] & 0x7F
        number, at = _field(packet, at + 1, properties >> 4)
        _, at = _field(packet, at, properties >> 2)
        n_replicated, at = _field(packet, at, properties)
        at += n_replicated
        n_bytes, at = (stop - at, at) if is_alone else _field(packet, at, length_field)
        if n_bytes < 0 or at + n_bytes > stop:
            raise ValueError("a payload is longer than its packet")
        n_objects = _count_small(packet[at : at + n_bytes]) if n_replicated == _COMPRESSED else 1
        yield stream, number, n_objects, _FIELD_BYTES[properties >> 4 & 3]
        at += n_bytes


def _field(packet: bytes, at: int, kind: int) -> tuple[int, int]:
    """Return a number whose length is given by two bits, and where the next one begins."""
    n_bytes = _FIELD_BYTES[kind & 3]
    return int.from_bytes(packet[at : at + n_bytes], "little"), at + n_bytes


def _count_small(content: bytes) -> int:
    """Return the number of small objects, each with its length in the byte before it."""
    at = n_objects = 0
    while at < len(content):
        at += 1 + content[at]
        n_objects += 1
    return n_objects
