"""Transcript to documents, as bytes; no I/O."""

from daemon.documents.formats import FORMATS, PLANNED, RESERVED_ENDINGS, render

__all__ = ["FORMATS", "PLANNED", "RESERVED_ENDINGS", "render"]
