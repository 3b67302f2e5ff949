"""What the kernel has to offer: confinement for decoder processes, and enough inotify watches."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from daemon.cli.check.finding import Finding
from daemon.host import sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.cli.check.finding import Installation

_PROC_SYS: Final = Path("/proc/sys")
# The kernel's own smallest defaults; a lower value was set by an administrator or a container.
_MIN_WATCHES: Final = 8192
_MIN_INSTANCES: Final = 128
_LIMITS: Final = (
    ("fs.inotify.max_user_watches", _MIN_WATCHES),
    ("user.max_inotify_watches", _MIN_WATCHES),
    ("fs.inotify.max_user_instances", _MIN_INSTANCES),
    ("user.max_inotify_instances", _MIN_INSTANCES),
)
# Counting the folders of a large inbox ends here: `check` answers in half a second.
_COUNT_S: Final = 0.1


def check_confinement(installation: Installation) -> Iterator[Finding]:
    """Check that the kernel can take all rights from decoder processes."""
    del installation
    missing = sandbox.find_missing()
    for one in missing:
        yield Finding("warning", f"decoder: {one.what}", one.remedy)
    if not missing:
        yield Finding("ok", "decoder: confined by seccomp and Landlock")


def check_inotify(installation: Installation, proc_sys: Path = _PROC_SYS) -> Iterator[Finding]:
    """Check that the limits of inotify leave room for a watch on every folder of the inbox.

    Args:
        installation: the installation.
        proc_sys: where the limits are read, /proc/sys.
    """
    if installation.config.watch.mode == "poll":
        return
    n_folders = _count_folders(installation.config.folders.inbox)
    is_low = False
    for name, least in _LIMITS:
        needed = max(least, 2 * n_folders) if name.endswith("watches") else least
        try:
            limit = int((proc_sys / name.replace(".", "/")).read_text())
        except (OSError, ValueError):  # an old kernel, or hidden by a container
            continue
        if limit < needed:
            is_low = True
            what = f"inotify: {name} is {limit}; the inbox has {n_folders} folders"
            remedy = f"echo {name}={2 * needed} | sudo tee /etc/sysctl.d/60-scribed.conf && sudo sysctl --system"
            yield Finding("warning", what, remedy)
    if not is_low:
        yield Finding("ok", "inotify: limits are high enough")


def _count_folders(inbox: Path) -> int:
    """Return how many folders the inbox has, itself included; of a huge one, how many were found in time."""
    n_folders, end_s = 0, time.monotonic() + _COUNT_S
    for _ in os.walk(inbox):
        n_folders += 1
        if time.monotonic() > end_s:
            break
    return n_folders
