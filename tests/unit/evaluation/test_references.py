from __future__ import annotations

import json
import os
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon.errors import NoPermissionError, UsageError
from daemon.evaluation import Reference, find_references

if TYPE_CHECKING:
    from collections.abc import Iterator


def texts(found: list[Reference]) -> dict[str, str]:
    return {one.audio.name: one.text for one in found}


def corrected(audio: bytes, name: str = "talk.wav", **more: object) -> str:
    source = {"name": name, "path": f"court/{name}", "sha256": sha256(audio).hexdigest()}
    segments = [{"text": "good morning"}, {"text": "all"}]
    return json.dumps({"schema": "scribed.transcript/1", "source": source, "segments": segments, **more})


def test_folder_leads_to_texts_tables_and_corrected_documents(tmp_path: Path) -> None:
    talks = tmp_path / "talks"
    (talks / "deep").mkdir(parents=True)
    for name in ("a.wav", "b.mp3", "deep/c.m4a", "d.wav", "e.wav", "f.wav", "untold.wav"):
        (talks / name).write_bytes(name.encode())
    (talks / "a.ref.txt").write_text("\ufeffone\n", encoding="utf-8")
    (talks / "b.mp3.ref.txt").write_text("two")
    (talks / "deep/c.ref.txt").write_text("three")
    (talks / "all.csv").write_text('file,speaker,text\nd.wav,x,"four, five"\n')
    (talks / "all.tsv").write_text('text\tfile\n"Six" she said\te.wav\n')
    (talks / "other.csv").write_text("day,hours\nmonday,3\n")
    (talks / "f.json").write_text(corrected(b"f.wav", "f.wav", corrected_at="2026-01-01T00:00:00Z"))
    (talks / "own.json").write_text(corrected(b"untold.wav", "untold.wav", corrected_at=None))
    (talks / "broken.json").write_bytes(b"\xff{")
    assert texts(find_references([str(talks)], tmp_path)) == {
        "a.wav": "one\n",
        "b.mp3": "two",
        "c.m4a": "three",
        "d.wav": "four, five",
        "e.wav": '"Six" she said',
        "f.wav": "good morning all",
    }


@pytest.mark.parametrize(
    "table",
    [
        'file;text\r\na.wav;"good; morning"\r\n;\r\n',
        '\ufeffFile, Text\na.wav, "good; morning"\n,,\n',
        "file\tTEXT\tnote\na.wav\tgood; morning\n",
        "file,text,\ra.wav,good; morning,\r",
    ],
)
def test_table_may_come_from_any_spreadsheet(table: str, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"audio")
    (tmp_path / "a.ref.txt").write_text("good;  morning\n")  # the same words
    (tmp_path / "t.CSV").write_bytes(table.encode())
    (found,) = find_references([str(tmp_path)], tmp_path)
    assert found.text.split() == ["good;", "morning"]
    assert {path.name for path in found.sources} == {"a.ref.txt", "t.CSV"}


def test_ending_of_a_text_may_have_any_case(tmp_path: Path) -> None:
    (tmp_path / "A.WAV").write_bytes(b"audio")
    (tmp_path / "A.REF.TXT").write_text("good morning")
    assert texts(find_references([str(tmp_path)], tmp_path)) == {"A.WAV": "good morning"}


def test_link_to_nothing_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "a.wav").symlink_to("gone.wav")
    (tmp_path / "a.ref.txt").write_text("x")
    with pytest.raises(UsageError, match=r"gone\.wav does not exist"):
        find_references([str(tmp_path)], tmp_path)


def test_recording_or_text_or_document_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "talk.wav").write_bytes(b"audio")
    (tmp_path / "talk.ref.txt").write_text("good morning all")
    (tmp_path / "talk.json").write_text(corrected(b"audio", corrected_at="2026-01-01T00:00:00Z"))
    words = [str(tmp_path / name) for name in ("talk.wav", "talk.ref.txt", "talk.json")]
    for some in ([words[0]], [words[1]], [words[2]], words):
        assert texts(find_references(some, tmp_path)) == {"talk.wav": "good morning all"}


def test_audio_of_a_corrected_document_is_found_in_processed(tmp_path: Path) -> None:
    processed = tmp_path / "processed"
    (processed / "court").mkdir(parents=True)
    (processed / "court/talk.wav").write_bytes(b"audio")
    document = tmp_path / "talk.json"
    document.write_text(corrected(b"audio", corrected_at="2026-01-01T00:00:00Z"))
    (found,) = find_references([str(document)], processed)
    assert found.audio == processed / "court/talk.wav"
    (processed / "court/talk.wav").write_bytes(b"another recording of this name")
    with pytest.raises(UsageError, match="is missing"):
        find_references([str(document)], processed)


@pytest.mark.parametrize(
    ("files", "word", "told"),
    [
        ({}, "", "No recording with a reference"),
        ({}, "missing.wav", "does not exist"),
        ({"a.wav": ""}, "a.wav", "has no reference text"),
        ({"a.ref.txt": "x"}, "", "The recording of"),
        ({"a.ref.txt": "x", "a.wav": "", "a.mp3": ""}, "", "may belong to"),
        ({"t.csv": "file,text\na.wav,x\n"}, "", "does not exist"),
        ({"t.csv": "name,words\na.wav,x\n"}, "t.csv", "has no columns"),
        ({"t.csv": "file,text\na.wav\n", "a.wav": ""}, "t.csv", "Line 2 of .* has no file or no text"),
        ({"t.csv": "file,text\n\na.wav,good, morning\n", "a.wav": ""}, "", "Line 3 of .* has more cells"),
        ({"t.tsv": "file\ttext\na.wav\tgood\tmorning\n", "a.wav": ""}, "", "Line 2 of .* has more cells"),
        ({"t.csv": 'file,text\na.wav,x\nb.wav,"y\na.wav,x\n', "a.wav": "", "b.wav": ""}, "", "begins in line 3"),
        ({"t.csv": 'file,text\na.wav,"so" he said\n', "a.wav": ""}, "", "begins in line 2"),
        ({"t.csv": "file,text,Text\na.wav,x,y\n", "a.wav": ""}, "", "two columns `text`"),
        ({"t.csv": f"text,file\na.wav,{'so ' * 200}\n", "a.wav": ""}, "", "does not exist"),
        ({"t.csv": "file,text\n.,x\n"}, "", "is not a file"),
        ({"a.wav": "", "a.ref.txt": "g\0o\0"}, "", "not UTF-8"),
        ({"a.json": "{}"}, "a.json", "not a transcript that a person has corrected"),
        ({"a.wav": "", "a.ref.txt": "x", "a.wav.ref.txt": "y"}, "", "two different"),
    ],
)
def test_wrong_reference_is_refused_with_its_name(files: dict[str, str], word: str, told: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=told) as caught:
        find_references([str(tmp_path / word)], tmp_path)
    assert caught.value.exit_code == 2


@pytest.fixture
def unprivileged_folder() -> Iterator[Path]:
    """Return a folder of a user other than root, whose rights this process has meanwhile."""
    with tempfile.TemporaryDirectory() as name:
        user = os.geteuid() or 65534  # an account without rights
        os.chown(name, user, -1)
        b"".decode("utf-8-sig")  # loads the codec while this process can still read it
        os.seteuid(user)
        try:
            yield Path(name)
        finally:
            os.seteuid(os.getuid())


def test_every_unreadable_file_is_named(unprivileged_folder: Path) -> None:
    for name in ("a", "b", "c"):
        (unprivileged_folder / f"{name}.wav").write_bytes(b"")
        (unprivileged_folder / f"{name}.ref.txt").write_text("x")
    (unprivileged_folder / "closed").mkdir(mode=0)
    (unprivileged_folder / "t.csv").write_text("file,text\nclosed/d.wav,x\nclosed/e.wav,x\n")
    (unprivileged_folder / "a.wav").chmod(0)
    (unprivileged_folder / "b.ref.txt").chmod(0)
    with pytest.raises(NoPermissionError) as caught:
        find_references([str(unprivileged_folder)], unprivileged_folder)
    assert caught.value.exit_code == 77
    assert all(name in caught.value.what for name in ("a.wav", "b.ref.txt", "closed", "d.wav", "e.wav"))
    assert "c.wav" not in caught.value.what


@pytest.mark.timeout(20)
def test_pipes_and_devices_in_a_folder_do_not_hold_an_evaluation_up(tmp_path: Path) -> None:
    (tmp_path / "talk.wav").write_bytes(b"audio")
    (tmp_path / "talk.wav.ref.txt").write_text("good morning")
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    assert texts(find_references([str(tmp_path)], tmp_path)) == {"talk.wav": "good morning"}
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match=r"zero.csv cannot be read: Not a regular file"):
        find_references([str(tmp_path)], tmp_path)
    (tmp_path / "zero.csv").unlink()
    (tmp_path / "talk.wav.ref.txt").unlink()
    os.mkfifo(tmp_path / "talk.wav.ref.txt")
    with pytest.raises(UsageError, match=r"talk.wav.ref.txt cannot be read: Not a regular file"):
        find_references([str(tmp_path)], tmp_path)
