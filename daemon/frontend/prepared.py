"""What the front end returns for a recording, and whether a decoder's answer agrees with the audio it sent."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from daemon.decode import MixedWaveform, Waveform, stored_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from daemon.frontend.messages import AudioReady, StreamReady
    from daemon.segment import Span
    from daemon.transcript import Receipt


@dataclass(frozen=True, slots=True)
class AudioStream:
    """One track or channel of a recording, or the mix of its channels.

    Attributes:
        waveform: mono audio at 16 kHz; its time 0 is that of the recording.
        speech: spans of speech, in samples of the waveform, in order and without overlaps.
        track: from 1; None where the recording has one.
        channel: from 1; None where the channels were mixed.
        echoes: where only echoes of other streams are heard; the model hears them lowered.
    """

    waveform: Waveform
    speech: tuple[Span, ...]
    track: int | None = None
    channel: int | None = None
    echoes: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A recording as the model hears it; leaving the context closes its audio.

    Attributes:
        streams: one, or several where tracks or channels are transcribed by themselves.
        receipt: what was found and done.
    """

    streams: tuple[AudioStream, ...]
    receipt: Receipt

    @property
    def waveform(self) -> Waveform | MixedWaveform:
        """The audio as a person listens to it: the stream, or all of them together."""
        waveforms = [stream.waveform for stream in self.streams]
        return waveforms[0] if len(waveforms) == 1 else MixedWaveform(waveforms)

    def close(self) -> None:
        """Close the audio, which frees its disk space."""
        for stream in self.streams:
            stream.waveform.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the audio."""
        self.close()


def fits(response: AudioReady, descriptors: Sequence[int]) -> bool:
    """Return whether a response agrees with the audio in the files."""
    used = {stream.file for stream in response.streams}
    return len(used) == len(response.streams) and all(_stream_fits(stream, descriptors) for stream in response.streams)


def _stream_fits(stream: StreamReady, descriptors: Sequence[int]) -> bool:
    in_order = (
        [edge for span in stream.speech for edge in (span.start, span.stop)],
        [edge for span in stream.echoes for edge in (span.start, span.stop)],
        [edge for piece in stream.pieces for edge in piece],
    )
    return (
        all(_are_within(edges, stream.n_samples) for edges in in_order)
        and stream.file < len(descriptors)
        and os.fstat(descriptors[stream.file]).st_size == stored_bytes(stream.n_samples)
    )


def _are_within(edges: Sequence[int], n_samples: int) -> bool:
    return list(edges) == sorted(edges) and (not edges or (edges[0] >= 0 and edges[-1] <= n_samples))


def open_stream(stream: StreamReady, descriptors: Sequence[int]) -> AudioStream:
    """Return a stream of a response that `fits`; its audio has a descriptor of its own."""
    file = io.FileIO(os.dup(descriptors[stream.file]))
    waveform = Waveform(file, stream.n_samples, stream.gain, stream.pieces)
    return AudioStream(waveform, stream.speech, stream.track, stream.channel, stream.echoes)
