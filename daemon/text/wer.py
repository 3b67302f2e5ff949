"""Word errors, as they are counted to measure speech recognition."""

from __future__ import annotations

from daemon.text.alignment import edit_distance
from daemon.text.joining import bare, tokens_of


def count_word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Return (errors, words of the reference): the fewest insertions, deletions and substitutions.

    Case and punctuation do not count; each letter of an unspaced script is a word.
    """
    wanted = [bare(token) for token in tokens_of(reference)]
    got = [bare(token) for token in tokens_of(hypothesis)]
    return edit_distance(wanted, got), len(wanted)
