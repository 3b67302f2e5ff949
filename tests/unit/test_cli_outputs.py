"""What commands write: never over a file unasked, never over their input, and nothing a terminal would obey."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from daemon.cli import outputs
from daemon.errors import CannotWriteError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "talk.wav"
    path.write_bytes(b"the only copy")
    (tmp_path / "hard link.wav").hardlink_to(path)
    (tmp_path / "link.wav").symlink_to("talk.wav")
    (tmp_path / "folder").symlink_to(tmp_path)
    return path


@pytest.mark.parametrize(
    "spelling", ["talk.wav", "hard link.wav", "link.wav", "folder/talk.wav", "folder/folder/talk.wav"]
)
@pytest.mark.parametrize("is_forced", [False, True])
def test_recording_is_never_overwritten_under_any_of_its_names(
    spelling: str, recording: Path, *, is_forced: bool
) -> None:
    with pytest.raises(CannotWriteError, match="input itself"):
        outputs.refuse_taken([recording.parent / spelling], [recording.stat()], is_forced=is_forced)


def test_existing_file_is_refused_without_force(recording: Path, tmp_path: Path) -> None:
    (tmp_path / "out.txt").touch()
    (tmp_path / "link to nothing").symlink_to("nothing")
    for name in ("out.txt", "link to nothing"):
        with pytest.raises(CannotWriteError, match="already exists") as refused:
            outputs.refuse_taken([tmp_path / "new.txt", tmp_path / name], [recording.stat()], is_forced=False)
        assert "--force" in refused.value.remedy
        outputs.refuse_taken([tmp_path / name], [recording.stat()], is_forced=True)


def test_folder_is_never_overwritten(tmp_path: Path) -> None:
    with pytest.raises(CannotWriteError, match="is not a file"):
        outputs.refuse_taken([tmp_path], [], is_forced=True)


def test_file_that_appears_during_the_work_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    outputs.refuse_taken([target], [], is_forced=False)
    target.write_text("another writer was faster")
    with pytest.raises(CannotWriteError, match="already exists"):
        outputs.write_file(target, b"text", is_forced=False)
    assert target.read_text() == "another writer was faster"
    assert os.listdir(tmp_path) == ["out.txt"]  # noqa: PTH208  # hidden files count too


def test_forced_write_replaces_a_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("not ours")
    (tmp_path / "out.txt").symlink_to("elsewhere")
    outputs.write_file(tmp_path / "out.txt", b"text", is_forced=True)
    assert (tmp_path / "out.txt").read_text() == "text"
    assert not (tmp_path / "out.txt").is_symlink()
    assert (tmp_path / "elsewhere").read_text() == "not ours"


def test_written_file_has_the_mode_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        outputs.write_file(tmp_path / "out.txt", b"text", is_forced=False)
    finally:
        os.umask(before)
    assert (tmp_path / "out.txt").stat().st_mode & 0o7777 == 0o640


def test_printed_json_has_no_character_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name": "a\x1b[31m\x9b2J\u202egpj\n\x7f.wav", "plain": 'Gespräch 会议 \\ "'}
    outputs.print_json(value)
    printed = capsys.readouterr().out
    assert json.loads(printed) == value
    assert not any(char in printed for char in "\x1b\x9b\u202e\x7f")
    assert "Gespräch 会议" in printed
