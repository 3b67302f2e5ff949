"""The idioms that CONTRIBUTING.md asks for and that ruff does not check."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = sorted((ROOT / "daemon").rglob("*.py"))
SCRIPTS = sorted(path for folder in ("tools", "benchmarks") for path in (ROOT / folder).glob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
REASON = re.compile(r"noqa: [A-Z]+\d+(?:, ?[A-Z]+\d+)*  # \S")


def constants_that_are_not_final(path: Path) -> list[str]:
    found: list[str] = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            parts = [part for target in node.targets for part in ast.walk(target)]
        elif isinstance(node, ast.AnnAssign) and "Final" not in ast.unparse(node.annotation):
            parts = [node.target]
        else:
            continue
        names = [part.id for part in parts if isinstance(part, ast.Name)]
        found += [name for name in names if re.fullmatch(r"_?[A-Z][A-Z0-9_]+", name)]
    return found


def test_no_class_name_is_used_twice() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in PROGRAM]
    names = Counter(node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert len(names) > 100
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("path", PROGRAM + SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_constants_are_final(path: Path) -> None:
    assert constants_that_are_not_final(path) == []


def test_each_exception_to_a_rule_gives_its_reason() -> None:
    lines = [
        (str(path.relative_to(ROOT)), number, line)
        for path in PROGRAM + SCRIPTS + TESTS
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"# (?:ruff: )?noqa", line)
    ]
    assert len(lines) > 50
    assert [(path, number) for path, number, line in lines if not REASON.search(line)] == []
