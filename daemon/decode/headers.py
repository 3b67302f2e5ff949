"""What the headers of a file say: its format, and where it should end.

Decoders do not report a file that ends too early or whose header is wrong, so the few header
fields that show it are read here. Nothing is trusted: every size is compared with the file.
"""

from __future__ import annotations

import re
import struct
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_EVEN: Final = 2
_MAX_CHUNKS: Final = 10_000  # read before giving up: a hostile file may hold millions
_UNKNOWN_SIZE: Final = 0xFFFFFFFF
_OGG_PAGE_BYTES: Final = 65_307  # the longest page in the format
_OGG_MAX_FLAGS: Final = 7
_ASF_FILE_PROPERTIES: Final = uuid.UUID("8cabdca1-a947-11cf-8ee4-00c00c205365").bytes_le
_ASF_DRM: Final = (  # Content Encryption Object and Extended Content Encryption Object
    uuid.UUID("2211b3fb-bd23-11d2-b4b7-00a0c955fc6e").bytes_le,
    uuid.UUID("298ae614-2622-4c17-b935-dae07ee9289c").bytes_le,
)

# Checked in this order. The names are used in sentences such as "This WAV file is damaged".
_AUDIO_FORMATS: Final = {
    "WAV": rb"(RIFF|RIFX|RF64|BW64)....WAVE",
    "AVI": rb"RIFF....AVI ",
    "AIFF": rb"FORM....(AIF[FC]|8SVX)",
    "AU": rb"\.snd",
    "CAF": rb"caff",
    "W64": rb"riff\x2e\x91\xcf\x11",
    "NIST": rb"NIST_1A",
    "VOC": rb"Creative Voice File",
    "FLAC": rb"fLaC",
    "Ogg": rb"OggS",
    "AMR": rb"#!AMR",
    "MP4": rb"....(ftyp|moov|mdat|wide)",
    "Matroska or WebM": rb"\x1aE\xdf\xa3",
    "Windows Media": re.escape(uuid.UUID("75b22630-668e-11cf-a6d9-00aa0062ce6c").bytes_le),
    "MPEG": rb"\x00\x00\x01\xba",
    "MPEG-TS": rb"(\x47.{187}){3}\x47|(.{4}\x47.{187}){3}.{4}\x47",
    "MXF": rb"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01",
    "FLV": rb"FLV\x01",
    "WavPack": rb"wvpk",
    "TTA": rb"TTA[12]",
    "Monkey's Audio": rb"MAC ",
    "Musepack": rb"MPCK|MP\+",
    "TAK": rb"tBaK",
    "Shorten": rb"ajkg",
    "DSF": rb"DSD \x1c",
    "DSS": rb"[\x02\x03]dss",
    "DS2": rb"[\x01-\x07](ds2|enc)",
    "Audible": rb"....\x57\x90\x75\x36",
    "AC-3": rb"\x0b\x77",
    "MP3 or AAC": rb"ID3|\xff[\xe2-\xfd]",  # \xff\xfe opens a UTF-16 text
}
_OTHER_FORMATS: Final = {
    "a ZIP archive or an Office document": rb"PK(\x03\x04|\x05\x06)",
    "an archive": rb"7z\xbc\xaf|Rar!|\x1f\x8b|BZh|\xfd7zXZ",
    "an Office document": rb"\xd0\xcf\x11\xe0",
    "a PDF document": rb"%PDF",
    "a picture": rb"\xff\xd8\xff|\x89PNG|GIF8|BM....\x00\x00\x00\x00|(II|MM)(\*\x00|\x00\*)|....ftyp(hei|mif1|avif)",
    "a MIDI file, which holds notes instead of audio": rb"MThd",
    "a program": rb"\x7fELF|MZ",
    "a playlist, which only lists recordings": rb"#EXTM3U|\[playlist\]|ffconcat|v=0\r?\n"
    rb"|\s*<(\?xml[^>]*>\s*<)?(MPD|asx|smil)",
}
_AUDIO_PATTERNS: Final = {name: re.compile(pattern, re.DOTALL) for name, pattern in _AUDIO_FORMATS.items()}
_OTHER_PATTERNS: Final = {name: re.compile(pattern, re.DOTALL) for name, pattern in _OTHER_FORMATS.items()}
TEXT: Final = "a text"
"""What `other_format` calls a text."""

MP4_BOXES: Final = frozenset(
    b"ftyp moov mdat free skip wide uuid moof mfra sidx ssix styp meta pdin udta pnot PICT prft emsg imda".split()
)
"""The boxes that an MP4 or QuickTime file consists of."""

_PCM_FORMATS: Final = frozenset({"WAV", "AIFF", "AU", "CAF", "W64", "NIST"})
_TEXT_SAMPLE_BYTES: Final = 512
_ID3_HEADER_BYTES: Final = 10
_ID3_FOOTER: Final = 0x10
_ID3V1_BYTES: Final = 128
_APE_HEADER_BYTES: Final = 32
_MAX_PATTERN_BYTES: Final = 64  # the longest of the patterns above


class FileContent(Protocol):
    """What is needed of a `RecordingFile`, whose attributes these are."""

    size: int
    start: int
    head: bytes

    def read_at(self, offset: int, n_bytes: int) -> bytes:
        """Return up to `n_bytes` from `offset` on."""
        ...


def skip_tags(source: FileContent) -> int:
    """Return where the audio format begins: after tags if a known format other than MP3 follows."""
    offset, head = source.start, source.head
    while (n_bytes := id3_bytes(head) or tag_bytes(head)) > 0:
        offset += n_bytes
        head = source.read_at(offset, _APE_HEADER_BYTES + _MAX_PATTERN_BYTES)
    is_behind_tags = offset > source.start and audio_format(head) not in {None, "MP3 or AAC"}
    return offset if is_behind_tags else source.start


def audio_format(head: bytes) -> str | None:
    """Return the name of the audio or video format that a file begins with, None for any other."""
    return None if _find(_OTHER_PATTERNS, head) else _find(_AUDIO_PATTERNS, head)


def other_format(head: bytes) -> str | None:
    """Return what a file is if it cannot hold audio, such as "a PDF document"."""
    if (other := _find(_OTHER_PATTERNS, head)) is not None:
        return other
    return TEXT if _find(_AUDIO_PATTERNS, head) is None and _is_text(head[:_TEXT_SAMPLE_BYTES]) else None


def _find(patterns: Mapping[str, re.Pattern[bytes]], head: bytes) -> str | None:
    """Return the name of the first pattern that a file begins with."""
    return next((name for name, pattern in patterns.items() if pattern.match(head)), None)


def _is_text(sample: bytes) -> bool:
    """Return whether bytes look like text in UTF-8, UTF-16 or an 8-bit encoding."""
    if sample.startswith((b"\xff\xfe", b"\xfe\xff")):
        sample = sample[2:].replace(b"\0", b"")
    return not re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]", sample)


def refused_dictation(head: bytes) -> tuple[str, str] | None:
    """Return (what, remedy) for a dictation format that no library here decodes, else None."""
    if audio_format(head) != "DS2":
        return None
    remedy = "Export it as WAV or MP3 from the dictation software, such as Olympus DSS Player or Philips SpeechExec."
    if head[1:4] == b"enc":
        return "This DS2 recording is encrypted.", remedy
    return "This recording is in the format DS2, which only the makers' own software decodes.", remedy


def is_pcm_format(head: bytes) -> bool:
    """Return whether libsndfile reads this format best."""
    return audio_format(head) in _PCM_FORMATS


def has_drm(source: FileContent) -> bool:
    """Return whether a Windows Media file declares itself protected."""
    return audio_format(source.head) == "Windows Media" and any(guid in source.head for guid in _ASF_DRM)


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """The part of a file that holds the samples.

    Attributes:
        offset: where they begin.
        declared_bytes: the size in its header, or None where a recorder wrote the header before the
            audio and could not go back (sizes 0, 0x7FFF..., 0xFFFF...).
        available_bytes: the bytes from there to the end of the file.
        has_more: the declared bytes of a WAV file are followed by something that is not another chunk: maybe audio,
            if recording was interrupted before the true size was written.
    """

    offset: int
    declared_bytes: int | None
    available_bytes: int
    has_more: bool = False


def audio_chunk(source: FileContent) -> AudioChunk | None:
    """Return the audio chunk of a WAV, RF64, W64, AIFF, CAF or AU file, None if there is none."""
    if source.head.startswith(b".snd"):
        offset, n_bytes = struct.unpack(">2I", source.head[4:12].ljust(8, b"\0"))
        return _compare(source, source.start + offset, n_bytes)
    wide_bytes = _UNKNOWN_SIZE
    for name, offset, n_bytes in list_chunks(source):
        if name == b"ds64":
            (wide_bytes,) = struct.unpack("<Q", source.read_at(offset + 8, 8).ljust(8, b"\0"))
        if name in {b"data", b"SSND", b"BODY"}:
            return _compare(source, offset, wide_bytes if n_bytes == _UNKNOWN_SIZE else n_bytes)
    return None


def _compare(source: FileContent, offset: int, n_bytes: int) -> AudioChunk:
    """Compare the declared size of an audio chunk with the size of the file."""
    available_bytes = max(0, source.size - offset)
    tail_offset = offset + n_bytes + n_bytes % 2
    name, tail_bytes = struct.unpack("<4sI", source.read_at(tail_offset, 8).ljust(8, b"\0"))
    is_last = source.size < tail_offset + 8
    is_followed = re.fullmatch(rb"[\w ]{4}", name) is not None and tail_offset + 8 + tail_bytes <= source.size + 1
    # Recorders that write to a pipe declare a size of 0, of nearly 2 GiB or of nearly 4 GiB.
    limits = (1 << 31, 1 << 32, 1 << 63, 1 << 64)
    is_open_ended = n_bytes == 0 or any(0 <= limit - n_bytes < 1 << 16 for limit in limits)
    if is_open_ended and n_bytes != available_bytes and not is_followed:
        return AudioChunk(offset, None, available_bytes)
    is_wav = source.head.startswith((b"RIFF", b"RF64", b"BW64"))
    return AudioChunk(offset, n_bytes, available_bytes, has_more=is_wav and not is_last and not is_followed)


def list_chunks(source: FileContent) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, offset of its content, declared bytes) for each chunk of a chunked file."""
    head = source.head
    if head.startswith(b"riff"):
        offset, layout, counts_itself, pad = 40, "<4s12xQ", True, 8
    elif head.startswith(b"caff"):
        offset, layout, counts_itself, pad = 8, ">4sQ", False, 1
    elif head.startswith((b"FORM", b"RIFX")):
        offset, layout, counts_itself, pad = 12, ">4sI", False, 2
    else:
        offset, layout, counts_itself, pad = 12, "<4sI", False, 2
    offset += source.start
    header_bytes = struct.calcsize(layout)
    for _ in range(_MAX_CHUNKS):
        header = source.read_at(offset, header_bytes)
        if len(header) < header_bytes:
            return
        name, n_bytes = struct.unpack(layout, header)
        n_bytes -= header_bytes if counts_itself else 0
        yield name, offset + header_bytes, max(n_bytes, 0)
        offset += header_bytes + max(n_bytes, 0)
        n_padding = -n_bytes % pad
        is_odd = pad == _EVEN and n_padding > 0
        if is_odd and _is_chunk(source, offset) and not _is_chunk(source, offset + 1):
            n_padding = 0  # some programs omit the padding byte of an odd chunk
        offset += n_padding


def _is_chunk(source: FileContent, offset: int) -> bool:
    """Return whether the name of a chunk of a WAV or AIFF file lies here."""
    return re.fullmatch(rb"[\w()+]{3}[\w ()+]", source.read_at(offset, 4)) is not None


def is_cut_off(source: FileContent) -> bool:
    """Return whether the container declares more than the file holds."""
    kind = audio_format(source.head)
    if kind == "MP4":
        return _end_of_mp4(source) > source.size
    if kind == "Ogg":
        return _end_of_ogg(source) > source.size
    if kind in _PCM_FORMATS:
        chunk = audio_chunk(source)
        return chunk is not None and (chunk.declared_bytes or 0) > chunk.available_bytes
    if kind == "VOC":
        return end_of_voc(source) > source.size
    return source.start + declared_end(source) > source.size


def has_no_length(source: FileContent) -> bool:
    """Return whether the length that FFmpeg gives for an AVI or Windows Media file is a guess.

    It is if an AVI file was never closed, or if junk follows a Windows Media file.
    """
    kind = audio_format(source.head)
    if kind == "AVI":
        return source.head[4:8] in {b"\0\0\0\0", b"\xff\xff\xff\xff"}
    return kind == "Windows Media" and 0 < declared_end(source) < source.size - source.start


def declared_end(source: FileContent) -> int:
    """Return where an AVI, Windows Media, Matroska or WebM file ends, from its start; 0 if it does not say."""
    kind = audio_format(source.head)
    if kind == "AVI":
        (n_bytes,) = struct.unpack("<I", source.head[4:8])
        return 8 + int(n_bytes) if n_bytes != _UNKNOWN_SIZE else 0
    if kind == "Windows Media":
        return _end_of_asf(source.head)
    return _end_of_matroska(source.head) if kind == "Matroska or WebM" else 0


def end_of_voc(source: FileContent) -> int:
    """Return the place after the last block of a VOC file."""
    (offset,) = struct.unpack("<H", source.head[20:22].ljust(2, b"\0"))
    at = source.start + int(offset)
    for _ in range(_MAX_CHUNKS):
        head = source.read_at(at, 4)
        if head.startswith(b"\0"):
            return at + 1
        if len(head) < 4:  # noqa: PLR2004  # type and size of a block
            break
        at += 4 + int.from_bytes(head[1:], "little")
    return at


def _end_of_asf(head: bytes) -> int:
    """Return the file size in the file properties, 0 if unknown, as in a live broadcast."""
    at = head.find(_ASF_FILE_PROPERTIES)
    if at < 0 or len(head) < at + 92:
        return 0
    n_bytes, flags = struct.unpack("<40xQ40xI", head[at : at + 92])
    return 0 if flags & 1 else n_bytes


def asf_packet_bytes(head: bytes) -> int:
    """Return the length of the packets of a Windows Media file, 0 if it does not state one."""
    at = head.find(_ASF_FILE_PROPERTIES)
    if at < 0 or len(head) < at + 100:
        return 0
    least, most = struct.unpack("<2I", head[at + 92 : at + 100])
    return int(least) if least == most else 0


def _end_of_mp4(source: FileContent) -> int:
    """Return where the last box of the file ends."""
    offset = source.start
    for _ in range(_MAX_CHUNKS):
        header = source.read_at(offset, 16)
        if len(header) < 8:  # noqa: PLR2004  # a box begins with 8 bytes
            break
        n_bytes, name = struct.unpack(">I4s", header[:8])
        if n_bytes == 1 and len(header) == 16:  # noqa: PLR2004  # 64-bit size after the name
            (n_bytes,) = struct.unpack(">Q", header[8:])
        if n_bytes < 8 or name not in MP4_BOXES:  # noqa: PLR2004  # 0: to the end; else junk
            break
        offset += n_bytes
    return offset


def _end_of_matroska(head: bytes) -> int:
    """Return where the segment ends, 0 if its length is unknown, as browsers record it."""
    at, n_bytes = _ebml_size(head, 4)
    at += n_bytes
    if head[at : at + 4] != b"\x18\x53\x80\x67":
        return 0
    start, n_bytes = _ebml_size(head, at + 4)
    return start + n_bytes if n_bytes else 0


def _ebml_size(head: bytes, at: int) -> tuple[int, int]:
    """Return (offset after an EBML size, the size); 0 for an unknown or missing size."""
    first = head[at] if at < len(head) else 0
    n_bytes = 9 - first.bit_length()
    size = int.from_bytes(head[at : at + n_bytes], "big") & ((1 << 7 * n_bytes) - 1)
    is_unknown = first == 0 or size == (1 << 7 * n_bytes) - 1
    return at + n_bytes, 0 if is_unknown else size


def _end_of_ogg(source: FileContent) -> int:
    """Return where the last page ends."""
    start = max(0, source.size - 2 * _OGG_PAGE_BYTES)
    tail = source.read_at(start, 2 * _OGG_PAGE_BYTES)
    at = tail.rfind(b"OggS\0")
    if at < 0 or len(tail) < at + 27 or tail[at + 5] > _OGG_MAX_FLAGS:
        return 0
    lacing = tail[at + 27 : at + 27 + tail[at + 26]]
    return start + at + 27 + tail[at + 26] + sum(lacing)


def mp3_length_s(source: FileContent) -> float | None:
    """Return the length that an MP3 file states in a Xing, Info or VBRI header, None if it has none.

    What a demuxer reports instead is a guess from the bit rate, also where tags or padding follow the audio.
    """
    offset = id3_bytes(source.head)
    content = source.read_at(source.start + offset, 2048)
    found = re.search(
        rb"(\xff[\xe2-\xff].).{,60}?(?:(?:Xing|Info)...([\x00-\x0f])(.{4})|VBRI.{10}(.{4}))", content, re.DOTALL
    )
    if found is None:
        return None
    _, version, frequency = found[1][0], found[1][1] >> 3 & 3, found[1][2] >> 2 & 3
    has_frames = found[4] is not None or found[2][0] & 1
    if frequency == 3 or not has_frames:  # noqa: PLR2004  # a reserved number
        return None
    is_mpeg_1 = version == 3  # noqa: PLR2004  # 2 is MPEG 2, 0 is MPEG 2.5
    rate_hz = (44_100, 48_000, 32_000)[frequency] / {3: 1, 2: 2}.get(version, 4)
    n_frames = int.from_bytes(found[4] or found[3], "big")
    return n_frames * (1152 if is_mpeg_1 else 576) / rate_hz


def id3_bytes(head: bytes) -> int:
    """Return the length of the ID3v2 tag that begins with these bytes; 0 for anything else."""
    if not head.startswith(b"ID3") or len(head) < _ID3_HEADER_BYTES:
        return 0
    footer_bytes = _ID3_HEADER_BYTES if head[5] & _ID3_FOOTER else 0
    return _ID3_HEADER_BYTES + footer_bytes + sum((byte & 0x7F) << 7 * (3 - at) for at, byte in enumerate(head[6:10]))


def is_tag(content: bytes) -> bool:
    """Return whether bytes between or after MP3 files are a tag, maybe after padding, and no audio."""
    return content.lstrip(b"\0\xff").startswith((b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"3DI"))


def tag_bytes(head: bytes) -> int:
    """Return how long an APE or ID3v1 tag is that begins so; 0 for anything else."""
    if head.startswith(b"APETAGEX") and len(head) >= _APE_HEADER_BYTES:
        return _APE_HEADER_BYTES + int.from_bytes(head[12:16], "little")
    return _ID3V1_BYTES if head.startswith(b"TAG") else 0


def is_padding(content: bytes) -> bool:
    """Return whether bytes are padding: only zeros, or only ones."""
    return not content.strip(b"\0") or not content.strip(b"\xff")
