"""How the words of the command line are read. tests/integration/test_commands.py has the commands at work."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.cli.main import _read


def test_names_and_options_come_in_any_order() -> None:
    _, words = _read(["transcribe", "one.wav", "-o", "out", "two.wav", "--config", "c.yaml", "--", "-three.wav"])
    assert words.recordings == ["one.wav", "two.wav", "-three.wav"]
    assert (words.outbox, words.config) == (Path("out"), Path("c.yaml"))


@pytest.mark.parametrize("words", [[], ["dance"], ["status", "now"], ["cancel"], ["--config", "c.yaml"]])
def test_words_that_make_no_sense_end_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _read(words)
    assert ended.value.code == 2
    assert "usage: scribed" in capsys.readouterr().err
