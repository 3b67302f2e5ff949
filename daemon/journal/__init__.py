"""The journal: what the service remembers of jobs, in SQLite.

`Journal` is loaded when it is first asked for: `scribed check` reads the journal without it, in less time.
"""

from typing import TYPE_CHECKING, Any

from daemon.journal.displaced import JOURNAL_NAME

if TYPE_CHECKING:
    from daemon.journal.journal import Journal

__all__ = ["JOURNAL_NAME", "Journal"]


def __getattr__(name: str) -> Any:  # noqa: ANN401  # of a module, any attribute
    if name != "Journal":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from daemon.journal.journal import Journal  # noqa: PLC0415  # see the docstring

    return Journal
