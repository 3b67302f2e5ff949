"""What is done with the words of a transcript: their script, and corrections."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from daemon.text import align, bare, tokens_of
from daemon.text.corrections import Corrector
from daemon.text.script import to_script
from daemon.transcript import Word

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from daemon.config import Transcribe
    from daemon.transcript import Segment


def revise(segments: Sequence[Segment], settings: Transcribe) -> tuple[tuple[Segment, ...], tuple[str, ...]]:
    """Convert the script of Chinese text, then apply the corrections, which are written in that script.

    Args:
        segments: as the model wrote them.
        settings: the section `transcribe`.

    Returns:
        (the segments, where changed with the model's own words in `text_raw`; notes for the receipt).
    """
    corrector = Corrector(settings.corrections)
    revised = []
    for segment in segments:
        text = to_script(segment.text, settings.chinese_script, segment.language)
        text = corrector.apply(text, segment.language)
        revised.append(segment if text == segment.text else _change(segment, text))
    return tuple(revised), corrector.notes()


def _change(segment: Segment, text: str) -> Segment:
    """Return the segment with another text; a rule that deletes a word leaves the spaces around it."""
    text = " ".join(text.split())
    words = carry_words(segment.words, text) if segment.words else ()
    return replace(segment, text=text, words=words, text_raw=segment.text_raw or segment.text)


def carry_words(words: Sequence[Word], text: str) -> tuple[Word, ...]:
    """Return the words of a changed text, with what is known of those that they replace.

    A word that is unchanged, or that takes the place of one word, keeps its times and confidence. Where several
    words become more or fewer, the new ones share their time, and have the least of their confidences.
    """
    tokens = [token.strip() for token in tokens_of(text)]
    pairs = align([bare(word.text) for word in words], [bare(token) for token in tokens])
    is_same = [old is not None and new is not None and words[old].text == tokens[new] for old, new in pairs]
    carried: list[Word] = []
    start = 0
    for end in range(len(pairs) + 1):
        if end < len(pairs) and not is_same[end]:
            continue
        replaced = [words[old] for old, _ in pairs[start:end] if old is not None]
        written = [tokens[new] for _, new in pairs[start:end] if new is not None]
        carried += _share(replaced, written)
        if end < len(pairs):
            carried += [words[old] for old in (pairs[end][0],) if old is not None]
        start = end + 1
    return tuple(carried)


def _share(replaced: Sequence[Word], written: Sequence[str]) -> Iterator[Word]:
    """Yield the new words of one place."""
    if len(replaced) == len(written):
        for word, text in zip(replaced, written, strict=True):
            yield replace(word, text=text)
        return
    scores = [word.confidence for word in replaced if word.confidence is not None]
    confidence = min(scores, default=None)
    start_s, end_s = (replaced[0].start_s, replaced[-1].end_s) if replaced else (None, None)
    for index, text in enumerate(written):
        if start_s is None or end_s is None:
            yield Word(text, confidence=confidence)
        else:
            step_s = (end_s - start_s) / len(written)
            yield Word(text, start_s + index * step_s, start_s + (index + 1) * step_s, confidence)
