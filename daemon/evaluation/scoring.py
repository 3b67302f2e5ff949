"""The errors of one transcript against its reference text. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from daemon.evaluation.bootstrap import Interval, rate_interval
from daemon.evaluation.normalization import ComparedWord, words_of
from daemon.text import align, edit_distance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.transcript import Segment

BLOCK_WORDS: Final = 10  # for the interval of one recording
SEAM_WORDS: Final = 10  # this near a seam, on either side, an error counts as one of the seam
_OVERLAP: Final = "overlap"


@dataclass(frozen=True, slots=True)
class Column:
    """One place of the alignment.

    Attributes:
        wanted: the word of the reference, None where the transcript has one too many.
        got: the word of the transcript, None where it misses one.
        is_near_seam: whether it lies near the merge of two overlapping chunks.
        confidence: the model's in `got`, None where it is not known.
    """

    wanted: ComparedWord | None
    got: ComparedWord | None
    is_near_seam: bool
    confidence: float | None = None

    @property
    def is_right(self) -> bool:
        """Whether both sides have the same word."""
        return self.wanted is not None and self.got is not None and self.wanted.key == self.got.key


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted, in one recording or in several.

    Attributes:
        n_words: of the reference.
        n_chars: of the reference, without spaces.
        n_char_errors: the fewest insertions, deletions and substitutions of characters.
        n_seams: merges of overlapping chunks.
        n_seam_words: words of the reference near a seam.
        n_seam_errors: errors near a seam.
    """

    n_words: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    n_chars: int = 0
    n_char_errors: int = 0
    n_seams: int = 0
    n_seam_words: int = 0
    n_seam_errors: int = 0

    @property
    def n_errors(self) -> int:
        """All word errors."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def wer(self) -> float | None:
        """Word errors for each word of the reference, None where it has no words; above 1 with many insertions."""
        return self.n_errors / self.n_words if self.n_words else None

    @property
    def cer(self) -> float | None:
        """Character errors for each character of the reference, None where it has none."""
        return self.n_char_errors / self.n_chars if self.n_chars else None


@dataclass(frozen=True, slots=True)
class Score:
    """One recording: what was counted, the interval of its WER from blocks of words, and the alignment."""

    name: str
    counts: Counts
    interval: Interval | None
    columns: tuple[Column, ...]


def score(name: str, reference: str, segments: Sequence[Segment], normalization: str) -> Score:
    """Compare a transcript with its reference.

    Args:
        name: of the recording.
        reference: the words that are spoken.
        segments: of the transcript.
        normalization: one of NORMALIZATIONS, applied to both sides.
    """
    wanted = words_of(reference, normalization)
    parts = [words_of(segment.text, normalization) for segment in segments]
    got = [word for part in parts for word in part]
    starts = accumulate((len(part) for part in parts), initial=0)
    seams = [start for start, segment in zip(starts, segments, strict=False) if _OVERLAP in segment.flags]
    confidences = [
        one for segment, part in zip(segments, parts, strict=True) for one in _confidences(segment, part, normalization)
    ]
    columns = _columns(wanted, got, confidences, seams)
    errors = [column for column in columns if not column.is_right]
    near = [column for column in columns if column.is_near_seam]
    chars = ["".join(word.key for word in side) for side in (wanted, got)]
    counts = Counts(
        n_words=len(wanted),
        substitutions=sum(column.wanted is not None and column.got is not None for column in errors),
        deletions=sum(column.got is None for column in errors),
        insertions=sum(column.wanted is None for column in errors),
        n_chars=len(chars[0]),
        n_char_errors=edit_distance(*chars),
        n_seams=len(seams),
        n_seam_words=sum(column.wanted is not None for column in near),
        n_seam_errors=sum(not column.is_right for column in near),
    )
    return Score(name, counts, rate_interval(*_blocks(columns)), columns)


def add(counts: Sequence[Counts]) -> Counts:
    """Return the sums."""
    names = Counts.__dataclass_fields__
    return Counts(**{name: sum(getattr(one, name) for one in counts) for name in names})


def count_confusions(scores: Sequence[Score]) -> Counter[tuple[str, str]]:
    """Return how often (word of the reference, word of the transcript) were confused; "" is a missing word."""
    return Counter(
        (column.wanted.key if column.wanted else "", column.got.key if column.got else "")
        for one in scores
        for column in one.columns
        if not column.is_right
    )


def _confidences(segment: Segment, words: Sequence[ComparedWord], normalization: str) -> Sequence[float | None]:
    """Return the confidence in each of the compared words of a segment; a word with a hyphen counts for each part."""
    known = [(part.key, word.confidence) for word in segment.words for part in words_of(word.text, normalization)]
    if [key for key, _ in known] != [word.key for word in words]:
        return [None] * len(words)
    return [confidence for _, confidence in known]


def _columns(
    wanted: Sequence[ComparedWord],
    got: Sequence[ComparedWord],
    confidences: Sequence[float | None],
    seams: Sequence[int],
) -> tuple[Column, ...]:
    near = [False] * (len(got) + 1)
    for seam in seams:
        first, end = max(0, seam - SEAM_WORDS), min(len(near), seam + SEAM_WORDS)
        near[first:end] = [True] * (end - first)
    columns = []
    at = 0  # of the next word of the transcript
    for index, other in align([word.key for word in wanted], [word.key for word in got]):
        pair = (None if index is None else wanted[index], None if other is None else got[other])
        confidence = None if other is None else confidences[other]
        columns.append(Column(*pair, is_near_seam=near[at], confidence=confidence))
        at += other is not None
    return tuple(columns)


def _blocks(columns: Sequence[Column]) -> tuple[list[int], list[int]]:
    """Return the errors and the words of blocks of BLOCK_WORDS words of the reference; the last takes the rest."""
    n_blocks = max(1, sum(column.wanted is not None for column in columns) // BLOCK_WORDS)
    errors, words = [0] * n_blocks, [0] * n_blocks
    at = 0
    for column in columns:
        block = min(at // BLOCK_WORDS, n_blocks - 1)
        errors[block] += not column.is_right
        words[block] += column.wanted is not None
        at += column.wanted is not None
    return errors, words
