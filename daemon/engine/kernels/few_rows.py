"""Matrix products of a decode step with few rows, as GPU kernels that read each weight once, at full speed.

A library's product is made for many rows; with few it reaches half of the memory's bandwidth. Here each program
multiplies a few outputs' weights by all rows and adds up. It also does what would otherwise be a kernel of its own
before or after the product: the norm of the input, the gate of the feed-forward layer, the residual stream.

`daemon.engine.qwen3_asr.few_rows` defines what `product` and `gated_product` compute.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
import triton
import triton.language as tl

from daemon.engine.kernels import counted

# With more rows the arithmetic takes longer than reading the weights, and a library's product is faster.
MAX_ROWS: Final = 2
# Weights that a program reads, all at once, measured on an H200. Several programs on each multiprocessor keep enough
# of them in flight to hide the latency of the memory.
_TILE_WEIGHTS: Final = 4096
_GATED_TILE_WEIGHTS: Final = 16_384
_N_WARPS: Final = 4


class Tile(NamedTuple):
    """How a product is divided: outputs of a program, and its warps."""

    n_out: int
    n_warps: int


def product(
    rows: torch.Tensor,
    weight: torch.Tensor,
    norm: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    epsilon: float = 0.0,
    tile: Tile | None = None,
) -> torch.Tensor:
    """Return rows, normalized if `norm` is given, times weight, plus the residual, for at most MAX_ROWS rows."""
    n_out, n_in = weight.shape
    tile = tile or Tile(max(1, _TILE_WEIGHTS // triton.next_power_of_2(n_in)), _N_WARPS)
    out = torch.empty((len(rows), n_out), dtype=rows.dtype, device=rows.device)
    _multiply[triton.cdiv(n_out, tile.n_out),](
        rows,
        weight,
        norm,
        residual,
        out,
        epsilon,
        N_ROWS=len(rows),
        N_IN=n_in,
        N_OUT=n_out,
        PADDED_IN=triton.next_power_of_2(n_in),
        TILE=tile.n_out,
        HAS_NORM=norm is not None,
        HAS_RESIDUAL=residual is not None,
        IS_GATED=False,
        num_warps=tile.n_warps,
    )
    return out


def gated_product(
    rows: torch.Tensor, gate_up: torch.Tensor, norm: torch.Tensor, epsilon: float, tile: Tile | None = None
) -> torch.Tensor:
    """Return silu(gate) * up of the normalized rows, for at most MAX_ROWS rows."""
    n_in, n_out = gate_up.shape[1], gate_up.shape[0] // 2
    tile = tile or Tile(max(1, _GATED_TILE_WEIGHTS // (2 * triton.next_power_of_2(n_in))), _N_WARPS)
    out = torch.empty((len(rows), n_out), dtype=rows.dtype, device=rows.device)
    _multiply[triton.cdiv(n_out, tile.n_out),](
        rows,
        gate_up,
        norm,
        None,
        out,
        epsilon,
        N_ROWS=len(rows),
        N_IN=n_in,
        N_OUT=n_out,
        PADDED_IN=triton.next_power_of_2(n_in),
        TILE=tile.n_out,
        HAS_NORM=True,
        HAS_RESIDUAL=False,
        IS_GATED=True,
        num_warps=tile.n_warps,
    )
    return out


@counted
@triton.jit
def _multiply(
    rows,
    weight,
    norm,
    residual,
    out,
    epsilon,
    N_ROWS: tl.constexpr,
    N_IN: tl.constexpr,
    N_OUT: tl.constexpr,
    PADDED_IN: tl.constexpr,
    TILE: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    IS_GATED: tl.constexpr,
) -> None:
    column = tl.arange(0, PADDED_IN)
    is_column = column < N_IN
    output = tl.program_id(0) * TILE + tl.arange(0, TILE)
    is_output = output < N_OUT
    place = output.to(tl.int64)[:, None] * N_IN + column[None, :]
    is_place = is_output[:, None] & is_column[None, :]
    # All weights are requested before the first one is used. They are read once, so they need not stay in the cache.
    weights = tl.load(weight + place, mask=is_place, other=0.0, eviction_policy="evict_first")
    if IS_GATED:
        up_weights = tl.load(weight + N_OUT * N_IN + place, mask=is_place, other=0.0, eviction_policy="evict_first")
    if HAS_NORM:
        scale = tl.load(norm + column, mask=is_column, other=0.0).to(tl.float32)
    for row in tl.static_range(N_ROWS):
        values = tl.load(rows + row * N_IN + column, mask=is_column, other=0.0).to(tl.float32)
        if HAS_NORM:
            # The root of the mean square is the same for all inputs of a row: the sum is divided by it at the end.
            root = tl.sqrt(tl.sum(values * values, 0) / N_IN + epsilon)
            values *= scale
        total = tl.sum(weights.to(tl.float32) * values[None, :], 1)
        if HAS_NORM:
            total = total / root
        if IS_GATED:
            up = tl.sum(up_weights.to(tl.float32) * values[None, :], 1) / root
            total = total / (1.0 + tl.exp(-total)) * up
        if HAS_RESIDUAL:
            total += tl.load(residual + row * N_OUT + output, mask=is_output, other=0.0).to(tl.float32)
        tl.store(out + row * N_OUT + output, total.to(out.dtype.element_ty), mask=is_output)
