"""Recordings with the same content, such as the copies that file synchronization makes: which came first."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daemon.journal import Journal
    from daemon.transcript import Transcript


class Duplicates:
    """Knows the first job with each content: from the journal, and of jobs that are about to be delivered."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._lock = threading.Lock()
        self._first: dict[str, str] = {}  # job ids, by the sha256 of the recording

    def mark(self, transcript: Transcript) -> Transcript:
        """Return the transcript with the id of the first job with the same recording, if there is another one."""
        source, job_id = transcript.source, transcript.job_id
        with self._lock:
            first = self._journal.find_first_with(source.sha256, job_id)
            if first is None:
                first = self._first.setdefault(source.sha256, job_id)
        return transcript if first == job_id else replace(transcript, source=replace(source, duplicate_of=first))

    def forget(self, job_id: str) -> None:
        """Leave it to the journal what a job was the first with: it has ended."""
        with self._lock:
            self._first = {sha256: first for sha256, first in self._first.items() if first != job_id}
