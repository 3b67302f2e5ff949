"""What compiling needs on this machine, and where its results are kept: kernels for a GPU are compiled at each load."""

from __future__ import annotations

import os
import shutil
import stat
import sysconfig
from contextlib import suppress
from pathlib import Path
from typing import Final

INSTALL: Final = "apt-get install gcc python3-dev"
# The driver compiles kernels for GPUs newer than this torch; a service has no home folder to cache them in.
CACHES: Final = (("CUDA_CACHE_PATH", "cuda"), ("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton"))
"""The variable that names each folder of compiled kernels, and its name below the cache folder."""
_WRITABLE_BY_OTHERS: Final = 0o022


def find_missing() -> list[str]:
    """Return what is missing: a C compiler, the headers of Python, or nothing."""
    missing = []
    if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang")):
        missing.append("C compiler")
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        missing.append("headers of Python")
    return missing


def find_doubt(folder: Path) -> tuple[str, str] | None:
    """Return why the compiled kernels in a folder cannot be trusted, and the remedy; None if there is no doubt.

    They run with the service's rights.

    Args:
        folder: one of the `CACHES`; it need not exist.
    """
    with suppress(FileNotFoundError):
        found = folder.lstat()
        is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
        if not is_own or found.st_mode & _WRITABLE_BY_OTHERS:
            what = f"Other users could have changed the compiled kernels in {folder}."
            return what, f"Delete it (`rm -r {folder}`); the next start makes it again. Then see who could write there."
    return None
