"""What is missing to compile kernels is named."""

from __future__ import annotations

import sysconfig
from typing import TYPE_CHECKING

from daemon.host.compiler import find_missing

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_compiler_and_headers_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    assert find_missing() == ["C compiler", "headers of Python"]
    (tmp_path / "Python.h").touch()
    assert find_missing() == ["C compiler"]
    (tmp_path / "gcc").touch(mode=0o755)
    assert find_missing() == []


def test_another_compiler_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", "cc-12")
    (tmp_path / "cc-12").touch(mode=0o755)
    assert "C compiler" not in find_missing()
