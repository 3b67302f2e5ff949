"""What a person hears: a small copy of the cleaned audio."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from daemon.display import printable
from daemon.errors import JobError
from daemon.frontend import Encoding

if TYPE_CHECKING:
    import io
    from collections.abc import Callable

    from daemon.frontend import FrontEnd
    from daemon.pipeline.work import PreparedRecording

NO_COPY: Final = "The listening copy could not be written"
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
    source = prepared.source
    title = PurePath(printable(source.name)).stem
    encoding = Encoding(form, title, source.modified_at[:_N_DATE_LETTERS])
    try:
        return front_end.encode(prepared.sound.waveform, encoding, None, raise_if_stopped), None
    except JobError as error:  # the words are there, and more important
        return None, f"{NO_COPY}: {error.what}"
