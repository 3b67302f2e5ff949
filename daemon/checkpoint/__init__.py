"""Model folders: find one, check it, fetch one."""

from daemon.checkpoint.inspection import DEMO, Checkpoint, compute_digest, find_folder, inspect

__all__ = ["DEMO", "Checkpoint", "compute_digest", "find_folder", "inspect"]
