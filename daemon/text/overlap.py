"""The merge of two texts whose audio overlaps, so that each word appears once and none is lost."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from typing import TYPE_CHECKING, Final

from daemon.text.joining import bare, join_texts, tokens_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# Scores of the alignment. A match that continues a run of matches is stronger evidence than one by
# itself. Two different words at one place are one word heard in two ways; a word that only one side
# has is stronger evidence against the alignment. Each word by which the overlap is longer or shorter
# than the audio says costs a little more than a match gains, so that "no, no, no" is not folded.
_MATCH: Final = 1.0
_RUN: Final = 0.5
_MISMATCH: Final = -0.4
_LONE: Final = -1.5
_OFF_LENGTH: Final = 1.51
# A single matching word proves something only where the overlap has about the expected length.
_MAX_OFF_SINGLE: Final = 2.0
_MIDDLE: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two texts.

    Attributes:
        is_after: whether it is the later one.
        tokens: its words, each with the space before it.
        keys: the same as they are compared.
        places: of the middle of each word, by its share of the chunk's time: 0 for the start
            of the overlap and 1 for its end; outside of it below 0 or above 1.
        word: how much of the overlap one word takes.
    """

    is_after: bool
    tokens: Sequence[str]
    keys: Sequence[str]
    places: Sequence[float]
    word: float

    @classmethod
    def of(cls, text: str, shared_fraction: float, *, is_after: bool) -> _Side:
        tokens = tokens_of(text)
        word = 1 / max(shared_fraction * len(tokens), 1e-9)
        n_ahead = 0.0 if is_after else (1 - shared_fraction) * len(tokens)
        places = [(index + 0.5 - n_ahead) * word for index in range(len(tokens))]
        return cls(is_after, tokens, [bare(token) for token in tokens], places, word)

    @property
    def n_shared(self) -> float:
        """How many of its words lie in the overlap, by time."""
        return 1 / self.word


@dataclass(frozen=True, slots=True)
class _Column:
    """One place of the alignment: the index of the word that each side has there, or None."""

    before: int | None
    after: int | None


def merge_overlap(
    before: str, after: str, shared_fraction_before: float, shared_fraction_after: float
) -> tuple[str, str]:
    """Merge the words of the overlap of two texts, and divide the result at its middle.

    The last words of `before` and the first words of `after` come from the same audio. Each chunk
    owns the half of the overlap on its own side, for near its edge it may have heard a word cut in
    two. The texts are aligned word by word. Then, from left to right:

    - a word on which both agree is written once;
    - a word that only one side has is kept, whichever side owns the place: between two words on which both
      agree, the result is at least as long as the longer side;
    - where the sides have different words at one place, the owner's is kept; so near the middle that
      either may own it, both are kept. A reader notices a doubled word; a lost one is gone.

    Where nothing agrees, each side keeps its own half by its share of the time, and both keep the
    word across the middle. The result never has fewer words than the longer of the two texts,
    nor more than both together. Where no run of three words repeats near the overlap, no word of a
    side's own half is lost, as long as recognition errors leave enough to align.

    Args:
        before: text of the earlier chunk.
        after: text of the later chunk.
        shared_fraction_before: part of the earlier chunk's length that overlaps, 0 to 1.
        shared_fraction_after: part of the later chunk's length that overlaps, 0 to 1.

    Returns:
        (text up to the middle of the overlap, text from there), to be joined by `join_texts`.
    """
    left = _Side.of(before, shared_fraction_before, is_after=False)
    right = _Side.of(after, shared_fraction_after, is_after=True)
    columns = _align(left, right)
    if columns is None:
        return _keep_own_halves(left, right) or (before, after)
    kept = list(_keep(columns, left, right))
    middle = next((at for at, word in enumerate(kept) if word.place >= _MIDDLE), len(kept))
    return _write(kept[:middle]), _write(kept[middle:])


def _keep_own_halves(left: _Side, right: _Side) -> tuple[str, str] | None:
    """Return each side's own half, None where that is shorter than the longer side."""
    head = [word for word, place in zip(left.tokens, left.places, strict=True) if place - left.word / 2 < _MIDDLE]
    rest = [word for word, place in zip(right.tokens, right.places, strict=True) if place + right.word / 2 > _MIDDLE]
    if len(head) + len(rest) < max(len(left.tokens), len(right.tokens)):
        return None
    return "".join(head).strip(), "".join(rest).strip()


@dataclass(frozen=True, slots=True)
class _Kept:
    """A word of the result: from which side it is, and its place in the overlap."""

    is_after: bool
    token: str
    place: float


def _keep(columns: Sequence[_Column], left: _Side, right: _Side) -> Iterator[_Kept]:
    """Yield what is kept of an alignment."""
    doubt = _count_doubt(columns)
    for is_agreed, group in groupby(columns, key=lambda column: _is_agreed(column, left, right)):
        stretch = list(group)
        owners = [_find_owner(column, left, right, doubt) for column in stretch]
        if is_agreed or all(owners):
            for column, owner in zip(stretch, owners, strict=True):
                yield _take(left, column.before) if owner is left else _take(right, column.after)
        else:
            yield from _keep_both(stretch, left, right)


def _take(side: _Side, index: int | None) -> _Kept:
    """Return a word as it is kept."""
    if index is None:
        raise AssertionError("the owner of a column has a word there")
    return _Kept(side.is_after, side.tokens[index], side.places[index])


def _keep_both(stretch: Sequence[_Column], left: _Side, right: _Side) -> Iterator[_Kept]:
    """Yield the words of both sides, those that both have once."""
    before = [column.before for column in stretch if column.before is not None]
    after = [column.after for column in stretch if column.after is not None]
    keys = [left.keys[index] for index in before], [right.keys[index] for index in after]
    for kind, start, stop, other_start, other_stop in SequenceMatcher(None, *keys, autojunk=False).get_opcodes():
        yield from (_take(left, index) for index in before[start:stop])
        if kind != "equal":
            yield from (_take(right, index) for index in after[other_start:other_stop])


def _is_agreed(column: _Column, left: _Side, right: _Side) -> bool:
    """Return whether both sides have the same word there."""
    if column.before is None or column.after is None:
        return False
    return left.keys[column.before] == right.keys[column.after]


def _count_doubt(columns: Sequence[_Column]) -> float:
    """Return how many words around the middle may belong to either side.

    One, for the word across the middle; words that only one side has shift its count by one each.
    """
    first = next(at for at, column in enumerate(columns) if column.after is not None)
    last = max(at for at, column in enumerate(columns) if column.before is not None)
    n_lone = sum(None in (column.before, column.after) for column in columns[first : last + 1])
    return 1 + n_lone / 2


def _find_owner(column: _Column, left: _Side, right: _Side, doubt: float) -> _Side | None:
    """Return the side whose word is kept, None where it may be either."""
    if column.before is None:
        return right
    if column.after is None:
        return left
    # The words at the very edges may be cut in two: half a word is not worth keeping.
    is_edge = column.before == len(left.keys) - 1 or column.after == 0
    doubt = 0 if is_edge or _is_agreed(column, left, right) else doubt
    distances = (
        (left.places[column.before] - _MIDDLE) / left.word,
        (right.places[column.after] - _MIDDLE) / right.word,
    )
    if max(distances) < -doubt:
        return left
    if min(distances) > doubt:
        return right
    return (left if sum(distances) < 0 else right) if _is_agreed(column, left, right) else None


def _write(words: Iterable[_Kept]) -> str:
    """Return the text; words of one side keep the space that they had between them."""
    runs = groupby(words, key=lambda word: word.is_after)
    return join_texts("".join(word.token for word in run) for _, run in runs)


@dataclass(frozen=True, slots=True)
class _Cell:
    """The best alignment of some last words of `before` with the first words of `after`.

    Attributes:
        first: index in the tail of `before` where it begins.
        n_matches: how many words agree.
        is_match: whether its last column is a word that agrees.
        step: (words of `before`, words of `after`) in its last column; (0, 0) at its start.
    """

    score: float
    first: int
    n_matches: int = 0
    is_match: bool = False
    step: tuple[int, int] = (0, 0)


def _align(left: _Side, right: _Side) -> list[_Column] | None:
    """Return all words of both sides in columns, or None where they agree on nothing.

    This is the overlap alignment that assembles pieces of DNA (D. Gusfield, Algorithms on Strings,
    Trees, and Sequences, 1997, 11.6.4): it may begin anywhere in `before` and end anywhere in `after`.
    """
    # Words are not evenly spread over time: look in twice the share, and a few words more.
    n_tail = min(len(left.keys), int(2 * left.n_shared) + 4)
    n_head = min(len(right.keys), int(2 * right.n_shared) + 4)
    n_ahead = len(left.keys) - n_tail
    costs = [_OFF_LENGTH / 2 * abs(n_tail - first - left.n_shared) for first in range(n_tail + 1)]
    rows = _fill(left.keys[n_ahead:], right.keys[:n_head], costs)
    best: tuple[float, int] | None = None
    for n_after, cell in enumerate(rows[-1]):
        longer = (n_tail - cell.first - left.n_shared, n_after - right.n_shared)
        off = (abs(longer[0]) + abs(longer[1])) / 2
        rank = cell.score - _OFF_LENGTH / 2 * abs(longer[1])
        # A chunk often misses words at its edge, so a short overlap needs less evidence than one that
        # is longer than the audio.
        is_chance = cell.score + costs[cell.first] <= 0 or (cell.n_matches == 1 and off > _MAX_OFF_SINGLE)
        is_too_long = rank <= 0 and max(longer) > _MAX_OFF_SINGLE
        if not is_chance and not is_too_long and (best is None or rank > best[0]):
            best = rank, n_after
    if best is None:
        return None
    shared = _trace(rows, best[1], n_ahead)
    n_before = n_ahead + rows[-1][best[1]].first
    ahead = [_Column(index, None) for index in range(n_before)]
    behind = [_Column(None, index) for index in range(best[1], len(right.keys))]
    return [*ahead, *shared, *behind]


def _fill(tail: Sequence[str], head: Sequence[str], costs: Sequence[float]) -> list[list[_Cell]]:
    """Return the best alignment for each number of words of `tail` and each number of words of `head`.

    `costs` has what it costs to begin at each word of `tail`.
    """
    rows = [[_Cell(_LONE * n - costs[0], 0, step=(0, 1) if n else (0, 0)) for n in range(len(head) + 1)]]
    for at, word in enumerate(tail):
        above, row = rows[-1], [_Cell(-costs[at + 1], at + 1)]
        for n, other in enumerate(head):
            pair, skipped, added = above[n], above[n + 1], row[n]
            is_match = word == other
            gain = (_MATCH + _RUN * pair.is_match) if is_match else _MISMATCH
            choices = (
                _Cell(pair.score + gain, pair.first, pair.n_matches + is_match, is_match, (1, 1)),
                _Cell(skipped.score + _LONE, skipped.first, skipped.n_matches, step=(1, 0)),
                _Cell(added.score + _LONE, added.first, added.n_matches, step=(0, 1)),
            )
            row.append(max(choices, key=lambda cell: cell.score))
        rows.append(row)
    return rows


def _trace(rows: Sequence[Sequence[_Cell]], n_after: int, n_ahead: int) -> list[_Column]:
    """Return the columns of the alignment that ends with all of the tail and `n_after` words of the head."""
    columns: list[_Column] = []
    at = (len(rows) - 1, n_after)
    while (cell := rows[at[0]][at[1]]).step != (0, 0):
        at = (at[0] - cell.step[0], at[1] - cell.step[1])
        columns.append(_Column(n_ahead + at[0] if cell.step[0] else None, at[1] if cell.step[1] else None))
    return columns[::-1]
