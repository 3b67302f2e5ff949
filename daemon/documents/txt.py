"""The txt document: text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.documents.layout import describe_voice, list_items
from daemon.documents.paragraphs import group_paragraphs

if TYPE_CHECKING:
    from daemon.documents.layout import Options
    from daemon.documents.paragraphs import Paragraph
    from daemon.transcript import Transcript


def render_txt(transcript: Transcript, options: Options) -> str:
    """Return paragraphs of text with a mark for every gap; "" without speech."""
    paragraphs = [_write(transcript, each, options) for each in group_paragraphs(list_items(transcript))]
    return "\n\n".join(paragraphs) + "\n" if paragraphs else ""


def _write(transcript: Transcript, paragraph: Paragraph, options: Options) -> str:
    voice = describe_voice(transcript, paragraph.segment)
    parts = (paragraph.stamp if options.has_timestamps else "", f"{voice}:" if voice else "", paragraph.text)
    return " ".join(part for part in parts if part)
