"""Shared by the html pages: reading their parts, and a policy that forbids them to load anything else."""

from __future__ import annotations

import base64
import functools
import hashlib
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class PageParts:
    """A page as it is before anything is filled in.

    Attributes:
        template: the markup, with `$policy`, `$style`, `$script` and what the page itself needs.
        style, script: what goes between the tags.
    """

    template: Template
    style: str
    script: str

    def policy(self, media: str) -> str:
        """Return the Content-Security-Policy: its own style and script, media from `media`, and nothing else."""
        return (
            f"default-src 'none'; script-src '{_digest(self.script)}'; style-src '{_digest(self.style)}'; "
            f"media-src {media}; base-uri 'none'; form-action 'none'"
        )


@functools.cache
def read_parts(folder: str, scripts: tuple[str, ...]) -> PageParts:
    """Return the parts of a page: those of all pages from `shared/`, then page.html, page.css and scripts of its own.

    Args:
        folder: within daemon/documents.
        scripts: its scripts, in the order in which they are joined.
    """
    here = resources.files("daemon.documents")

    def read(paths: Iterable[str]) -> str:
        return "\n".join((here / path).read_text(encoding="utf-8") for path in paths)

    return PageParts(
        Template(read([f"{folder}/page.html"])),
        read(["shared/base.css", f"{folder}/page.css"]),
        read(["shared/base.js", *(f"{folder}/{name}" for name in scripts)]),
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
