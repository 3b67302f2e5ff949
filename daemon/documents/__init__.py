"""Transcript to documents, as bytes; pure."""

from daemon.documents.rendering import DOCUMENT_FORMATS, render

__all__ = ["DOCUMENT_FORMATS", "render"]
