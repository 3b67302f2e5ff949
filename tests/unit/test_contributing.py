"""CONTRIBUTING.md names the packages, files and functions that are there, and its routes are those of the code."""

from __future__ import annotations

import ast
import functools
import re
from itertools import groupby
from pathlib import Path

import pytest

from tests.unit.test_layering import packages

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
STEP = re.compile(r"^( *)(?:\d+\.|-) `(daemon/[\w/]+\.py):([\w.]+)`", re.MULTILINE)
ROUTES = {
    title: [(len(indent), file, name) for indent, file, name in STEP.findall(text)]
    for title, text in re.findall(r"^### ((?:A|An) .+)\n((?:(?!#).*\n)+)", PAGE, re.MULTILINE)
}
FUNCTIONS = sorted(set(re.findall(r"`(daemon/[\w/]+\.py):([\w.]+)`", PAGE)))


@functools.cache
def parse(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def has_definition(file: str, dotted: str) -> bool:
    body = parse(file).body
    for name in dotted.split("."):
        kinds = (ast.ClassDef, ast.FunctionDef)
        found = next((node for node in body if isinstance(node, kinds) and node.name == name), None)
        if found is None:
            return False
        body = found.body
    return True


def used_names(file: str) -> set[str]:
    nodes = list(ast.walk(parse(file)))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return names | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def calls(route: list[tuple[int, str, str]]) -> list[tuple[str, str]]:
    """Return (file of the caller, name of the function called) for each indented step."""
    found, above = [], dict[int, str]()
    for indent, file, name in route:
        above = {level: caller for level, caller in above.items() if level < indent}
        if above:
            found.append((above[max(above)], name.rpartition(".")[2]))
        above[indent] = file
    return found


def test_there_are_four_routes() -> None:
    assert len(ROUTES) == 4
    assert min(len(route) for route in ROUTES.values()) > 8


@pytest.mark.parametrize(("file", "name"), FUNCTIONS)
def test_function_exists(file: str, name: str) -> None:
    assert has_definition(file, name)


@pytest.mark.parametrize("title", ROUTES)
def test_each_caller_names_what_it_calls(title: str) -> None:
    assert [(file, name) for file, name in calls(ROUTES[title]) if name not in used_names(file)] == []


@pytest.mark.parametrize("title", ROUTES)
def test_no_call_leads_back_into_a_file_that_was_left(title: str) -> None:
    path: list[tuple[int, str]] = []
    for indent, file, _ in ROUTES[title]:
        path = [step for step in path if step[0] < indent] + [(indent, file)]
        entered = [name for name, _ in groupby(path, key=lambda step: step[1])]
        assert len(entered) == len(set(entered)), path


def test_map_has_each_package_once() -> None:
    table = PAGE.partition("## Map")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", table, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(packages())


def test_named_files_exist() -> None:
    named = set(re.findall(r"`((?:daemon|tests|tools|benchmarks|docs|systemd)/[\w./]*)`", PAGE))
    assert len(named) > 20
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_named_registries_exist() -> None:
    named = set(re.findall(r"`(\w+)` (?:in|of) `([\w/]+/\w+\.py)`", PAGE))
    assert {name for name, _ in named} >= {"FORMATS", "CHECKS", "RELOADED", "LATER"}
    assert {(name, file) for name, file in named if name not in (ROOT / file).read_text(encoding="utf-8")} == set()
