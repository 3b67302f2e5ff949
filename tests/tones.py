"""A low and a high tone in many formats, for tests of files that hold more than one recording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from daemon.config import Preprocess
from tests import media

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.transcript import Receipt

S: Final = 16_000
FORMATS: Final[dict[str, list[str]]] = {
    "wav": [],
    "aiff": [],
    "w64": [],
    "caf": ["-c:a", "pcm_s16be"],
    "au": [],
    "m4a": ["-c:a", "aac"],
    "mov": ["-c:a", "pcm_s16le"],
    "mkv": ["-c:a", "aac"],
    "webm": ["-c:a", "libopus"],
    "wma": ["-c:a", "wmav2"],
    "avi": ["-c:a", "libmp3lame"],
    "mp3": ["-c:a", "libmp3lame"],
    "aac": ["-c:a", "aac"],
    "ac3": ["-c:a", "ac3", "-ar", "48000"],
    "flac": [],
    "ogg": ["-c:a", "libvorbis"],
    "opus": ["-c:a", "libopus"],
    "spx": ["-c:a", "libspeex"],
    "oga": ["-c:a", "flac"],
    "ts": ["-c:a", "aac"],
    "mpg": ["-c:a", "mp2"],
    "flv": ["-c:a", "libmp3lame", "-ar", "44100"],
    "tta": [],
    "wv": ["-c:a", "wavpack"],
    "voc": ["-c:a", "pcm_s16le"],
}
"""FFmpeg's options for each ending."""


def write(folder: Path) -> Path:
    """Write two recordings into a folder: low.wav, 2.5 s of a low tone; high.wav, 1.5 s of a high one."""
    media.write_audio(folder / "low.wav", media.tone(2.5, S, 440), S)
    media.write_audio(folder / "high.wav", media.tone(1.5, S, 880), S)
    return folder


def encoded(folder: Path, name: str, ending: str) -> bytes:
    """Return one of the two in a format."""
    target = folder / f"{name}.{ending}"
    if not target.exists():
        media.ffmpeg("-i", folder / f"{name}.wav", *FORMATS[ending], target)
    return target.read_bytes()


def read(path: Path) -> tuple[list[int], Receipt]:
    """Return the pitches in Hz at 1 s and at 0.75 s before the end, and the receipt."""
    waveform, receipt = media.decode(path, Preprocess(), path.parent)
    with waveform:
        sound = media.samples_of(waveform)
    windows = [sound[start : start + S // 2] for start in (min(S, len(sound) // 2), max(0, len(sound) - S))]
    return [2 * int(np.abs(np.fft.rfft(window)).argmax()) for window in windows], receipt
