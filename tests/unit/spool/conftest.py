from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.spool.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def fast() -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of crashes need thousands of syncs."""
    memory = Path("/dev/shm")  # noqa: S108  # a file system in memory is what is wanted
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, as pytest's own cannot be."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()
