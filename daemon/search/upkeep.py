"""Keeps the index in step with the outbox: removes deleted transcripts, adds corrected ones, and rebuilds it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from daemon.display import escape
from daemon.documents import FORMATS, UnreadableDocumentError, read_json
from daemon.errors import ScribedError
from daemon.host.folders import Folder
from daemon.search.index import DocumentPlace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from daemon.search.index import SearchIndex

_JSON: Final = ".json"
_MAX_JSON_BYTES: Final = 256 << 20  # as `scribed render` reads
# A share may store times of two seconds; what changes a folder after we have listed it must give it another time.
_COARSEST_TIME_NS: Final = 2_000_000_000
# How the review page names a corrected copy. Others are found while the service runs.
_CORRECTED: Final = ".corrected"
# A copy that cannot be read may still be being written.
_ARRIVING_NS: Final = 60_000_000_000
# For people first.
_SHOWN_FIRST: Final = ("txt", "md", "docx", "html")


class Upkeep:
    """Finds transcripts that were deleted, and corrected copies that were added; used by one thread.

    A folder is listed only when its time of change says that something was added or removed.

    Args:
        index: the index.
    """

    def __init__(self, index: SearchIndex) -> None:
        self._index = index
        self._listed: dict[tuple[Path, str], tuple[int, int]] = {}  # inode and time of change
        self._stems: dict[tuple[Path, str], set[str]] = {}  # of the json documents that were there
        self._appeared: dict[tuple[Path, str], set[str]] = {}  # stems of json documents that may be corrected ones

    def forget_deleted(self, is_away: Callable[[], bool] = lambda: False) -> int:
        """Erase transcripts of which no document is in its place any more; return how many there were.

        What cannot be looked at now is kept.

        Args:
            is_away: whether a share is missing, so that an empty folder may be in place of the outbox.

        Raises:
            TransientError: the index cannot be read or written.
        """
        gone = [place for outbox, folder in self._index.folders() for place in self._find_gone(outbox, folder)]
        if not gone or is_away():
            return 0
        self._index.remove(gone)
        return len(gone)

    def add_corrected(self) -> int:
        """Index corrected copies that have appeared in the folders of indexed transcripts; return how many there were.

        Only copies of indexed transcripts are added, so that forgotten ones do not return. To be called
        after `forget_deleted`, which lists the folders.

        Raises:
            TransientError: the index cannot be read or written.
        """
        appeared, self._appeared = self._appeared, {}
        n_added = 0
        for (outbox, folder), stems in appeared.items():
            for stem in sorted(stems):  # the index has those that were just delivered
                if not self._index.has(DocumentPlace(outbox, folder, stem, ())):
                    n_added += self._add_if_corrected(outbox, folder, stem)
        return n_added

    def _add_if_corrected(self, outbox: Path, folder: str, stem: str) -> bool:
        try:
            with Folder.open(outbox) as root, root.descend(folder) as opened:
                facts = opened.find(f"{stem}{_JSON}")
                try:
                    transcript = read_json(opened.read(f"{stem}{_JSON}", _MAX_JSON_BYTES))
                except ScribedError:
                    if facts is not None and abs(time.time_ns() - facts.st_mtime_ns) < _ARRIVING_NS:
                        self._appeared.setdefault((outbox, folder), set()).add(stem)
                    return False
                if transcript.corrected_at is None or not self._index.has_job(transcript.job_id):
                    return False
                endings = list_endings(ending for ending in FORMATS if opened.exists(f"{stem}.{ending}"))
        except (OSError, ScribedError):  # taken away again, or not a folder any more
            return False
        self._index.add(DocumentPlace(outbox, folder, stem, endings), transcript)
        return True

    def _find_gone(self, outbox: Path, folder: str) -> list[DocumentPlace]:
        try:
            with Folder.open(outbox) as root:
                try:
                    opened = root.descend(folder)
                except (FileNotFoundError, NotADirectoryError):
                    return self._index.places_in(outbox, folder)
                with opened:
                    return self._find_gone_in(outbox, folder, opened)
        except (OSError, ScribedError):  # a share that is away, or a link in the place of the folder
            return []

    def _find_gone_in(self, outbox: Path, folder: str, opened: Folder) -> list[DocumentPlace]:
        facts = os.fstat(opened.fd)
        seen = (facts.st_ino, facts.st_mtime_ns)
        if self._listed.get((outbox, folder)) == seen:
            return []
        names = set(opened.names())
        self._note_appeared((outbox, folder), names)
        gone = [
            place
            for place in self._index.places_in(outbox, folder)
            if not any(f"{place.stem}.{ending}" in names for ending in place.endings)
        ]
        if time.time_ns() - facts.st_mtime_ns > _COARSEST_TIME_NS:
            self._listed[outbox, folder] = seen
        return gone

    def _note_appeared(self, where: tuple[Path, str], names: set[str]) -> None:
        """Record the json documents that are new since the folder was last listed, or since the service started."""
        stems = {name.removesuffix(_JSON) for name in names if name.endswith(_JSON) and not name.startswith(".")}
        before = self._stems.get(where)
        new = {stem for stem in stems if _CORRECTED in stem} if before is None else stems - before
        if new:
            self._appeared.setdefault(where, set()).update(new)
        self._stems[where] = stems


def rebuild(index: SearchIndex, outbox: Path) -> Iterator[tuple[str, str | None]]:
    """Index every json document of the outbox, and forget what has left it.

    Yields:
        (path within the outbox, why it was left out, or None where it was indexed).

    Raises:
        OSError: the outbox cannot be read.
        TransientError: the index cannot be written.
    """
    found: set[tuple[str, str]] = set()
    with Folder.open(outbox) as root:
        for folder, opened in root.walk():
            names = set(opened.names())
            for name in sorted(name for name in names if name.endswith(_JSON) and not name.startswith(".")):
                shown, stem = escape(f"{folder}/{name}" if folder else name), name.removesuffix(_JSON)
                try:
                    transcript = read_json(opened.read(name, _MAX_JSON_BYTES))
                except UnreadableDocumentError as error:
                    yield shown, error.what
                except (OSError, ScribedError) as error:
                    yield shown, str(error)
                else:
                    endings = list_endings(ending for ending in FORMATS if f"{stem}.{ending}" in names)
                    index.add(DocumentPlace(outbox, folder, stem, endings), transcript)
                    found.add((folder, stem))
                    yield shown, None
    old = [place for top, folder in index.folders() for place in index.places_in(top, folder)]
    index.remove([place for place in old if place.outbox != outbox or (place.folder, place.stem) not in found])


def index_delivered(index: SearchIndex, outbox: Path, folder: str, stem: str, delivered_at: str) -> bool:
    """Index a transcript that was just delivered; return False where its json document is not there.

    Args:
        index: the index.
        outbox: the folder of all transcripts.
        folder: within it.
        stem: of the documents.
        delivered_at: when the journal says that it was delivered.

    Raises:
        TransientError: the index cannot be written.
    """
    try:
        with Folder.open(outbox) as root, root.descend(folder) as opened:
            transcript = read_json(opened.read(f"{stem}{_JSON}", _MAX_JSON_BYTES))
            endings = list_endings(ending for ending in FORMATS if opened.exists(f"{stem}.{ending}"))
    except (OSError, ScribedError):  # fetched or changed meanwhile, or the folder's formats leave json out
        return False
    index.add(DocumentPlace(outbox, folder, stem, endings), transcript, delivered_at)
    return True


def list_endings(endings: Iterable[str]) -> tuple[str, ...]:
    """Return the endings of documents, those for people first."""
    order = {ending: place for place, ending in enumerate(_SHOWN_FIRST)}
    return tuple(sorted(endings, key=lambda ending: (order.get(ending, len(order)), ending)))
