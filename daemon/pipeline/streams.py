"""Several streams of one recording, its tracks and channels, to one transcript."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from daemon.pipeline.assembly import assemble, measure_coverage
from daemon.pipeline.crosstalk import keep_once
from daemon.pipeline.work import Progress
from daemon.transcript import Coverage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from daemon.frontend import AudioStream
    from daemon.pipeline.recognition import ChunkResult, SpeechMap
    from daemon.transcript import Receipt, Segment


@dataclass(frozen=True, slots=True)
class HeardStream:
    """One stream with the texts of its chunks."""

    stream: AudioStream
    speech: SpeechMap
    results: Sequence[ChunkResult]


def stream_key(key: str, stream: AudioStream) -> str:
    """Return the key under which the texts of one stream are kept; chunks of several may have the same times."""
    if stream.track is None and stream.channel is None:
        return key
    return hashlib.sha256(f"{key} track {stream.track} channel {stream.channel}".encode()).hexdigest()


def report_shares(
    report: Callable[[Progress], None], streams: Sequence[AudioStream], at: int
) -> Callable[[Progress], None]:
    """Return what reports the progress within one stream as that of the whole recording."""
    speech = [sum(span.stop - span.start for span in stream.speech) for stream in streams]
    total = sum(speech)
    before, share = (sum(speech[:at]) / total, speech[at] / total) if total else (0.0, 1.0)
    audio_s = max(stream.waveform.duration_s for stream in streams)
    return lambda progress: report(Progress(before + share * progress.done, audio_s))


def assemble_streams(heard: Sequence[HeardStream]) -> tuple[Segment, ...]:
    """Return the text of all streams in the order of time; what was heard in several is there once."""
    segments = [_name_stream(assemble(part.results, part.speech), part.stream) for part in heard]
    if len(heard) > 1:
        segments = keep_once(segments, [part.stream.waveform for part in heard])
    return tuple(sorted((each for part in segments for each in part), key=lambda each: (each.start_s, each.end_s)))


def _name_stream(segments: tuple[Segment, ...], stream: AudioStream) -> tuple[Segment, ...]:
    if stream.track is None and stream.channel is None:
        return segments
    return tuple(replace(segment, track=stream.track, channel=stream.channel) for segment in segments)


def measure_streams(receipt: Receipt, heard: Sequence[HeardStream]) -> Coverage:
    """Return how much of the speech of all streams together has text."""
    parts = [measure_coverage(receipt, part.speech, part.results) for part in heard]
    return Coverage(
        audio_s=receipt.duration_s,
        speech_s=sum(part.speech_s for part in parts),
        transcribed_s=sum(part.transcribed_s for part in parts),
        gaps=tuple(sorted((gap for part in parts for gap in part.gaps), key=lambda gap: (gap.start_s, gap.end_s))),
    )
