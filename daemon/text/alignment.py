"""The alignment of two texts with the fewest insertions, deletions and substitutions, word by word.

The bit vectors are those of G. Myers, "A fast bit-vector algorithm for approximate string matching" (Journal of the ACM
46, 1999) in the form of H. Hyyrö (2003): a column of the table is two integers, so that Python compares whole texts in
a few operations for each word. A table that would take too much memory is divided as D. S. Hirschberg describes
("A linear space algorithm for computing maximal common subsequences", 1975).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# A pair of indices (reference, hypothesis): both for words at the same place, None for the side that has no word.
Pair = tuple[int | None, int | None]

_MAX_TABLE_BITS: Final = 1 << 28  # two tables of 32 MiB


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Pair]:
    """Return every word of both sides once, in order, with as few different or unpaired words as possible."""
    return list(_align(reference, hypothesis, 0, 0))


def edit_distance(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Return the fewest insertions, deletions and substitutions that turn one sequence into the other."""
    head, tail = _common_ends(reference, hypothesis)
    return _costs(reference[head : len(reference) - tail], hypothesis[head : len(hypothesis) - tail])[-1]


def _align(reference: Sequence[str], hypothesis: Sequence[str], at: int, other_at: int) -> Iterator[Pair]:
    """Yield the pairs of two parts of the texts, which begin at these indices."""
    head, tail = _common_ends(reference, hypothesis)
    yield from ((at + index, other_at + index) for index in range(head))
    end, other_end = len(reference) - tail, len(hypothesis) - tail
    part, other = reference[head:end], hypothesis[head:other_end]
    if len(part) * len(other) > _MAX_TABLE_BITS:
        half = len(other) // 2
        ahead, behind = _costs(part, other[:half]), _costs(part[::-1], other[half:][::-1])
        cut = min(range(len(part) + 1), key=lambda index: ahead[index] + behind[len(part) - index])
        yield from _align(part[:cut], other[:half], at + head, other_at + head)
        yield from _align(part[cut:], other[half:], at + head + cut, other_at + head + half)
    else:
        yield from reversed(list(_trace(part, other, at + head, other_at + head)))
    yield from ((at + end + index, other_at + other_end + index) for index in range(tail))


def _common_ends(one: Sequence[str], other: Sequence[str]) -> tuple[int, int]:
    """Return how many words both begin with, and how many of the rest both end with."""
    shorter = min(len(one), len(other))
    head = next((index for index in range(shorter) if one[index] != other[index]), shorter)
    rest = shorter - head
    return head, next((index for index in range(rest) if one[-1 - index] != other[-1 - index]), rest)


def _columns(reference: Sequence[str], hypothesis: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield (rises, falls) after each word of the hypothesis: bit i says how the cost changes at word i."""
    full = (1 << len(reference)) - 1
    places: dict[str, int] = {}
    for index, word in enumerate(reference):
        places[word] = places.get(word, 0) | 1 << index
    rises, falls = full, 0
    for word in hypothesis:
        equal = places.get(word, 0)
        diagonal = (((equal & rises) + rises) ^ rises) | equal | falls
        across_rises = (falls | full & ~(diagonal | rises)) << 1 | 1
        across_falls = (diagonal & rises) << 1
        rises = (across_falls | full & ~(diagonal | across_rises)) & full
        falls = across_rises & diagonal & full
        yield rises, falls


def _costs(reference: Sequence[str], hypothesis: Sequence[str]) -> list[int]:
    """Return the cost of turning each beginning of the reference into the hypothesis, shape (n_reference + 1,)."""
    rises, falls = (1 << len(reference)) - 1, 0
    for rises, falls in _columns(reference, hypothesis):  # noqa: B007  # the last column is what is wanted
        pass
    costs = [len(hypothesis)]
    up, down = (f"{bits:0{len(reference)}b}"[::-1] for bits in (rises, falls))
    for rise, fall in zip(up[: len(reference)], down, strict=False):
        costs.append(costs[-1] + (rise == "1") - (fall == "1"))
    return costs


def _trace(reference: Sequence[str], hypothesis: Sequence[str], at: int, other_at: int) -> Iterator[Pair]:
    """Yield the pairs from the last to the first."""
    columns = list(_columns(reference, hypothesis))
    row, column = len(reference), len(hypothesis)
    while row and column:
        if columns[column - 1][0] >> (row - 1) & 1:
            row -= 1
            yield at + row, None
            continue
        column -= 1
        if column and columns[column - 1][1] >> (row - 1) & 1:
            yield None, other_at + column
        else:
            row -= 1
            yield at + row, other_at + column
    yield from ((at + index, None) for index in reversed(range(row)))
    yield from ((None, other_at + index) for index in reversed(range(column)))
