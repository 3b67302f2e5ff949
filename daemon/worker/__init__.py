"""Work on claimed recordings: a few at a time, each on a thread of its own."""

from daemon.worker.worker import N_IN_FLIGHT, ChangedError, Resources, Worker

__all__ = ["N_IN_FLIGHT", "ChangedError", "Resources", "Worker"]
