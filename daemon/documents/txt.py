"""The txt document: text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.documents.layout import Kind, clock, group_paragraphs, list_items
from daemon.text import join_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.documents.layout import Item, Options
    from daemon.transcript import Transcript


def render_txt(transcript: Transcript, options: Options) -> str:
    """Return paragraphs of text with a mark for every gap; "" without speech."""
    groups = group_paragraphs(list_items(transcript))
    paragraphs = [_paragraph(group, has_timestamp=options.has_timestamps) for group in groups]
    return "\n\n".join(paragraphs) + "\n" if paragraphs else ""


def _paragraph(group: Sequence[Item], *, has_timestamp: bool) -> str:
    text = join_texts(item.text for item in group)
    return f"[{clock(group[0].start_s)}] {text}" if has_timestamp and group[0].kind is not Kind.CUT else text
