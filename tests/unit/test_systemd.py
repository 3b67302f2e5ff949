from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from daemon.host.systemd import JournalSocket, Notifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """What systemd has: a datagram socket, and the address it gives to the service."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@scribed-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.settimeout(5)
        server.bind(address.replace("@", "\0"))
        yield server, address


def receive(listener: socket.socket) -> list[str]:
    return listener.recv(4096).decode().split("\n")


def test_each_message_arrives_as_systemd_reads_it(listener: tuple[socket.socket, str]) -> None:
    server, address = listener
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})
    notifier.extend_timeout(90.5)
    assert receive(server) == ["EXTEND_TIMEOUT_USEC=90500000"]
    notifier.ready()
    assert receive(server) == ["READY=1"]
    notifier.watchdog()
    assert receive(server) == ["WATCHDOG=1"]
    notifier.status("3 waiting")
    assert receive(server) == ["STATUS=3 waiting"]
    notifier.stopping()
    assert receive(server) == ["STOPPING=1"]


def test_reload_says_when_it_began(listener: tuple[socket.socket, str]) -> None:
    server, address = listener
    before_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    Notifier(address).reloading()
    reloading, when = receive(server)
    assert reloading == "RELOADING=1"
    assert before_us <= int(when.removeprefix("MONOTONIC_USEC=")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


@pytest.mark.parametrize("name", ["talk\nSTOPPING=1", "talk\x1b[31m", "talk\udcff.wav"])
def test_name_in_the_status_cannot_add_lines(listener: tuple[socket.socket, str], name: str) -> None:
    server, address = listener
    Notifier(address).status(f"working on {name}")
    (line,) = receive(server)
    assert line.startswith("STATUS=working on talk ")
    assert line.isprintable()


def test_long_status_still_fits_into_a_message(listener: tuple[socket.socket, str]) -> None:
    server, address = listener
    Notifier(address).status("\U0001f600" * 5000)
    message = server.recv(100_000)
    assert message.startswith("STATUS=\U0001f600".encode())
    assert len(message) < 4096


@pytest.mark.parametrize(
    "address", ["", "relative/socket", "vsock:2:1234", "/nowhere/at/all", "/" + "x" * 500, "/a\0b"]
)
def test_without_a_listener_nothing_happens(address: str) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address} if address else {})
    notifier.ready()
    notifier.watchdog()
    assert notifier.watchdog_interval_s is None


def test_watchdog_is_fed_twice_as_often_as_it_asks() -> None:
    ours = {"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}
    assert Notifier.from_environment(ours).watchdog_interval_s == 30
    assert Notifier.from_environment({"WATCHDOG_USEC": "500000"}).watchdog_interval_s == 0.25


@pytest.mark.parametrize(
    "environ",
    [
        {"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid() + 1)},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "-5"},
    ],
)
def test_watchdog_of_another_process_or_with_an_invalid_value_is_ignored(environ: dict[str, str]) -> None:
    assert Notifier.from_environment(environ).watchdog_interval_s is None


def test_entry_arrives_as_journald_reads_it(listener: tuple[socket.socket, str]) -> None:
    server, address = listener
    journal = JournalSocket(address.replace("@", "\0"))
    assert journal.send({"MESSAGE": "one\ntwo", "PRIORITY": "6", "SCRIBED_NAME": "Müller"})
    journal.close()
    length = (7).to_bytes(8, "little")
    assert server.recv(4096) == b"MESSAGE\n" + length + b"one\ntwo\nPRIORITY=6\nSCRIBED_NAME=M\xc3\xbcller\n"


def test_send_returns_false_for_an_entry_that_does_not_arrive(listener: tuple[socket.socket, str]) -> None:
    journal = JournalSocket(listener[1].replace("@", "\0"))
    assert not journal.send({"MESSAGE": "x" * 10_000_000})
    journal.close()
    nobody = JournalSocket("/nowhere/at/all")
    assert not nobody.send({"MESSAGE": "x"})
    nobody.close()
