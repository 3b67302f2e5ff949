"""Transcript to documents, as bytes; no I/O.

The reader of documents is imported on first use: only `scribed render` and the search index need it.
"""

from typing import TYPE_CHECKING, Any

from daemon.documents.clips import Clip, choose_stretches, fit_into_page
from daemon.documents.formats import FORMATS, RESERVED_ENDINGS, load_format, render
from daemon.documents.layout import LISTENING_COPIES, Sound

if TYPE_CHECKING:
    from daemon.documents.json_reader import UnreadableDocumentError, read_json

__all__ = [
    "FORMATS",
    "LISTENING_COPIES",
    "RESERVED_ENDINGS",
    "Clip",
    "Sound",
    "UnreadableDocumentError",
    "choose_stretches",
    "fit_into_page",
    "load_format",
    "read_json",
    "render",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401  # of a module, any attribute
    if name not in {"UnreadableDocumentError", "read_json"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from daemon.documents import json_reader  # noqa: PLC0415  # see the docstring

    return getattr(json_reader, name)
