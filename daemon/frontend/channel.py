"""Messages with open files between two processes, over a socket.

The other end is not trusted: a hostile recording may have taken it over. So messages are JSON that is validated
against their types, never pickles.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from daemon.decode import MAX_STREAMS

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_LENGTH: Final = struct.Struct(">I")
_MAX_MESSAGE_BYTES: Final = 1 << 26  # the speech spans of a day take 2 MB for each stream
_BLOCK_BYTES: Final = 1 << 16
_MAX_DESCRIPTORS: Final = 1 + MAX_STREAMS  # a recording, and files for its streams

Sent = TypeVar("Sent")
Received = TypeVar("Received")


class Channel(Generic[Sent, Received]):
    """One end of a connection; each message is its length in 4 bytes and then JSON.

    Args:
        end: a connected stream socket of the family AF_UNIX; it closes with the channel.
        sent: the types that this end sends.
        received: the types that it receives.
    """

    def __init__(self, end: socket.socket, sent: TypeAdapter[Sent], received: TypeAdapter[Received]) -> None:
        self._socket = end
        self._sent_types = sent
        self._received_types = received
        self._buffer = bytearray()

    def send(self, message: Sent, *descriptors: int) -> None:
        """Send a message with open files.

        Raises:
            OSError: the other end is closed.
        """
        content = self._sent_types.dump_json(message)
        framed = _LENGTH.pack(len(content)) + content
        n_sent = socket.send_fds(self._socket, [framed], descriptors) if descriptors else 0
        self._socket.sendall(framed[n_sent:])

    def receive(self) -> tuple[Received, list[int]]:
        """Wait for a message; return it with the descriptors of its files.

        Raises:
            EOFError: the other end is closed.
            ValueError: the message has none of the types.
        """
        descriptors: list[int] = []
        while (content := self._take_message()) is None:
            block, received, _, _ = socket.recv_fds(self._socket, _BLOCK_BYTES, _MAX_DESCRIPTORS)
            if not block:
                raise EOFError
            descriptors += received
            self._buffer += block
        return self._parse(content), descriptors

    def poll(self, timeout_s: float) -> Received | None:
        """Return a message, or None if no whole one arrives in time; files that come with it are dropped.

        Raises:
            EOFError: the other end is closed.
            ValueError: the message has none of the types.
        """
        if (content := self._take_message()) is not None:  # it came with the one before
            return self._parse(content)
        self._socket.settimeout(timeout_s)
        try:
            block = self._socket.recv(_BLOCK_BYTES)
        except TimeoutError:
            return None
        except ConnectionError as error:
            raise EOFError from error
        if not block:
            raise EOFError
        self._buffer += block
        content = self._take_message()
        return None if content is None else self._parse(content)

    def close(self) -> None:
        """Close this end; the other end gets EOFError."""
        self._socket.close()

    def _parse(self, content: bytes) -> Received:
        return self._received_types.validate_json(content, strict=True)

    def _take_message(self) -> bytes | None:
        """Return the first complete message in the buffer."""
        if len(self._buffer) < _LENGTH.size:
            return None
        (n_bytes,) = _LENGTH.unpack_from(self._buffer)
        if n_bytes > _MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of {n_bytes} bytes")
        end = _LENGTH.size + n_bytes
        if len(self._buffer) < end:
            return None
        content = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return content
