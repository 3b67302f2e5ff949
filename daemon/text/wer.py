"""Word errors, as they are counted to measure speech recognition."""

from __future__ import annotations

from daemon.text.joining import bare, tokens_of


def count_word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Return (errors, words of the reference): the fewest insertions, deletions and substitutions.

    Case and punctuation do not count; each letter of an unspaced script is a word.
    """
    wanted = [bare(token) for token in tokens_of(reference)]
    got = [bare(token) for token in tokens_of(hypothesis)]
    row = list(range(len(got) + 1))
    for n_wanted, word in enumerate(wanted, 1):
        diagonal, row[0] = row[0], n_wanted
        for n_got, other in enumerate(got, 1):
            cost = min(row[n_got] + 1, row[n_got - 1] + 1, diagonal + (word != other))
            diagonal, row[n_got] = row[n_got], cost
    return row[-1], len(wanted)
