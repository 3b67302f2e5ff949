"""The search index: the words of delivered transcripts, in an SQLite file of its own."""

from daemon.search.index import INDEX_NAME, DocumentPlace, Hit, SearchIndex, discard
from daemon.search.upkeep import Upkeep, index_delivered, rebuild

__all__ = ["INDEX_NAME", "DocumentPlace", "Hit", "SearchIndex", "Upkeep", "discard", "index_delivered", "rebuild"]
