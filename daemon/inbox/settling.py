"""When a recording counts as complete: the rules of arrival. Pure but for one look at a file's end."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Final

from daemon.job import Fingerprint

# Where the writer's close cannot be seen, the quiet time replaces it: three times as long, up to this.
_UNSEEN_FACTOR: Final = 3
_UNSEEN_QUIET_S: Final = 15.0
# A file that did not change for this long is claimed in any case; an empty one waits as long.
_LONG_QUIET_S: Final = 600.0
_HOLES_QUIET_S: Final = 300.0  # its size was reserved and is being filled
_LINKED_QUIET_S: Final = 60.0  # some programs commit an upload by link, then unlink
_BLOCK_BYTES: Final = 512  # the unit of st_blocks, whatever the file system's own

_RECENT: Final = "arrived a moment ago"
_UNSEEN: Final = "arrived a moment ago, and scribed cannot see here whether the upload is complete"
_OPEN: Final = "still being written"
_EMPTY: Final = "still empty"
_HOLES: Final = "has reserved space at its end that is not filled yet"
_LINKED: Final = "has a second name (a hard link)"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A recording that is complete.

    Attributes:
        path: within the inbox, with "/" between folders.
        fingerprint: what it looked like when it had settled.
        close_seen: whether an event reported that its writer closed it or moved it here; False where only
            the quiet time says that it is complete, so that it may still grow.
    """

    path: str
    fingerprint: Fingerprint
    close_seen: bool = True


@dataclass(frozen=True, slots=True)
class Arriving:
    """A file that is not complete yet.

    Attributes:
        path: within the inbox.
        n_bytes: its size so far.
        reason: why it is not claimed yet, in words for people.
        left_s: seconds until it is claimed if it does not change; infinite where that is unknown.
        due_s: when that is, in seconds since 1970; infinite where that is unknown.
    """

    path: str
    n_bytes: int
    reason: str
    # Not compared: it differs at every scan, and says the same.
    left_s: float = field(default=math.inf, compare=False)
    due_s: float = math.inf


@dataclass(slots=True)
class Sighting:
    """One file as it was at the last scan.

    What follows from that is kept here, because a long queue is scanned often.

    Attributes:
        facts: device, inode, size, mtime and blocks.
        first_seen: a number that grows with each file that comes.
        quiet_since_s: when it last changed, on the monotonic clock.
        quiet_since_epoch_s: the same in seconds since 1970, only for display.
        is_old: whether it was last written more than ten minutes before it was first seen, and has not changed since.
        close_seen: whether its writer is known to have closed it.
        is_filling: whether its end is a hole that is being filled; None until that is looked at.
        arrival: set once it has settled.
        readable_at_ns: its ctime when it was found to be readable.
    """

    facts: tuple[int, ...]
    first_seen: int
    quiet_since_s: float
    quiet_since_epoch_s: float
    is_old: bool
    close_seen: bool = False
    is_filling: bool | None = None
    arrival: Arrival | None = None
    readable_at_ns: int = -1

    def changed(self, facts: tuple[int, ...], now_s: float, epoch_s: float) -> Sighting:
        """Return the sighting of the same name after a change.

        A close that was seen still counts where only times or blocks changed, as `cp -p` and rsync do after it.
        """
        is_same_content = self.facts[:3] == facts[:3]
        return Sighting(
            facts, self.first_seen, now_s, epoch_s, is_old=False, close_seen=self.close_seen and is_same_content
        )


def first_sighting(
    facts: os.stat_result, sight: tuple[int, ...], number: int, now_s: float, epoch_s: float
) -> Sighting:
    """Return the sighting of a file that was not there before.

    Args:
        facts: what stat says of it.
        sight: of that, what any change changes.
        number: which file it is since the start.
        now_s: the monotonic clock.
        epoch_s: the time of day, to compare with its mtime.
    """
    return Sighting(sight, number, now_s, epoch_s, is_old=epoch_s - facts.st_mtime > _LONG_QUIET_S)


def fingerprint_of(facts: os.stat_result) -> Fingerprint:
    """Return what distinguishes this version of a file from another."""
    return Fingerprint(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)


def needed_quiet(facts: os.stat_result, sighting: Sighting, settle_s: float, *, is_once: bool) -> tuple[float, str]:
    """Return how many seconds without a change make this file complete, and why it waits for them.

    Args:
        facts: what stat says of it.
        sighting: what is known of it.
        settle_s: `watch.settle_s`.
        is_once: `scribed once`, which waits no longer than settle_s for a close that it cannot see.
    """
    if facts.st_size == 0:
        return max(settle_s, _LONG_QUIET_S), _EMPTY
    needed_s, reason = settle_s, _RECENT
    if not (sighting.close_seen or sighting.is_old or is_once):
        unseen_s = min(_UNSEEN_FACTOR * settle_s, _UNSEEN_QUIET_S)
        if unseen_s > needed_s:
            needed_s, reason = unseen_s, _UNSEEN
    if sighting.is_filling and needed_s < _HOLES_QUIET_S:
        return _HOLES_QUIET_S, _HOLES
    if facts.st_nlink > 1 and needed_s < _LINKED_QUIET_S:
        return _LINKED_QUIET_S, _LINKED
    return needed_s, reason


def needed_while_open(settle_s: float) -> tuple[float, str]:
    """Return the same for a file that was written to and not closed since: a close may come unseen, or never."""
    return max(settle_s, _LONG_QUIET_S), _OPEN


def may_have_holes(facts: os.stat_result) -> bool:
    """Whether the file takes less room than its size: it has holes, or its file system compresses."""
    return facts.st_blocks * _BLOCK_BYTES < facts.st_size


def ends_in_hole(name: str, folder: int, n_bytes: int) -> bool:
    """Whether the last byte of a file was never written, as in an upload whose size was set first.

    Holes within are silence that `cp --sparse` or a compressing disk left out, or they lie behind the point up
    to which the file is filled: then its end is one too.

    Args:
        name: of the file.
        folder: a descriptor of its folder.
        n_bytes: its size.
    """
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:  # not readable: it is not taken until it is
        return True
    try:
        # https://man7.org/linux/man-pages/man2/lseek.2.html: behind the last byte there is always a hole.
        return os.lseek(descriptor, n_bytes - 1, os.SEEK_HOLE) < n_bytes
    except OSError:  # cut off meanwhile, or a file system without this operation
        return True
    finally:
        os.close(descriptor)
