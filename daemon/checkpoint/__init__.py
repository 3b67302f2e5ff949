"""Model folders: finding, checking and fetching models."""

from daemon.checkpoint.inspection import DEMO, Checkpoint, compute_digest, find_folder, inspect

__all__ = ["DEMO", "Checkpoint", "compute_digest", "find_folder", "inspect"]
