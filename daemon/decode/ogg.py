"""The pages of an Ogg file: where one chained recording ends and the next begins, whether any are lost, and pauses.

https://www.rfc-editor.org/rfc/rfc3533
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from daemon.decode.headers import FileContent

_HEADER_BYTES: Final = 27
_BEGINS: Final = 2  # flag: the first page of a stream
_MAX_FLAGS: Final = 7
_CHECKSUM: Final = slice(22, 26)
_REVERSED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_RESYNC_BYTES: Final = 1 << 18  # four of the longest pages
_MAX_PACKETS: Final = 255  # that end in one page


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


def place_pauses(packets: Iterable[Any], min_pause_s: float, has_losses: Callable[[], bool]) -> Iterator[Any]:
    """Yield packets with their time stamps corrected where a page contains a pause.

    A page has one time stamp, that of its end, and FFmpeg guesses those of its packets. Programs end a page with the
    packet that makes it too long, so a pause lies before the last packet of a page.

    Args:
        packets: of PyAV, of any streams; `pos` is that of the page in which they begin.
        min_pause_s: shorter jumps of the time stamps are rounding.
        has_losses: whether pages are missing, which looks the same.
    """
    pages: dict[int, list[Any]] = {}
    for packet in packets:
        page = pages.setdefault(packet.stream.index, [])
        if page and (packet.pos != page[0].pos or len(page) == _MAX_PACKETS):
            yield from _settle(page, packet, min_pause_s, has_losses)
            page.clear()
        page.append(packet)
    for page in pages.values():
        yield from _settle(page, None, min_pause_s, has_losses)


def _settle(page: list[Any], following: Any, min_pause_s: float, has_losses: Callable[[], bool]) -> Iterator[Any]:  # noqa: ANN401  # PyAV is not typed strictly enough to be checked
    """Yield the packets of a page; `following` is the first one of the next, None at the end."""
    if all(packet.pts is not None and packet.duration for packet in page):
        min_pause = min_pause_s / float(page[0].time_base)
        *before, last = page
        end, stamps = page[0].pts, []
        for packet in before:
            stamps.append(packet.pts if packet.pts - end < min_pause else end)
            end = stamps[-1] + packet.duration
        is_known = following is not None and following.pts is not None
        start = following.pts - last.duration if is_known else last.pts
        stamps.append(start if start - last.pts >= min_pause else last.pts)
        if stamps != [packet.pts for packet in page] and not has_losses():
            for packet, stamp in zip(page, stamps, strict=True):
                packet.pts = stamp
    yield from page
