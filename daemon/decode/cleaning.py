"""From a recording to its waveform and receipt, in one pass.

The result equals `sox IN -c 1 OUT highpass 80 rate 16k gain -n -3` within 1e-3 of full scale, for
recordings of any length, in bounded memory. One thing differs: with -c 1, sox 14.4 mixes last and
takes its gain from the loudest channel. Here the mix itself is brought to the level, as by
`sox IN OUT channels 1 highpass 80 rate 16k gain -n -3`; where all channels agree it is the same.

The gain depends on the whole recording (its peak, its loudness), so it is computed at the end and
applied when the waveform is read.
"""

from __future__ import annotations

import contextlib
import math
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from daemon import errors
from daemon.decode import readers
from daemon.decode.conditioning import Conditioner
from daemon.decode.dynamics import SILENT_PEAK, Dynamics
from daemon.decode.levels import Levels
from daemon.decode.loudness import LoudnessMeter
from daemon.decode.source import NotARecordingError
from daemon.transcript import Receipt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from daemon.config import Preprocess
    from daemon.decode.source import RecordingFile
    from daemon.decode.waveform import Waveform, WaveformWriter

# Below 4 kHz speech is unintelligible, and a header that says 1 Hz turns 32 kB into hours. 768 kHz and
# 64 channels are the most that recording devices offer.
_MIN_RATE_HZ: Final = 4_000
_MAX_RATE_HZ: Final = 768_000
_MAX_CHANNELS: Final = 64
# Float PCM, by the names of libsndfile and of FFmpeg: it may exceed full scale without being clipped.
_FLOAT_CODECS: Final = frozenset({"float", "double", *(f"pcm_f{kind}" for kind in ("32le", "32be", "64le", "64be"))})


def is_recording(source: RecordingFile) -> bool:
    """Return whether a file is a recording, a damaged one included; only its headers are read.

    Raises:
        errors.TransientError: its disk or share does not respond.
    """
    try:
        readers.open_reader(source).close()
    except NotARecordingError:
        return False
    except errors.JobError:
        return True
    return True


def decode(
    source: RecordingFile,
    writer: WaveformWriter,
    settings: Preprocess,
    raise_if_stopped: Callable[[], None] = lambda: None,
) -> tuple[Waveform, Receipt]:
    """Decode and clean a recording.

    This runs codecs on files from strangers: the daemon does it in a separate process (`daemon.frontend`).

    Args:
        source: the recording.
        writer: receives the audio.
        settings: the `preprocess` section of the configuration.
        raise_if_stopped: called at least every two seconds; it may raise errors.StoppedError to end the work.

    Returns:
        the waveform, which the caller closes, and the receipt of what was found and done.

    Raises:
        errors.JobError: the file is not a recording, or damaged beyond reading, protected, empty or too long.
        errors.TransientError: its share does not respond, or the cache disk is full.
        MemoryError: it takes more memory than allowed.
    """
    open_reader = partial(readers.open_reader, source)
    # What is rare and shows only at the end costs a second pass.
    try:
        receipt, gain, inverted_channel = _decode_once(open_reader(), writer, settings, raise_if_stopped)
    except readers.DamagedError:
        writer.restart()
        open_reader = partial(open_reader, is_damaged=True)
        receipt, gain, inverted_channel = _decode_once(open_reader(), writer, settings, raise_if_stopped)
    if inverted_channel is not None:  # cheaper than keeping two mixes
        writer.restart()
        receipt, gain, _ = _decode_once(open_reader(), writer, settings, raise_if_stopped, inverted_channel)
    return writer.finish(gain), receipt


def _decode_once(
    reader: readers.Reader,
    writer: WaveformWriter,
    settings: Preprocess,
    raise_if_stopped: Callable[[], None],
    channel: int | None = None,
) -> tuple[Receipt, float, int | None]:
    """Decode the whole recording, with all channels mixed or only one of them.

    Returns:
        the receipt, the linear gain, and the channel to use alone, if any.
    """
    with contextlib.closing(reader):
        _refuse_impossible(reader, settings)
        levels = Levels(reader.rate_hz, reader.channels, has_headroom=reader.codec in _FLOAT_CODECS)
        meter = LoudnessMeter() if settings.normalize == "loudness" else None
        dynamics = Dynamics()
        for audio in _cleaned(reader, levels, settings, raise_if_stopped, channel):
            writer.append(audio)
            dynamics.push(audio)
            if meter is not None and len(audio):
                meter.push(audio)
        if writer.n_samples == 0:
            raise errors.JobError("The file holds no audio, only a header.", "Copy the recording again.")
        dynamics.drain()
        gain = _gain(settings, dynamics.peak, meter)
        return _receipt(reader, levels, dynamics, gain), gain, levels.inverted_channel


def _cleaned(
    reader: readers.Reader,
    levels: Levels,
    settings: Preprocess,
    raise_if_stopped: Callable[[], None],
    channel: int | None,
) -> Iterator[NDArray[np.float32]]:
    """Yield the recording as mono, high-passed, at 16 kHz."""
    conditioner = Conditioner(reader.rate_hz, settings.highpass_hz)
    for block in reader.blocks(raise_if_stopped):
        raise_if_stopped()
        mono = _mix(levels.observe(block), channel)
        if levels.duration_s > settings.max_duration_h * 3600:
            raise _too_long_error(settings)
        yield conditioner.push(mono)
    yield conditioner.drain()


def _refuse_impossible(reader: readers.Reader, settings: Preprocess) -> None:
    """Refuse, before decoding, what cannot be speech or would take far too long."""
    if not _MIN_RATE_HZ <= reader.rate_hz <= _MAX_RATE_HZ:
        raise errors.JobError(
            f"The file has a sample rate of {reader.rate_hz} Hz; {_MIN_RATE_HZ} to {_MAX_RATE_HZ} Hz are supported.",
            "Export it at 16000 Hz or more.",
        )
    if not 1 <= reader.channels <= _MAX_CHANNELS:
        raise errors.JobError(
            f"The file has {reader.channels} channels; 1 to {_MAX_CHANNELS} are supported.", "Mix it down first."
        )
    if reader.declared_s is not None and reader.declared_s > settings.max_duration_h * 3600:
        raise _too_long_error(settings)


def _too_long_error(settings: Preprocess) -> errors.JobError:
    return errors.JobError(
        f"The recording is longer than the limit of {settings.max_duration_h:g} hours.",
        "Cut it into parts, or raise preprocess.max_duration_h.",
    )


def _mix(channels: NDArray[np.float32], chosen: int | None) -> NDArray[np.float32]:
    """Return one of the channels, shape (channels, n), or the mean of all, as sox mixes; shape (n,)."""
    mono: NDArray[np.float32] = channels[chosen or 0]
    if chosen is None and len(channels) > 1:
        mono = mono + channels[1]
        for channel in channels[2:]:
            mono += channel
        mono *= np.float32(1 / len(channels))
    return mono


def _gain(settings: Preprocess, peak: float, meter: LoudnessMeter | None) -> float:
    """Return the linear factor of the chosen normalization; silence is left unchanged."""
    if peak < SILENT_PEAK or settings.normalize == "off":
        return 1.0
    if meter is not None:
        return meter.gain()
    return float(10 ** (settings.peak_dbfs / 20) / peak)


def _receipt(reader: readers.Reader, levels: Levels, dynamics: Dynamics, gain: float) -> Receipt:
    """Return the receipt of what was found and done."""
    notes = list(reader.notes)
    declared_s = reader.declared_s or 0.0
    is_short = levels.duration_s < declared_s - reader.slack_s
    if is_short:
        heard = _spoken(levels.duration_s)
        notes.append(f"The file declares a length of {_spoken(declared_s)}, but only {heard} could be read.")
    click = dynamics.find_click()
    if click is not None:
        at_s, above_db = click
        notes.append(
            f"A click or DC step at {_spoken(at_s)} is {above_db:.0f} dB louder than the rest and limits normalization."
        )
    return Receipt(
        duration_s=levels.duration_s,
        sample_rate_hz=reader.rate_hz,
        channels=reader.channels,
        codec=reader.codec,
        peak_dbfs=dynamics.peak_dbfs,
        gain_db=20 * math.log10(gain),
        clipped_s=levels.clipped_s,
        is_complete=not (is_short or reader.is_damaged),
        notes=(*notes, *levels.notes(dynamics.peak_dbfs)),
        level_dbfs=dynamics.level_dbfs,
        crest_db=dynamics.crest_db,
        snr_db=dynamics.estimate_snr_db(),
        dc_offset=levels.dc_offset,
        n_invalid=levels.n_invalid,
        peaks=dynamics.envelope.outline(gain),
    )


def _spoken(duration_s: float) -> str:
    """Return a duration as people write it: "7.5 s" or "1:02:03"."""
    if duration_s < 60:  # noqa: PLR2004  # a minute
        return f"{duration_s:.1f} s"
    minutes, seconds = divmod(round(duration_s), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
