"""Tables of recordings and the words that are spoken in them: CSV or TSV with the columns `file` and `text`. Pure."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Final

from daemon.display import escape
from daemon.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SUFFIXES: Final = (".csv", ".tsv")
_COLUMNS: Final = ("file", "text")
_TAB: Final = "\t"
# Spreadsheets write semicolons where the comma is the decimal sign.
_SEPARATORS: Final = {".csv": ",;\t", ".tsv": _TAB}


def read_rows(path: Path, content: str) -> list[tuple[int, str, str]] | None:
    """Return (line, file, text) of each row, None where the first line does not name the columns.

    In a TSV quotes have no meaning: a text may begin with one.

    Args:
        path: of the table, for its suffix and for messages.
        content: of the table.

    Raises:
        UsageError: the table is damaged.
    """
    csv.field_size_limit(max(csv.field_size_limit(), len(content)))  # the text of a long recording is one field
    suffix = path.suffix.lower()
    lines = io.StringIO(content, newline=None)
    first = lines.readline()
    lines.seek(0)
    separator = next((one for one in _SEPARATORS[suffix] if set(_COLUMNS) <= set(_columns_of(first, one))), None)
    if separator is None:
        return None
    columns = _columns_of(first, separator)
    twice = next((name for name in _COLUMNS if columns.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{escape(str(path))} has two columns `{twice}`.", "Rename or delete one of them.")
    reader = csv.reader(
        lines,
        delimiter=separator,
        quoting=csv.QUOTE_NONE if suffix == ".tsv" else csv.QUOTE_MINIMAL,
        skipinitialspace=True,
        strict=True,
    )
    rows: list[tuple[int, str, str]] = []
    while True:
        at = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            what = f"{escape(str(path))} cannot be read as a table: {error} in the row that begins in line {at}."
            remedy = "A text that begins with a double quote ends with one; inside it, write a double quote twice."
            raise UsageError(what, remedy) from None
        if cells is None:
            return rows
        if at > 1 and any(cell.strip() for cell in cells):
            rows.append((at, *_file_and_text(f"Line {at} of {escape(str(path))}", columns, cells)))


def _columns_of(line: str, separator: str) -> list[str]:
    """Return the names in the first line, without regard to case."""
    cells = next(csv.reader([line], delimiter=separator), [])
    return [cell.strip().strip('"').casefold() for cell in cells]


def _file_and_text(where: str, columns: Sequence[str], cells: Sequence[str]) -> tuple[str, str]:
    """Return these two cells of a row. With too many cells, a part of the text may be in another one."""
    if any(cell.strip() for cell in cells[len(columns) :]):
        remedy = "Put a text that contains a comma or semicolon in double quotes. In a TSV no text contains a tab."
        raise UsageError(f"{where} has more cells than the first line.", remedy)
    named = dict(zip(columns, cells, strict=False))
    if not named.get("file") or "text" not in named:
        raise UsageError(f"{where} has no file or no text.", "Complete or delete it.")
    return named["file"], named["text"]
