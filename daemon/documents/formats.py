"""The one registry of document formats.

To add a format: write a module with a function like `render_txt`, named after the format, and add its line here. The
choices of `output.formats`, those of `scribed transcribe -f`, and the endings that a stem must be free for follow from
this table.

The module of a format is loaded when the first document in it is written: every command reads the configuration, which
needs the names only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from daemon.documents.layout import LISTENING_COPIES, Options, Sound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from daemon.transcript import Transcript

# The module of each format by its name, which is also the ending of the file, in the order in which documents are
# published. JSON is last: once it is there, all others are.
FORMATS: Final[Mapping[str, str]] = {
    "txt": "txt",
    "md": "markdown",
    "docx": "docx",
    "html": "html",
    "srt": "subtitles",
    "vtt": "subtitles",
    "json": "json_document",
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
    documents = {name: load_format(name)(transcript, options) for name in FORMATS if name in wanted}
    return {name: text.encode() if isinstance(text, str) else text for name, text in documents.items()}


def load_format(name: str) -> Callable[[Transcript, Options], str | bytes]:
    """Return the function that writes documents of a format."""
    write: Callable[[Transcript, Options], str | bytes] = getattr(
        import_module(f"daemon.documents.{FORMATS[name]}"), f"render_{name}"
    )
    return write
