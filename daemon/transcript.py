"""The transcript of one recording and every fact its documents tell: frozen, without any I/O.

Times are seconds from the start of the recording, as floats. `None` stands for unknown.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Source:
    """The recording as it was dropped."""

    name: str
    path: str  # within the inbox, with "/" between folders
    sha256: str
    n_bytes: int
    modified_at: str  # ISO 8601, UTC


@dataclass(frozen=True, slots=True)
class Receipt:
    """What preprocessing saw in the recording and did to it.

    Attributes:
        duration_s: length of what could be decoded.
        sample_rate_hz: of the recording, before resampling.
        peak_dbfs: highest level after mixing, filtering and resampling, before the gain.
        gain_db: what was then added; 0 where nothing was normalised.
        clipped_s: time the recording spends at full scale.
        is_complete: whether all that the file declared could be decoded.
        notes: plain sentences for people, such as "left channel is silent".
        level_dbfs: RMS level, like the following ones before the gain; None where nobody can tell.
        crest_db: how far the peak lies above it.
        snr_db: how far the sound stands above the noise, an estimate.
        dc_offset: as a share of full scale.
        n_invalid: samples that were no numbers, replaced by silence.
    """

    duration_s: float
    sample_rate_hz: int
    channels: int
    codec: str
    peak_dbfs: float | None
    gain_db: float
    clipped_s: float
    is_complete: bool = True
    notes: tuple[str, ...] = ()
    level_dbfs: float | None = None
    crest_db: float | None = None
    snr_db: float | None = None
    dc_offset: float = 0.0
    n_invalid: int = 0


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model wrote the text: `digest` is the sha256 of its weights."""

    name: str
    digest: str
    dtype: str
    device: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech and its text.

    Attributes:
        language: the model's name for it, such as "English", or None.
        flags: "overlap" where text was merged over a cut without a pause, "retried" where the
            model had to be asked again on smaller pieces.
    """

    start_s: float
    end_s: float
    text: str
    language: str | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gap:
    """Speech that is not in the text, and why."""

    start_s: float
    end_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the recording was speech, and how much of that is in the text."""

    audio_s: float
    speech_s: float
    transcribed_s: float
    gaps: tuple[Gap, ...] = ()


@dataclass(frozen=True, slots=True)
class Processing:
    """When and how fast the work was done; rtfx is seconds of audio per second of work."""

    attempt: int
    started_at: str
    finished_at: str
    wall_s: float
    rtfx: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """All that is known about one recording when its work is done."""

    job_id: str
    source: Source
    audio: Receipt
    model: ModelIdentity
    coverage: Coverage
    processing: Processing
    segments: tuple[Segment, ...] = field(default=())

    @property
    def text(self) -> str:
        """All words, joined with the spacing of their language."""
        return join_texts(segment.text for segment in self.segments)

    @property
    def language(self) -> str | None:
        """The language spoken for the longest time, or None where there is none."""
        spoken_s: Counter[str] = Counter()
        for segment in self.segments:
            if segment.language is not None and segment.text:
                spoken_s[segment.language] += max(1, round(1000 * (segment.end_s - segment.start_s)))
        return spoken_s.most_common(1)[0][0] if spoken_s else None

    @property
    def is_complete(self) -> bool:
        """Whether all speech of the whole recording is in the text."""
        return self.audio.is_complete and not self.coverage.gaps


# Scripts written without spaces between words: Han, kana, Thai, and their full-width punctuation.
# Hangul is written with spaces. Ranges are those of the Unicode blocks.
_UNSPACED = (
    "\u0e00-\u0e7f\u3000-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uff65\U00020000-\U0002ebef"
)
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_TOKEN = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")
_SPACED_TOKEN = re.compile(f"\\s*(?:[{_UNSPACED}]|[^\\s{_UNSPACED}]+)")
_NOT_LETTER = re.compile(r"[\W_]+")
# How one word on both sides of a seam is weighed against what differs there. A word that was garbled by
# the cut stands against its whole self; a word that only one side has is stronger evidence of a
# wrong alignment; and every word by which the two texts would share more or less than their sounds
# do outweighs one that happens to agree, so that "no, no, no" is not folded away.
_ODD_PAIR, _LONE_WORD, _OFF_EXPECTED = 0.4, 1.5, 1.01
# One word in common proves something only where about that many words are expected to be shared.
_MAX_OFF_LONE = 2.0


def join_texts(texts: Iterable[str]) -> str:
    """Join texts with a space, or without one where scripts that use none meet."""
    joined = ""
    for text in (text.strip() for text in texts):
        if not text:
            continue
        is_tight = bool(joined) and bool(_IS_UNSPACED.match(joined[-1])) and bool(_IS_UNSPACED.match(text[0]))
        joined = f"{joined}{'' if is_tight or not joined else ' '}{text}"
    return joined


def tokens_of(text: str) -> list[str]:
    """Return words with the space before them, and letters of unspaced scripts one by one."""
    return _SPACED_TOKEN.findall(text)


def merge_overlap(
    before: str, after: str, shared_fraction_before: float, shared_fraction_after: float
) -> tuple[str, str]:
    """Split the doubled words between two texts whose sounds overlap.

    The last words of `before` and the first words of `after` come from the same sound. They are laid
    over one another as fits best, and the seam is put at a word both have, as far as can be from the
    two cuts: what `before` says behind it may be a word cut short by its end, what `after` says ahead
    of it a word cut short by its start. Where they do not agree, both are kept whole, for a doubled
    word can be seen by a reader and a lost one cannot.

    Args:
        before: text of the earlier chunk.
        after: text of the later chunk.
        shared_fraction_before: part of the earlier chunk's length which overlaps, 0 to 1.
        shared_fraction_after: part of the later chunk's length which overlaps, 0 to 1.

    Returns:
        (head of `before`, rest of `after`), to be joined by `join_texts`.
    """
    left = list(_TOKEN.finditer(before))
    right = list(_TOKEN.finditer(after))
    expected = (shared_fraction_before * len(left), shared_fraction_after * len(right))
    # Words are not evenly spread over time: look in twice the share, plus a few words.
    n_left = min(len(left), int(2 * expected[0]) + 4)
    n_right = min(len(right), int(2 * expected[1]) + 4)
    tail = [_bare(match.group()) for match in left[len(left) - n_left :]]
    head = [_bare(match.group()) for match in right[:n_right]]
    seam = _find_seam(tail, head, expected)
    if seam is None:
        return before, after
    n_keep_left, n_drop_right = len(left) - n_left + seam[0], seam[1]
    rest = after[right[n_drop_right].start() :] if n_drop_right < len(right) else ""
    return before[: left[n_keep_left - 1].end()], rest


def _bare(word: str) -> str:
    """Return the word as it is compared: without case and punctuation."""
    return _NOT_LETTER.sub("", word.casefold()) or word


@dataclass(frozen=True, slots=True)
class _Overlay:
    """The last words of one text laid over the first words of another.

    Attributes:
        score: the agreeing words, less the differing ones by their weight.
        first: where in the tail it begins.
        pairs: (position in the tail, position in the head) of each agreeing word.
    """

    score: float
    first: int
    pairs: tuple[tuple[int, int], ...] = ()


def _find_seam(tail: Sequence[str], head: Sequence[str], expected: tuple[float, float]) -> tuple[int, int] | None:
    """Return (words kept of tail, words dropped of head), or None where the two do not agree.

    Args:
        tail: the words among which the shared ones end.
        head: the words among which they begin.
        expected: how many words are shared by the lengths of the sounds, of tail and of head.
    """
    best: tuple[float, tuple[int, int]] | None = None
    for n_head, overlay in enumerate(_overlays(tail, head)):
        off = (abs(len(tail) - overlay.first - expected[0]) + abs(n_head - expected[1])) / 2
        is_chance = len(overlay.pairs) == 1 and off > _MAX_OFF_LONE
        rank = overlay.score - _OFF_EXPECTED * off
        if overlay.score > 0 and not is_chance and (best is None or rank > best[0]):
            at, other = overlay.pairs[len(overlay.pairs) // 2]
            best = rank, (at + 1, other + 1)
    return best[1] if best else None


def _overlays(tail: Sequence[str], head: Sequence[str]) -> list[_Overlay]:
    """Return the best overlay of some last words of `tail` over the first n of `head`, for each n.

    This is the overlap alignment by which pieces of DNA are put together (D. Gusfield, Algorithms on
    Strings, Trees, and Sequences, 1997, 11.6.4): it may begin anywhere in `tail` for nothing.
    """
    row = [_Overlay(-_LONE_WORD * n, 0) for n in range(len(head) + 1)]
    for at, word in enumerate(tail):
        above, row = row, [_Overlay(0.0, at + 1)]
        for n, other in enumerate(head):
            is_same = word == other
            pair, skipped, added = above[n], above[n + 1], row[n]
            choices = (
                (pair.score + (1.0 if is_same else -_ODD_PAIR), pair),
                (skipped.score - _LONE_WORD, skipped),
                (added.score - _LONE_WORD, added),
            )
            score, source = max(choices, key=lambda choice: choice[0])
            pairs = (*source.pairs, (at, n)) if source is pair and is_same else source.pairs
            row.append(_Overlay(score, source.first, pairs))
    return row


def count_word_errors(reference: str, said: str) -> tuple[int, int]:
    """Return (errors, words of the reference): the least insertions, deletions and substitutions.

    Case and punctuation do not count; letters of unspaced scripts are words of their own.
    """
    wanted = [_bare(word) for word in _TOKEN.findall(reference)]
    got = [_bare(word) for word in _TOKEN.findall(said)]
    row = list(range(len(got) + 1))
    for n_wanted, word in enumerate(wanted, 1):
        diagonal, row[0] = row[0], n_wanted
        for n_got, other in enumerate(got, 1):
            cost = min(row[n_got] + 1, row[n_got - 1] + 1, diagonal + (word != other))
            diagonal, row[n_got] = row[n_got], cost
    return row[-1], len(wanted)
