"""What people and programs learn about the service: the snapshot, its publisher, and the metrics."""

from daemon.status.faults import Fault
from daemon.status.snapshot import (
    LOCK_NAME,
    SNAPSHOT_NAME,
    STATUS_NAME,
    Done,
    Failed,
    Model,
    Running,
    Snapshot,
    as_dict,
    read_status,
    render_status_txt,
    was_read,
    write_snapshot,
)

__all__ = [
    "LOCK_NAME",
    "SNAPSHOT_NAME",
    "STATUS_NAME",
    "Done",
    "Failed",
    "Fault",
    "Model",
    "Running",
    "Snapshot",
    "as_dict",
    "read_status",
    "render_status_txt",
    "was_read",
    "write_snapshot",
]
