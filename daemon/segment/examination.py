"""From a cleaned waveform to what the model hears of it: where there is speech, made even where it has to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from daemon.segment.frames import measure_levels
from daemon.segment.leveling import bring_up_quiet_speech
from daemon.segment.unheard import describe_unheard
from daemon.segment.vad import detect_speech

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from daemon.config import Preprocess
    from daemon.decode import Waveform
    from daemon.segment.chunking import Span


@dataclass(frozen=True, slots=True)
class Examined:
    """What is known of a waveform.

    Attributes:
        levels: of its frames, in dBFS.
        speech: spans in samples, in order and without overlaps.
    """

    levels: NDArray[np.float32]
    speech: tuple[Span, ...]


def examine(waveform: Waveform, vad: str, raise_if_stopped: Callable[[], None]) -> Examined:
    """Find the speech in a waveform.

    Args:
        waveform: as it was decoded and cleaned.
        vad: "silero", "energy", or "off": then all is speech.
        raise_if_stopped: called at least every two seconds; it may raise errors.StoppedError to end the work.

    Raises:
        errors.EngineUnavailableError: silero's weights are not installed.
    """
    levels = measure_levels(waveform, raise_if_stopped)
    return Examined(levels, detect_speech(waveform, levels, vad, raise_if_stopped))


def complete(
    waveform: Waveform, examined: Examined, settings: Preprocess, vad: str, raise_if_stopped: Callable[[], None]
) -> tuple[float, str | None]:
    """Level a waveform, in place, and find the sounds that people should listen to.

    Args:
        waveform: the one that was examined.
        examined: what was found in it.
        settings: the `preprocess` section of the configuration.
        vad: as for `examine`; with "off", leveling is left to silero, and no sound is named.
        raise_if_stopped: as for `examine`.

    Returns:
        (the most gain that was added, in dB; a sentence on sounds that were not taken for speech, or None).

    Raises:
        errors.EngineUnavailableError: silero's weights are not installed.
        errors.TransientError: the disk of the waveform cannot be read or written.
    """
    levels, speech, note = examined.levels, examined.speech, None
    if vad != "off":
        note = describe_unheard(levels, speech)
    elif settings.leveling != "off":
        speech = detect_speech(waveform, levels, "silero", raise_if_stopped)
    return bring_up_quiet_speech(waveform, levels, speech, settings, raise_if_stopped), note
