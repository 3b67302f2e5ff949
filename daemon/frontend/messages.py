"""What the daemon and its audio processes send to each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path  # noqa: TC003  # pydantic needs the type at run time
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from daemon.config import Preprocess  # noqa: TC001  # pydantic needs the type at run time
from daemon.frontend.channel import Channel
from daemon.segment import Span  # noqa: TC001  # pydantic needs the type at run time
from daemon.transcript import Receipt  # noqa: TC001  # pydantic needs the type at run time

if TYPE_CHECKING:
    import socket


@dataclass(frozen=True, slots=True)
class Prepare:
    """Request: decode and clean a recording, and find the speech in it.

    With it come descriptors: the recording, and empty files that take the audio of its streams.

    Attributes:
        vad: how speech is found.
        cache: folder of the files for the audio, to be named when its disk is full.
        tracks: the setting `transcribe.tracks`.
        channels: the setting `transcribe.channels`.
    """

    settings: Preprocess
    vad: Literal["silero", "energy", "off"]
    cache: Path
    tracks: Literal["auto", "all"] | int = "auto"
    channels: Literal["auto", "mix", "split"] = "auto"
    kind: Literal["prepare"] = "prepare"


@dataclass(frozen=True, slots=True)
class Probe:
    """Request: is the file whose descriptor comes with it a recording at all?"""

    kind: Literal["probe"] = "probe"


@dataclass(frozen=True, slots=True)
class MeasureRoom:
    """Request: how much room does the audio of the recording take whose descriptor comes with it?

    Attributes:
        tracks: the setting `transcribe.tracks`.
        channels: the setting `transcribe.channels`.
        limit_s: the longest recording that is decoded.
    """

    tracks: Literal["auto", "all"] | int
    channels: Literal["auto", "mix", "split"]
    limit_s: float
    kind: Literal["measure room"] = "measure room"


@dataclass(frozen=True, slots=True)
class StoredAudio:
    """Cleaned audio in a file, at 16 kHz before the gain is applied; see `daemon.decode.packing`."""

    n_samples: Annotated[int, Field(ge=1)]
    gain: Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Encode:
    """Request: write cleaned audio in a format that browsers play.

    With it come descriptors: an empty file that takes the result, and one file for each of `parts`.

    Attributes:
        form: "mp3", "m4a" or "opus".
        title, date: the tags.
        cache: folder of the file for the result, to be named when its disk is full.
        start, stop: samples.
    """

    parts: tuple[StoredAudio, ...]
    form: Literal["mp3", "m4a", "opus"]
    title: str
    date: str
    cache: Path
    start: int
    stop: int
    kind: Literal["encode"] = "encode"


@dataclass(frozen=True, slots=True)
class Ready:
    """The process has started and given up its rights.

    Attributes:
        missing: protections that the kernel does not offer, as sentences.
    """

    missing: tuple[str, ...] = ()
    kind: Literal["ready"] = "ready"


@dataclass(frozen=True, slots=True)
class Decoding:
    """Sent now and then before the response to `Prepare`: how much audio was decoded so far, in all streams."""

    audio_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    kind: Literal["decoding"] = "decoding"


@dataclass(frozen=True, slots=True)
class Probed:
    """Response to `Probe`."""

    is_recording: bool
    kind: Literal["probed"] = "probed"


@dataclass(frozen=True, slots=True)
class RoomMeasured:
    """Response to `MeasureRoom`: the bytes, None where the recording will not be decoded."""

    n_bytes: Annotated[int, Field(ge=0)] | None
    kind: Literal["room measured"] = "room measured"


@dataclass(frozen=True, slots=True)
class StreamReady:
    """One track or channel: its audio is in a file, at 16 kHz before the gain is applied.

    Attributes:
        file: which of the files that came with the request, from 0.
        pieces: the samples (start, stop) that were recorded, in order.
        track: from 1; None where the recording has one.
        channel: from 1; None where the channels were mixed.
        echoes: where only echoes of other streams are heard.
    """

    file: Annotated[int, Field(ge=0)]
    n_samples: Annotated[int, Field(ge=1)]
    gain: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    pieces: tuple[tuple[int, int], ...]
    speech: tuple[Span, ...]
    track: Annotated[int, Field(ge=1)] | None = None
    channel: Annotated[int, Field(ge=1)] | None = None
    echoes: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class AudioReady:
    """Response to `Prepare`."""

    streams: Annotated[tuple[StreamReady, ...], Field(min_length=1)]
    receipt: Receipt
    kind: Literal["audio"] = "audio"


@dataclass(frozen=True, slots=True)
class Encoded:
    """Response to `Encode`: the result is in its file."""

    kind: Literal["encoded"] = "encoded"


@dataclass(frozen=True, slots=True)
class AudioFailed:
    """Response: one of our errors, by the name of its class."""

    error: str
    what: str
    remedy: str
    kind: Literal["failed"] = "failed"


@dataclass(frozen=True, slots=True)
class Bug:
    """Response: an error in our own code; the process exits after it."""

    traceback: str
    kind: Literal["bug"] = "bug"


Request: TypeAlias = Prepare | Probe | MeasureRoom | Encode
Response: TypeAlias = Ready | Decoding | Probed | RoomMeasured | AudioReady | Encoded | AudioFailed | Bug
DaemonEnd: TypeAlias = Channel[Request, Response]
ProcessEnd: TypeAlias = Channel[Response, Request]

_REQUESTS: Final[TypeAdapter[Request]] = TypeAdapter(Annotated[Request, Field(discriminator="kind")])
_RESPONSES: Final[TypeAdapter[Response]] = TypeAdapter(Annotated[Response, Field(discriminator="kind")])


def daemon_end(end: socket.socket) -> DaemonEnd:
    """Return the daemon's end of a connection to an audio process."""
    return Channel(end, _REQUESTS, _RESPONSES)


def process_end(end: socket.socket) -> ProcessEnd:
    """Return the audio process's end."""
    return Channel(end, _RESPONSES, _REQUESTS)
