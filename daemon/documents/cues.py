"""Subtitles that can be read in time: which words are shown together, in which lines, and for how long.

The rules are those that broadcasters' guides have in common (EBU-TT, BBC, Netflix): two lines, 42
columns each, 1 to 7 seconds, at most 20 characters a second where the speech allows, broken where
a reader would pause. Scripts without spaces have 16 characters to a line and 9 a second.
"""

from __future__ import annotations

import math
import re
import unicodedata
from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final

from daemon.documents.layout import Kind, list_items
from daemon.text import ends_sentence, tokens_of, unspaced_of, weigh, words_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from daemon.documents.layout import Item
    from daemon.transcript import Transcript

_N_LINES: Final = 2
_MIN_CUE_S: Final = 1.0
_MAX_CUE_S: Final = 7.0
_SHORTEST_S: Final = 0.5  # of a segment without a length of its own
_CUT_CUE_S: Final = 5.0  # how long the mark of a cut recording is shown before its end
_OVERLAP_S: Final = 0.2  # voices that overlap for longer speak at the same time
_JOIN_PAUSE_S: Final = 1.0  # a short cue may join its neighbour across a shorter pause
_DASH: Final = "- "

# Chinese and Japanese lines do not begin or end with these.
_NEVER_FIRST: Final = frozenset("、。，．！？；：）」』】〕》…ー々”’")  # noqa: RUF001  # exactly these characters are meant
_NEVER_LAST: Final = frozenset("（「『【〔《“‘")  # noqa: RUF001  # exactly these characters are meant
_NUMERAL: Final = "0-9０-９零〇一二三四五六七八九十百千万亿億萬点點"  # noqa: RUF001  # exactly these characters are meant
_NUMBER: Final = re.compile(f"[{_NUMERAL}][{_NUMERAL}.,:/%-]*$")
_NUMBER_GOES_ON: Final = re.compile(f"[{_NUMERAL}]")
_CLAUSE_ENDS: Final = tuple(",;:،؛，；：、")  # noqa: RUF001  # exactly these characters are meant

# What a break costs after a sentence, after a clause, at a pause, and elsewhere; and an almost empty cue.
_CLAUSE_COST: Final = 0.3
_PAUSE_COST: Final = 0.4
_WORD_COST: Final = 1.2
_PAUSE_S: Final = 0.3
_EMPTY_COST: Final = 1.0
_SHORT_COST: Final = 2.0  # for each second that is missing
_LONG_COST: Final = 0.25  # for each second of speech after the cue has gone


@dataclass(frozen=True, slots=True)
class Cue:
    """One subtitle: when it is shown, in seconds, and its lines, joined with a newline."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, slots=True)
class _Style:
    """How long a line may be, and how fast it may be read."""

    is_unspaced: bool
    max_width: int
    max_speed: float  # characters a second

    @classmethod
    def of(cls, text: str) -> _Style:
        is_unspaced = 2 * len(unspaced_of(text)) > len(words_of(text))
        return cls(is_unspaced, 16, 9.0) if is_unspaced else cls(is_unspaced, 42, 20.0)

    def fits(self, line: str) -> bool:
        # No letter takes more than two columns.
        return 2 * len(line) <= self.max_width or self.width(line.strip()) <= self.max_width

    def width(self, text: str) -> int:
        """Return the columns of a text, in which Chinese letters count twice; in Chinese text the characters."""
        return len(text) if self.is_unspaced or text.isascii() else sum(map(_columns, text))


@dataclass(frozen=True, slots=True)
class _Atom:
    """What stays on one line: a word, a number, a letter of a script without spaces; with the space before it."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class _Draft:
    """A cue before its times are set; `atoms` is empty for one of two voices, whose lines are in `text`."""

    start_s: float
    end_s: float
    text: str
    style: _Style
    voice: tuple[object, ...]
    atoms: tuple[_Atom, ...] = ()


def make_cues(transcript: Transcript) -> list[Cue]:
    """Return the cues of speech and marks in the order of time, never two at a time."""
    items = [
        replace(item, start_s=max(0.0, item.end_s - _CUT_CUE_S)) if item.kind is Kind.CUT else item
        for item in list_items(transcript)
    ]
    drafts: list[_Draft] = []
    begun_s: dict[tuple[object, ...], float] = {}  # by voice, whose words stay in order whatever their times
    for item, is_crowded in zip(items, _find_crowded(items), strict=True):
        for draft in _draft(item, is_crowded=is_crowded):
            start_s = begun_s[item.voice] = max(draft.start_s, begun_s.get(item.voice, 0.0))
            drafts.append(replace(draft, start_s=start_s, end_s=max(draft.end_s, start_s)))
    drafts.sort(key=lambda draft: draft.start_s)
    return list(_set_times(_join(drafts), transcript.audio.duration_s))


def _find_crowded(items: Sequence[Item]) -> list[bool]:
    """Return for each item whether another voice speaks at the same time."""
    crowded = [False] * len(items)
    for at, item in enumerate(items):
        for later in range(at + 1, len(items)):
            other = items[later]
            if other.start_s > item.end_s - _OVERLAP_S:
                break
            if item.kind is other.kind is Kind.SPEECH and item.voice != other.voice:
                crowded[at] = crowded[later] = True
    return crowded


def _draft(item: Item, *, is_crowded: bool) -> Iterator[_Draft]:
    """Divide an item into drafts at the least cost; those of crowded talk have one line."""
    style = _Style.of(item.text)
    if is_crowded:
        style = replace(style, max_width=style.max_width - len(_DASH))
    ruler = _Ruler.of(_atoms(item, style), style, 1 if is_crowded else _N_LINES)
    for start, stop in ruler.divide():
        shown = ruler.atoms[start:stop]
        text = "\n".join(_wrap(shown, style, ruler.n_lines) or [])
        yield _Draft(shown[0].start_s, shown[-1].end_s, text, style, item.voice, tuple(shown))


@dataclass(frozen=True, slots=True)
class _Ruler:
    """The atoms of one item, measured once.

    Attributes:
        widths: of the first n atoms together, for each n.
        leads: the width of the space before each atom, which a line does not begin with.
        breaks: what a break before each atom costs, and the end.
    """

    atoms: Sequence[_Atom]
    n_lines: int
    max_width: int
    widths: Sequence[int]
    leads: Sequence[int]
    breaks: Sequence[float]

    @classmethod
    def of(cls, atoms: Sequence[_Atom], style: _Style, n_lines: int) -> _Ruler:
        widths = [0, *accumulate(style.width(atom.text) for atom in atoms)]
        leads = [int(atom.text[0] == " ") for atom in atoms]
        breaks = [_break_cost(atoms, at) if at else 0.0 for at in range(len(atoms) + 1)]
        return cls(atoms, n_lines, style.max_width, widths, leads, breaks)

    def divide(self) -> list[tuple[int, int]]:
        """Return [start, stop) of each cue, at the least cost of all together (dynamic programming).

        A cue costs something where it is short in time or in text, or too long in time. The inner loop runs a hundred
        thousand times for an hour of speech, so it calls nothing.
        """
        reach = [self._reach(start) for start in range(len(self.atoms))]
        starts_s = [atom.start_s for atom in self.atoms]
        widths, room = self.widths, self.n_lines * self.max_width
        best, begins = [0.0], [0]  # for each number of atoms: the least cost, and where the last cue begins
        for stop, atom in enumerate(self.atoms, 1):
            width, end_s, least, chosen = widths[stop], atom.end_s, math.inf, stop - 1
            for start in range(stop - 1, -1, -1):
                if reach[start] < stop and start < stop - 1:
                    break
                filled = (width - widths[start]) / room
                length_s = end_s - starts_s[start]
                cost = _EMPTY_COST * (1 - filled) if filled < 1 else 0.0
                if length_s < _MIN_CUE_S:
                    cost += _SHORT_COST * (_MIN_CUE_S - length_s)
                elif length_s > _MAX_CUE_S:
                    cost += _LONG_COST * (length_s - _MAX_CUE_S)
                cost += best[start]
                if cost <= least:  # of two that cost the same, the longer cue
                    least, chosen = cost, start
            best.append(least + self.breaks[stop])
            begins.append(chosen)
        cuts, stop = [], len(self.atoms)
        while stop:
            cuts.append((begins[stop], stop))
            stop = begins[stop]
        return cuts[::-1]

    def _reach(self, start: int) -> int:
        """Return where a cue that begins with atom `start` has to stop, each line filled as far as it goes."""
        for _ in range(self.n_lines):
            limit = self.widths[start] + self.leads[start] + self.max_width
            start = bisect_right(self.widths, limit, start) - 1
            if start == len(self.atoms):
                break
        return start


def _atoms(item: Item, style: _Style) -> list[_Atom]:
    """Return what stays on one line, with its times: those of the words where they are known."""
    tokens = tokens_of(" ".join(item.text.split()))
    length_s = max(item.end_s - item.start_s, _SHORTEST_S)
    weights = [0.0, *accumulate(weigh(token) + 0.5 for token in tokens)]
    times = [item.start_s + length_s * weight / weights[-1] for weight in weights] if tokens else []
    words = item.segment.words if item.segment is not None else ()
    atoms: list[_Atom] = []
    for at, token in enumerate(tokens):
        start_s, end_s = times[at], times[at + 1]
        if len(words) == len(tokens) and words[at].start_s is not None and words[at].end_s is not None:
            start_s, end_s = words[at].start_s or 0.0, words[at].end_s or 0.0
        if atoms and _is_one(atoms[-1].text, token) and style.fits(atoms[-1].text + token):
            atoms[-1] = replace(atoms[-1], text=atoms[-1].text + token, end_s=end_s)
        elif style.fits(token):
            atoms.append(_Atom(token, start_s, end_s))
        else:
            atoms += (_Atom(part, start_s, end_s) for part in _split(token, style))
    return atoms


def _is_one(before: str, token: str) -> bool:
    """Return whether a token stays on the line of what is before it."""
    first = token[0]
    if first in _NEVER_FIRST or before[-1] in _NEVER_LAST:
        return True
    if not first.isascii() and unicodedata.category(first).startswith("M"):
        return True
    return bool(_NUMBER_GOES_ON.match(token.strip())) and bool(_NUMBER.search(before))


def _split(token: str, style: _Style) -> Iterator[str]:
    """Yield the parts of a word that is longer than a line."""
    part = ""
    for letter in token:
        if part.strip() and not style.fits(part + letter):
            yield part
            part = ""
        part += letter
    yield part


def _wrap(atoms: Sequence[_Atom], style: _Style, n_lines: int) -> list[str] | None:
    """Return the lines of a cue, the best of all ways to break them; None where it has too many."""
    text = "".join(atom.text for atom in atoms)
    whole = text.strip()
    if style.width(whole) <= style.max_width:
        return [whole]
    if n_lines == 1 or style.width(whole) > n_lines * (style.max_width + 1):
        return None
    best: tuple[float, list[str]] | None = None
    offset = 0
    for at in range(1, len(atoms)):
        offset += len(atoms[at - 1].text)
        lines = [text[:offset].strip(), text[offset:].strip()]
        if all(map(style.fits, lines)):
            uneven = abs(style.width(lines[0]) - style.width(lines[1])) / style.max_width
            cost = uneven + _break_cost(atoms, at)
            if best is None or cost < best[0]:
                best = cost, lines
    return None if best is None else best[1]


def _break_cost(atoms: Sequence[_Atom], at: int) -> float:
    """Return what a break before atom `at` costs."""
    if at == len(atoms) or ends_sentence(atoms[at - 1].text):
        return 0.0
    if atoms[at - 1].text.endswith(_CLAUSE_ENDS):
        return _CLAUSE_COST
    return _PAUSE_COST if atoms[at].start_s - atoms[at - 1].end_s >= _PAUSE_S else _WORD_COST


def _join(drafts: Sequence[_Draft]) -> list[_Draft]:
    """Join two voices at the same time, and cues that are too short with the next one of their voice."""
    joined: list[_Draft] = []
    for draft in drafts:
        last = joined[-1] if joined else None
        both = None if last is None else _join_voices(last, draft) or _join_short(last, draft)
        if both is None:
            joined.append(draft)
        else:
            joined[-1] = both
    return joined


def _join_voices(first: _Draft, second: _Draft) -> _Draft | None:
    is_crowded = bool(first.atoms) and first.voice != second.voice and second.start_s < first.end_s - _OVERLAP_S
    if not is_crowded or "\n" in first.text + second.text:
        return None
    text = f"{_DASH}{first.text}\n{_DASH}{second.text}"
    return replace(first, end_s=max(first.end_s, second.end_s), text=text, atoms=())


def _join_short(first: _Draft, second: _Draft) -> _Draft | None:
    is_short = min(first.end_s - first.start_s, second.end_s - second.start_s) < _MIN_CUE_S
    is_near = second.start_s - first.end_s < _JOIN_PAUSE_S and second.end_s - first.start_s <= _MAX_CUE_S
    is_alike = bool(first.atoms) and bool(second.atoms) and first.voice == second.voice and first.style == second.style
    if not (is_short and is_near and is_alike):
        return None
    space = "" if first.style.is_unspaced else " "
    head = replace(second.atoms[0], text=f"{space}{second.atoms[0].text.strip()}")
    atoms = (*first.atoms, head, *second.atoms[1:])
    lines = _wrap(atoms, first.style, _N_LINES)
    return None if lines is None else replace(first, end_s=second.end_s, text="\n".join(lines), atoms=atoms)


def _set_times(drafts: Sequence[_Draft], audio_s: float) -> Iterator[Cue]:
    """Yield the cues; each is shown long enough to be read, as far as there is time until the next one."""
    shown_s = 0.0
    for draft, after in pairwise([*drafts, None]):
        if draft is None:
            return
        wanted_s = min(_MAX_CUE_S, max(_MIN_CUE_S, len(draft.text) / draft.style.max_speed))
        start_s = max(draft.start_s, shown_s)
        end_s = min(max(draft.end_s, start_s + wanted_s), start_s + _MAX_CUE_S)
        latest_s = max(audio_s, draft.end_s) if after is None else after.start_s
        if end_s > latest_s:
            # There is no more time after it; where that is too short, it begins a little early.
            start_s = max(shown_s, min(start_s, latest_s - _MIN_CUE_S))
            end_s = max(latest_s, start_s + _SHORTEST_S)
        yield Cue(start_s, end_s, draft.text)
        shown_s = end_s


@lru_cache(maxsize=1 << 16)
def _columns(letter: str) -> int:
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1
