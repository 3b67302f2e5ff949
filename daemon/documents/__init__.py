"""Transcript to documents, as bytes; no I/O."""

from daemon.documents.formats import FORMATS, PLANNED, RESERVED_ENDINGS, render
from daemon.documents.json_reader import UnreadableDocumentError, read_json

__all__ = ["FORMATS", "PLANNED", "RESERVED_ENDINGS", "UnreadableDocumentError", "read_json", "render"]
