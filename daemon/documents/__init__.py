"""Transcript to documents, as bytes; no I/O."""

from daemon.documents.formats import FORMATS, LISTENING_COPIES, RESERVED_ENDINGS, render
from daemon.documents.json_reader import UnreadableDocumentError, read_json

__all__ = ["FORMATS", "LISTENING_COPIES", "RESERVED_ENDINGS", "UnreadableDocumentError", "read_json", "render"]
