"""Programs and Python packages that have to be installed."""

from __future__ import annotations

import importlib.util
import shutil
from typing import TYPE_CHECKING

from daemon.cli.check.finding import Finding
from daemon.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.cli.check.finding import Installation


def check_ffmpeg(installation: Installation) -> Iterator[Finding]:
    """Check for ffmpeg, which only compressed output needs."""
    del installation
    if shutil.which("ffmpeg") is None:
        remedy = "sudo apt-get install ffmpeg (only needed to write mp3, m4a or opus)"
        yield Finding("warning", "ffmpeg: not installed", remedy)
    else:
        yield Finding("ok", "ffmpeg: installed")


def check_packages(installation: Installation) -> Iterator[Finding]:
    """Check for the packages that are imported late, without importing them."""
    del installation
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            what = f"packages: the Python package {package} is missing"
            yield Finding("fault", what, "Run `make install` again.", ExitCode.MODEL_UNAVAILABLE)
