"""`scribed search`: find words in delivered transcripts."""

from __future__ import annotations

import os
import sqlite3
import sys
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.text import Text

from daemon import search as index_package
from daemon.cli import config_option
from daemon.display import escape
from daemon.errors import ExitCode, NoPermissionError, ScribedError, UsageError
from daemon.host import files
from daemon.host.privileges import become_owner

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from daemon.search import Hit, SearchIndex

_OWNER_ONLY: Final = "Run this as root, or as the service's user: the index holds the words of all recordings."
_NONE: Final = "Set search.enabled: true and restart the service, or run `scribed search --rebuild`."
_DAMAGED: Final = "Run `scribed search --rebuild` while the service is stopped; it is made again from the transcripts."
_S_PER_MINUTE: Final = 60
_S_PER_HOUR: Final = 3600


def search(words: Sequence[str], option: Path | None, *, n_lines: int, is_rebuilt: bool) -> int:
    """Print the lines of transcripts that contain all the words, or make the index again.

    Args:
        words: each may hold several words that have to be next to one another; a star stands for the rest of a word.
        option: the configuration file, None for the usual places.
        n_lines: how many lines to print at most.
        is_rebuilt: whether the index is made again from the outbox.
    """
    if bool(words) == is_rebuilt:
        raise UsageError("Specify what to search for, or use --rebuild.")
    if is_rebuilt:
        return _rebuild(option)
    index = _open(config_option.find_state(option), is_made=False)
    try:
        hits = index.find(words, n_lines + 1)
    except sqlite3.DatabaseError as error:
        raise ScribedError(f"The search index is damaged: {error}.", _DAMAGED) from error
    finally:
        index.close()
    _print(hits[:n_lines])
    if len(hits) > n_lines:
        sys.stderr.write(f"scribed: There are more than {n_lines} lines. Use more words, or a larger --lines.\n")
    elif not hits:
        sys.stderr.write("scribed: Nothing found.\n")
    return ExitCode.OK


def _print(hits: Sequence[Hit]) -> None:
    if not sys.stdout.isatty():
        for hit in hits:
            sys.stdout.write("\t".join((_name(hit), _clock(hit.start_s), escape(hit.text))) + "\n")
        return
    console, shown = Console(highlight=False, soft_wrap=True), ""
    for hit in hits:
        if _name(hit) != shown:
            shown = _name(hit)
            console.print(Text(shown, "bold"))
        console.print(Text.assemble(("  ", ""), (_clock(hit.start_s), "dim"), ("  ", ""), escape(hit.text)))


def _name(hit: Hit) -> str:
    """Return the path of the document that people read."""
    place = hit.place
    ending = place.endings[0] if place.endings else "json"
    return escape(str(place.outbox / place.folder / f"{place.stem}.{ending}"))


def _clock(time_s: float) -> str:
    minutes, seconds = divmod(int(time_s), _S_PER_MINUTE)
    return f"{minutes // _S_PER_MINUTE:02}:{minutes % _S_PER_MINUTE:02}:{seconds:02}"


def _rebuild(option: Path | None) -> int:
    config = config_option.read(option)[0]
    if not config.search.enabled:
        raise UsageError("The search index is turned off.", "Set search.enabled: true in the configuration first.")
    index = _open(config.folders.state, is_made=True)
    n_indexed = n_left_out = 0
    try:
        with files.explained("The outbox cannot be read", config.folders.outbox):
            for name, problem in index_package.rebuild(index, config.folders.outbox):
                n_indexed += problem is None
                n_left_out += problem is not None
                if problem is not None:
                    sys.stderr.write(f"scribed: {name} is left out: {escape(problem)}\n")
    except sqlite3.DatabaseError as error:
        remedy = f"Delete {config.folders.state / index_package.INDEX_NAME}, then run this again."
        raise ScribedError(f"The search index is damaged: {error}.", remedy) from error
    finally:
        index.close()
    left_out = f", {n_left_out} left out" if n_left_out else ""
    sys.stdout.write(f"{n_indexed} transcript(s) indexed{left_out}.\n")
    return ExitCode.OK


def _open(state: Path, *, is_made: bool) -> SearchIndex:
    """Open the index as the owner of the state folder.

    Raises:
        NoPermissionError: another user runs this.
        ScribedError: there is no index, or it is damaged.
    """
    become_owner(state)
    try:
        owner = state.stat().st_uid
    except FileNotFoundError:
        raise ScribedError(f"The state folder {state} does not exist.", "Has the service ever run?") from None
    except PermissionError as error:
        raise NoPermissionError(f"You have no permission to use {state}.", _OWNER_ONLY) from error
    if os.geteuid() not in (0, owner):
        raise NoPermissionError(f"You have no permission to search the index in {state}.", _OWNER_ONLY)
    try:
        return index_package.SearchIndex(state, is_made=is_made)
    except FileNotFoundError:
        raise ScribedError(f"There is no search index in {state}.", _NONE) from None
    except sqlite3.DatabaseError as error:
        raise ScribedError(f"The search index is damaged: {error}.", _DAMAGED) from error
