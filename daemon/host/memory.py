"""Memory of this process: how much it can still take, how malloc keeps it, which errors mean that it was too little.

Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_MEMINFO: Final = Path("/proc/meminfo")
_STATM: Final = Path("/proc/self/statm")
_CGROUP: Final = Path("/proc/self/cgroup")
_CGROUPS: Final = Path("/sys/fs/cgroup")
# How malloc, mmap, the dynamic linker, torch and Python's threads report that memory ran out.
_SIGNS: Final = (
    "cannot allocate memory",
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "failed to map segment",
    "can't start new thread",
)
# All that oneDNN says where it can map no memory for its code; without a limit it has other causes.
_SIGN_BELOW_LIMIT: Final = "could not create a primitive"
# Parameters of mallopt(3), from <malloc.h>. Their values are the highest that glibc chooses itself, and the size of a
# thread's heap.
_MALLOPT: Final = (
    (-3, 32 << 20),  # M_MMAP_THRESHOLD: larger buffers are mapped, and returned to the kernel when they are freed
    (-1, 64 << 20),  # M_TRIM_THRESHOLD
    (-2, 64 << 20),  # M_TOP_PAD
)


@dataclass(frozen=True, slots=True)
class Room:
    """Memory that can still be taken.

    Attributes:
        n_bytes: how much.
        where: what bounds it, such as "free on this machine".
        remedy: how to get more.
        is_limit: True for a configured limit, which swapping and stopping other programs do not change.
    """

    n_bytes: int
    where: str
    remedy: str
    is_limit: bool


def find_room() -> tuple[Room, ...]:
    """Return everything that bounds the memory of this process, the tightest first."""
    return tuple(sorted((*_machine(), *_address_space(), *_control_group()), key=lambda room: room.n_bytes))


def reuse_buffers() -> None:
    """Make glibc's malloc reuse freed buffers of up to 32 MiB instead of giving them back to the kernel.

    A thread's heap has 64 MiB. When a heap becomes empty, glibc unmaps it, and the next buffer faults in zeroed
    pages again. Whether that happens to each prefill on a CPU depends on how a few buffers happen to be laid out. With
    this top pad an empty heap stays. Each arena then keeps at most what it once held at the same time. Nothing is
    changed below a limit on the address space, where the pad could be missing elsewhere, or with another C library.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and limit == resource.RLIM_INFINITY:
        for parameter, n_bytes in _MALLOPT:
            mallopt(parameter, n_bytes)


def trim() -> None:
    """Return the freed buffers that glibc's malloc keeps for reuse to the kernel."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def is_shortage(error: BaseException) -> bool:
    """Return whether an error, or one that caused it, says that memory ran out."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    signs = _SIGNS if limit == resource.RLIM_INFINITY else (*_SIGNS, _SIGN_BELOW_LIMIT)
    seen: BaseException | None = error
    while seen is not None:
        message = str(seen).casefold()
        if isinstance(seen, MemoryError) or (isinstance(seen, OSError) and seen.errno == errno.ENOMEM):
            return True
        if isinstance(seen, OSError | RuntimeError | ImportError) and any(sign in message for sign in signs):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def count_free_swap() -> int:
    """Return how many bytes of swap this machine has left."""
    return _read_meminfo().get("SwapFree", 0)


def _machine() -> Iterator[Room]:
    n_bytes = _read_meminfo().get("MemAvailable")
    if n_bytes is not None:
        yield Room(n_bytes, "free on this machine", "Stop other programs or add memory.", is_limit=False)


def _read_meminfo() -> dict[str, int]:
    """Return the figures of /proc/meminfo in bytes."""
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return {}
    words = (line.split() for line in lines)
    return {word[0].removesuffix(":"): int(word[1]) << 10 for word in words if word[-1] == "kB"}


def _address_space() -> Iterator[Room]:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        taken = int(_STATM.read_text().split()[0]) * resource.getpagesize()
        yield Room(max(0, limit - taken), "left below `ulimit -v`", "Raise `ulimit -v` or LimitAS=.", is_limit=True)


def _control_group() -> Iterator[Room]:
    """Yield what the control groups above this process leave it (cgroup v2)."""
    with suppress(OSError):
        path = next((line[3:] for line in _CGROUP.read_text().splitlines() if line.startswith("0::")), "")
        group = _CGROUPS / path.lstrip("/")
        while group != _CGROUPS.parent:
            with suppress(OSError, ValueError):  # the root has no limit, and "max" is not a number
                limit = int((group / "memory.max").read_text())
                taken = int((group / "memory.current").read_text()) - _reclaimable(group)
                yield Room(
                    max(0, limit - taken), f"left below memory.max of {group}", "Raise MemoryMax=.", is_limit=True
                )
            group = group.parent


def _reclaimable(group: Path) -> int:
    """Return how many bytes of a group are file cache, which the kernel gives back."""
    lines = (group / "memory.stat").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file ")))
