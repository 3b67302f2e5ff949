"""Slots: rows of a static cache, each with a write position of its own.

A row is one piece in work. When its answer has ended, the row is filled with the next piece while the others
go on. Everything a decode step reads and writes lies here, at addresses that never change, so that the step
can be captured once and replayed (`daemon.engine.qwen3_asr.graphs`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class SlotShape:
    """How many pieces there is room for, and how many tokens of prompt and answer each may have."""

    n_slots: int
    n_tokens: int


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """What one token takes in the cache."""

    n_layers: int
    n_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.n_layers * self.n_kv_heads * self.head_dim * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class RowState:
    """What the host sees of a row: its answer goes on, how many tokens it has, whether a score was no number."""

    is_live: bool
    n_answer: int
    has_failed: bool


@dataclass(slots=True, eq=False)
class Slots:
    """The cache and the state of its rows, all on the device.

    Attributes:
        keys: of each layer, shape (n_slots, n_kv_heads, n_tokens, head_dim).
        values: the same.
        token: last token of each row, shape (n_slots,), as all below but `answer`.
        position: where the row's next keys go; what lies behind it is not attended.
        n_answer: tokens of the answer so far.
        budget: tokens the answer may have.
        is_live: 1 while the answer goes on, else 0. A row that has ended computes on and changes nothing.
        has_failed: 1 where a score was no number.
        answer: the tokens written, shape (n_slots, n_tokens).
    """

    shape: SlotShape
    sizes: CacheSizes
    keys: tuple[torch.Tensor, ...] = field(init=False)
    values: tuple[torch.Tensor, ...] = field(init=False)
    token: torch.Tensor = field(init=False)
    position: torch.Tensor = field(init=False)
    n_answer: torch.Tensor = field(init=False)
    budget: torch.Tensor = field(init=False)
    is_live: torch.Tensor = field(init=False)
    has_failed: torch.Tensor = field(init=False)
    answer: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Allocate everything, as zeros: what is masked must still be a number."""
        sizes, n_slots = self.sizes, self.shape.n_slots
        cache = (n_slots, sizes.n_kv_heads, self.shape.n_tokens, sizes.head_dim)
        self.keys, self.values = (
            tuple(torch.zeros(cache, dtype=sizes.dtype, device=sizes.device) for _ in range(sizes.n_layers))
            for _ in range(2)
        )
        self.token, self.position, self.n_answer, self.budget, self.is_live, self.has_failed = (
            torch.zeros(n_slots, dtype=torch.long, device=sizes.device) for _ in range(6)
        )
        self.answer = torch.zeros((n_slots, self.shape.n_tokens), dtype=torch.long, device=sizes.device)

    @property
    def _row_tensors(self) -> tuple[torch.Tensor, ...]:
        state = (self.token, self.position, self.n_answer, self.budget, self.is_live, self.has_failed, self.answer)
        return (*self.keys, *self.values, *state)

    def read(self) -> list[RowState]:
        """Return the state of every row; the one place where the host waits for the device."""
        live, n_answer, failed = torch.stack((self.is_live, self.n_answer, self.has_failed)).tolist()
        return [RowState(bool(a), n, bool(f)) for a, n, f in zip(live, n_answer, failed, strict=True)]

    def read_answers(self, rows: Sequence[int], n_answer: Sequence[int]) -> list[list[int]]:
        """Return the tokens of finished rows."""
        tokens = self.answer[list(rows), : max(n_answer)].tolist()
        return [row[:n] for row, n in zip(tokens, n_answer, strict=True)]

    def stop(self, row: int) -> None:
        """End a row's answer."""
        self.is_live[row] = 0

    def clear(self, row: int) -> None:
        """Make a row numbers again: even where it is masked, one that is none would spoil the next piece."""
        for tensor in self._row_tensors:
            tensor[row].zero_()

    def move(self, source: int, target: int) -> None:
        """Move a row in work to a free place, so that fewer rows have to be computed."""
        for tensor in self._row_tensors:
            tensor[target].copy_(tensor[source])
        self.stop(source)
