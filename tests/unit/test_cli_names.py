"""Which recording a name on the command line means."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.cli.names import choose
from daemon.errors import UsageError

PATHS = ("talk.wav", "court/talk.wav", "court/memo.wav", "court/2026/letter.wav")
ROOTS = (Path("/srv/inbox"), Path("/srv/failed"))


@pytest.mark.parametrize(
    ("word", "path"),
    [
        ("memo.wav", "court/memo.wav"),
        ("letter.wav", "court/2026/letter.wav"),
        ("court/talk.wav", "court/talk.wav"),
        ("./talk.wav", "talk.wav"),
        ("/srv/failed/court/talk.wav", "court/talk.wav"),
        ("/srv/inbox/talk.wav", "talk.wav"),
        ("letter", None),
        ("2026/letter.wav", None),
        ("/elsewhere/talk.wav", None),
        ("", None),
        ("../talk.wav", None),
    ],
)
def test_name_or_path_means_one_recording(word: str, path: str | None) -> None:
    assert choose(word, PATHS, ROOTS) == path


def test_bare_name_in_several_folders_asks_for_the_path() -> None:
    with pytest.raises(UsageError, match=r"2 recordings are called talk\.wav") as refused:
        choose("talk.wav", PATHS, ROOTS)
    assert "court/talk.wav, ./talk.wav" in refused.value.remedy


def test_one_path_that_is_there_twice_is_not_ambiguous() -> None:
    assert choose("memo.wav", [*PATHS, *PATHS], ROOTS) == "court/memo.wav"


def test_long_list_of_choices_is_cut() -> None:
    with pytest.raises(UsageError, match="30 recordings") as refused:
        choose("x.wav", (f"{number}/x.wav" for number in range(30)), ROOTS)
    assert refused.value.remedy.endswith(" and 20 more.")
