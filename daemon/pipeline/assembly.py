"""Chunk results to segments and coverage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from daemon.decode import SAMPLE_RATE_HZ
from daemon.engine import TextToken
from daemon.pipeline.confidence import score_segment, score_words
from daemon.pipeline.cuts import cut_at_pauses
from daemon.text import merge_overlap
from daemon.transcript import Coverage, Gap, Segment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.pipeline.recognition import ChunkResult, SpeechMap
    from daemon.transcript import Receipt

_GAP: Final = TextToken(" ", 0.0)
_NO_TRUSTED_TEXT: Final = "no reliable transcription of this section, even after splitting it"


def assemble(results: Sequence[ChunkResult], speech: SpeechMap) -> tuple[Segment, ...]:
    """Return the text as segments; words that overlapping chunks have in common appear once.

    A segment is what was said in one chunk between two pauses at which a sentence ends.
    """
    texts = [result.said.text for result in results]
    starts = [result.chunk.start for result in results]
    for index, result in enumerate(results):
        if not index or not result.chunk.is_joined or not texts[index - 1] or not texts[index]:
            continue
        before, after = results[index - 1].chunk, result.chunk
        shared = before.stop - after.start
        texts[index - 1], texts[index] = merge_overlap(
            texts[index - 1],
            texts[index],
            shared / (before.stop - starts[index - 1]),
            shared / (after.stop - after.start),
        )
        starts[index] = after.own_start  # its words before that are in the text of its predecessor now
    return tuple(
        part
        for index, text in enumerate(texts)
        if text
        for part in cut_at_pauses(
            _segment(results, index, text),
            speech.list_spans_s(results[index].chunk.own_start, results[index].chunk.own_stop),
        )
    )


def _segment(results: Sequence[ChunkResult], index: int, text: str) -> Segment:
    result = results[index]
    tokens = result.tokens
    if index + 1 < len(results) and results[index + 1].chunk.is_joined and tokens:
        tokens += (_GAP, *results[index + 1].tokens)  # some of those words may be in this text
    words = score_words(text, tokens)
    return Segment(
        start_s=result.chunk.own_start / SAMPLE_RATE_HZ,
        end_s=result.chunk.own_stop / SAMPLE_RATE_HZ,
        text=text,
        language=result.said.language,
        flags=_flags(result),
        words=words,
        confidence=score_segment(words),
    )


def _flags(result: ChunkResult) -> tuple[str, ...]:
    flags = (("overlap", result.chunk.is_joined), ("retried", result.n_splits > 0))
    return tuple(name for name, is_set in flags if is_set)


def measure_coverage(receipt: Receipt, speech: SpeechMap, results: Sequence[ChunkResult]) -> Coverage:
    """Return how much of the speech has text; a chunk without a trusted text is a gap."""
    owns = [(result.chunk.own_start, result.chunk.own_stop, result.said.is_finished) for result in results]
    return Coverage(
        audio_s=receipt.duration_s,
        speech_s=speech.total_s,
        transcribed_s=sum(speech.count_s(start, stop) for start, stop, is_finished in owns if is_finished),
        gaps=tuple(
            Gap(start / SAMPLE_RATE_HZ, stop / SAMPLE_RATE_HZ, _NO_TRUSTED_TEXT)
            for start, stop, is_finished in owns
            if not is_finished
        ),
    )
