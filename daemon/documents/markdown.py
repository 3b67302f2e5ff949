"""The md document: Markdown with front matter in YAML."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from daemon.documents.layout import Kind, clock, describe_voice, list_items, list_voices, title_of
from daemon.documents.paragraphs import group_paragraphs

if TYPE_CHECKING:
    from daemon.documents.layout import Options
    from daemon.documents.paragraphs import Paragraph
    from daemon.transcript import Transcript

# What Markdown (https://spec.commonmark.org/0.31.2/) may read as markup anywhere, and at the start of a line.
_MARKUP: Final = re.compile(r"[\\`*_\[\]<>&~|$]")
_MARKUP_FIRST: Final = re.compile(r"^(\d*)([.)#+=:-])")
# JSON allows these in a string, YAML does not.
_NOT_IN_YAML: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def render_md(transcript: Transcript, options: Options) -> str:
    """Return front matter, a heading, and the paragraphs; words never turn into markup."""
    head = {
        "title": title_of(transcript),
        "date": transcript.source.modified_at,
        "duration": clock(transcript.audio.duration_s),
        "language": transcript.language,
        "speakers": list_voices(transcript),
        "complete": transcript.is_complete,
    }
    front = "".join(f"{key}: {_yaml(value)}\n" for key, value in head.items())
    paragraphs = [_write(transcript, each, options) for each in group_paragraphs(list_items(transcript))]
    return "\n\n".join([f"---\n{front}---", f"# {_escape(title_of(transcript))}", *paragraphs]) + "\n"


def _write(transcript: Transcript, paragraph: Paragraph, options: Options) -> str:
    voice = describe_voice(transcript, paragraph.segment)
    text = _escape(paragraph.text)
    parts = (
        f"`{paragraph.stamp}`" if options.has_timestamps and paragraph.stamp else "",
        f"**{_escape(voice)}:**" if voice else "",
        text if paragraph.kind is Kind.SPEECH else f"*{text}*",
    )
    return " ".join(part for part in parts if part)


def _yaml(value: object) -> str:
    """Return a value as JSON that YAML reads alike."""
    text = json.dumps(value, ensure_ascii=False)
    return _NOT_IN_YAML.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def _escape(text: str) -> str:
    text = _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
    return _MARKUP_FIRST.sub(r"\1\\\2", text)
