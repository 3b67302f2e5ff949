"""Model folders: finding, checking and fetching models."""

from daemon.checkpoint.inspection import Checkpoint, compute_digest, find_folder, inspect

__all__ = ["Checkpoint", "compute_digest", "find_folder", "inspect"]
