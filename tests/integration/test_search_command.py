"""`scribed search`, with a daemon that keeps the index."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from tests.conftest import SAMPLES

if TYPE_CHECKING:
    from tests.integration.test_daemon import MakeInstance


def test_delivered_words_are_found_until_they_are_forgotten_or_deleted(make_instance: MakeInstance) -> None:
    instance = make_instance(search={"enabled": True})
    instance.drop(SAMPLES / "memo.wav", "office/memo.wav")
    instance.drop(SAMPLES / "memo.wav", "other.wav")
    assert instance.run("once").returncode == 0
    text = instance.document("other")["segments"][0]["text"]
    found = instance.run("search", text.split()[0])
    lines = found.stdout.splitlines()
    assert {tuple(line.split("\t")) for line in lines} >= {
        (str(instance.folder("outbox") / f"{stem}.txt"), "00:00:00", text) for stem in ("office/memo", "other")
    }
    assert stat.S_IMODE((instance.folder("state") / "search.sqlite3").stat().st_mode) == 0o600
    assert instance.run("forget", "other.wav").returncode == 0
    assert "other.txt" not in instance.run("search", text.split()[0]).stdout
    for ending in ("txt", "json"):
        (instance.folder("outbox") / f"office/memo.{ending}").unlink()
    rebuilt = instance.run("search", "--rebuild")
    assert rebuilt.stdout == "1 transcript(s) indexed.\n"  # that of other.wav, whose documents stay
    assert "office" not in instance.run("search", text.split()[0]).stdout


def test_search_without_an_index_or_a_word_says_what_to_do(make_instance: MakeInstance) -> None:
    instance = make_instance()
    none = instance.run("search", "budget")
    assert none.returncode == 1
    assert "Set search.enabled: true" in none.stderr
    assert instance.run("search").returncode == 2
    assert instance.run("search", "--rebuild").returncode == 2
