"""What people and programs learn about the service: the snapshot and its readers.

What the daemon itself needs is in `daemon.status.publisher`, `faults` and `metrics`: this module stays quick to
import, because `scribed status` waits for it.
"""

from daemon.status.reading import is_running, read_status, was_read
from daemon.status.render import render_status_txt
from daemon.status.snapshot import (
    SNAPSHOT_NAME,
    STATUS_NAME,
    Delivered,
    Failed,
    Fault,
    Model,
    Running,
    Snapshot,
    as_dict,
)

__all__ = [
    "SNAPSHOT_NAME",
    "STATUS_NAME",
    "Delivered",
    "Failed",
    "Fault",
    "Model",
    "Running",
    "Snapshot",
    "as_dict",
    "is_running",
    "read_status",
    "render_status_txt",
    "was_read",
]
