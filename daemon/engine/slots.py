"""Slots: the rows that are decoded together, each with its own write position, and the KV cache they share.

A row holds one chunk. When a chunk is finished, its row is reused for the next one while the other rows go
on. Everything that a decode step reads and writes is stored here, at addresses that never change, so that
the step can be captured once and replayed.

The cache consists of pages. Where a kernel can read them through a table, a page holds a few tokens, and a row takes
one after the other as its chunk grows. Elsewhere each row has one page, long enough for any chunk, so that its
keys and values are consecutive in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it

from daemon.engine.pages import SPARE_PAGE, PageTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray


def round_up(n: int, multiple: int) -> int:
    """Return the smallest multiple that is at least n."""
    return -(-n // multiple) * multiple


@dataclass(frozen=True, slots=True)
class SlotShape:
    """How many chunks are decoded together, and how many tokens of prompt and output each may take.

    Attributes:
        n_slots: rows.
        n_tokens: the most tokens of a chunk.
        page_tokens: tokens of a page; None if each row has one page of n_tokens.
        n_pages: pages that the rows share; unused if each row has its own.
    """

    n_slots: int
    n_tokens: int
    page_tokens: int | None = None
    n_pages: int = 0

    @property
    def pages_per_slot(self) -> int:
        """The most pages of a chunk."""
        return 1 if self.page_tokens is None else -(-self.n_tokens // self.page_tokens)


@dataclass(frozen=True, slots=True)
class KVCacheSpec:
    """What determines the size of a token in the KV cache."""

    n_layers: int
    n_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        """Bytes of the keys and values of one token in all layers."""
        return 2 * self.n_layers * self.n_kv_heads * self.head_dim * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class RowState:
    """State of a row as read by the host.

    Attributes:
        is_live: the row is still generating.
        n_generated: tokens generated so far.
        has_failed: a logit was NaN or infinite.
    """

    is_live: bool
    n_generated: int
    has_failed: bool


@dataclass(frozen=True, slots=True)
class Generated:
    """The tokens that a row has generated, and the log probability of each."""

    tokens: list[int]
    logprobs: list[float]


class RowSnapshot:
    """The rows of some slots at one point of the device's work, readable later.

    Args:
        slots: whose rows to copy.
        is_deferred: steps and moves will follow before it is read, so generated tokens are copied as well. On a GPU
            the copies go to pinned memory, and reading them waits for the work before the snapshot only.
        max_generated: no row has generated more tokens than this.
    """

    def __init__(self, slots: Slots, *, is_deferred: bool, max_generated: int | None) -> None:
        rows, columns = slice(slots.shape.n_slots), slice(max_generated)
        states = torch.stack((slots.is_live[rows], slots.n_generated[rows], slots.has_failed[rows]))
        tensors = (states, slots.generated[rows, columns], slots.logprobs[rows, columns])
        self._copied: torch.cuda.Event | None = None
        if is_deferred and states.device.type == "cuda":
            pinned = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
            for host, tensor in zip(pinned, tensors, strict=True):
                host.copy_(tensor, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch types only parts of itself
            self._copied.record()
            tensors = (pinned[0], pinned[1], pinned[2])
        elif is_deferred:
            tensors = (states, tensors[1].clone(), tensors[2].clone())
        self._states, self._generated, self._logprobs = tensors

    def read_states(self) -> list[RowState]:
        """Return the state of every row. This is where the host waits for the device."""
        if self._copied is not None:
            self._copied.synchronize()
        live, n_generated, failed = self._states.tolist()
        return [RowState(bool(a), n, bool(f)) for a, n, f in zip(live, n_generated, failed, strict=True)]

    def read_generated(self, rows: Sequence[int], n_generated: Sequence[int]) -> list[Generated]:
        """Return what some rows have generated, given how many tokens each has."""
        if not rows:
            return []
        tokens, logprobs = (
            tensor[list(rows), : max(n_generated)].tolist() for tensor in (self._generated, self._logprobs)
        )
        return [Generated(t[:n], p[:n]) for t, p, n in zip(tokens, logprobs, n_generated, strict=True)]


@dataclass(slots=True, eq=False)
class Slots:
    """The KV cache and the state of its rows. All tensors are on the device.

    Row tensors have one row more than there are slots, the spare row, which no chunk gets: where prompts are
    prefilled in fixed numbers, it takes what fills a group up.

    Attributes:
        keys: one tensor per layer, shape (n_pages, n_kv_heads, tokens of a page, head_dim).
        values: the same.
        pages: int32, the pages of each row, in order, shape (n_slots + 1, pages_per_slot). Entries that are not in
            use name the spare page.
        token: last token of each row, shape (n_slots + 1,), like every tensor below except the last two.
        position: where the row's next keys and values are written; nothing from there on is attended to.
        n_generated: tokens generated so far.
        max_new_tokens: tokens the row may generate.
        is_live: 1 while the row is generating, else 0. A finished row is still computed but changes nothing.
        has_failed: 1 if a logit was NaN or infinite.
        generated: the generated tokens, shape (n_slots + 1, n_tokens).
        logprobs: float32, the log probability of each generated token, shape (n_slots + 1, n_tokens).
    """

    shape: SlotShape
    spec: KVCacheSpec
    keys: tuple[torch.Tensor, ...] = field(init=False)
    values: tuple[torch.Tensor, ...] = field(init=False)
    pages: torch.Tensor = field(init=False)
    token: torch.Tensor = field(init=False)
    position: torch.Tensor = field(init=False)
    n_generated: torch.Tensor = field(init=False)
    max_new_tokens: torch.Tensor = field(init=False)
    is_live: torch.Tensor = field(init=False)
    has_failed: torch.Tensor = field(init=False)
    generated: torch.Tensor = field(init=False)
    logprobs: torch.Tensor = field(init=False)
    _table: PageTable | None = field(init=False)

    def __post_init__(self) -> None:
        """Allocate everything as zeros: masked values are still multiplied, so they must not be NaN."""
        spec, shape, n_rows = self.spec, self.shape, self.shape.n_slots + 1
        if shape.page_tokens is None:
            cache = (shape.n_slots, spec.n_kv_heads, shape.n_tokens, spec.head_dim)
            self._table = None
            # The spare row shares the first page; where each row has its own, groups are not filled up.
            self.pages = torch.arange(n_rows, dtype=torch.int32, device=spec.device)[:, None] % shape.n_slots
        else:
            cache = (shape.n_pages + 1, spec.n_kv_heads, shape.page_tokens, spec.head_dim)
            self._table = PageTable(n_rows, shape.pages_per_slot, shape.n_pages)
            self.pages = torch.full((n_rows, shape.pages_per_slot), SPARE_PAGE, dtype=torch.int32, device=spec.device)
        self.keys, self.values = (
            tuple(torch.zeros(cache, dtype=spec.dtype, device=spec.device) for _ in range(spec.n_layers))
            for _ in range(2)
        )
        self.token, self.position, self.n_generated, self.max_new_tokens, self.is_live, self.has_failed = (
            torch.zeros(n_rows, dtype=torch.long, device=spec.device) for _ in range(6)
        )
        self.generated = torch.zeros((n_rows, shape.n_tokens), dtype=torch.long, device=spec.device)
        self.logprobs = torch.zeros((n_rows, shape.n_tokens), device=spec.device)

    @property
    def spare_row(self) -> int:
        """The row that no chunk gets."""
        return self.shape.n_slots

    @property
    def _row_tensors(self) -> tuple[torch.Tensor, ...]:
        counters = (self.n_generated, self.max_new_tokens, self.is_live, self.has_failed)
        state = (self.token, self.position, *counters, self.generated, self.logprobs)
        return state if self._table is not None else (*self.keys, *self.values, *state)

    # Pages

    @property
    def n_free_tokens(self) -> int | None:
        """Tokens of the pages that belong to no row; None if each row has a page of its own."""
        return None if self._table is None else self._table.n_free * (self.shape.page_tokens or 0)

    def count_held_tokens(self, row: int) -> int:
        """Return how many tokens the pages of a row hold."""
        if self._table is None or self.shape.page_tokens is None:
            return self.shape.n_tokens
        return self._table.count_held(row) * self.shape.page_tokens

    def grow(self, row: int, n_tokens: int) -> bool:
        """Give a row pages for n_tokens; return False and change nothing if too few are free."""
        if self._table is None or self.shape.page_tokens is None:
            return True
        return self._table.grow(row, -(-n_tokens // self.shape.page_tokens))

    def release(self, row: int) -> None:
        """Take the pages of a finished row back."""
        if self._table is not None:
            self._table.release(row)

    def upload_pages(self) -> None:
        """Give the device the table of pages if it has changed; later work on the device reads it."""
        table = None if self._table is None else self._table.take_changed()
        if table is not None:
            self.pages.copy_(_pin(table, self.pages.device), non_blocking=True)

    def locate(self, rows: torch.Tensor, n_tokens: int) -> torch.Tensor:
        """Return the pages of the first n_tokens of some rows, for `write_prompts`; rows: shape (n,), on the device."""
        n_pages = -(-n_tokens // self.keys[0].shape[2])
        return self.pages[rows, :n_pages].long()

    def write_prompts(self, layer: int, where: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Write the keys and values of whole prompts; tokens beyond the pages of a row go to the spare page.

        Args:
            layer: index of the layer.
            where: see `locate`.
            key: shape (n, n_kv_heads, n_tokens, head_dim).
            value: the same.
        """
        for cache, new in ((self.keys[layer], key), (self.values[layer], value)):
            n_tokens, page_tokens = new.shape[2], cache.shape[2]
            if n_tokens <= page_tokens:
                cache[:, :, :n_tokens].index_copy_(0, where[:, 0], new)
            else:
                whole = F.pad(new, (0, 0, 0, -n_tokens % page_tokens))
                parts = torch.unflatten(whole, 2, (-1, page_tokens)).transpose(1, 2).flatten(0, 1)
                cache.index_copy_(0, where.flatten(), parts)

    # Rows

    def snapshot(self, *, is_deferred: bool = False, max_generated: int | None = None) -> RowSnapshot:
        """Return the rows as they are after the work launched so far; see `RowSnapshot`."""
        return RowSnapshot(self, is_deferred=is_deferred, max_generated=max_generated)

    def stop(self, row: int) -> None:
        """Mark a row as finished."""
        self.is_live[row] = 0

    def clear(self, row: int) -> None:
        """Zero a row: a NaN that it left behind would spoil the next chunk, even where it is masked."""
        for tensor in self._row_tensors:
            tensor[row].zero_()

    def move(self, source: int, target: int) -> None:
        """Move a live row to a free one, so that fewer rows have to be computed."""
        for tensor in self._row_tensors:
            tensor[target].copy_(tensor[source])
        if self._table is not None:
            self._table.move(source, target)
        self.stop(source)


def _pin(array: NDArray[np.int32], device: torch.device) -> torch.Tensor:
    """Return a copy from which the device may read while the host changes the array."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if device.type == "cuda" else tensor.clone()
