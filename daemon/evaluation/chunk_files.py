"""Where the texts of an evaluation wait until its report is written, so that an interrupted one can go on."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from daemon.host import files
from daemon.journal.records import ChunkText

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_FOLDER: Final = "eval"
_SUFFIX: Final = ".jsonl"
# What no evaluation came back for is erased by the next one.
_KEPT_S: Final = 7 * 24 * 3600.0


class ChunkFiles:
    """Keeps the texts of finished chunks, one file for each recording and its settings, mode 0600.

    Args:
        cache: folder of the caller's own; the files lie in its sub-folder `eval`.
    """

    def __init__(self, cache: Path) -> None:
        self._folder = cache / _FOLDER
        self._used: set[Path] = set()
        with files.explained("The texts of this evaluation cannot be kept", cache):
            self._folder.mkdir(mode=0o700, exist_ok=True)
        for path in self._folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _KEPT_S:
                    path.unlink()

    def recall(self, resume_key: str) -> Mapping[tuple[int, int], ChunkText]:
        """Return the texts by (start, stop) in samples that were written under the same key."""
        path = self._path(resume_key)
        texts: dict[tuple[int, int], ChunkText] = {}
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            return {}
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):  # the last line of a process that was killed
                start, stop, said = json.loads(line)
                texts[start, stop] = ChunkText(**said)
        return texts

    def remember(self, resume_key: str, span: tuple[int, int], said: ChunkText) -> None:
        """Keep the text of one chunk."""
        path = self._path(resume_key)
        line = json.dumps([*map(int, span), asdict(said)]) + "\n"
        with files.explained("The texts of this evaluation cannot be kept", self._folder):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                # A line that a kill cut short must not swallow this one: each begins on a line of its own.
                os.write(fd, b"\n" + line.encode())
            finally:
                os.close(fd)

    def erase(self) -> None:
        """Erase the texts of this evaluation; those of others stay."""
        for path in self._used:
            path.unlink(missing_ok=True)

    def _path(self, resume_key: str) -> Path:
        path = self._folder / f"{resume_key}{_SUFFIX}"
        self._used.add(path)
        return path
