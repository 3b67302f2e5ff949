"""The box with scribed installed, booted once for all tests; they are skipped where it cannot boot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import media
from tests.conftest import SAMPLES
from tests.system.box import Box, missing
from tests.system.unit import Unit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def box() -> Iterator[Box]:
    """Boot systemd, install scribed as an administrator does, and add the users of an office."""
    if reason := missing():
        pytest.skip(f"no systemd can be booted here: {reason}")
    booted = Box.boot()
    try:
        booted.install()
        for name, groups in (("dora", "scribed"), ("rita", "scribed"), ("stranger", "")):
            booted.do("useradd", "--create-home", "--groups", groups, name)
        yield booted
    finally:
        booted.close()


@pytest.fixture(scope="session")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recording of 20 minutes: each step of its work takes seconds on any machine."""
    target = tmp_path_factory.mktemp("long") / "long.flac"
    media.sox(*[SAMPLES / "meeting.flac"] * 12, target)
    return target


@pytest.fixture
def unit(box: Box) -> Iterator[Unit]:
    """Return the service as freshly installed, with the demo model; not started."""
    service = Unit(box)
    service.reset()
    yield service
    service.stop()


@pytest.fixture
def running(box: Box) -> Unit:
    """Return the running service; earlier tests may have used it."""
    service = Unit(box)
    if not service.is_pristine():
        service.reset()
        service.start()
    return service
