"""The page that records from the microphone: `recorder/` has its markup, its style and its scripts."""

from __future__ import annotations

from typing import Final

from daemon.documents.page_parts import read_parts

_SCRIPTS: Final = ("store.js", "capture.js", "meter.js", "folder.js", "list.js", "main.js")


def render_recorder() -> str:
    """Return the page; it is the same for everyone."""
    parts = read_parts("recorder", _SCRIPTS)
    return parts.template.substitute(policy=parts.policy("blob:"), style=parts.style, script=parts.script)
