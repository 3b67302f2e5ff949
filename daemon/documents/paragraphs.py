"""Paragraphs that read like text: the same ones in all documents for people.

A paragraph ends at a change of voice, at a long pause, and before it gets too long; where there is a
choice, at the longest pause between two sentences.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from daemon.documents.layout import Item, Kind, clock
from daemon.text import ends_sentence, join_texts, split_sentences, tokens_of, unspaced_of, weigh, words_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from daemon.transcript import Segment

# A pause of this length after a sentence begins a new paragraph; one in a sentence does so only if it
# is so long that the speaker has stopped.
_PARAGRAPH_PAUSE_S: Final = 2.0
_STOP_PAUSE_S: Final = 5.0
_MAX_WORDS: Final = 120
_MAX_UNSPACED: Final = 250  # letters of scripts without spaces
# A longer sentence may be divided at its clauses, so that a text without full stops has paragraphs too.
_MAX_SENTENCE: Final = 0.5  # of the longest paragraph
_CLAUSE_ENDS: Final = tuple(",;:،؛，；：、")  # noqa: RUF001  # exactly these characters are meant

# What a paragraph costs: the sum is least for the best division. A long pause makes up for its end.
_END_COST: Final = 0.5
_PAUSE_GAIN: Final = 0.4  # for each second of pause
_MAX_GAIN_S: Final = 1.5
_NO_SENTENCE_COST: Final = 2.0  # it ends within a sentence
_SHORT: Final = 0.4  # of the longest paragraph
_SHORT_COST: Final = 1.5


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Sentences of one voice, or one mark.

    Attributes:
        items: in order; each is at most one sentence. Their times are exact at the ends of segments
            and where word timestamps are known, else they are estimated from the length of the text.
    """

    items: tuple[Item, ...]

    @property
    def start_s(self) -> float:
        """When it begins, in seconds from the start of the recording."""
        return self.items[0].start_s

    @property
    def end_s(self) -> float:
        """When it ends."""
        return self.items[-1].end_s

    @property
    def kind(self) -> Kind:
        """Speech, or which mark it is."""
        return self.items[0].kind

    @property
    def segment(self) -> Segment | None:
        """The segment it begins in; None for a mark."""
        return self.items[0].segment

    @property
    def text(self) -> str:
        """Its words with the spacing of their language."""
        return " ".join(join_texts(item.text for item in self.items).split())

    @property
    def stamp(self) -> str:
        """The time it begins with where times are asked for; "" for the mark that has no time."""
        return "" if self.kind is Kind.CUT else f"[{clock(self.start_s)}]"


def group_paragraphs(items: Sequence[Item]) -> list[Paragraph]:
    """Return the items, in the order of time, as paragraphs; each mark is one by itself."""
    has_sentences = any(ends_sentence(item.text) for item in items if item.kind is Kind.SPEECH)
    pieces = [_Piece(piece, not has_sentences or is_end) for item in items for piece, is_end in _divide(item)]
    return [Paragraph(tuple(group)) for run in _runs(pieces) for group in _balance(run)]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A sentence, or part of a long one; `is_end` if a paragraph may well end after it."""

    item: Item
    is_end: bool


def _divide(item: Item) -> Iterator[tuple[Item, bool]]:
    """Yield the sentences of an item with their times, and whether each is a whole one."""
    if item.kind is not Kind.SPEECH:
        yield item, True
        return
    texts = [part for sentence in split_sentences(item.text) for part in _clauses(sentence)]
    firsts = [0, *accumulate(len(tokens_of(text)) for text in texts)]
    known = item.segment.words if item.segment is not None else ()
    words = known if len(known) == firsts[-1] else ()
    times = _times(item, texts, [words[first].start_s if words else None for first in firsts[:-1]])
    for index, text in enumerate(texts):
        yield (
            replace(
                item,
                start_s=times[index],
                end_s=times[index + 1],
                text=text.strip(),
                words=words[firsts[index] : firsts[index + 1]],
            ),
            ends_sentence(text),
        )


def _times(item: Item, texts: Sequence[str], starts: Sequence[float | None]) -> list[float]:
    """Return the time at which each text begins, and the end of the item; `starts` has the known ones."""
    shares = [0.0, *accumulate(weigh(text) for text in texts)]
    length_s = (item.end_s - item.start_s) / (shares[-1] or 1.0)
    estimates = [item.start_s + share * length_s for share in shares[:-1]]
    exact = [guess if start is None else start for start, guess in zip(starts, estimates, strict=True)]
    return list(accumulate([item.start_s, *exact[1:], max(item.start_s, item.end_s)], max))


def _clauses(sentence: str) -> Iterator[str]:
    """Yield a sentence whole, or where it is very long in parts of about half that length."""
    if _size(sentence) <= _MAX_SENTENCE:
        yield sentence
        return
    part, size = "", 0.0
    for token in tokens_of(sentence):
        more = _size(token)
        is_clause = size >= _MAX_SENTENCE / 2 and part.endswith(_CLAUSE_ENDS)
        if is_clause or size + more > _MAX_SENTENCE:
            yield part
            part, size = "", 0.0
        part, size = part + token, size + more
    yield part


def _size(text: str) -> float:
    """Return the length of a text as a share of the longest paragraph."""
    word = text.strip()
    if word.isascii() and word.isalpha():  # nearly always, where single words are measured
        return 1 / _MAX_WORDS
    n_unspaced = len(unspaced_of(text))
    return n_unspaced / _MAX_UNSPACED + (len(words_of(text)) - n_unspaced) / _MAX_WORDS


def _runs(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    """Yield pieces of one voice without a long pause between them."""
    run: list[_Piece] = []
    for piece in pieces:
        if run and _must_break(run[-1], piece):
            yield run
            run = []
        run.append(piece)
    if run:
        yield run


def _must_break(before: _Piece, after: _Piece) -> bool:
    if not before.item.kind is after.item.kind is Kind.SPEECH or before.item.voice != after.item.voice:
        return True
    pause_s = after.item.start_s - before.item.end_s
    return pause_s >= (_PARAGRAPH_PAUSE_S if before.is_end else _STOP_PAUSE_S)


def _balance(run: Sequence[_Piece]) -> list[list[Item]]:
    """Divide a run into paragraphs that are not too long, at the least cost (dynamic programming)."""
    sizes = [_size(piece.item.text) for piece in run]
    best = [(0.0, 0)]  # for each number of pieces: the least cost, and where its last paragraph begins
    for stop in range(1, len(run) + 1):
        choices, size = [], 0.0
        for start in range(stop - 1, -1, -1):
            size += sizes[start]
            if size > 1 and start < stop - 1:
                break
            choices.append((best[start][0] + (_SHORT_COST * (_SHORT - size) if size < _SHORT else 0.0), start))
        cost, start = min(choices)
        best.append((cost + _end_cost(run, stop), start))
    groups, stop = [], len(run)
    while stop:
        start = best[stop][1]
        groups.append([piece.item for piece in run[start:stop]])
        stop = start
    return groups[::-1]


def _end_cost(run: Sequence[_Piece], stop: int) -> float:
    """Return what it costs to end a paragraph before piece `stop`."""
    if stop == len(run):
        return 0.0
    pause_s = run[stop].item.start_s - run[stop - 1].item.end_s
    cost = _END_COST - _PAUSE_GAIN * min(max(pause_s, 0.0), _MAX_GAIN_S)
    return cost if run[stop - 1].is_end else cost + _NO_SENTENCE_COST
