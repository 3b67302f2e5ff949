from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from daemon.evaluation import ChunkFiles
from daemon.journal.records import ChunkText

if TYPE_CHECKING:
    from pathlib import Path

SAID = ChunkText("hällo", "German", is_finished=True)


def test_texts_survive_the_process_and_are_for_their_owner_only(tmp_path: Path) -> None:
    ChunkFiles(tmp_path).remember("key", (0, 16_000), SAID)
    (path,) = (tmp_path / "eval").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    again = ChunkFiles(tmp_path)
    assert again.recall("key") == {(0, 16_000): SAID}
    assert again.recall("other") == {}
    again.erase()
    assert list((tmp_path / "eval").iterdir()) == []


def test_line_cut_short_by_a_kill_costs_only_itself(tmp_path: Path) -> None:
    texts = ChunkFiles(tmp_path)
    texts.remember("key", (0, 1), SAID)
    (path,) = (tmp_path / "eval").iterdir()
    with path.open("ab") as stream:
        stream.write(b'\n[1, 2, {"text": "h')
    texts.remember("key", (2, 3), SAID)
    assert ChunkFiles(tmp_path).recall("key") == {(0, 1): SAID, (2, 3): SAID}


def test_erase_leaves_the_texts_of_other_evaluations_until_they_are_a_week_old(tmp_path: Path) -> None:
    other = ChunkFiles(tmp_path)
    other.remember("other", (0, 1), SAID)
    mine = ChunkFiles(tmp_path)
    mine.remember("mine", (0, 1), SAID)
    mine.erase()
    (path,) = (tmp_path / "eval").iterdir()
    assert ChunkFiles(tmp_path).recall("other") == {(0, 1): SAID}
    os.utime(path, (0, 0))
    assert ChunkFiles(tmp_path).recall("other") == {}
