"""Which pages of the KV cache belong to which row. On the host; the device has a copy of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The page that belongs to no chunk. Whatever is computed for no chunk is written there, and no chunk reads it.
SPARE_PAGE: Final = 0


class PageTable:
    """The pages of each row, handed out one by one as the row's chunk grows.

    Args:
        n_rows: rows, with the spare one.
        pages_per_row: the most pages that a row may have.
        n_pages: pages that there are, without the spare one.
    """

    def __init__(self, n_rows: int, pages_per_row: int, n_pages: int) -> None:
        self._free = list(range(n_pages, SPARE_PAGE, -1))
        self._n_held = [0] * n_rows
        self._table = np.full((n_rows, pages_per_row), SPARE_PAGE, np.int32)
        self._is_changed = False

    @property
    def n_free(self) -> int:
        """Pages that belong to no row."""
        return len(self._free)

    def count_held(self, row: int) -> int:
        """Return the number of pages that a row has."""
        return self._n_held[row]

    def grow(self, row: int, n_pages: int) -> bool:
        """Give a row pages until it has n_pages; return False and change nothing if there are too few."""
        n_held = self._n_held[row]
        if n_pages <= n_held:
            return True
        if n_pages - n_held > len(self._free):
            return False
        for index in range(n_held, n_pages):
            self._table[row, index] = self._free.pop()
        self._n_held[row] = n_pages
        self._is_changed = True
        return True

    def release(self, row: int) -> None:
        """Take all pages of a row back. What is still computed for it is written to the spare page."""
        n_held = self._n_held[row]
        if n_held:
            self._free += self._table[row, :n_held].tolist()
            self._table[row, :n_held] = SPARE_PAGE
            self._n_held[row] = 0
            self._is_changed = True

    def move(self, source: int, target: int) -> None:
        """Give the pages of a row to another row, which has none."""
        self._table[target], self._n_held[target] = self._table[source], self._n_held[source]
        self._table[source], self._n_held[source] = SPARE_PAGE, 0
        self._is_changed = True

    def take_changed(self) -> NDArray[np.int32] | None:
        """Return the table, shape (n_rows, pages_per_row), if it has changed since the last call."""
        if not self._is_changed:
            return None
        self._is_changed = False
        return self._table
