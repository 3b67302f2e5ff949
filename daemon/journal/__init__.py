"""The journal: what the service remembers of jobs, in SQLite."""

from daemon.journal.connection import JOURNAL_NAME
from daemon.journal.journal import Journal

__all__ = ["JOURNAL_NAME", "Journal"]
