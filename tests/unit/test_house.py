"""The floor plan: who may import whom. docs/architecture.md shows it to people."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import daemon

LAYERS = (
    {"configfile", "errors", "display", "job", "host", "text"},
    {"transcript", "checkpoint"},
    {"config", "journal", "documents"},
    {"logs", "decode", "inbox"},
    {"spool", "segment", "audio_export", "status"},
    {"engine", "frontend"},
    {"pipeline"},
    {"worker"},
    {"service"},
    {"cli"},
)
# Stands on the ground: what may be raised anywhere is known everywhere.
GROUND = "errors"
# Libraries that one room alone may use, and the file that is excused: it writes a configuration.
HOMES = {"torch": "engine", "transformers": "engine", "yaml": "configfile", "watchdog": "inbox"}
EXCUSED = {("cli/demo.py", "yaml")}

# What reads files of strangers is loaded by decoder processes alone.
CODECS = {"av", "soundfile", "soxr"}

ROOT = Path(daemon.__file__).parent
ARCHITECTURE = ROOT.parent / "docs" / "architecture.md"
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def room_of(file: Path) -> str:
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


def floor_of(room: str) -> int:
    return next(floor for floor, rooms in enumerate(LAYERS) if room in rooms)


def rooms() -> set[str]:
    return {room_of(file) for file in FILES} - {"__init__", "__main__"}


def test_every_room_has_its_floor() -> None:
    assert rooms() == set().union(*LAYERS)
    assert sum(map(len, LAYERS)) == len(rooms())


def test_the_plan_that_people_read_is_this_one() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", ARCHITECTURE.read_text(), re.MULTILINE)
    assert [(int(floor), set(re.findall(r"`(\w+)`", names))) for floor, names in rows] == list(enumerate(LAYERS))


@pytest.mark.parametrize("file", [file for file in FILES if room_of(file) in rooms()], ids=str)
def test_imports_go_down(file: Path) -> None:
    room = room_of(file)
    others = {room_of(found) for module in imported(file) if (found := file_of(module))} - {room, GROUND, "__init__"}
    assert {other for other in others if floor_of(other) >= floor_of(room)} == set()


def test_there_is_no_import_cycle() -> None:
    graph = {str(file): {str(found) for module in imported(file) if (found := file_of(module))} for file in FILES}
    assert graph["spool/delivery.py"] >= {"host/files.py", "journal/records.py", "spool/names.py"}  # it has edges
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("library", HOMES)
def test_a_library_has_one_home(library: str) -> None:
    users = {file for file in FILES if any(name.partition(".")[0] == library for name in imported(file))}
    assert users
    strangers = {str(file) for file in users if room_of(file) != HOMES[library]}
    assert strangers <= {file for file, name in EXCUSED if name == library}


def test_no_codec_is_loaded_where_the_model_lives() -> None:
    graph = {file: {found for module in imported(file) if (found := file_of(module))} for file in FILES}
    reached: set[Path] = set()
    ahead = [Path("cli/run.py")]  # `scribed run`
    while ahead:
        file = ahead.pop()
        if file not in reached:
            reached.add(file)
            ahead += [*graph[file], *(Path(*file.parts[: n + 1], "__init__.py") for n in range(len(file.parts) - 1))]
    libraries = {name.partition(".")[0] for file in reached for name in imported(file)}
    assert "torch" in libraries  # the walk is no short one
    assert libraries & CODECS == set()
