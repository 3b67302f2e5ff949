"""Configuration files for tests."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from daemon import config
from daemon.config import Config
from daemon.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from pathlib import Path

KEYS = {section: list(getattr(Config(), section).model_dump()) for section in Config.model_fields}
FAULT = re.compile(r"  .+?( \(line \d+\))?: .+?; .+")


def write(folder: Path, text: str | bytes, name: str = "config.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load_text(folder: Path, text: str | bytes) -> Config:
    return config.load(write(folder, text))


def faults_of(folder: Path, text: str | bytes) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_text(folder, text)
    assert caught.value.exit_code == ExitCode.BAD_CONFIG
    assert all(FAULT.fullmatch(line) for line in str(caught.value).splitlines()[1:]), str(caught.value)
    return caught.value.faults
