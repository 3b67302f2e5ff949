"""Corrections: replacements in the text, in the order of the configuration. Pure.

Every command reads the configuration, but few configurations have corrections, so their imports are deferred.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import regex


def _correct_zh_common(text: str, language: str | None) -> str:
    from daemon.text.zh_common import correct_zh_common  # noqa: PLC0415  # see the docstring

    return correct_zh_common(text, language)


# The built-in sets, by name: functions of a text and the model's name of its language.
NAMED_SETS: Final[Mapping[str, Callable[[str, str | None], str]]] = {"zh-common": _correct_zh_common}
TIMEOUT_S: Final = 0.1
# A rule that fails this often is not tried again: a recording of ten hours has five thousand segments.
_MAX_FAILURES: Final = 3
# Rules in folders come from people who may not fill the memory: "a" to "aa", a hundred times over, would.
_MAX_GROWTH: Final = 10
_MIN_LIMIT: Final = 2000


@dataclass(frozen=True, slots=True)
class Correction:
    r"""One rule.

    Attributes:
        find: the text to find, wherever it is, or a regular expression.
        replace: what to write in its place; with a regular expression, \1 is its first group.
        is_regex: whether `find` is a regular expression of the library regex.
    """

    find: str
    replace: str
    is_regex: bool = False

    def apply(self, text: str, limit: int | None = None) -> str:
        """Return the corrected text.

        Args:
            text: of one segment.
            limit: how long it may become, in characters; None for many times its length.

        Raises:
            TimeoutError: the regular expression took longer than TIMEOUT_S.
            OverflowError: the text would become longer than the limit.
        """
        limit = limit_of(text) if limit is None else limit
        if self.is_regex:
            corrected = _compiled(self.find).sub(self.replace, text, timeout=TIMEOUT_S, concurrent=True)
        else:
            if len(text) + text.count(self.find) * (len(self.replace) - len(self.find)) > limit:
                raise OverflowError(self.find)
            corrected = text.replace(self.find, self.replace)
        if len(corrected) > limit:
            raise OverflowError(self.find)
        return corrected


def limit_of(text: str) -> int:
    """Return how long a text may become by corrections, in characters."""
    return max(_MIN_LIMIT, _MAX_GROWTH * len(text))


def find_regex_fault(find: str, replace: str) -> str | None:
    """Return what is wrong with a regular expression or its replacement, None if they can be used."""
    import regex  # noqa: PLC0415  # see the docstring of the module

    try:
        regex.compile(find)
        # The replacement is only read where something matches; an empty alternative matches everywhere.
        regex.sub(f"{find}|", replace, "", timeout=TIMEOUT_S)
    except (regex.error, IndexError, KeyError, TimeoutError, OverflowError, RecursionError) as error:
        return str(error) or type(error).__name__
    return None


class Corrector:
    """Applies the rules of one recording.

    Args:
        rules: names of built-in sets and single rules, in order.
    """

    def __init__(self, rules: Iterable[str | Correction]) -> None:
        self._rules = tuple(rules)
        self._n_failures: Counter[int] = Counter()

    def apply(self, text: str, language: str | None) -> str:
        """Return the corrected text of one segment; a rule that fails is skipped.

        Args:
            text: of the segment.
            language: the model's name for it.
        """
        limit = limit_of(text)  # for all rules together
        for index, rule in enumerate(self._rules):
            if isinstance(rule, str):
                text = NAMED_SETS[rule](text, language)
            elif self._n_failures[index] < _MAX_FAILURES:
                try:
                    text = rule.apply(text, limit)
                except (TimeoutError, OverflowError):
                    self._n_failures[index] += 1
        return text

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each rule that was skipped."""
        return tuple(
            f"correction {index + 1} ({_find_of(self._rules[index])}) was skipped in {_count(n)}: "
            "it took too long, or made the text too long"
            for index, n in sorted(self._n_failures.items())
            if n
        )


def _find_of(rule: str | Correction) -> str:
    return rule if isinstance(rule, str) else rule.find


def _count(n_segments: int) -> str:
    if n_segments == 1:
        return "one segment"
    return f"{n_segments} segments" if n_segments < _MAX_FAILURES else f"{n_segments} segments and all after them"


@cache
def _compiled(find: str) -> regex.Pattern[str]:
    import regex  # noqa: PLC0415  # see the docstring

    return regex.compile(find)
