"""The work on claimed recordings: prepared and transcribed side by side, each to its outcome, with retries."""

from daemon.worker.attempts import MAX_EARLY_CRASHES, Attempts
from daemon.worker.places import count_places
from daemon.worker.preparation import count_decoders
from daemon.worker.resources import EngineSource, Resources
from daemon.worker.worker import MAX_AHEAD, MAX_LONG_AHEAD, InProgress, Worker

__all__ = [
    "MAX_AHEAD",
    "MAX_EARLY_CRASHES",
    "MAX_LONG_AHEAD",
    "Attempts",
    "EngineSource",
    "InProgress",
    "Resources",
    "Worker",
    "count_decoders",
    "count_places",
]
