"""The attention of a decode step as one GPU kernel that reads exactly the keys and values that are there.

It computes what `daemon.engine.qwen3_asr.decode_attention.attend` defines. For each row and each head of keys, one
program normalizes and rotates the queries and the new key, writes the new key and value to their page, and attends to
all tokens before them, page by page. With few rows, several programs share the tokens of a row, and a second kernel
combines their parts. A row that is not live reads and writes no page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
import triton
import triton.language as tl

from daemon.engine.kernels import counted

if TYPE_CHECKING:
    from daemon.engine.qwen3_asr.decode_attention import StepContext

# The tensor cores multiply tiles of at least 16 rows; the queries of one head of keys are padded to that.
_MIN_ROWS: Final = 16
# Programs that keep a large GPU busy; with fewer, more of them share a row.
_ENOUGH_PROGRAMS: Final = 264
_MAX_SPLITS: Final = 8
# Shared memory that the pipelined tiles may take, of the least that a supported GPU has (64 KiB on Turing).
_SHARED_BYTES: Final = 48 * 1024
_MAX_STAGES: Final = 4
_N_WARPS: Final = 4
_LOG2_E: Final = 1.4426950408889634


def attend(
    qkv: torch.Tensor, qk_norm: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, context: StepContext
) -> torch.Tensor:
    """Return the attended values of one token per row; see `daemon.engine.qwen3_asr.decode_attention.attend`."""
    n_rows = len(qkv)
    _, n_kv_heads, page_tokens, head_dim = keys.shape
    n_heads = qkv.shape[1] // head_dim - 2 * n_kv_heads
    n_splits = _count_splits(n_rows * n_kv_heads)
    block, n_stages = _choose_tile(page_tokens, head_dim, keys.dtype)
    attended = torch.empty((n_rows, n_heads * head_dim), dtype=qkv.dtype, device=qkv.device)
    parts = sums = attended
    if n_splits > 1:
        parts = torch.empty((n_rows * n_heads, n_splits, head_dim), dtype=torch.float32, device=qkv.device)
        sums = torch.empty((n_rows * n_heads, n_splits, 2), dtype=torch.float32, device=qkv.device)
    sizes = {
        "N_KV_HEADS": n_kv_heads,
        "N_SHARING": n_heads // n_kv_heads,
        "N_PADDED": max(_MIN_ROWS, triton.next_power_of_2(n_heads // n_kv_heads)),
        "HEAD_DIM": head_dim,
        "PAGE": page_tokens,
        "BLOCK": block,
        "N_SPLITS": n_splits,
        # Triton would round float32 to 19 bits.
        "PRECISION": "ieee" if keys.dtype == torch.float32 else "tf32",
    }
    _attend_to_pages[n_rows, n_kv_heads, n_splits](
        qkv,
        qk_norm,
        context.cosine,
        context.sine,
        keys,
        values,
        context.pages,
        context.position,
        context.is_live,
        attended,
        parts,
        sums,
        context.epsilon,
        head_dim**-0.5 * _LOG2_E,
        context.pages.stride(0),
        **sizes,
        num_warps=_N_WARPS,
        num_stages=n_stages,
    )
    if n_splits > 1:
        _combine[n_rows * n_heads,](parts, sums, attended, HEAD_DIM=head_dim, N_SPLITS=n_splits, num_warps=4)
    return attended


def can_attend(n_heads: int, n_kv_heads: int, head_dim: int) -> bool:
    """Whether the kernel can compute heads of this kind: sizes of tiles are powers of two, from 16 on."""
    is_power = head_dim & (head_dim - 1) == 0
    return is_power and head_dim >= _MIN_ROWS and n_heads % n_kv_heads == 0


def _count_splits(n_programs: int) -> int:
    """Return among how many programs the tokens of a row are divided: a power of two."""
    n_splits = 1
    while n_splits < _MAX_SPLITS and n_splits * n_programs < _ENOUGH_PROGRAMS:
        n_splits *= 2
    return n_splits


def _choose_tile(page_tokens: int, head_dim: int, dtype: torch.dtype) -> tuple[int, int]:
    """Return how many tokens are read at once, a divisor of a page, and how many such reads are under way."""
    block = min(64, page_tokens & -page_tokens)
    while block > _MIN_ROWS and 2 * block * head_dim * dtype.itemsize > _SHARED_BYTES:
        block //= 2
    return block, max(1, min(_MAX_STAGES, _SHARED_BYTES // (2 * block * head_dim * dtype.itemsize)))


@counted
@triton.jit
def _attend_to_pages(
    qkv,
    qk_norm,
    cosine,
    sine,
    keys,
    values,
    pages,
    position,
    is_live,
    attended,
    parts,
    sums,
    epsilon,
    scale,
    table_width,
    N_KV_HEADS: tl.constexpr,
    N_SHARING: tl.constexpr,
    N_PADDED: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK: tl.constexpr,
    N_SPLITS: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    head = tl.program_id(1)
    split = tl.program_id(2)
    at = tl.load(position + row)  # tokens [0, at) are in the cache; the new one is number `at`
    live = tl.load(is_live + row) != 0
    column = tl.arange(0, HEAD_DIM)
    sharing = tl.arange(0, N_PADDED)
    is_query = (sharing < N_SHARING)[:, None]
    # The rotary embedding adds to each value its partner in the other half of the head.
    partner = (column + HEAD_DIM // 2) % HEAD_DIM
    cos = tl.load(cosine + at * HEAD_DIM + column).to(tl.float32)
    sin = tl.load(sine + at * HEAD_DIM + column).to(tl.float32)
    sin = tl.where(column < HEAD_DIM // 2, -sin, sin)

    heads = qkv + row * ((N_SHARING + 2) * N_KV_HEADS * HEAD_DIM)
    first = (head * N_SHARING + sharing)[:, None] * HEAD_DIM
    query = tl.load(heads + first + column[None, :], mask=is_query, other=0.0).to(tl.float32)
    other = tl.load(heads + first + partner[None, :], mask=is_query, other=0.0).to(tl.float32)
    norm = tl.load(qk_norm + first + column[None, :], mask=is_query, other=0.0).to(tl.float32)
    other_norm = tl.load(qk_norm + first + partner[None, :], mask=is_query, other=0.0).to(tl.float32)
    root = tl.sqrt(tl.sum(query * query, 1) / HEAD_DIM + epsilon)[:, None]
    query = (query * norm * cos[None, :] + other * other_norm * sin[None, :]) / root

    first_key = (N_SHARING * N_KV_HEADS + head) * HEAD_DIM
    key = tl.load(heads + first_key + column).to(tl.float32)
    other_key = tl.load(heads + first_key + partner).to(tl.float32)
    key_norm = tl.load(qk_norm + first_key + column).to(tl.float32)
    other_key_norm = tl.load(qk_norm + first_key + partner).to(tl.float32)
    root_key = tl.sqrt(tl.sum(key * key, 0) / HEAD_DIM + epsilon)
    key = (key * key_norm * cos + other_key * other_key_norm * sin) / root_key
    value = tl.load(heads + ((N_SHARING + 1) * N_KV_HEADS + head) * HEAD_DIM + column)
    key = key.to(value.dtype)

    table = pages + row * table_width
    head_start = head * (PAGE * HEAD_DIM)
    page_size: tl.constexpr = N_KV_HEADS * PAGE * HEAD_DIM
    has_new = split == N_SPLITS - 1
    new_page = tl.load(table + at // PAGE).to(tl.int64)
    new_start = new_page * page_size + head_start + (at % PAGE) * HEAD_DIM
    tl.store(keys + new_start + column, key, mask=has_new & live)
    tl.store(values + new_start + column, value, mask=has_new & live)

    # Softmax in powers of two, over blocks of tokens (https://arxiv.org/abs/1805.02867). It starts with the new token,
    # which belongs to the last split.
    query = (query * scale).to(value.dtype)
    score = tl.sum(query.to(tl.float32) * key.to(tl.float32)[None, :], 1)
    largest = tl.where(has_new, score, -1.0e30)
    total = tl.where(has_new, 1.0, 0.0) + tl.zeros([N_PADDED], tl.float32)
    weighted = tl.where(has_new, 1.0, 0.0) * value.to(tl.float32)[None, :] + tl.zeros([N_PADDED, HEAD_DIM], tl.float32)
    n_past = tl.where(live, at, 0)
    share = tl.cdiv(tl.cdiv(n_past, N_SPLITS), BLOCK) * BLOCK
    begin = split * share
    end = tl.minimum(begin + share, n_past)
    for start in range(begin, end, BLOCK):
        token = tl.arange(0, BLOCK)
        is_past = start + token < end
        page = tl.load(table + start // PAGE).to(tl.int64)
        block_start = page * page_size + head_start + (start % PAGE) * HEAD_DIM
        place = block_start + token[:, None] * HEAD_DIM + column[None, :]
        key_block = tl.load(keys + place, mask=is_past[:, None], other=0.0)
        scores = tl.dot(query, tl.trans(key_block), input_precision=PRECISION)
        scores = tl.where(is_past[None, :], scores, -1.0e30)
        next_largest = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - next_largest[:, None])
        faded = tl.exp2(largest - next_largest)
        value_block = tl.load(values + place, mask=is_past[:, None], other=0.0)
        weighted = weighted * faded[:, None]
        weighted += tl.dot(weights.to(value_block.dtype), value_block, input_precision=PRECISION)
        total = total * faded + tl.sum(weights, 1)
        largest = next_largest

    query_index = row * (N_KV_HEADS * N_SHARING) + head * N_SHARING + sharing
    if N_SPLITS == 1:
        place = attended + query_index[:, None] * HEAD_DIM + column[None, :]
        tl.store(place, (weighted / total[:, None]).to(value.dtype), mask=is_query)
    else:
        part = query_index * N_SPLITS + split
        tl.store(parts + part[:, None] * HEAD_DIM + column[None, :], weighted, mask=is_query)
        tl.store(sums + part * 2, largest, mask=sharing < N_SHARING)
        tl.store(sums + part * 2 + 1, total, mask=sharing < N_SHARING)


@counted
@triton.jit
def _combine(parts, sums, attended, HEAD_DIM: tl.constexpr, N_SPLITS: tl.constexpr) -> None:
    query = tl.program_id(0)
    column = tl.arange(0, HEAD_DIM)
    part = query * N_SPLITS + tl.arange(0, N_SPLITS)
    largest = tl.load(sums + part * 2)
    total = tl.load(sums + part * 2 + 1)
    share = tl.exp2(largest - tl.max(largest, 0))
    weighted = tl.load(parts + part[:, None] * HEAD_DIM + column[None, :])
    combined = tl.sum(weighted * share[:, None], 0) / tl.sum(total * share, 0)
    tl.store(attended + query * HEAD_DIM + column, combined.to(attended.dtype.element_ty))
