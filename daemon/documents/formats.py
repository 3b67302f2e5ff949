"""The one registry of document formats.

To add a format: write a module with a function like `render_txt` and add its line here. The choices
of `output.formats`, those of `scribed transcribe -f`, and the endings that a stem must be free for
follow from this table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from daemon.documents.docx import render_docx
from daemon.documents.html import render_html
from daemon.documents.json_document import render_json
from daemon.documents.layout import LISTENING_COPIES, Options, Sound
from daemon.documents.markdown import render_markdown
from daemon.documents.subtitles import render_srt, render_vtt
from daemon.documents.txt import render_txt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from daemon.transcript import Transcript

# By name, which is also the ending of the file, in the order in which documents are published. JSON
# is last: once it is there, all others are.
FORMATS: Final[Mapping[str, Callable[[Transcript, Options], str | bytes]]] = {
    "txt": render_txt,
    "md": render_markdown,
    "docx": render_docx,
    "html": render_html,
    "srt": render_srt,
    "vtt": render_vtt,
    "json": render_json,
}
# All endings that a stem must be free for.
RESERVED_ENDINGS: Final = (*FORMATS, *LISTENING_COPIES.values())


def render(
    transcript: Transcript,
    formats: Iterable[str],
    *,
    has_timestamps: bool,
    sound: Sound | None = None,
) -> dict[str, bytes]:
    """Return the documents by format, texts as UTF-8, in the order in which they are published.

    Args:
        transcript: what to write.
        formats: names from FORMATS.
        has_timestamps: whether each paragraph begins with its time.
        sound: what the page can play; None for a recording that may be next to it.
    """
    options = Options(has_timestamps, sound or Sound())
    wanted = set(formats)
    documents = {name: write(transcript, options) for name, write in FORMATS.items() if name in wanted}
    return {name: text.encode() if isinstance(text, str) else text for name, text in documents.items()}
