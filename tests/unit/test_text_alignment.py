"""The alignment against jiwer, which counts with code that shares nothing with ours (rapidfuzz, in C++)."""

from __future__ import annotations

import random

import jiwer
import pytest

from daemon.text import align, alignment, edit_distance

WORDS = [f"w{index}" for index in range(40)]
HAN = [chr(0x4E00 + index) for index in range(40)]


def random_pair(seed: int) -> tuple[list[str], list[str]]:
    """Return a reference and what a recognizer with errors of every kind could write; some empty, some long."""
    rng = random.Random(seed)  # noqa: S311  # test data
    letters = rng.choice([WORDS, HAN])
    length = rng.choice([0, 1, 3, 20, 200]) if seed else 5000
    reference = [rng.choice(letters) for _ in range(length)]
    if rng.random() < 0.15:
        return reference, [rng.choice(letters) for _ in range(rng.choice([0, 7, 60]))]
    written: list[str] = []
    for word in reference:
        written += rng.choices([[word], [rng.choice(letters)], [], [word, rng.choice(letters)]], [7, 1, 1, 1])[0]
    return reference, written


def counts(reference: list[str], written: list[str]) -> tuple[int, int, int]:
    """Return (substitutions, deletions, insertions)."""
    pairs = align(reference, written)
    assert [index for index, _ in pairs if index is not None] == list(range(len(reference)))
    assert [other for _, other in pairs if other is not None] == list(range(len(written)))
    both = [(reference[index], written[other]) for index, other in pairs if index is not None and other is not None]
    return (
        sum(wanted != got for wanted, got in both),
        sum(other is None for _, other in pairs),
        sum(index is None for index, _ in pairs),
    )


@pytest.mark.parametrize("seed", range(100))
def test_alignment_counts_the_same_errors_as_jiwer(seed: int) -> None:
    reference, written = random_pair(seed)
    judged = jiwer.process_words(" ".join(reference), " ".join(written))
    assert counts(reference, written) == (judged.substitutions, judged.deletions, judged.insertions)
    assert edit_distance(reference, written) == judged.substitutions + judged.deletions + judged.insertions


def test_random_pairs_are_of_every_kind() -> None:
    pairs = [random_pair(seed) for seed in range(100)]
    assert any(not reference and written for reference, written in pairs)
    assert any(reference and not written for reference, written in pairs)
    assert any(not reference and not written for reference, written in pairs)
    assert any(len(reference) >= 5000 for reference, _ in pairs)
    assert any(reference and reference[0] in HAN for reference, _ in pairs)


@pytest.mark.parametrize("seed", [2, 5, 11])
def test_divided_table_gives_as_few_errors(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, written = random_pair(0)
    random.Random(seed).shuffle(written)  # noqa: S311  # test data
    whole = edit_distance(reference, written)
    monkeypatch.setattr(alignment, "_MAX_TABLE_BITS", 1000)
    assert sum(counts(reference, written)) == whole
