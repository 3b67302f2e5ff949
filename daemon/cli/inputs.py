"""Recordings named on the command line: files, links, pipes, and `-` for standard input.

The daemon takes only regular files from its inbox. A person at a shell names what the shell can read.
"""

from __future__ import annotations

import os
import select
import stat
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from daemon.decode import open_unlinked
from daemon.display import escape
from daemon.errors import NoPermissionError, UsageError
from daemon.host import files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STANDARD_INPUT: Final = "-"
_STDIN: Final = 0
_BLOCK_BYTES: Final = 1 << 20
_LOOK_MS: Final = 500


@dataclass(frozen=True, slots=True)
class Input:
    """One recording to read.

    Attributes:
        shown: how messages call it, harmless to a terminal.
        name: the file name that documents are named after.
        source: a path that leads through no link, or a descriptor.
        facts: of the file itself, which must not be overwritten.
    """

    shown: str
    name: str
    source: Path | int
    facts: os.stat_result


def find(words: Sequence[str]) -> list[tuple[str, os.stat_result]]:
    """Look up what the words of a command line name, reading nothing yet.

    Returns:
        each word with the facts of the file it leads to.

    Raises:
        UsageError: there is no such file, or nothing that can be read as a recording.
    """
    if words.count(STANDARD_INPUT) > 1:
        raise UsageError("Standard input can be read only once.", "Use `-` only once.")
    return [(word, _look_up(word)) for word in words]


@contextmanager
def opened(found: Sequence[tuple[str, os.stat_result]], cache: Path) -> Iterator[list[Input]]:
    """Open what was found; pipes and standard input are read to their end into unlinked files.

    Args:
        found: the result of `find`.
        cache: the folder for the unlinked files.

    Raises:
        NoPermissionError: a file or pipe is not readable.
        TransientError: one cannot be read, or the disk of the cache is full.
    """
    with ExitStack() as stack:
        yield [_open(word, facts, cache, stack) for word, facts in found]


def name_of(word: str) -> str:
    """Return the file name after which documents are named: `stdin` for standard input."""
    return "stdin" if word == STANDARD_INPUT else os.path.basename(word)  # noqa: PTH119  # Path("./-") would be "-"


def _look_up(word: str) -> os.stat_result:
    shown = escape(word)
    try:
        facts = os.fstat(_STDIN) if word == STANDARD_INPUT else os.stat(word)  # noqa: PTH116  # Path("./-") would be "-"
    except FileNotFoundError:
        raise UsageError(f"No such file: {shown}.") from None
    except PermissionError as error:
        raise NoPermissionError(f"{shown} is not readable.", "Check the permissions of its folder.") from error
    except (OSError, ValueError) as error:  # the latter for a null character
        raise UsageError(f"{shown} cannot be opened: {getattr(error, 'strerror', None) or error}.") from None
    if stat.S_ISDIR(facts.st_mode):
        raise UsageError(f"{shown} is a folder.", "Name the recordings in it.")
    if word == STANDARD_INPUT and os.isatty(_STDIN):
        raise UsageError("Standard input is a terminal.", "Send a recording: scribed transcribe - < recording.wav")
    if not (stat.S_ISREG(facts.st_mode) or stat.S_ISFIFO(facts.st_mode) or stat.S_ISSOCK(facts.st_mode)):
        raise UsageError(f"{shown} is a device, not a recording.")
    return facts


def _open(word: str, facts: os.stat_result, cache: Path, stack: ExitStack) -> Input:
    is_stdin = word == STANDARD_INPUT
    shown, name = ("standard input", "stdin") if is_stdin else (escape(word), name_of(word))
    if stat.S_ISREG(facts.st_mode):
        # The shell's own file, read from its beginning; a link is followed here, once.
        return Input(shown, name, _STDIN if is_stdin else Path(os.path.realpath(word)), facts)
    with files.explained(f"{shown} cannot be read", cache):
        file = stack.enter_context(open_unlinked(cache))
        _copy(word, file.fileno())
    return Input(shown, name, file.fileno(), facts)


def _copy(word: str, target: int) -> None:
    """Copy a stream to the end."""
    if word == STANDARD_INPUT:
        source = os.dup(sys.stdin.fileno() if sys.stdin is not None else _STDIN)
    else:
        source = os.open(word, os.O_RDONLY | os.O_CLOEXEC)
    try:
        ready = select.poll()
        ready.register(source, select.POLLIN)
        while True:
            # Python would notice a Ctrl-C that comes just before a read only when the read returns.
            if not ready.poll(_LOOK_MS):
                continue
            if not (block := os.read(source, _BLOCK_BYTES)):
                return
            while block:
                block = block[os.write(target, block) :]
    finally:
        os.close(source)
