"""Where `scribed transcribe` keeps what it compiles, and sound while it works on it."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from daemon.cli import transcribe as single
from daemon.config import Config, Folders

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def config(tmp_path: Path) -> Config:
    folders = {name: tmp_path / name for name in Folders.model_fields}
    return Config(folders=Folders(**folders))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / ".cache"))
    return tmp_path / "home"


def test_the_owner_of_the_cache_uses_it(config: Config) -> None:
    config.folders.cache.mkdir()
    assert single._with_usable_cache(config) == config


def test_nobody_else_leaves_files_there_that_the_service_could_not_write(
    config: Config, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = os.geteuid()
    config.folders.cache.mkdir(mode=0o777)
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    cache = single._with_usable_cache(config).folders.cache
    assert cache != config.folders.cache
    assert home not in cache.parents, "that folder is not the caller's own either"
    assert list(config.folders.cache.iterdir()) == []
    cache.rmdir()


def test_without_the_service_there_is_a_cache_of_ones_own(config: Config, home: Path) -> None:
    cache = single._with_usable_cache(config).folders.cache
    assert cache == home / ".cache" / "scribed"
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert single._with_usable_cache(config).folders.cache == cache
