"""The journal: what the service remembers of jobs, in SQLite."""

from daemon.journal.journal import JOURNAL_NAME, Journal

__all__ = ["JOURNAL_NAME", "Journal"]
