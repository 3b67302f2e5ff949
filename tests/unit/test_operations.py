"""docs/operations.md: every reason that people may read has its line there, and so has every exit code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import daemon
from daemon.errors import ExitCode

ROOT = Path(daemon.__file__).parent
PAGE = " ".join((ROOT.parent / "docs" / "operations.md").read_text().split())
# What is raised with them reaches people: in `failed`, or as a fault that is shown until it is fixed.
RAISED = {"JobError", "TransientError", "EngineLostError"}
# Calls whose second word is the reason.
TOLD = {"_fail", "_charge", "note"}
# Commands only: their messages go to the person who typed the command.
ELSEWHERE = {"audio_export.py", "checkpoint", "cli"}
# Without so many letters of its own it is not a sentence: it repeats another text.
_MIN_LETTERS = 12


def reasons_in(file: Path) -> set[str]:
    """Return what a file may say, "..." in place of what is put in."""
    tree = ast.parse((ROOT / file).read_text())
    assigned = [(node.targets[0], node.value) for node in tree.body if isinstance(node, ast.Assign)]
    assigned += [(node.target, node.value) for node in tree.body if isinstance(node, ast.AnnAssign) and node.value]
    named = {target.id: value for target, value in assigned if isinstance(target, ast.Name)}
    found = set()
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        index = 0 if name in RAISED else 1 if name in TOLD else None
        if index is not None and len(call.args) > index:
            word = call.args[index]
            words = [word.body, word.orelse] if isinstance(word, ast.IfExp) else [word]
            found |= {text_of(named.get(part.id, part) if isinstance(part, ast.Name) else part) for part in words}
    return {text for text in found if sum(map(str.isalpha, text)) >= _MIN_LETTERS}


def text_of(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
        return "".join(map(str, parts))
    return ""


def all_reasons() -> list[tuple[str, str]]:
    files = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
    return [(str(file), text) for file in files if file.parts[0] not in ELSEWHERE for text in sorted(reasons_in(file))]


@pytest.mark.parametrize(("file", "reason"), all_reasons(), ids=lambda word: word[:60])
def test_each_reason_is_explained(file: str, reason: str) -> None:
    sentence = reason.removesuffix(".").removesuffix("...").removesuffix(": ")
    assert sentence in PAGE, f"{file} says: {reason}"


def test_list_of_reasons_is_not_empty() -> None:
    said = {reason for _, reason in all_reasons()}
    assert len(said) >= 25
    assert {
        "The file is empty (0 bytes).",
        "The service crashed each time it processed this recording on its own.",
    } <= said


@pytest.mark.parametrize("code", [code for code in ExitCode if code not in (0, 1, 130)])
def test_each_exit_code_of_the_service_is_explained(code: ExitCode) -> None:
    assert re.search(rf"\| {int(code)} \|", PAGE)
