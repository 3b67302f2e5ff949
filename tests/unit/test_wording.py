"""Plain English: the phrases in tests/wording.txt appear in no message, comment, docstring, document or test name."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
LIST: Final = ROOT / "tests" / "wording.txt"
CODE: Final = ("daemon", "tests", "tools", "benchmarks")
DOCUMENTS: Final = (
    "*.md",
    "docs/*.md",
    "config.example.yaml",
    "Makefile",
    "systemd/*",
    "systemd/examples/*",
    ".ci/run",
)
HERE: Final = Path(__file__).relative_to(ROOT)


@dataclass(slots=True)
class Phrase:
    """One phrase to avoid."""

    pattern: re.Pattern[str]
    advice: str
    exceptions: list[re.Pattern[str]] = field(default_factory=list)

    def find(self, text: str) -> str | None:
        """Return the phrase as it appears in the text, or None."""
        for found in self.pattern.finditer(text):
            around = text[max(0, found.start() - 40) : found.end() + 40]
            if not any(exception.search(around) for exception in self.exceptions):
                return found.group()
        return None


@functools.cache
def read_phrases() -> list[Phrase]:
    phrases: list[Phrase] = []
    for line in LIST.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("    except "):
            phrases[-1].exceptions.append(re.compile(line.removeprefix("    except "), re.IGNORECASE))
        else:
            pattern, _, advice = line.partition(" => ")
            phrases.append(Phrase(re.compile(pattern, re.IGNORECASE), advice))
    return phrases


def texts_of_code(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of every string, comment and test name of a module; adjacent comments are joined."""
    source = path.read_text()
    comment: list[str] = []
    begin = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            begin = begin or token.start[0]
            comment.append(token.string.lstrip("# "))
        elif comment and token.type not in {tokenize.NL, tokenize.NEWLINE}:
            yield begin, " ".join(comment)
            comment, begin = [], 0
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, " ".join(node.value.split())
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.lineno, node.name.replace("_", " ")


def texts_of_document(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of every paragraph; lines are joined, so that a phrase across two lines is found."""
    begin, lines = 1, list[str]()
    for number, line in enumerate([*path.read_text().splitlines(), ""], 1):
        text = line.lstrip("#>|-* ").strip()
        if text:
            begin = begin if lines else number
            lines.append(text)
        elif lines:
            yield begin, " ".join(lines)
            lines = []


def all_files() -> list[Path]:
    code = [path for folder in CODE for path in (ROOT / folder).rglob("*.py")]
    documents = [path for glob in DOCUMENTS for path in ROOT.glob(glob) if path.is_file()]
    return sorted(path.relative_to(ROOT) for path in (*code, *documents))


@pytest.mark.parametrize("file", [file for file in all_files() if file != HERE], ids=str)
def test_file_uses_plain_english(file: Path) -> None:
    phrases = read_phrases()
    texts = texts_of_code(ROOT / file) if file.suffix == ".py" else texts_of_document(ROOT / file)
    found = [
        f'{file}:{line}: "{used}"; write {phrase.advice}'
        for line, text in texts
        for phrase in phrases
        if (used := phrase.find(text))
    ]
    assert found == []


def test_every_kind_of_text_is_searched(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        '"""A docstring is told."""\n\n\ndef test_x_is_told() -> None:\n    # a comment\n    # is told\n'
        '    raise ValueError(f"{1} is told")\n'
    )
    document = tmp_path / "page.md"
    document.write_text("# A heading is\ntold\n\n- a list is told\n")
    told = next(phrase for phrase in read_phrases() if phrase.find("is told"))
    assert sorted(line for line, text in texts_of_code(module) if told.find(text)) == [1, 4, 5, 7]
    assert [line for line, text in texts_of_document(document) if told.find(text)] == [1, 4]


def test_exception_allows_a_phrase_only_where_it_applies() -> None:
    phrase = Phrase(re.compile(r"\bbeside the\b"), "", [re.compile("beside the recording")])
    assert phrase.find("a file beside the recording") is None
    assert phrase.find("a file beside the lake") == "beside the"
