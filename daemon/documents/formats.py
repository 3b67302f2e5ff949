"""Which formats there are, and the order in which their documents are put down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.documents.json_document import render_json
from daemon.documents.subtitles import render_srt, render_vtt
from daemon.documents.txt import render_txt

if TYPE_CHECKING:
    from collections.abc import Iterable

    from daemon.transcript import Transcript

# All endings a stem has to be free for, those of later releases too. JSON stands last: a standing
# JSON proves that the others stand as well.
DOCUMENT_FORMATS = ("txt", "srt", "vtt", "md", "html", "json")


def render(transcript: Transcript, formats: Iterable[str], *, has_timestamps: bool) -> dict[str, bytes]:
    """Return the documents by format (UTF-8), in the order in which they are to be put down.

    Args:
        transcript: what to write.
        formats: some of txt, json, srt and vtt.
        has_timestamps: whether each paragraph of the txt begins with its time.
    """
    wanted = set(formats)
    texts = {
        "txt": lambda: render_txt(transcript, has_timestamps=has_timestamps),
        "srt": lambda: render_srt(transcript),
        "vtt": lambda: render_vtt(transcript),
        "json": lambda: render_json(transcript),
    }
    return {name: texts[name]().encode() for name in DOCUMENT_FORMATS if name in wanted}
