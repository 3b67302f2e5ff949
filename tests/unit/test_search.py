"""The search index: what is found, what leaves it, and that nothing of it stays."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from daemon.documents import render
from daemon.errors import UsageError
from daemon.search import INDEX_NAME, DocumentPlace, SearchIndex, Upkeep, discard, index_delivered, rebuild
from daemon.transcript import Coverage, ModelIdentity, Processing, Receipt, Segment, Source, Transcript

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SearchIndex]:
    for name in ("state", "outbox"):
        (tmp_path / name).mkdir()
    opened = SearchIndex(tmp_path / "state", is_made=True)
    yield opened
    opened.close()


def transcript(*texts: str, job_id: str = "job-1", path: str = "talk.wav", language: str = "English") -> Transcript:
    return Transcript(
        job_id=job_id,
        source=Source(path.rpartition("/")[2], path, "0" * 64, 1, "2026-01-31T09:30:00Z"),
        audio=Receipt(60.0, 16_000, 1, "pcm", -3.0, 0.0, 0.0),
        model=ModelIdentity("demo", "0", "float32", "cpu"),
        coverage=Coverage(60.0, 30.0, 30.0),
        processing=Processing(1, "2026-01-31T09:30:00Z", "2026-01-31T09:30:01Z", 1.0, 60.0),
        segments=tuple(Segment(10.0 * n, 10.0 * n + 9, text, language) for n, text in enumerate(texts)),
    )


def deliver(outbox: Path, stem: str, made: Transcript, formats: tuple[str, ...] = ("txt", "json")) -> None:
    folder, _, name = stem.rpartition("/")
    (outbox / folder).mkdir(parents=True, exist_ok=True)
    for ending, content in render(made, formats, has_timestamps=False).items():
        (outbox / folder / f"{name}.{ending}").write_bytes(content)


def found(index: SearchIndex, *words: str) -> list[tuple[str, float]]:
    return [(hit.text, hit.start_s) for hit in index.find(words, 100)]


def has_bytes(folder: Path, text: str) -> bool:
    return any(text.encode() in path.read_bytes() for path in folder.iterdir() if path.name.startswith(INDEX_NAME))


def add(index: SearchIndex, outbox: Path, made: Transcript, stem: str = "talk", folder: str = "") -> DocumentPlace:
    place = DocumentPlace(outbox, folder, stem, ("txt", "json"))
    index.add(place, made)
    return place


def test_lines_with_all_words_are_found_and_words_in_quotes_are_next_to_one_another(
    index: SearchIndex, tmp_path: Path
) -> None:
    add(index, tmp_path, transcript("Send the invoice before Friday.", "The friday meeting", "Müller's invoices"))
    assert found(index, "friday") == [("Send the invoice before Friday.", 0.0), ("The friday meeting", 10.0)]
    assert found(index, "FRIDAY", "invoice") == [("Send the invoice before Friday.", 0.0)]
    assert found(index, "before friday") == [("Send the invoice before Friday.", 0.0)]
    assert found(index, "friday before") == []
    assert found(index, "muller") == [("Müller's invoices", 20.0)]
    assert len(found(index, "invo*")) == 2
    assert found(index, "invo") == []


@pytest.mark.parametrize("word", ["会议", "會議", "明天", "们"])
def test_chinese_words_of_two_characters_are_found_in_either_script(
    index: SearchIndex, tmp_path: Path, word: str
) -> None:
    add(index, tmp_path, transcript("我们明天开会议。", language="Chinese"), "simple")
    add(index, tmp_path, transcript("我們明天開會議。", language="Chinese"), "traditional")
    assert len(found(index, word)) == 2
    assert found(index, "议会") == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("तो हिन्दी में बोलिए", "हिन्दी"), ("ประชุมวันศุกร์", "วันศุกร์"), ("会議は金曜日です", "金曜"),
        ("회의는 금요일", "금요일"), ("الاجتماع يوم الجمعة", "الجمعة"),
        ("cafe\u0301 au lait", "café"), ("Straße 7", "STRASSE"),
    ],
)  # fmt: skip
def test_words_of_many_scripts_are_found(index: SearchIndex, tmp_path: Path, text: str, word: str) -> None:
    add(index, tmp_path, transcript(text))
    assert found(index, word) == [(text, 0.0)]


@pytest.mark.parametrize("word", ["", "  ", "...", '"', "*"])
def test_words_without_a_letter_are_refused(index: SearchIndex, word: str) -> None:
    with pytest.raises(UsageError, match="no letter or digit to search for"):
        index.find([word], 10)


@pytest.mark.parametrize("word", ['say "hi" now', "a AND b", "NEAR(a b)", "text:x", "-x", "(x", "x)", "^x"])
def test_words_are_never_read_as_a_query_language(index: SearchIndex, tmp_path: Path, word: str) -> None:
    add(index, tmp_path, transcript(f"We heard {word} there"))
    assert len(found(index, word)) == 1


def test_file_is_for_the_owner_alone(index: SearchIndex, tmp_path: Path) -> None:
    add(index, tmp_path, transcript("secret"))
    files = [path for path in (tmp_path / "state").iterdir() if path.name.startswith(INDEX_NAME)]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_forgotten_words_can_no_longer_be_read_from_the_file(index: SearchIndex, tmp_path: Path) -> None:
    add(index, tmp_path, transcript("xylophone orchestra", job_id="a", path="ward/talk.wav"), "one")
    add(index, tmp_path, transcript("zeppelin landing", job_id="b", path="other.wav"), "two")
    assert has_bytes(tmp_path / "state", "xylophone")
    assert index.forget(["unknown"], "talk.wav") == 1
    assert not has_bytes(tmp_path / "state", "xylophone")
    assert found(index, "zeppelin") == [("zeppelin landing", 0.0)]
    assert index.forget(["b"], "x") == 1
    assert found(index, "zeppelin") == []


def test_transcript_leaves_the_index_when_none_of_its_documents_is_left(index: SearchIndex, tmp_path: Path) -> None:
    outbox, upkeep = tmp_path / "outbox", Upkeep(index)
    for stem in ("court/talk", "court/other", "gone/memo"):
        deliver(outbox, stem, transcript(f"words of {stem}", job_id=stem))
        folder, _, name = stem.rpartition("/")
        assert index_delivered(index, outbox, folder, name, "today")
    assert upkeep.forget_deleted() == 0
    (outbox / "court/talk.json").unlink()
    assert upkeep.forget_deleted() == 0  # the text is still there
    (outbox / "court/talk.txt").unlink()
    shutil.rmtree(outbox / "gone")
    assert upkeep.forget_deleted() == 2
    assert [text for text, _ in found(index, "words")] == ["words of court/other"]
    assert not has_bytes(tmp_path / "state", "memo")


def test_outbox_that_is_away_forgets_nothing(index: SearchIndex, tmp_path: Path) -> None:
    outbox = tmp_path / "outbox"
    deliver(outbox, "talk", transcript("words"))
    index_delivered(index, outbox, "", "talk", "today")
    outbox.rename(tmp_path / "away")
    assert Upkeep(index).forget_deleted() == 0
    assert len(found(index, "words")) == 1


def test_quick_deletion_after_a_listing_is_seen(index: SearchIndex, tmp_path: Path) -> None:
    outbox, upkeep = tmp_path / "outbox", Upkeep(index)
    for stem in ("one", "two"):
        deliver(outbox, stem, transcript("words", job_id=stem))
        index_delivered(index, outbox, "", stem, "today")
    times = outbox.stat()
    upkeep.forget_deleted()
    for ending in ("txt", "json"):
        (outbox / f"one.{ending}").unlink()
    os.utime(outbox, ns=(times.st_atime_ns, times.st_mtime_ns))  # a file system with coarse times
    assert upkeep.forget_deleted() == 1


def test_later_delivery_of_the_same_documents_replaces_the_words(index: SearchIndex, tmp_path: Path) -> None:
    add(index, tmp_path, transcript("short"))
    add(index, tmp_path, transcript("longer text"))
    assert found(index, "short") == []
    assert len(found(index, "longer")) == 1
    assert index.deliveries() == {("job-1", "")}


def test_rebuild_reads_the_outbox_and_names_what_it_leaves_out(index: SearchIndex, tmp_path: Path) -> None:
    outbox = tmp_path / "outbox"
    add(index, outbox, transcript("old words"), "old")
    deliver(outbox, "talk", transcript("new words", job_id="a"))
    deliver(outbox, "court/memo", transcript("more words", job_id="b"), ("json", "srt"))
    (outbox / "list.json").write_text("[1]")
    (outbox / "link.json").symlink_to(outbox / "talk.json")
    (outbox / ".hidden").mkdir()
    results = dict(rebuild(index, outbox))
    assert {name for name, problem in results.items() if problem is None} == {"talk.json", "court/memo.json"}
    assert set(results) == {"talk.json", "court/memo.json", "list.json", "link.json"}
    assert sorted(text for text, _ in found(index, "words")) == ["more words", "new words"]
    assert {hit.place.endings for hit in index.find(["more"], 10)} == {("json", "srt")}


def test_json_with_the_words_of_another_recording_changes_only_its_own_entry(
    index: SearchIndex, tmp_path: Path
) -> None:
    outbox, made = tmp_path / "outbox", transcript("true words", job_id="a")
    deliver(outbox, "talk", made)
    deliver(outbox, "copy", replace(made, segments=(Segment(0, 1, "false words"),)))
    assert all(problem is None for _, problem in rebuild(index, outbox))
    assert sorted(text for text, _ in found(index, "words")) == ["false words", "true words"]


def test_removed_index_leaves_no_file(index: SearchIndex, tmp_path: Path) -> None:
    add(index, tmp_path, transcript("words"))
    index.close()
    assert discard(tmp_path / "state")
    assert list((tmp_path / "state").iterdir()) == []
    assert not discard(tmp_path / "state")
    with pytest.raises(FileNotFoundError):
        SearchIndex(tmp_path / "state", is_made=False)
