"""The search index while the service runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from daemon.config import Folders
from daemon.job import Job
from daemon.journal import Journal
from daemon.journal.records import Reservation, Result
from daemon.search import INDEX_NAME, SearchIndex
from daemon.service.index_keeper import IndexKeeper
from daemon.spool import SharedFolders
from daemon.status.faults import Faults
from tests.unit.test_search import deliver, transcript

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(slots=True)
class Shelf:
    """An outbox, a journal and a keeper; each `keeper()` is another start of the service."""

    folders: Folders
    shared: SharedFolders
    journal: Journal
    faults: Faults

    def keeper(self) -> IndexKeeper:
        return IndexKeeper(self.folders.state, self.shared, self.journal, self.faults, lambda: 0.1)

    def deliver(self, name: str, words: str) -> None:
        """Deliver a transcript as the spool does."""
        self.journal.add(Job(name, f"{name}.wav", "2026-01-31T09:30:00Z"))
        self.journal.reserve(name, Reservation("", name, f"{name}.wav"), {}, Result(1.0, 1.0, is_complete=True))
        deliver(self.folders.outbox, name, transcript(words, job_id=name, path=f"{name}.wav"))
        self.journal.commit_delivery(name)
        self.journal.finish(name)

    def found(self, word: str) -> list[str]:
        index = SearchIndex(self.folders.state, is_made=False)
        try:
            return [hit.text for hit in index.find([word], 10)]
        finally:
            index.close()


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    folders = Folders(**{name: tmp_path / name for name in Folders.model_fields})
    shared = SharedFolders(folders)
    shared.prepare()
    journal = Journal(folders.state)
    yield Shelf(folders, shared, journal, Faults())
    journal.close()


def test_delivered_transcripts_are_indexed_and_deleted_ones_forgotten(shelf: Shelf) -> None:
    keeper = shelf.keeper()
    shelf.deliver("one", "first words")
    keeper.turn()
    shelf.deliver("two", "second words")
    keeper.turn()
    assert shelf.found("words") == ["second words", "first words"]
    for ending in ("txt", "json"):
        (shelf.folders.outbox / f"one.{ending}").unlink()
    keeper.turn()
    assert shelf.found("words") == ["second words"]
    keeper.close()


def test_delivery_before_a_crash_is_indexed_at_the_next_start(shelf: Shelf) -> None:
    shelf.deliver("one", "first words")
    keeper = shelf.keeper()
    keeper.start()
    keeper.close(is_once=True)
    assert shelf.found("words") == ["first words"]
    assert shelf.faults.standing() == ()


def test_words_that_were_forgotten_do_not_come_back(shelf: Shelf) -> None:
    keeper = shelf.keeper()
    shelf.deliver("one", "first words")
    keeper.turn()
    keeper.close()
    shelf.journal.erase("one.wav")
    index = SearchIndex(shelf.folders.state, is_made=False)
    assert index.forget(["one"], "one.wav") == 1
    index.close()
    again = shelf.keeper()
    again.turn()
    again.close()
    assert shelf.found("words") == []


def test_corrected_copy_is_indexed_and_leaves_the_index_when_it_is_deleted(shelf: Shelf) -> None:
    keeper = shelf.keeper()
    shelf.deliver("one", "first words")
    keeper.turn()
    outbox = shelf.folders.outbox
    corrected = replace(transcript("first birds", job_id="one", path="one.wav"), corrected_at="2026-01-31T10:00:00Z")
    (outbox / "copy.json").write_bytes((outbox / "one.json").read_bytes())  # nothing was corrected in it
    deliver(outbox, "one.corrected", corrected, ("json",))
    keeper.turn()
    assert shelf.found("birds") == ["first birds"]
    assert shelf.found("words") == ["first words"]
    (outbox / "one.corrected.json").unlink()
    keeper.turn()
    assert shelf.found("birds") == []
    keeper.close()
    deliver(outbox, "one.corrected", corrected, ("json",))  # while the service does not run
    again = shelf.keeper()
    again.turn()
    assert shelf.found("birds") == ["first birds"]
    again.close()


def test_corrected_copy_is_indexed_when_it_has_arrived(shelf: Shelf) -> None:
    keeper = shelf.keeper()
    shelf.deliver("one", "first words")
    keeper.turn()
    keeper.turn()  # from here on, every json document that appears is looked at, whatever its name
    made = replace(transcript("first birds", job_id="one", path="one.wav"), corrected_at="2026-01-31T10:00:00Z")
    deliver(shelf.folders.outbox, "one, better", made, ("json",))
    path = shelf.folders.outbox / "one, better.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    keeper.turn()
    assert shelf.found("birds") == []
    path.write_bytes(whole)
    keeper.turn()
    assert shelf.found("birds") == ["first birds"]
    keeper.close()


def test_corrected_copy_of_a_transcript_that_was_forgotten_stays_out(shelf: Shelf) -> None:
    keeper = shelf.keeper()
    shelf.deliver("one", "first words")
    shelf.deliver("two", "second words")
    keeper.turn()
    index = SearchIndex(shelf.folders.state, is_made=False)
    assert index.forget(["one"], "one.wav") == 1
    index.close()
    made = replace(transcript("first birds", job_id="one", path="one.wav"), corrected_at="2026-01-31T10:00:00Z")
    deliver(shelf.folders.outbox, "one.corrected", made, ("json",))
    keeper.turn()
    assert shelf.found("birds") == []
    keeper.close()


def test_damaged_index_is_made_again_from_the_transcripts(shelf: Shelf) -> None:
    shelf.deliver("one", "first words")
    (shelf.folders.state / INDEX_NAME).write_bytes(b"not a database" * 1000)
    keeper = shelf.keeper()
    keeper.turn()
    keeper.turn()
    keeper.close()
    assert shelf.found("words") == ["first words"]
