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
from daemon.documents.layout import Options
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
# The endings of listening copies, by their formats.
LISTENING_COPIES: Final = {form: f"listen.{form}" for form in ("mp3", "m4a", "opus")}
# All endings that a stem must be free for.
RESERVED_ENDINGS: Final = (*FORMATS, *LISTENING_COPIES.values())


def render(
    transcript: Transcript,
    formats: Iterable[str],
    *,
    has_timestamps: bool,
    audio_folders: Iterable[str] = (),
    listening_copies: Iterable[str] = LISTENING_COPIES.values(),
) -> dict[str, bytes]:
    """Return the documents by format, texts as UTF-8, in the order in which they are published.

    Args:
        transcript: what to write.
        formats: names from FORMATS.
        has_timestamps: whether each paragraph begins with its time.
        audio_folders: where the recording may be, from the folder of the documents.
        listening_copies: endings of the listening copies that there may be.
    """
    wanted, options = set(formats), Options(has_timestamps, tuple(audio_folders), tuple(listening_copies))
    documents = {name: write(transcript, options) for name, write in FORMATS.items() if name in wanted}
    return {name: text.encode() if isinstance(text, str) else text for name, text in documents.items()}
