"""Where a recording begins among other bytes: after tags and junk, or right after another recording.

The patterns in `headers` are enough at the start of a file. Anywhere else a few bytes may be chance, so here each
format needs at least six, and formats of bare frames need several frames in a row.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from daemon.decode import headers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.decode.headers import FileContent

_ASF: Final = b"0&\xb2u\x8ef\xcf\x11\xa6\xd9\x00\xaa"
# What to look for, how far into the format it lies, and what the format looks like from its start.
_FORMATS: Final = tuple(
    (needle, offset, re.compile(pattern, re.DOTALL))
    for needle, offset, pattern in (
        (b"RIFF", 0, rb"RIFF....(WAVE|AVI )"),
        (b"RF64", 0, rb"RF64....WAVE"),
        (b"BW64", 0, rb"BW64....WAVE"),
        (b"FORM", 0, rb"FORM....AIF[FC]"),
        (b".snd\0", 0, rb"\.snd\x00\x00.{6}\x00\x00\x00[\x01-\x1d]\x00"),
        (b"caff\0\1", 0, rb"caff\x00\x01\x00\x00desc"),
        (b"riff\x2e\x91\xcf\x11", 0, rb"riff\x2e\x91\xcf\x11\xa5\xd6"),
        (b"Creative Voice File", 0, rb"Creative Voice File\x1a"),
        (b"fLaC", 0, rb"fLaC[\x00\x80]\x00\x00\x22"),
        (b"OggS\0", 0, rb"OggS\x00[\x02\x06]\x00{8}"),
        (b"#!AMR", 0, rb"#!AMR(-WB)?\n"),
        (b"ftyp", 4, rb"\x00\x00\x00[\x0c-\xf8]ftyp[\x20-\x7e]{4}"),
        (b"\x1aE\xdf\xa3", 0, rb"\x1aE\xdf\xa3.{1,60}\x42\x82.{1,8}?(matroska|webm)"),
        (_ASF, 0, re.escape(_ASF)),
        (b"FLV\1", 0, rb"FLV\x01[\x01\x04\x05]\x00\x00\x00\x09"),
        (b"wvpk", 0, rb"wvpk...\x00[\x02-\x10]\x04"),
        (b"TTA1", 0, rb"TTA1[\x01\x02]\x00[\x01-\x08]\x00"),
        (b"DSD \x1c", 0, rb"DSD \x1c\x00{7}"),
        (b"ID3", 0, rb"ID3[\x02-\x04]\x00"),  # of an MP3 file, if its frames follow
    )
)
_WINDOW_BYTES: Final = 1 << 20
_PATTERN_BYTES: Final = 128
_TAIL_BYTES: Final = 1 << 14
_N_FRAMES: Final = 4  # in a row
_FRAME: Final = re.compile(rb"\xff[\xe2-\xfd]|ID3[\x02-\x04]")
_MP3_KBITS: Final = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG 1
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG 2 and 2.5
)
_MP3_RATES_HZ: Final = (44_100, 48_000, 32_000)


def find(source: FileContent, start: int, n_bytes: int, *, has_mp3: bool = True) -> int | None:
    """Return where the first recording begins in the `n_bytes` from `start` on, None if none does.

    Formats of bare frames (MP3, AAC) are found right at the start only, and MP3 files with an ID3 tag anywhere, unless
    `has_mp3` is False.
    """
    if has_frames(source, start):
        return start
    stop = min(start + n_bytes, source.size)
    for at in range(start, stop, _WINDOW_BYTES):
        ahead = min(8, at - start)  # of the window before: the name of an MP4 box follows its size
        content = source.read_at(at - ahead, min(_WINDOW_BYTES, stop - at) + ahead + _PATTERN_BYTES)
        for found in sorted(_list_matches(content)):
            place = at - ahead + found
            is_tag = content.startswith(b"ID3", found)
            if place < stop and (not is_tag or (has_mp3 and has_frames(source, place))):
                return place
    return None


def _list_matches(content: bytes) -> Iterator[int]:
    """Yield where formats may begin in some bytes."""
    for needle, offset, pattern in _FORMATS:
        at = content.find(needle)
        while at >= 0:
            if at >= offset and pattern.match(content, at - offset):
                yield at - offset
            at = content.find(needle, at + 1)


def is_mp3(source: FileContent) -> bool:
    """Return whether an MP3 file begins here."""
    head = source.read_at(source.start + headers.id3_bytes(source.head), 2)
    return len(head) == 2 and head[0] == 0xFF and head[1] & 6 != 0  # noqa: PLR2004  # layer 0 is AAC


def find_frames(source: FileContent, start: int, n_bytes: int) -> int | None:
    """Return where several frames of MP3 or AAC in a row begin in the `n_bytes` from `start` on, None if none do."""
    content = source.read_at(start, n_bytes)
    candidates = (start + found.start() for found in _FRAME.finditer(content))
    return next((at for at in candidates if has_frames(source, at)), None)


def ends_with_frames(source: FileContent) -> bool:
    """Return whether consecutive frames of MP3 or AAC reach the end of a file."""
    first = max(source.start, source.size - _TAIL_BYTES)
    content = source.read_at(first, _TAIL_BYTES)
    for found in _FRAME.finditer(content):
        at = found.start()
        while n_bytes := frame_bytes(content[at : at + 7]):
            at += n_bytes
        if at >= len(content):
            return True
    return False


def has_frames(source: FileContent, start: int) -> bool:
    """Return whether several frames of MP3 or AAC in a row begin here, or an ID3 tag followed by MP3."""
    head = source.read_at(start, 10)
    start += headers.id3_bytes(head)
    for _ in range(_N_FRAMES):
        n_bytes = frame_bytes(source.read_at(start, 7))
        if not n_bytes:
            return False
        start += n_bytes
    return True


def frame_bytes(head: bytes) -> int:
    """Return the length of the frame of MP3 or AAC (ADTS) that begins with these bytes; 0 for anything else."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:  # noqa: PLR2004  # a header of ADTS
        return 0
    if head[1] & 0xF6 == 0xF0:  # noqa: PLR2004  # ADTS: layer 0
        n_bytes = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        return n_bytes if n_bytes > 7 and head[2] >> 2 & 0xF < 13 else 0  # noqa: PLR2004  # 13 sample rates
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    rate, kbits = head[2] >> 2 & 3, head[2] >> 4
    if version == 1 or layer != 1 or rate == 3 or kbits in {0, 15}:  # noqa: PLR2004  # reserved; layer III only
        return 0
    is_mpeg_1 = version == 3  # noqa: PLR2004  # 2 is MPEG 2, 0 is MPEG 2.5
    rate_hz = _MP3_RATES_HZ[rate] // {3: 1, 2: 2, 0: 4}[version]
    bits_per_s = 1000 * _MP3_KBITS[0 if is_mpeg_1 else 1][kbits]
    return (144 if is_mpeg_1 else 72) * bits_per_s // rate_hz + (head[2] >> 1 & 1)
