"""Layers: which package may import which, and which third-party library. docs/architecture.md shows them."""

from __future__ import annotations

import ast
import re
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import daemon

LAYERS = (
    {"configfile", "errors", "display", "job", "host", "text"},
    {"transcript", "checkpoint"},
    {"documents", "journal"},
    {"config"},
    {"logs", "decode", "evaluation", "inbox", "search"},
    {"spool", "segment", "audio_export", "status"},
    {"engine", "frontend"},
    {"pipeline"},
    {"worker"},
    {"service"},
    {"cli"},
)
# Every layer may raise and catch our errors.
BELOW_ALL = "errors"
# Each third-party library and the packages that may import it; what is not listed here may not be imported.
LIBRARIES = {
    "av": {"decode"},
    "huggingface_hub": {"checkpoint"},
    "jinja2": {"engine"},  # the errors of a model's chat template; transformers requires it
    "numpy": {"audio_export", "cli", "decode", "engine", "evaluation", "frontend", "segment"},
    "opencc": {"text"},
    "pydantic": {"config", "frontend"},
    "pydantic_core": {"config", "documents"},
    "pydub": {"audio_export"},
    "regex": {"text"},  # transformers requires it
    "rich": {"cli"},
    "safetensors": {"engine"},
    "scipy": {"decode"},
    "silero_vad": {"segment"},
    "soundfile": {"audio_export", "cli", "decode", "frontend"},
    "soxr": {"decode"},
    "structlog": {"engine", "frontend", "inbox", "journal", "logs", "pipeline", "service", "spool", "status", "worker"},
    "tokenizers": {"engine"},  # transformers requires it
    "torch": {"engine"},
    "transformers": {"engine"},
    "triton": {"engine"},  # torch for CUDA requires it
    "typer": {"cli"},
    "watchdog": {"inbox"},
    "yaml": {"configfile", "cli"},  # `scribed demo` writes a configuration
}
# Loaded with importlib, so that no import statement shows it.
BY_NAME = {"silero_vad"}

# Libraries that parse untrusted files; only decoder processes load them.
CODECS = {"av", "soundfile", "soxr"}

ROOT = Path(daemon.__file__).parent
ARCHITECTURE = ROOT.parent / "docs" / "architecture.md"
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def package_of(file: Path) -> str:
    return file.parts[0].removesuffix(".py")


def imported(file: Path) -> set[str]:
    """Return the full names of the modules a file imports, wherever in it, for types too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            module = node.module or ""
            parts = {f"{module}.{alias.name}" for alias in node.names}
            within = {part for part in parts if file_of(part) is not None}
            names |= within or {module}
    return names


def file_of(module: str) -> Path | None:
    """Return the file of one of our modules, None for any other name."""
    head, _, rest = module.partition(".")
    if head != "daemon":
        return None
    path = Path(*rest.split(".")) if rest else Path()
    return next(
        (file for file in (path.with_suffix(".py") if rest else path, path / "__init__.py") if file in FILES), None
    )


def layer_of(package: str) -> int:
    return next(layer for layer, packages in enumerate(LAYERS) if package in packages)


def packages() -> set[str]:
    return {package_of(file) for file in FILES} - {"__init__", "__main__"}


def test_every_package_has_a_layer() -> None:
    assert packages() == set().union(*LAYERS)
    assert sum(map(len, LAYERS)) == len(packages())


def test_architecture_page_shows_these_layers() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", ARCHITECTURE.read_text(), re.MULTILINE)
    assert [(int(layer), set(re.findall(r"`(\w+)`", names))) for layer, names in rows] == list(enumerate(LAYERS))


@pytest.mark.parametrize("file", [file for file in FILES if package_of(file) in packages()], ids=str)
def test_imports_only_lower_layers(file: Path) -> None:
    package = package_of(file)
    found = {package_of(found) for module in imported(file) if (found := file_of(module))}
    others = found - {package, BELOW_ALL, "__init__"}
    assert {other for other in others if layer_of(other) >= layer_of(package)} == set()


def test_no_import_cycle() -> None:
    graph = {str(file): {str(found) for module in imported(file) if (found := file_of(module))} for file in FILES}
    assert graph["spool/delivery.py"] >= {"host/files.py", "journal/records.py", "spool/names.py"}  # it has edges
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError


def test_each_library_is_imported_only_where_listed() -> None:
    used: dict[str, set[str]] = {}
    for file in FILES:
        for name in imported(file):
            library = name.partition(".")[0]
            if library not in sys.stdlib_module_names and library != "daemon":
                used.setdefault(library, set()).add(package_of(file))
    expected = {library: packages for library, packages in LIBRARIES.items() if library not in BY_NAME}
    assert used == expected


def test_daemon_process_loads_no_codec() -> None:
    graph = {file: {found for module in imported(file) if (found := file_of(module))} for file in FILES}
    reached: set[Path] = set()
    ahead = [Path("cli/run.py")]  # `scribed run`
    while ahead:
        file = ahead.pop()
        if file not in reached:
            reached.add(file)
            ahead += [*graph[file], *(Path(*file.parts[: n + 1], "__init__.py") for n in range(len(file.parts) - 1))]
    libraries = {name.partition(".")[0] for file in reached for name in imported(file)}
    assert "torch" in libraries  # the walk reached the engine
    assert libraries & CODECS == set()
