"""Audio for listeners: a small copy of the cleaned audio, and clips of flagged and missing passages."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Final, Literal

from daemon.decode import SAMPLE_RATE_HZ
from daemon.display import printable
from daemon.documents import Clip, choose_stretches, fit_into_page
from daemon.errors import JobError
from daemon.frontend import Encoding
from daemon.segment import Span

if TYPE_CHECKING:
    import io
    from collections.abc import Callable

    from daemon.frontend import FrontEnd
    from daemon.pipeline.work import PreparedRecording
    from daemon.transcript import Transcript

NO_COPY: Final = "The listening copy could not be written"
NO_CLIPS: Final = "The clips in the page are incomplete"
_N_DATE_LETTERS: Final = len("2026-01-30")


def make_listening_copy(
    prepared: PreparedRecording, front_end: FrontEnd, raise_if_stopped: Callable[[], None]
) -> tuple[io.FileIO | None, str | None]:
    """Write the listening copy that the settings of a recording ask for.

    Returns:
        (an unlinked file that the caller closes, None), or (None, why there is none where one was wanted).

    Raises:
        TransientError: the cache disk is full.
        StoppedError: from `raise_if_stopped`, or because the front end was closed.
    """
    form = prepared.recording.settings.output.listening_copy
    if form is None:
        return None, None
    try:
        return front_end.encode(prepared.sound.waveform, _describe(prepared, form), None, raise_if_stopped), None
    except JobError as error:  # the words are there, and more important
        return None, f"{NO_COPY}: {error.what}"


def make_clips(
    prepared: PreparedRecording, transcript: Transcript, front_end: FrontEnd, raise_if_stopped: Callable[[], None]
) -> tuple[list[Clip], str | None]:
    """Encode the clips for the page of a recording; only where its settings ask for them.

    Returns:
        (the clips in the order of time, None), or (those that there are, why they are not all).

    Raises:
        TransientError, StoppedError: as `make_listening_copy`.
    """
    if not prepared.recording.settings.output.clips:
        return [], None
    waveform, encoding = prepared.sound.waveform, _describe(prepared, "mp3")
    clips: list[Clip] = []
    for start_s, end_s in choose_stretches(transcript):
        start, stop = (min(round(at_s * SAMPLE_RATE_HZ), waveform.n_samples) for at_s in (start_s, end_s))
        if start == stop:
            continue
        try:
            with front_end.encode(waveform, encoding, Span(start, stop), raise_if_stopped) as file:
                clips.append(Clip(start_s, end_s, file.read()))
        except JobError as error:  # as above
            return clips, f"{NO_CLIPS}: {error.what}"
    return fit_into_page(clips), None


def _describe(prepared: PreparedRecording, form: Literal["mp3", "m4a", "opus"]) -> Encoding:
    source = prepared.source
    return Encoding(form, PurePath(printable(source.name)).stem, source.modified_at[:_N_DATE_LETTERS])
