"""What scribed reports to systemd without libsystemd: the service's state, and log entries with fields.

https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

# systemd drops a message of more than 4096 bytes; a character takes up to four.
_MAX_STATUS_CHARS: Final = 500
# For its queue to have room again; a service that hangs here would fail its watchdog.
_SEND_TIMEOUT_S: Final = 1.0
JOURNAL_SOCKET: Final = "/run/systemd/journal/socket"


class Notifier:
    """Sends the service's state to systemd; does nothing if systemd is not listening, and never raises.

    Args:
        address: path of systemd's socket, "@" before an abstract one; "" where there is none.
        watchdog_interval_s: see the attribute.

    Attributes:
        watchdog_interval_s: how often `watchdog` is to be called, half of what systemd allows;
            None where no watchdog waits for this process.
    """

    def __init__(self, address: str = "", watchdog_interval_s: float | None = None) -> None:
        self.watchdog_interval_s = watchdog_interval_s
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Notifier:
        """Return the notifier that $NOTIFY_SOCKET, $WATCHDOG_USEC and $WATCHDOG_PID ask for."""
        limit_us = environ.get("WATCHDOG_USEC", "")
        # A child inherits the variables, but the watchdog waits for its parent.
        is_ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        has_watchdog = is_ours and limit_us.isdecimal() and int(limit_us) > 0
        return cls(environ.get("NOTIFY_SOCKET", ""), int(limit_us) / 2e6 if has_watchdog else None)

    @property
    def is_heard(self) -> bool:
        """Whether a service manager listens, which starts and restarts the service."""
        return self._address.startswith(("/", "\0"))

    def ready(self) -> None:
        """Say that the start, or a reload, is done."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send(_status_line(text))

    def reloading(self) -> None:
        """Say that the configuration is being read again; `ready` ends it."""
        # Lets systemd match the answer to its reload (Type=notify-reload).
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now_us}")

    def stopping(self) -> None:
        """Say that the service is shutting down."""
        self._send("STOPPING=1")

    def extend_timeout(self, seconds: float) -> None:
        """Ask for this much more time, from now, for the start or stop that is under way."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def watchdog(self) -> None:
        """Say that the service is alive."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self.is_heard:
            return
        message = "\n".join(lines).encode()
        # ValueError: a path that no socket can have. A failed message must not stop the service.
        with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(_SEND_TIMEOUT_S)
            sender.sendto(message, self._address)


class JournalSocket:
    """Sends entries to journald that can be selected by their fields; never raises.

    Args:
        address: path of journald's socket.
    """

    def __init__(self, address: str = JOURNAL_SOCKET) -> None:
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(_SEND_TIMEOUT_S)

    def send(self, fields: Mapping[str, str]) -> bool:
        """Send one entry; False if the journal is not listening or the entry is too long.

        Args:
            fields: values by names that journald allows: capitals, digits and underscores.
        """
        try:
            self._socket.sendto(b"".join(_field(name, value) for name, value in fields.items()), self._address)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _field(name: str, value: str) -> bytes:
    """Return a field as journald reads it; a value of several lines has its length before it."""
    text = value.encode()
    if b"\n" in text:
        return b"%s\n%s%s\n" % (name.encode(), len(text).to_bytes(8, "little"), text)
    return b"%s=%s\n" % (name.encode(), text)


def _status_line(text: str) -> str:
    """Return the text as one field; a line break in it would begin another one."""
    shown = "".join(char if char.isprintable() else " " for char in text)
    return f"STATUS={shown[:_MAX_STATUS_CHARS]}"
