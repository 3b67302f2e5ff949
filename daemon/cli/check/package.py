"""Other Python packages that are named `daemon` too, such as python-daemon on PyPI."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

import daemon
from daemon.cli.check.finding import Finding
from daemon.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.cli.check.finding import Installation

_NAME: Final = "daemon"
_OURS: Final = "scribed"


def check_package(installation: Installation) -> Iterator[Finding]:
    """Check that no other package takes the import name `daemon`, which scribed uses."""
    del installation
    found = [*_find_distributions(), *_find_elsewhere()]
    yield from found
    if not found:
        yield Finding("ok", f"package: {daemon.__title__} {daemon.__version__}")


def _find_distributions() -> Iterator[Finding]:
    """Yield a fault for each installed distribution that writes its files into our package."""
    for distribution in metadata.distributions():
        if _NAME not in (distribution.read_text("top_level.txt") or "").split():
            continue
        name = distribution.metadata["Name"]
        if name != _OURS:
            what = f"package: {name} is installed, which overwrites scribed's Python package `{_NAME}`"
            remedy = f"{sys.executable} -m pip uninstall {name}, then install scribed again."
            yield Finding("fault", what, remedy, ExitCode.MODEL_UNAVAILABLE)


def _find_elsewhere() -> Iterator[Finding]:
    """Yield a finding for each other `daemon` on the import path; decoder processes could import it."""
    ours = Path(daemon.__file__).resolve().parent
    is_ahead = True
    for entry in dict.fromkeys(Path(entry or ".").resolve() for entry in sys.path):
        if entry == ours.parent:
            is_ahead = False
            continue
        other = next((path for path in (entry / _NAME / "__init__.py", entry / f"{_NAME}.py") if path.is_file()), None)
        if other is None or other.resolve().parent == ours:
            continue
        what = f"package: {other} is named `{_NAME}` too"
        remedy = "Remove it, or take its folder out of PYTHONPATH."
        if is_ahead:
            yield Finding("fault", f"{what} and comes first", remedy, ExitCode.MODEL_UNAVAILABLE)
        else:
            yield Finding("warning", f"{what}; scribed's own comes first", remedy)
