"""The end of a decode step as two GPU kernels instead of thirty: the choice of each row's token, and the row's state.

`daemon.engine.qwen3_asr.choice.settle` defines what `settle` computes. The first kernel goes through the logits, many
programs for each row; the second one combines their results and writes the row's state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
import triton
import triton.language as tl

from daemon.engine.kernels import counted

if TYPE_CHECKING:
    from daemon.engine.slots import Slots

# Logits that a program of the first kernel reads.
_BLOCK: Final = 4096


def settle(slots: Slots, logits: torch.Tensor, end_tokens: torch.Tensor) -> None:
    """Choose the most likely token of each row and write it into the row's state; logits: shape (n_rows, n_vocab)."""
    n_rows, n_vocab = logits.shape
    n_blocks = triton.cdiv(n_vocab, _BLOCK)
    largest, total = (torch.empty((n_rows, n_blocks), dtype=torch.float32, device=logits.device) for _ in range(2))
    place = torch.empty((n_rows, n_blocks), dtype=torch.int32, device=logits.device)
    _scan[n_rows, n_blocks](
        logits, largest, total, place, n_vocab, logits.stride(0), N_BLOCKS=n_blocks, BLOCK=_BLOCK, num_warps=4
    )
    _settle[n_rows,](
        largest,
        total,
        place,
        end_tokens,
        slots.token,
        slots.position,
        slots.n_generated,
        slots.max_new_tokens,
        slots.is_live,
        slots.has_failed,
        slots.generated,
        slots.logprobs,
        len(end_tokens),
        slots.generated.stride(0),
        N_BLOCKS=n_blocks,
        PADDED_BLOCKS=triton.next_power_of_2(n_blocks),
        PADDED_ENDS=triton.next_power_of_2(len(end_tokens)),
        num_warps=1,
    )


@counted
@triton.jit
def _scan(logits, largest, total, place, n_vocab, stride, N_BLOCKS: tl.constexpr, BLOCK: tl.constexpr) -> None:
    row = tl.program_id(0)
    block = tl.program_id(1)
    token = block * BLOCK + tl.arange(0, BLOCK)
    is_token = token < n_vocab
    values = tl.load(logits + row.to(tl.int64) * stride + token, mask=is_token, other=-float("inf")).to(tl.float32)
    # Infinity, which NaN becomes, is what the second kernel takes for a failure.
    values = tl.where(values != values, float("inf"), values)  # noqa: PLR0124  # true of NaN alone
    best = tl.max(values, 0)
    partial = row * N_BLOCKS + block
    tl.store(largest + partial, best)
    tl.store(place + partial, tl.min(tl.where(values == best, token, n_vocab), 0))
    tl.store(total + partial, tl.sum(tl.exp(values - best), 0))


@counted
@triton.jit
def _settle(
    largest,
    total,
    place,
    end_tokens,
    token,
    position,
    n_generated,
    max_new_tokens,
    is_live,
    has_failed,
    generated,
    logprobs,
    n_ends,
    stride,
    N_BLOCKS: tl.constexpr,
    PADDED_BLOCKS: tl.constexpr,
    PADDED_ENDS: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    block = tl.arange(0, PADDED_BLOCKS)
    is_block = block < N_BLOCKS
    partial = row * N_BLOCKS + block
    values = tl.load(largest + partial, mask=is_block, other=-float("inf"))
    best = tl.max(values, 0)
    # Of equal logits the first one counts, as in torch.
    places = tl.load(place + partial, mask=is_block, other=0)
    chosen = tl.min(tl.where((values == best) & is_block, places, 2147483647), 0).to(tl.int64)
    totals = tl.load(total + partial, mask=is_block, other=0.0)
    logprob = -tl.log(tl.sum(tl.where(is_block, totals * tl.exp(values - best), 0.0), 0))
    is_number = (best < float("inf")) & (best > -float("inf"))

    end = tl.arange(0, PADDED_ENDS)
    ends = tl.load(end_tokens + end, mask=end < n_ends, other=-1)
    is_end = tl.max((ends == chosen).to(tl.int32), 0) != 0
    live = tl.load(is_live + row)
    n = tl.load(n_generated + row)
    at = row.to(tl.int64) * stride + n
    # A finished row writes behind its last token, where nothing is read.
    tl.store(generated + at, chosen)
    tl.store(logprobs + at, logprob)
    tl.store(token + row, tl.where(live != 0, chosen, tl.load(token + row)))
    tl.store(has_failed + row, tl.load(has_failed + row) + tl.where(is_number, 0, live))
    tl.store(position + row, tl.load(position + row) + live)
    tl.store(n_generated + row, n + live)
    goes_on = is_number & (is_end == 0) & (n + live < tl.load(max_new_tokens + row))
    tl.store(is_live + row, tl.where(goes_on, live, 0))
