"""Running daemons for the integration tests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.conftest import SAMPLES
from tests.integration.instance import Instance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def make_instance(tmp_path: Path) -> Iterator[Callable[..., Instance]]:
    """Return a maker of instances; whatever still runs is killed at the end."""
    made: list[Instance] = []

    def make(name: str = "scribed", **settings: dict[str, object]) -> Instance:
        instance = Instance(tmp_path / name, settings)
        made.append(instance)
        return instance

    yield make
    for instance in made:
        if instance.is_running():
            instance.stop(9)


@pytest.fixture(scope="session")
def references() -> dict[str, str]:
    """Return the known words of the sample recordings."""
    known: dict[str, str] = json.loads((SAMPLES / "references.json").read_text())
    return known
