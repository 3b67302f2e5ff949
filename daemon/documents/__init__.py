"""Transcript to documents, as bytes; pure."""

from daemon.documents.formats import DOCUMENT_FORMATS, render

__all__ = ["DOCUMENT_FORMATS", "render"]
