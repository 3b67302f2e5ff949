"""The cleaned audio as a file to listen to: exactly what the model hears."""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from typing import TYPE_CHECKING, Final

import numpy as np
import soundfile

from daemon import errors
from daemon.decode import SAMPLE_RATE_HZ, MixedWaveform
from daemon.display import escape
from daemon.host import files

with warnings.catch_warnings():
    # pydub imports audioop, which Python 3.11 and 3.12 deprecate (audioop-lts replaces it from 3.13 on), has
    # regular expressions with stray backslashes, and warns where ffmpeg is missing, which `write` says better.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=SyntaxWarning)
    warnings.filterwarnings("ignore", message="Couldn't find ff", category=RuntimeWarning)
    import pydub
    import pydub.exceptions

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from daemon.decode import Waveform

_BLOCK_SAMPLES: Final = 60 * SAMPLE_RATE_HZ
_MAX_WAV_BYTES: Final = (1 << 32) - (1 << 16)  # the most that a WAV header can count; RF64 counts further
_MAX_COMPRESSED_S: Final = 2 * 3600.0  # pydub holds all of it in memory: 230 MB
# ffmpeg's muxer, its encoder, and a bit rate at which speech is clear.
_ENCODINGS: Final = {
    ".mp3": ("mp3", "libmp3lame", "64k"),
    ".m4a": ("ipod", "aac", "64k"),
    ".opus": ("opus", "libopus", "32k"),
}


def check_target(target: Path) -> None:
    """Check that `write` can write this kind of file, before the work of decoding begins.

    Raises:
        errors.UsageError: the ending is unknown, or ffmpeg is missing for it.
    """
    ending = target.suffix.lower()
    if ending != ".wav" and ending not in _ENCODINGS:
        raise errors.UsageError(
            f"{escape(target.name)} has no known ending.", "Write to a .wav, .mp3, .m4a or .opus file."
        )
    if ending in _ENCODINGS and shutil.which("ffmpeg") is None:
        raise errors.UsageError(
            f"Writing {ending} needs ffmpeg.", "Install it with: sudo apt-get install ffmpeg. Or write a .wav file."
        )


def write(waveform: Waveform | MixedWaveform, target: Path, *, is_forced: bool = False) -> None:
    """Write a waveform to a file whose ending names the format; the file appears whole.

    Args:
        waveform: mono float32 audio at 16 kHz. Of several that are transcribed each by itself, a WAV file gets a
            channel for each, any other their mean.
        target: OUT.wav (32-bit float, of any length), OUT.mp3, OUT.m4a or OUT.opus (up to 2 hours).
        is_forced: whether a file of that name is overwritten.

    Raises:
        errors.UsageError: the ending is unknown, the audio is too long for it, or ffmpeg is missing.
        errors.CannotWriteError: the file exists and may not be overwritten.
        errors.NoPermissionError: the folder is not writable.
        errors.TransientError: the disk is full or does not answer.
    """
    check_target(target)
    encoding = _ENCODINGS.get(target.suffix.lower())
    if encoding is not None and waveform.duration_s > _MAX_COMPRESSED_S:
        raise errors.UsageError(
            f"{escape(target.name)} can hold {_MAX_COMPRESSED_S / 3600:g} hours, and this recording is longer.",
            "Write a .wav file.",
        )
    temporary = target.with_name(files.temporary_name("audio"))
    with contextlib.ExitStack() as on_exit:
        on_exit.enter_context(files.explained("The audio could not be written", target.absolute().parent))
        # Written through this descriptor alone: who shares the folder could put a link in place of the name.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = on_exit.enter_context(os.fdopen(os.open(temporary, flags, 0o666), "w+b"))
        on_exit.callback(temporary.unlink, missing_ok=True)
        try:
            if encoding is None:
                _write_wav(waveform, file)
            else:
                _write_compressed(waveform, file, *encoding)
            file.flush()
        except (soundfile.LibsndfileError, pydub.exceptions.CouldntEncodeError) as error:
            raise errors.TransientError(f"The audio could not be written: {error}", "Free some space.") from error
        if is_forced:
            temporary.replace(target)
            return
        try:
            files.publish(temporary, target)
        except FileExistsError:
            raise errors.CannotWriteError(
                f"{escape(str(target))} already exists.", "Choose another name, or overwrite it with --force."
            ) from None


def _write_wav(waveform: Waveform | MixedWaveform, file: BinaryIO) -> None:
    """Write 32-bit float samples block by block."""
    parts = waveform.parts if isinstance(waveform, MixedWaveform) else [waveform]
    form = "RF64" if 4 * len(parts) * waveform.n_samples > _MAX_WAV_BYTES else "WAV"
    with soundfile.SoundFile(
        file.fileno(), "w", SAMPLE_RATE_HZ, channels=len(parts), subtype="FLOAT", format=form, closefd=False
    ) as writer:
        for start in range(0, waveform.n_samples, _BLOCK_SAMPLES):
            block = np.zeros((min(_BLOCK_SAMPLES, waveform.n_samples - start), len(parts)), np.float32)
            for channel, part in enumerate(parts):
                samples = part.read(start, start + _BLOCK_SAMPLES)
                block[: len(samples), channel] = samples
            writer.write(block)


def _write_compressed(
    waveform: Waveform | MixedWaveform, file: BinaryIO, muxer: str, encoder: str, bit_rate: str
) -> None:
    """Encode through pydub, which keeps a copy in the system's temporary folder while ffmpeg runs."""
    pcm = bytearray()
    for block in waveform.blocks(_BLOCK_SAMPLES):
        pcm += np.rint(np.clip(block, -1, 1) * 32767).astype("<i2").tobytes()
    audio = pydub.AudioSegment(data=bytes(pcm), sample_width=2, frame_rate=SAMPLE_RATE_HZ, channels=1)
    audio.export(file, format=muxer, codec=encoder, bitrate=bit_rate)
