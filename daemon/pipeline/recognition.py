"""Chunks to texts: all chunks of one recording through the engine, a bounded number ahead."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from daemon.decode import SAMPLE_RATE_HZ
from daemon.engine import SLOT_S, ChunkRequest
from daemon.journal.records import ChunkText
from daemon.pipeline.guards import Verdict, choose_response, is_echo, judge
from daemon.pipeline.work import Progress
from daemon.segment import lower_echoes, split

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence
    from typing import Any, TypeAlias

    from daemon.decode import Waveform
    from daemon.engine import ChunkResponse, Engine, TextToken
    from daemon.pipeline.work import RunControl
    from daemon.segment import Chunk, Span

    # What a step of the work waits for, without holding a thread: it goes on when the future is done.
    Wait: TypeAlias = Future[Any]

# How often a chunk whose text cannot be trusted is split: 30 s, 15 s, 7.5 s.
_MAX_SPLITS: Final = 2
# Audio that waits in memory behind what the slots hold: 64 kB a second, so 64 MB.
_MAX_WAITING_S: Final = 1000.0


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """The text of one chunk.

    Attributes:
        n_splits: how often the chunk was split to get it.
        tokens: the text in parts, with the model's confidence in each; () where that was not kept.
    """

    chunk: Chunk
    said: ChunkText
    n_splits: int = 0
    tokens: tuple[TextToken, ...] = ()


@dataclass(frozen=True, slots=True)
class SpeechMap:
    """Where there is speech.

    Attributes:
        spans: in order, without overlaps.
        is_sure: whether a model found it; loudness alone, or no detection, proves little.
    """

    spans: Sequence[Span]
    is_sure: bool

    @property
    def total_s(self) -> float:
        """Seconds of speech in the whole recording."""
        return sum(span.stop - span.start for span in self.spans) / SAMPLE_RATE_HZ

    def count_s(self, start: int, stop: int) -> float:
        """Return the seconds of speech between two samples."""
        return sum(stop_s - start_s for start_s, stop_s in self.list_spans_s(start, stop))

    def list_spans_s(self, start: int, stop: int) -> list[tuple[float, float]]:
        """Return (start, end) in seconds of each stretch of speech between two samples."""
        first = bisect_right(self.spans, start, key=lambda span: span.stop)
        last = bisect_left(self.spans, stop, key=lambda span: span.start)
        return [
            (max(span.start, start) / SAMPLE_RATE_HZ, min(span.stop, stop) / SAMPLE_RATE_HZ)
            for span in self.spans[first:last]
        ]


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A chunk whose text is on its way, or known from before."""

    chunk: Chunk
    n_splits: int
    pending: Future[ChunkResponse] | ChunkText


def most_ahead(engine: Engine) -> tuple[int, float]:
    """Return how many chunks, and how many seconds of audio in them, keep an engine busy without a pause."""
    slots_s = engine.max_in_flight * SLOT_S
    return 2 * engine.max_in_flight, slots_s + min(slots_s, _MAX_WAITING_S)


@dataclass(frozen=True, slots=True)
class ChunkTranscriber:
    """Transcribes the chunks of one recording.

    Attributes:
        language: the model's name of the language to write, None to detect it.
        hotwords: as `Engine.fit_hotwords` cut them.
        resume_key: of the texts that may be taken from `control.memory`.
        echoes: what the model is to hear lowered.
    """

    job_id: str
    waveform: Waveform
    speech: SpeechMap
    language: str | None
    hotwords: tuple[str, ...]
    engine: Engine
    control: RunControl
    resume_key: str
    echoes: Sequence[Span] = ()

    def steps(self, chunks: Iterable[Chunk]) -> Generator[Wait, None, list[ChunkResult]]:
        """Yield what has to be waited for; return the results in the order of the audio.

        A chunk without a trusted text was split.
        """
        remembered = self.control.memory.recall(self.resume_key)
        waiting = deque((chunk, 0) for chunk in chunks)
        in_flight: deque[_InFlight] = deque()
        results: list[ChunkResult] = []
        try:
            while waiting or in_flight:
                self._submit_ahead(waiting, in_flight, remembered)
                if not in_flight:
                    yield self._next_turn()
                    continue
                first = in_flight[0]
                parts = () if first.n_splits == _MAX_SPLITS else split(first.chunk, self.speech.spans)
                said, tokens = yield from self._receive(first, can_split=bool(parts))
                in_flight.popleft()
                if parts and not said.is_finished:
                    waiting.extendleft((part, first.n_splits + 1) for part in reversed(parts))
                else:
                    results.append(ChunkResult(first.chunk, said, first.n_splits, tokens))
                    self._report(first.chunk)
        finally:
            for left in in_flight:
                if isinstance(left.pending, Future):
                    left.pending.cancel()
        return sorted(results, key=lambda result: result.chunk.start)

    def _submit_ahead(
        self,
        waiting: deque[tuple[Chunk, int]],
        in_flight: deque[_InFlight],
        remembered: Mapping[tuple[int, int], ChunkText],
    ) -> None:
        """Move chunks from those that wait to those in flight, as many as may be; known texts take no room."""
        while waiting:
            chunk, n_splits = waiting[0]
            known = remembered.get((chunk.start, chunk.stop))
            if known is None and not self._may_submit(in_flight):
                return
            waiting.popleft()
            in_flight.append(_InFlight(chunk, n_splits, known or self._submit(chunk, self.hotwords)))

    def _may_submit(self, ahead: Iterable[_InFlight]) -> bool:
        """Return whether the engine could run short; what is submitted keeps its audio in memory."""
        lengths_s = [
            (one.chunk.stop - one.chunk.start) / SAMPLE_RATE_HZ for one in ahead if isinstance(one.pending, Future)
        ]
        if self.control.pace is not None:
            return self.control.pace.may_submit(len(lengths_s), sum(lengths_s))
        most, most_s = most_ahead(self.engine)
        return len(lengths_s) < most and sum(lengths_s) < most_s

    def _next_turn(self) -> Wait:
        if self.control.pace is None:
            raise AssertionError("a recording alone may always submit a chunk")
        return self.control.pace.next_turn()

    def _submit(self, chunk: Chunk, hotwords: tuple[str, ...]) -> Future[ChunkResponse]:
        self.control.raise_if_stopped()
        samples = self.waveform.read(chunk.start, chunk.stop)
        lower_echoes(samples, chunk.start, self.echoes)
        return self.engine.submit(ChunkRequest(samples, self.language, hotwords, self.job_id))

    def _receive(
        self, first: _InFlight, *, can_split: bool
    ) -> Generator[Wait, None, tuple[ChunkText, tuple[TextToken, ...]]]:
        """Return the text, as far as it can be trusted, and its tokens."""
        chunk = first.chunk
        if isinstance(first.pending, ChunkText):
            return first.pending, ()
        yield first.pending
        response = first.pending.result()
        if response.is_finished and is_echo(response.text, self.hotwords):
            plain = self._submit(chunk, ())
            yield plain
            response = choose_response(response, plain.result())
        verdict = judge(response, self.speech.count_s(chunk.start, chunk.stop), is_speech_sure=self.speech.is_sure)
        is_trusted = verdict is Verdict.GOOD or (verdict is Verdict.DOUBTFUL and not can_split)
        said = ChunkText(response.text if is_trusted else "", response.language, is_trusted)
        self.control.memory.remember(self.resume_key, (chunk.start, chunk.stop), said)
        return said, response.tokens if is_trusted else ()

    def _report(self, chunk: Chunk) -> None:
        self.control.progress(Progress(chunk.own_stop / self.waveform.n_samples, self.waveform.duration_s))
