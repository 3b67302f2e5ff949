"""Which errors mean that memory ran out, what bounds it, and what malloc keeps of it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from daemon.host import memory


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
        raised(ValueError("broken"), MemoryError()),
    ],
    ids=str,
)
def test_shortage_is_recognized(error: BaseException) -> None:
    assert memory.is_shortage(error)


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), ImportError("No module named torch"), RuntimeError("CUDA out of memory")],
    ids=str,
)
def test_other_errors_are_not_called_a_shortage_of_memory(error: BaseException) -> None:
    assert not memory.is_shortage(error)


def test_error_of_a_real_mapping_that_does_not_fit_is_recognized() -> None:
    code = (
        "import mmap, resource; from daemon.host import memory\n"
        "resource.setrlimit(resource.RLIMIT_AS, (400_000_000, 400_000_000))\n"
        "try: mmap.mmap(-1, 1_000_000_000)\n"
        "except Exception as error: print(memory.is_shortage(error), memory.find_room()[0].where)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "True left below `ulimit -v`\n"


@pytest.mark.parametrize(("limit", "is_shortage"), [("800_000_000", True), ("resource.RLIM_INFINITY", False)])
def test_failure_of_onednn_is_a_shortage_below_a_limit_only(limit: str, *, is_shortage: bool) -> None:
    code = (
        "import resource; from daemon.host import memory\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({limit}, resource.RLIM_INFINITY))\n"
        "print(memory.is_shortage(RuntimeError('could not create a primitive')))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == f"{is_shortage}\n"


def test_room_is_listed_from_the_tightest() -> None:
    sizes = [room.n_bytes for room in memory.find_room()]
    assert sizes
    assert sizes == sorted(sizes)


_COUNT_FAULTS = """
import resource, sys
from threading import Thread
from daemon.host import memory

def allocate(*sizes_mib):
    buffers = [bytearray(size << 20) for size in sizes_mib]
    for buffer in buffers:
        buffer[::4096] = bytes([1]) * len(buffer[::4096])

def count_faults(*sizes_mib):
    for _ in range(3):
        allocate(*sizes_mib)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    allocate(*sizes_mib)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident_mib():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20

def work():
    print(count_faults(24, 24, 24))
    allocate(200)
    print(resident_mib())

if sys.argv[1] == "reuse":
    memory.reuse_buffers()
thread = Thread(target=work)
thread.start()
thread.join()
"""


def _count_faults(mode: str) -> tuple[int, int]:
    output = subprocess.run([sys.executable, "-c", _COUNT_FAULTS, mode], capture_output=True, text=True, check=True)
    n_faults, resident_mib = map(int, output.stdout.split())
    return n_faults, resident_mib


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_freed_buffers_of_a_thread_are_reused_and_larger_ones_are_returned() -> None:
    n_faults_before, _ = _count_faults("default")
    assert n_faults_before > 1000, "glibc keeps the heaps of threads by itself now: reuse_buffers is not needed"
    n_faults, resident_mib = _count_faults("reuse")
    assert n_faults < 100
    assert resident_mib < 200
