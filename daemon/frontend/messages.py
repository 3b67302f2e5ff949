"""What the daemon and its decoder processes say to each other, and the socket they say it on.

What comes from a decoder is not trusted: a hostile file may have taken it over. So its messages
are JSON that is held against these types, never pickles.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 (pydantic needs the types at run time, here and below)
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from daemon.config import Preprocess  # noqa: TC001
from daemon.segment import Span  # noqa: TC001
from daemon.transcript import Receipt  # noqa: TC001

_LENGTH = struct.Struct(">I")
_MAX_MESSAGE_BYTES = 1 << 26  # the spans of a day of speech take 2 MB
_PIECE_BYTES = 1 << 16
_MAX_DESCRIPTORS = 2


@dataclass(frozen=True, slots=True)
class Order:
    """What a decoder is to prepare; the recording's file and the one for its sound come with it.

    Attributes:
        vad: how speech is found.
        cache: folder of the file for the sound, which a person has to look at when it is full.
    """

    settings: Preprocess
    vad: Literal["silero", "energy", "off"]
    cache: Path
    kind: Literal["order"] = "order"


@dataclass(frozen=True, slots=True)
class Look:
    """Whether the file that comes with it is a recording at all."""

    kind: Literal["look"] = "look"


@dataclass(frozen=True, slots=True)
class Ready:
    """The decoder process has started and given up its rights.

    Attributes:
        missing: protections that the kernel does not give, as plain sentences.
    """

    missing: tuple[str, ...] = ()
    kind: Literal["ready"] = "ready"


@dataclass(frozen=True, slots=True)
class Looked:
    """The answer to `Look`."""

    is_recording: bool
    kind: Literal["looked"] = "looked"


@dataclass(frozen=True, slots=True)
class Done:
    """The sound is in its file."""

    n_samples: Annotated[int, Field(ge=1)]
    gain: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    receipt: Receipt
    speech: tuple[Span, ...]
    kind: Literal["done"] = "done"


@dataclass(frozen=True, slots=True)
class Refused:
    """One of our errors, by the name of its class."""

    error: str
    what: str
    remedy: str
    kind: Literal["refused"] = "refused"


@dataclass(frozen=True, slots=True)
class Broken:
    """The decoder met an error that nobody thought of, and ends."""

    traceback: str
    kind: Literal["broken"] = "broken"


Question = Order | Look
Answer = Ready | Looked | Done | Refused | Broken

_QUESTIONS: TypeAdapter[Question] = TypeAdapter(Annotated[Question, Field(discriminator="kind")])
_ANSWERS: TypeAdapter[Answer] = TypeAdapter(Annotated[Answer, Field(discriminator="kind")])


class Channel:
    """One end of the socket between the daemon and a decoder.

    Args:
        end: a connected stream socket of the family AF_UNIX; it closes with the channel.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._received = bytearray()

    def ask(self, question: Question, *descriptors: int) -> None:
        """Send a question with open files to a decoder.

        Raises:
            OSError: there is no decoder any more.
        """
        message = _framed(_QUESTIONS.dump_json(question))
        n_sent = socket.send_fds(self._socket, [message], descriptors)
        self._socket.sendall(message[n_sent:])

    def answer(self, answer: Answer) -> None:
        """Send an answer to the daemon."""
        self._socket.sendall(_framed(_ANSWERS.dump_json(answer)))

    def next_question(self) -> tuple[Question, list[int]]:
        """Wait for a question; return it with the descriptors of its files.

        Raises:
            EOFError: the daemon is gone.
        """
        descriptors: list[int] = []
        while (message := self._take_message()) is None:
            piece, received, _, _ = socket.recv_fds(self._socket, _PIECE_BYTES, _MAX_DESCRIPTORS)
            if not piece:
                raise EOFError
            descriptors += received
            self._received += piece
        return _QUESTIONS.validate_json(message), descriptors

    def poll(self, timeout_s: float) -> Answer | None:
        """Return an answer, or None when there was no whole one within the time.

        Raises:
            EOFError: the decoder is gone.
            ValueError: it says what no decoder says.
        """
        self._socket.settimeout(timeout_s)
        try:
            piece = self._socket.recv(_PIECE_BYTES)
        except TimeoutError:
            return None
        except ConnectionError as error:
            raise EOFError from error
        if not piece:
            raise EOFError
        self._received += piece
        message = self._take_message()
        return None if message is None else _ANSWERS.validate_json(message, strict=True)

    def close(self) -> None:
        """Close this end; the other sees it."""
        self._socket.close()

    def _take_message(self) -> bytes | None:
        """Return the first whole message of what was received."""
        if len(self._received) < _LENGTH.size:
            return None
        (n_bytes,) = _LENGTH.unpack_from(self._received)
        if n_bytes > _MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of {n_bytes} bytes")
        end = _LENGTH.size + n_bytes
        if len(self._received) < end:
            return None
        message = bytes(self._received[_LENGTH.size : end])
        del self._received[:end]
        return message


def _framed(message: bytes) -> bytes:
    return _LENGTH.pack(len(message)) + message
