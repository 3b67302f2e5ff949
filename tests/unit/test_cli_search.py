"""Who may use `scribed search`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from daemon.cli.search import search
from daemon.errors import ExitCode, NoPermissionError
from daemon.search import SearchIndex
from tests.configs import write

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_search_is_refused_to_other_users(tmp_path: Path, mode: int) -> None:
    state = tmp_path / "state"
    state.mkdir()
    SearchIndex(state, is_made=True).close()
    config = write(tmp_path, f"folders: {{state: {state}}}\n")
    opened = [folder for folder in (tmp_path, *tmp_path.parents) if folder.stat().st_mode & 0o077 == 0]
    for folder in opened:
        folder.chmod(0o711)
    config.chmod(0o644)
    state.chmod(mode)
    search(["budget"], config, n_lines=10, is_rebuilt=False)  # loads what another user may not be able to read
    os.seteuid(65534)
    try:
        with pytest.raises(NoPermissionError) as caught:
            search(["budget"], config, n_lines=10, is_rebuilt=False)
    finally:
        os.seteuid(0)
        for folder in opened:
            folder.chmod(0o700)
    assert caught.value.exit_code == ExitCode.NO_PERMISSION
    assert "Run this as root, or as the service's user" in str(caught.value)


def test_owner_of_the_state_folder_may_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    state.mkdir()
    SearchIndex(state, is_made=True).close()
    config = write(tmp_path, f"folders: {{state: {state}}}\n")
    assert search(["budget"], config, n_lines=10, is_rebuilt=False) == ExitCode.OK
    assert capsys.readouterr().err == "scribed: Nothing found.\n"
