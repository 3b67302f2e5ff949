"""Running daemons for the integration tests."""

from __future__ import annotations

import json
import socket
import threading
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


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Take systemd's place; every line it receives, in order."""
    lines: list[str] = []
    address = str(tmp_path / "notify")
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(address)

    def listen() -> None:
        while message := server.recv(4096):
            lines.extend(message.decode().split("\n"))

    listener = threading.Thread(target=listen)
    listener.start()
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    yield lines
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ending:
        ending.sendto(b"", address)
    listener.join()
    server.close()
