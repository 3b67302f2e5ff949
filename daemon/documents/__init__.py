"""Transcript to documents, as bytes; no I/O."""

from daemon.documents.clips import Clip, choose_stretches, fit_into_page
from daemon.documents.formats import FORMATS, RESERVED_ENDINGS, render
from daemon.documents.json_reader import UnreadableDocumentError, read_json
from daemon.documents.layout import LISTENING_COPIES, Sound

__all__ = [
    "FORMATS",
    "LISTENING_COPIES",
    "RESERVED_ENDINGS",
    "Clip",
    "Sound",
    "UnreadableDocumentError",
    "choose_stretches",
    "fit_into_page",
    "read_json",
    "render",
]
