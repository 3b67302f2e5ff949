"""What compiling needs on this machine: kernels for a GPU are compiled when the model is loaded."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path
from typing import Final

INSTALL: Final = "apt-get install gcc python3-dev"


def find_missing() -> list[str]:
    """Return what is missing: a C compiler, the headers of Python, or nothing."""
    missing = []
    if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang")):
        missing.append("C compiler")
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        missing.append("headers of Python")
    return missing
