"""The work on claimed recordings: a few at a time, each to its outcome, with retries."""

from daemon.worker.attempts import MAX_EARLY_CRASHES, Attempts
from daemon.worker.resources import EngineSource, Resources
from daemon.worker.worker import ChangedError, Worker, recordings_in_flight

__all__ = [
    "MAX_EARLY_CRASHES",
    "Attempts",
    "ChangedError",
    "EngineSource",
    "Resources",
    "Worker",
    "recordings_in_flight",
]
