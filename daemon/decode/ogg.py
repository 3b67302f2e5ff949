"""The pages of an Ogg file: where one chained recording ends and the next begins, and whether any are lost.

https://www.rfc-editor.org/rfc/rfc3533
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.decode.headers import FileContent

_HEADER_BYTES: Final = 27
_BEGINS: Final = 2  # flag: the first page of a stream
_MAX_FLAGS: Final = 7
_CHECKSUM: Final = slice(22, 26)
_REVERSED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_RESYNC_BYTES: Final = 1 << 18  # four of the longest pages


class Page(NamedTuple):
    """One page: its position, its stream, its number in the stream, and whether it is the first of the stream."""

    start: int
    stop: int
    serial: int
    number: int
    begins: bool


def list_pages(source: FileContent) -> Iterator[Page]:
    """Yield the pages up to the first place where none follows within 256 KiB."""
    at = source.start
    while True:
        head = source.read_at(at, _HEADER_BYTES + 255)
        page = _read_page(head, at)
        if page is None:
            found = source.read_at(at + 1, _RESYNC_BYTES).find(b"OggS\0")
            if found < 0:
                return
            at += 1 + found
            continue
        yield page
        at = page.stop


def _read_page(head: bytes, at: int) -> Page | None:
    if not head.startswith(b"OggS\0") or len(head) < _HEADER_BYTES or head[5] > _MAX_FLAGS:
        return None
    serial, number = struct.unpack("<II", head[14:22])
    n_lacing = head[26]
    n_bytes = _HEADER_BYTES + n_lacing + sum(head[_HEADER_BYTES : _HEADER_BYTES + n_lacing])
    return Page(at, at + n_bytes, serial, number, bool(head[5] & _BEGINS))


def list_links(source: FileContent) -> list[tuple[int, int]]:
    """Return the (start, stop) of each chained recording; several streams that begin together are one recording."""
    links: list[tuple[int, int]] = []
    were_first = False
    for page in list_pages(source):
        if page.begins and not were_first:
            links.append((page.start, page.stop))
        elif links:
            links[-1] = (links[-1][0], page.stop)
        were_first = page.begins
    return links


def has_lost_pages(source: FileContent) -> bool:
    """Return whether the pages of any stream are not numbered one after the other, or do not match their checksums."""
    numbers: dict[int, int] = {}
    for page in list_pages(source):
        if not page.begins and page.number > numbers.get(page.serial, page.number) + 1:
            return True
        if not _is_intact(source.read_at(page.start, page.stop - page.start)):
            return True
        numbers[page.serial] = page.number
    return False


def _is_intact(page: bytes) -> bool:
    """Return whether a page matches its checksum: CRC-32 without zlib's order of bits and without its inversions."""
    content = page[: _CHECKSUM.start] + bytes(4) + page[_CHECKSUM.stop :]
    checksum = zlib.crc32(content.translate(_REVERSED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return checksum.to_bytes(4, "big").translate(_REVERSED) == page[_CHECKSUM]
