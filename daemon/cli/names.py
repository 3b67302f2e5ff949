"""What a name on the command line means: one recording, never several at once by mistake."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from daemon.display import escape
from daemon.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MAX_LISTED: Final = 10


def choose(word: str, paths: Iterable[str], roots: Sequence[Path]) -> str | None:
    """Return the path that a word means, None where it means none of them.

    A bare name means the recording of that name in whichever sub-folder. A word with a slash is a path: within
    the folder, such as `court/talk.wav` or `./talk.wav`, or absolute.

    Args:
        word: as typed.
        paths: what there is to choose from, each relative to its folder, with "/" between sub-folders.
        roots: the folders that an absolute path may begin with.

    Raises:
        UsageError: several sub-folders have a recording of this name.
    """
    there = set(paths)
    if "/" in word:
        path = _within(word, roots)
        return path if path in there else None
    found = sorted(path for path in there if path.rpartition("/")[2] == word)
    if len(found) > 1:
        listed = [escape(path if "/" in path else f"./{path}") for path in found[:_MAX_LISTED]]
        more = f" and {len(found) - _MAX_LISTED} more" if len(found) > _MAX_LISTED else ""
        raise UsageError(
            f"{len(found)} recordings are called {escape(word)}.", f"Name one by its path: {', '.join(listed)}{more}."
        )
    return found[0] if found else None


def _within(word: str, roots: Sequence[Path]) -> str:
    """Return a typed path relative to the folder that it lies in."""
    path = Path(word)
    for root in roots:
        if path.is_relative_to(root):
            return str(path.relative_to(root))
    return str(path)
