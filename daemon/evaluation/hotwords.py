"""Words that the model misses again and again: proposals for `transcribe.hotwords`. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from daemon.text import unspaced_of, words_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from daemon.evaluation.scoring import Column, Score

_MIN_MISSED: Final = 2
_MIN_SHARE: Final = 0.5
# Short words are function words, which the model knows; its errors there have other causes.
_MIN_LETTERS: Final = 4
_MAX_UNSPACED: Final = 8  # letters of a run in a script without spaces; a longer one is a sentence that was missed
_MAX_PROPOSED: Final = 20


def propose_hotwords(scores: Sequence[Score], present: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return (word, times missed, times spoken) of words that were missed at least twice and in half of all cases.

    In a script without spaces, letters that were missed together count as a word.

    Args:
        scores: of the recordings.
        present: hotwords that are already set.
    """
    known = {key for hotword in present for key in (hotword.casefold(), *words_of(hotword))}
    missed: Counter[str] = Counter()
    spellings: dict[str, Counter[str]] = {}
    n_spoken: Counter[str] = Counter()
    texts = []
    for one in scores:
        for key, shown in _missed(one.columns):
            missed[key] += 1
            spellings.setdefault(key, Counter())[shown] += 1
        n_spoken.update(column.wanted.key for column in one.columns if column.wanted)
        texts.append("".join(column.wanted.key for column in one.columns if column.wanted))
    proposals = []
    for key, n_missed in missed.most_common():
        n_all = sum(text.count(key) for text in texts) if unspaced_of(key[0]) else n_spoken[key]
        if n_missed >= _MIN_MISSED and n_missed >= _MIN_SHARE * n_all and key not in known:
            proposals.append((spellings[key].most_common(1)[0][0].strip('.,;:!?"()[]'), n_missed, n_all))
    return proposals[:_MAX_PROPOSED]


def _missed(columns: Sequence[Column]) -> Iterator[tuple[str, str]]:
    """Yield (key, spelling) of each missed word, and of each run of missed letters of a script without spaces."""
    run = ""
    for column in columns:
        word = column.wanted
        is_letter = word is not None and bool(unspaced_of(word.key[0]))
        if word is not None and is_letter and not column.is_right:
            run += word.key
            continue
        if word is None and run:  # an extra word within a missed run does not end it
            continue
        if 1 < len(run) <= _MAX_UNSPACED:
            yield run, run
        run = ""
        if word is not None and not column.is_right and len(word.key) >= _MIN_LETTERS and not word.key.isdigit():
            yield word.key, word.shown
    if 1 < len(run) <= _MAX_UNSPACED:
        yield run, run
