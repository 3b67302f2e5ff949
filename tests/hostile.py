"""Hostile files, and the processes that read them."""

from __future__ import annotations

import os
import struct
from pathlib import Path

_DECODER = b"daemon.frontend.worker_process"


def decoders_of(daemon: int) -> list[int]:
    """Return the decoder processes of a daemon."""
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _is_decoder(pid, daemon)]  # noqa: PTH208  # names are wanted


def _is_decoder(pid: int, daemon: int) -> bool:
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:  # it has ended meanwhile
        return False
    return parent == daemon and _DECODER in words


def open_files_of(pid: int) -> list[str]:
    """Return what a process has open; nothing once it has ended."""
    try:
        return [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []


def write_long(target: Path, hours: float) -> Path:
    """Write a recording of silence that costs no disk and takes a while to decode: 8 kHz, 8 bit."""
    n_bytes = round(hours * 3600 * 8000)
    header = (
        b"RIFF" + struct.pack("<I", 36 + n_bytes) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8)
    )
    with target.open("wb") as file:
        file.write(header + b"data" + struct.pack("<I", n_bytes))
        file.truncate(44 + n_bytes)
    return target


def swell(source: Path, target: Path, n_bytes: int) -> Path:
    """Write an MP4 file with a table of times that goes on for `n_bytes`, a hole on the disk.

    FFmpeg's demuxer takes as much memory as the table has bytes.
    """
    content = bytearray(source.read_bytes())
    table = content.index(b"stts") - 4
    start, end = 0, len(content)
    while start < end:  # every box around the table grows, and the table itself
        size = int.from_bytes(content[start : start + 4], "big")
        if not start <= table < start + size:
            start += size
            continue
        content[start : start + 4] = struct.pack(">I", size + n_bytes)
        if start == table:
            break
        start, end = start + 8, start + size
    content[table + 12 : table + 16] = struct.pack(">I", n_bytes // 8)
    with target.open("wb") as file:
        file.write(content[: table + 16])
        file.seek(n_bytes, os.SEEK_CUR)
        file.write(content[table + 16 :])
    return target
