"""What the machine says about NVIDIA GPUs without loading a GPU library. Standard library only."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path("/")
_DRIVER: Final = Path("proc/driver/nvidia/version")
_TIMEOUT_S: Final = 5.0
_QUERY: Final = ("--query-gpu=name,driver_version,memory.free,memory.total", "--format=csv,noheader")


class NvidiaSmiError(Exception):
    """`nvidia-smi` failed; the text is its own message, empty where it did not answer in time."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as `nvidia-smi` describes it; the memory sizes carry their unit, such as "8151 MiB"."""

    name: str
    driver: str
    free: str
    total: str


def is_present(root: Path = ROOT) -> bool:
    """Return whether the machine has an NVIDIA GPU.

    Args:
        root: the folder that holds /dev and /proc.
    """
    return any(root.glob("dev/nvidia[0-9]*")) or any(root.glob("proc/driver/nvidia/gpus/*"))


def read_driver(root: Path = ROOT) -> str | None:
    """Return the version text of the loaded NVIDIA driver, None where none is loaded."""
    try:
        return (root / _DRIVER).read_text()
    except OSError:
        return None


def signs(root: Path = ROOT) -> Iterator[str]:
    """Yield texts that change when the driver or the set of GPUs changes."""
    driver = read_driver(root)
    if driver is not None:
        yield driver
    yield from sorted(map(str, (root / "dev").glob("nvidia*")))


def query() -> tuple[Gpu, ...] | None:
    """Ask `nvidia-smi` which GPUs there are, None where it is not installed.

    Raises:
        NvidiaSmiError: it failed or did not answer.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603  # the driver's own program, found above
            [program, *_QUERY], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NvidiaSmiError from error
    if done.returncode != 0:
        raise NvidiaSmiError(" ".join(f"{done.stdout} {done.stderr}".split())[:200] or f"exit code {done.returncode}")
    gpus = []
    for line in done.stdout.splitlines():
        with suppress(ValueError):  # a line of another form
            name, driver, free, total = (part.strip() for part in line.split(","))
            gpus.append(Gpu(name, driver, free, total))
    return tuple(gpus)
