"""Slots: the rows of a static KV cache, each with its own write position.

A row holds one chunk. When a chunk is finished, its row is reused for the next one while the other rows go
on. Everything that a decode step reads and writes is stored here, at addresses that never change, so that
the step can be captured once and replayed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence


def round_up(n: int, multiple: int) -> int:
    """Return the smallest multiple that is at least n."""
    return -(-n // multiple) * multiple


@dataclass(frozen=True, slots=True)
class SlotShape:
    """How many chunks are decoded together, and how many tokens of prompt and output each may take."""

    n_slots: int
    n_tokens: int


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
    """

    def __init__(self, slots: Slots, *, is_deferred: bool) -> None:
        states = torch.stack((slots.is_live, slots.n_generated, slots.has_failed))
        tensors = (states, slots.generated, slots.logprobs)
        self._copied: torch.cuda.Event | None = None
        if is_deferred and states.device.type == "cuda":
            pinned = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
            for host, tensor in zip(pinned, tensors, strict=True):
                host.copy_(tensor, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch types only parts of itself
            self._copied.record()
            tensors = (pinned[0], pinned[1], pinned[2])
        elif is_deferred:
            tensors = (states, slots.generated.clone(), slots.logprobs.clone())
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
    """The KV cache and the state of its rows, all on the device.

    Attributes:
        keys: one tensor per layer, shape (n_slots, n_kv_heads, n_tokens, head_dim).
        values: the same.
        token: last token of each row, shape (n_slots,), like every tensor below except the last two.
        position: where the row's next keys and values are written; nothing from there on is attended to.
        n_generated: tokens generated so far.
        max_new_tokens: tokens the row may generate.
        is_live: 1 while the row is generating, else 0. A finished row is still computed but changes nothing.
        has_failed: 1 if a logit was NaN or infinite.
        generated: the generated tokens, shape (n_slots, n_tokens).
        logprobs: float32, the log probability of each generated token, shape (n_slots, n_tokens).
    """

    shape: SlotShape
    spec: KVCacheSpec
    keys: tuple[torch.Tensor, ...] = field(init=False)
    values: tuple[torch.Tensor, ...] = field(init=False)
    token: torch.Tensor = field(init=False)
    position: torch.Tensor = field(init=False)
    n_generated: torch.Tensor = field(init=False)
    max_new_tokens: torch.Tensor = field(init=False)
    is_live: torch.Tensor = field(init=False)
    has_failed: torch.Tensor = field(init=False)
    generated: torch.Tensor = field(init=False)
    logprobs: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Allocate everything as zeros: masked values are still multiplied, so they must not be NaN."""
        spec, n_slots = self.spec, self.shape.n_slots
        cache = (n_slots, spec.n_kv_heads, self.shape.n_tokens, spec.head_dim)
        self.keys, self.values = (
            tuple(torch.zeros(cache, dtype=spec.dtype, device=spec.device) for _ in range(spec.n_layers))
            for _ in range(2)
        )
        self.token, self.position, self.n_generated, self.max_new_tokens, self.is_live, self.has_failed = (
            torch.zeros(n_slots, dtype=torch.long, device=spec.device) for _ in range(6)
        )
        self.generated = torch.zeros((n_slots, self.shape.n_tokens), dtype=torch.long, device=spec.device)
        self.logprobs = torch.zeros((n_slots, self.shape.n_tokens), device=spec.device)

    @property
    def _row_tensors(self) -> tuple[torch.Tensor, ...]:
        counters = (self.n_generated, self.max_new_tokens, self.is_live, self.has_failed)
        return (*self.keys, *self.values, self.token, self.position, *counters, self.generated, self.logprobs)

    def snapshot(self, *, is_deferred: bool = False) -> RowSnapshot:
        """Return the rows as they are after the work launched so far; see `RowSnapshot`."""
        return RowSnapshot(self, is_deferred=is_deferred)

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
        self.stop(source)
