"""The straight line of one recording: sound, speech, chunks, texts, transcript.

No queue, no signal, no folder protocol: a path goes in, a transcript comes out.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from bisect import bisect_left
from collections import deque
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from daemon.decode import SAMPLE_RATE_HZ
from daemon.engine import SLOT_S, ChunkRequest
from daemon.host import files
from daemon.host.clock import now
from daemon.journal.records import ChunkText
from daemon.pipeline.guards import Verdict, is_echo, judge, settle_echo
from daemon.segment import cut, split
from daemon.transcript import Coverage, Gap, Processing, Segment, Source, Transcript, merge_overlap

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from daemon.config import Config, RecordingSettings
    from daemon.decode import Waveform
    from daemon.engine import ChunkResponse, Engine
    from daemon.frontend import FrontEnd
    from daemon.segment import Chunk, Span
    from daemon.transcript import Receipt

# How often a chunk whose text cannot be trusted is cut smaller: 30 s, 15 s, 7.5 s.
_MAX_SPLITS = 2
_CHECK_S = 0.25
# Sound that waits behind what the slots hold, for each recording in work: 64 kB a second, so 64 MB.
_MAX_WAITING_S = 1000.0
_NO_TRUSTED_TEXT = "the model came to no end here that can be trusted, even on smaller pieces"


class ChunkMemory(Protocol):
    """Where the texts of finished chunks outlive the process."""

    def recall(self, plan: str) -> Mapping[tuple[int, int], ChunkText]:
        """Return texts by (start, stop) in samples which were made by the same plan."""

    def remember(self, plan: str, span: tuple[int, int], said: ChunkText) -> None:
        """Keep the text of one chunk."""


class Forgetful:
    """The memory of work that is not resumed, such as that of `scribed transcribe`."""

    def recall(self, plan: str) -> Mapping[tuple[int, int], ChunkText]:
        """Return nothing."""
        del plan
        return {}

    def remember(self, plan: str, span: tuple[int, int], said: ChunkText) -> None:
        """Keep nothing."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What the pipeline is to work on.

    Attributes:
        audio: where the file lies now.
        path: where it was dropped within the inbox, or its name.
        attempt: 1 at the first try.
    """

    job_id: str
    audio: Path
    path: str
    settings: RecordingSettings
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a recording is: the share of its time that is done, 0 to 1, and its length."""

    done: float
    audio_s: float


@dataclass(frozen=True, slots=True)
class RunControl:
    """How the outside follows and ends the work.

    Attributes:
        raise_if_stopped: called often; raises StoppedError to end the work.
        progress: called after each chunk.
        memory: keeps finished chunks.
    """

    raise_if_stopped: Callable[[], None]
    progress: Callable[[Progress], None]
    memory: ChunkMemory


@dataclass(frozen=True, slots=True)
class _Answer:
    chunk: Chunk
    said: ChunkText
    n_splits: int


def transcribe(
    recording: Recording, config: Config, front_end: FrontEnd, engine: Engine, control: RunControl
) -> Transcript:
    """Return the transcript of one recording.

    Raises:
        JobError: the recording cannot be transcribed.
        TransientError, NoPermissionError: something outside it is in the way.
        EngineLostError: the model is gone.
        StoppedError: the watcher ended it.
    """
    started_at, started_s = now(), time.monotonic()
    source = _describe(recording, control.raise_if_stopped)
    settings = recording.settings
    preprocess = config.preprocess.model_copy(
        update={"highpass_hz": settings.highpass_hz, "normalize": settings.normalize}
    )
    prepared = front_end.prepare(recording.audio, preprocess, config.segment.vad, control.raise_if_stopped)
    receipt, speech = prepared.receipt, _Speech(prepared.speech, is_sure=config.segment.vad == "silero")
    with prepared.waveform as waveform:
        chunks = cut(speech.spans, waveform.n_samples, config.segment.max_chunk_s, config.segment.overlap_s)
        hotwords, n_left_out = engine.fit_hotwords(settings.hotwords)
        plan = _plan(source, config, settings, engine)
        ask = _Asking(recording, waveform, speech, hotwords, engine, control, plan)
        answers = ask.all(chunks)
    if n_left_out:
        note = f"{n_left_out} of {len(settings.hotwords)} hotwords were left out: the model takes no more"
        receipt = replace(receipt, notes=(*receipt.notes, note))
    wall_s = time.monotonic() - started_s
    return Transcript(
        job_id=recording.job_id,
        source=source,
        audio=receipt,
        model=engine.identity,
        segments=assemble(answers),
        coverage=_cover(receipt, speech, answers),
        processing=Processing(
            attempt=recording.attempt,
            started_at=started_at,
            finished_at=now(),
            wall_s=wall_s,
            rtfx=receipt.duration_s / max(wall_s, 1e-3),
        ),
    )


def _describe(recording: Recording, raise_if_stopped: Callable[[], None]) -> Source:
    fd = files.open_regular(recording.audio)
    try:
        facts = os.fstat(fd)
    finally:
        os.close(fd)
    return Source(
        name=recording.path.rpartition("/")[2],
        path=recording.path,
        sha256=files.sha256_of(recording.audio, raise_if_stopped),
        n_bytes=facts.st_size,
        modified_at=_as_utc(facts.st_mtime),
    )


def _as_utc(at_s: float) -> str:
    """Return a time stamp as ISO 8601; a broken clock's, from beyond the calendar, as its beginning."""
    try:
        at = datetime.fromtimestamp(at_s, UTC)
    except (ValueError, OverflowError, OSError):
        at = datetime.fromtimestamp(0, UTC)
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")


def _plan(source: Source, config: Config, settings: RecordingSettings, engine: Engine) -> str:
    """Return what tells one way of transcribing this sound from another, as a digest."""
    facts = {
        "audio": source.sha256,
        "preprocess": config.preprocess.model_dump(mode="json"),
        "segment": config.segment.model_dump(mode="json"),
        "settings": asdict(settings),
        "model": asdict(engine.identity),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Speech:
    """Where there is speech: `is_sure` where a model has found it, not mere loudness or nobody."""

    spans: Sequence[Span]
    is_sure: bool

    def count_s(self, start: int, stop: int) -> float:
        """Return the seconds of speech between two samples."""
        first = bisect_left(self.spans, start, key=lambda span: span.stop)
        last = bisect_left(self.spans, stop, key=lambda span: span.start)
        n_samples = sum(min(span.stop, stop) - max(span.start, start) for span in self.spans[first:last])
        return n_samples / SAMPLE_RATE_HZ


@dataclass(slots=True)
class _Asking:
    """Asks the engine for the text of every chunk of one recording, a bounded number ahead."""

    recording: Recording
    waveform: Waveform
    speech: _Speech
    hotwords: tuple[str, ...]
    engine: Engine
    control: RunControl
    plan: str

    def all(self, chunks: Sequence[Chunk]) -> list[_Answer]:
        """Return the answers in the order of the sound; what cannot be what was said was cut smaller."""
        remembered = self.control.memory.recall(self.plan)
        waiting = deque((chunk, 0) for chunk in chunks)
        in_flight: deque[tuple[Chunk, int, Future[ChunkResponse] | ChunkText]] = deque()
        answers: list[_Answer] = []
        try:
            while waiting or in_flight:
                while waiting and self._may_submit([chunk for chunk, _, _ in in_flight]):
                    chunk, n_splits = waiting.popleft()
                    known = remembered.get((chunk.start, chunk.stop))
                    in_flight.append((chunk, n_splits, known or self._submit(chunk, self.hotwords)))
                chunk, n_splits, pending = in_flight.popleft()
                parts = () if n_splits == _MAX_SPLITS else split(chunk, self.speech.spans)
                if isinstance(pending, ChunkText):
                    said = pending
                else:
                    said = self._receive(chunk, pending, can_split=bool(parts))
                if parts and not said.is_finished:
                    waiting.extendleft((part, n_splits + 1) for part in reversed(parts))
                else:
                    answers.append(_Answer(chunk, said, n_splits))
                    self.control.progress(Progress(chunk.own_stop / self.waveform.n_samples, self.waveform.duration_s))
        finally:
            for _, _, pending in in_flight:
                if isinstance(pending, Future):
                    pending.cancel()
        return sorted(answers, key=lambda answer: answer.chunk.start)

    def _may_submit(self, ahead: Sequence[Chunk]) -> bool:
        """Whether there are so few pieces ahead that the engine could lack some; their sound lies in memory."""
        n_slots = self.engine.max_in_flight
        ahead_s = sum(chunk.stop - chunk.start for chunk in ahead) / SAMPLE_RATE_HZ
        slots_s = n_slots * SLOT_S
        return len(ahead) < 2 * n_slots and ahead_s < slots_s + min(slots_s, _MAX_WAITING_S)

    def _submit(self, chunk: Chunk, hotwords: tuple[str, ...]) -> Future[ChunkResponse]:
        self.control.raise_if_stopped()
        samples = self.waveform.read(chunk.start, chunk.stop)
        return self.engine.submit(
            ChunkRequest(samples, self.recording.settings.language, hotwords, self.recording.job_id)
        )

    def _receive(self, chunk: Chunk, pending: Future[ChunkResponse], *, can_split: bool) -> ChunkText:
        """Return what was said, as far as that can be trusted."""
        answer = self._wait(pending)
        if answer.is_finished and is_echo(answer.text, self.hotwords):
            answer = settle_echo(answer, self._wait(self._submit(chunk, ())))
        verdict = judge(answer, self.speech.count_s(chunk.start, chunk.stop), is_speech_sure=self.speech.is_sure)
        is_trusted = verdict is Verdict.GOOD or (verdict is Verdict.DOUBTFUL and not can_split)
        said = ChunkText(answer.text if is_trusted else "", answer.language, is_trusted)
        self.control.memory.remember(self.plan, (chunk.start, chunk.stop), said)
        return said

    def _wait(self, pending: Future[ChunkResponse]) -> ChunkResponse:
        while True:
            self.control.raise_if_stopped()
            try:
                return pending.result(timeout=_CHECK_S)
            except TimeoutError:
                if pending.done():  # it was the engine's own, not ours
                    raise


def assemble(answers: Sequence[_Answer]) -> tuple[Segment, ...]:
    """Return segments with the words that overlapping chunks have in common told once."""
    texts = [answer.said.text for answer in answers]
    for index, answer in enumerate(answers):
        before = answers[index - 1] if index else None
        if before is None or not answer.chunk.is_joined or not texts[index - 1] or not texts[index]:
            continue
        shared = before.chunk.stop - answer.chunk.start
        texts[index - 1], texts[index] = merge_overlap(
            texts[index - 1],
            texts[index],
            shared / (before.chunk.stop - before.chunk.start),
            shared / (answer.chunk.stop - answer.chunk.start),
        )
    return tuple(
        Segment(
            start_s=answer.chunk.own_start / SAMPLE_RATE_HZ,
            end_s=answer.chunk.own_stop / SAMPLE_RATE_HZ,
            text=text,
            language=answer.said.language,
            flags=_flags(answer),
        )
        for answer, text in zip(answers, texts, strict=True)
        if text
    )


def _flags(answer: _Answer) -> tuple[str, ...]:
    flags = (("overlap", answer.chunk.is_joined), ("retried", answer.n_splits > 0))
    return tuple(name for name, is_set in flags if is_set)


def _cover(receipt: Receipt, speech: _Speech, answers: Sequence[_Answer]) -> Coverage:
    gaps = tuple(
        Gap(answer.chunk.own_start / SAMPLE_RATE_HZ, answer.chunk.own_stop / SAMPLE_RATE_HZ, _NO_TRUSTED_TEXT)
        for answer in answers
        if not answer.said.is_finished
    )
    return Coverage(
        audio_s=receipt.duration_s,
        speech_s=sum(span.stop - span.start for span in speech.spans) / SAMPLE_RATE_HZ,
        transcribed_s=sum(
            speech.count_s(answer.chunk.own_start, answer.chunk.own_stop)
            for answer in answers
            if answer.said.is_finished
        ),
        gaps=gaps,
    )
