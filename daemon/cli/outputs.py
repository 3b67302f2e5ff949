"""What commands write: files that are never overwritten unasked, and standard output that may be full or closed."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import sys
from typing import TYPE_CHECKING, Any, Final

from daemon.display import escape
from daemon.errors import CannotWriteError
from daemon.host import files

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_FORCE: Final = "Choose another name, or use --force to overwrite it."
# What a terminal may take for a command or show out of order, and what JSON allows unescaped.
_RISKY_IN_JSON: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udfff]")


class StandardOutputClosedError(Exception):
    """The reader of standard output has gone, as in `scribed status | head -1`."""


def refuse_taken(targets: Iterable[Path], inputs: Sequence[os.stat_result], *, is_forced: bool) -> None:
    """Make sure that a command may write to these files, before it starts its work.

    Args:
        targets: the files it is going to write.
        inputs: what it is going to read; these are never overwritten, whatever name leads to them.
        is_forced: whether other files may be overwritten.

    Raises:
        CannotWriteError: one of them exists and may not be overwritten.
    """
    for target in targets:
        shown = escape(str(target))
        if _is_any_of(target, inputs):
            raise CannotWriteError(f"{shown} is the input itself.", "Choose another name for the output.")
        if not os.path.lexists(target):
            continue
        if not is_forced:
            raise CannotWriteError(f"{shown} already exists.", _FORCE)
        if not stat.S_ISREG(target.lstat().st_mode) and not target.is_symlink():
            raise CannotWriteError(f"{shown} exists and is not a file.", "Choose another name for the output.")


def write_file(target: Path, content: files.Content, *, is_forced: bool) -> None:
    """Write a file whole, with the mode that the umask asks for.

    Raises:
        CannotWriteError: it exists and `is_forced` is False.
        NoPermissionError, TransientError: it cannot be written.
    """
    mode = 0o666 & ~_umask()
    with files.explained(f"{escape(str(target))} cannot be written", target.absolute().parent):
        temporary = files.write_temporary(target, content, mode)
        try:
            if is_forced:
                temporary.replace(target)
            else:
                files.publish(temporary, target)
        except FileExistsError:
            raise CannotWriteError(f"{escape(str(target))} already exists.", _FORCE) from None
        finally:
            temporary.unlink(missing_ok=True)


def print_json(value: Any) -> None:  # noqa: ANN401  # any value that JSON has
    """Print JSON in which no name can move the cursor or reorder the text of a terminal."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    # Outside strings JSON has only ASCII, so that escaping one of these is right anywhere.
    sys.stdout.write(_RISKY_IN_JSON.sub(lambda match: f"\\u{ord(match.group()):04x}", text) + "\n")


def guard_standard_streams() -> None:
    """Make writing to standard output fail with a plain error, and to standard error not at all."""
    if sys.stdout is None or sys.stderr is None:
        # Closed by the caller. The next file to be opened would take its number and receive the output.
        while os.open(os.devnull, os.O_RDWR) <= 2:  # noqa: PLR2004  # stdin, stdout and stderr
            pass
    sys.stdout = _open_guarded(1, _GuardedOutput(1, "wb", closefd=False))
    sys.stderr = _open_guarded(2, _GuardedErrors(2, "wb", closefd=False))


def _open_guarded(number: int, raw: io.FileIO) -> io.TextIOWrapper:
    old = sys.__stdout__ if number == 1 else sys.__stderr__
    is_line_wise = number == 2 or raw.isatty()  # noqa: PLR2004  # stderr
    encoding = old.encoding if old is not None else "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=is_line_wise
    )


class _GuardedOutput(io.FileIO):
    """Standard output; after its first failure it swallows the rest, so that the end of the process is quiet."""

    has_failed = False

    def write(self, data: Any, /) -> int:  # noqa: ANN401  # whatever has a buffer, as in the base class
        if self.has_failed:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except BrokenPipeError:
            self.has_failed = True
            raise StandardOutputClosedError from None
        except OSError as error:
            self.has_failed = True
            remedy = "Free some space where it goes, or send it elsewhere."
            raise CannotWriteError(f"Standard output cannot be written: {error.strerror}.", remedy) from None


class _GuardedErrors(io.FileIO):
    """Standard error: where it cannot be written there is no place left to say so."""

    def write(self, data: Any, /) -> int:  # noqa: ANN401  # whatever has a buffer, as in the base class
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _is_any_of(target: Path, inputs: Sequence[os.stat_result]) -> bool:
    try:
        facts = target.stat()
    except OSError:
        return False
    return any(os.path.samestat(facts, one) for one in inputs)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
