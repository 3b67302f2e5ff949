"""Which cache the commands use: it holds compiled kernels, and audio during the work."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from daemon.cli import command
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


def test_owner_of_the_configured_cache_uses_it(config: Config) -> None:
    config.folders.cache.mkdir()
    assert command.with_usable_cache(config) == config


def test_other_users_get_a_cache_of_their_own(config: Config, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.geteuid()
    config.folders.cache.mkdir(mode=0o777)
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    cache = command.with_usable_cache(config).folders.cache
    assert cache != config.folders.cache
    assert home not in cache.parents, "that folder is not the caller's own either"
    assert list(config.folders.cache.iterdir()) == []
    cache.rmdir()


def test_missing_cache_is_replaced_by_a_private_one_in_the_home_folder(config: Config, home: Path) -> None:
    cache = command.with_usable_cache(config).folders.cache
    assert cache == home / ".cache" / "scribed"
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert command.with_usable_cache(config).folders.cache == cache
