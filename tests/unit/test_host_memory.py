"""Which errors mean that memory ran out, and what bounds it."""

from __future__ import annotations

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
