"""The attention of a decode step: what it computes, in plain PyTorch, and the kernel that computes it on a GPU.

The plain definition runs on CPUs, is what the kernel is compared with, and takes its place where it does not work.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it

from daemon.engine.qwen3_asr.layers import apply_rotary, attention_mask

if TYPE_CHECKING:
    from collections.abc import Callable

    # (qkv, qk_norm, keys, values) to what each row has attended to; see `attend`.
    Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class StepContext(NamedTuple):
    """Where the rows of a decode step are.

    Attributes:
        cosine: rotary embedding of every position, shape (n_tokens, head_dim).
        sine: the same.
        pages: pages of each row, shape (n_rows, pages_per_slot); see `Slots`.
        position: number of the new token of each row, shape (n_rows,).
        is_live: 0 for rows that are computed but not used, shape (n_rows,).
        epsilon: of the norm.
    """

    cosine: torch.Tensor
    sine: torch.Tensor
    pages: torch.Tensor
    position: torch.Tensor
    is_live: torch.Tensor
    epsilon: float


class DecodeAttention(Protocol):
    """A way to compute the attention of a decode step."""

    @property
    def page_tokens(self) -> int | None:
        """Tokens of a page that it reads best; None if each row should have one page; see `SlotShape`."""
        ...

    def start(self, context: StepContext, kv_len: int, page_tokens: int) -> Attend:
        """Return the attention of one step, for all its layers.

        Args:
            context: the rows.
            kv_len: tokens that are attended to; every live row's position must be below it.
            page_tokens: tokens of a page.
        """
        ...


class PlainAttention:
    """The definition.

    Args:
        compiled: returns a faster version of a function.
    """

    page_tokens: int | None = None

    def __init__(
        self, compiled: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function
    ) -> None:
        self._attend = compiled(attend)

    def start(self, context: StepContext, kv_len: int, page_tokens: int) -> Attend:
        """Compute once what all layers share."""
        places = _find_places(context, kv_len, page_tokens)
        return lambda qkv, qk_norm, keys, values: self._attend(qkv, qk_norm, keys, values, places)


class KernelAttention:
    """The kernel `daemon.engine.kernels.decode_attention`, which reads the tokens of each row and no others.

    Args:
        kernel: its function `attend`.
    """

    # Small enough that a chunk wastes few tokens, large enough that a page is read at full speed.
    page_tokens: int | None = 64

    def __init__(self, kernel: Callable[..., torch.Tensor]) -> None:
        self._kernel = kernel

    def start(self, context: StepContext, kv_len: int, page_tokens: int) -> Attend:
        """Return the kernel for these rows; it reads their positions on the device."""
        del kv_len, page_tokens
        return partial(self._kernel, context=context)


class _Places(NamedTuple):
    """What the plain attention of all layers shares.

    Attributes:
        cosine: rotary embedding at each row's position, shape (n_rows, 1, head_dim).
        sine: the same.
        page: page of each row's new token, shape (n_rows,).
        offset: its place there.
        pages: the first pages of each row, shape (n_rows, n); None if each row has the page of its own number.
        mask: shape (n_rows, 1, 1, kv_len), see `attention_mask`.
        epsilon: of the norm.
    """

    cosine: torch.Tensor
    sine: torch.Tensor
    page: torch.Tensor
    offset: torch.Tensor
    pages: torch.Tensor | None
    mask: torch.Tensor
    epsilon: float


def attend(
    qkv: torch.Tensor, qk_norm: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, places: _Places
) -> torch.Tensor:
    """Return what one token per row attends to; its keys and values are written to the cache.

    Args:
        qkv: projected queries, keys and values, shape (n_rows, (n_heads + 2 * n_kv_heads) * head_dim).
        qk_norm: scales of the norm of queries and keys, shape (n_heads + n_kv_heads, 1, head_dim).
        keys: shape (n_pages, n_kv_heads, page_tokens, head_dim).
        values: the same.
        places: where the rows are.

    Returns:
        Shape (n_rows, n_heads * head_dim).
    """
    n_rows, n_kv_heads, head_dim = len(qkv), keys.shape[1], keys.shape[3]
    heads = torch.unflatten(qkv, -1, (-1, head_dim))
    query_key, value = torch.split(heads, [len(qk_norm), n_kv_heads], dim=1)
    query_key = F.rms_norm(query_key, (head_dim,), eps=places.epsilon) * qk_norm[:, 0]
    query, key = torch.split(
        apply_rotary(query_key, places.cosine, places.sine), [len(qk_norm) - n_kv_heads, n_kv_heads], dim=1
    )
    keys[places.page, :, places.offset] = key
    values[places.page, :, places.offset] = value
    kv_len = places.mask.shape[-1]
    past_keys, past_values = (_read(cache, places.pages, n_rows)[:, :, :kv_len] for cache in (keys, values))
    if places.pages is not None:
        # Pages that other rows left behind may hold NaN, which no mask of the scores removes.
        is_beyond = places.mask.transpose(-1, -2) < 0
        past_keys, past_values = past_keys.masked_fill(is_beyond, 0), past_values.masked_fill(is_beyond, 0)
    # Heads that share keys take the place of the tokens of a longer query, so that no key has to be repeated.
    packed = query.reshape(n_rows, n_kv_heads, -1, head_dim)
    attended = F.scaled_dot_product_attention(packed, past_keys, past_values, attn_mask=places.mask)
    return attended.reshape(n_rows, -1)


def _read(cache: torch.Tensor, pages: torch.Tensor | None, n_rows: int) -> torch.Tensor:
    """Return the keys or values of each row, shape (n_rows, n_kv_heads, tokens, head_dim)."""
    return cache[:n_rows] if pages is None else cache[pages].transpose(1, 2).flatten(2, 3)


def _find_places(context: StepContext, kv_len: int, page_tokens: int) -> _Places:
    position, pages = context.position, context.pages
    mask = attention_mask(position, kv_len, context.cosine.dtype)
    cosine, sine = (table[position][:, None] for table in (context.cosine, context.sine))
    if pages.shape[1] == 1:
        rows = torch.arange(len(position), device=position.device)
        return _Places(cosine, sine, rows, position, None, mask, context.epsilon)
    page = pages.gather(1, (position // page_tokens)[:, None])[:, 0].long()
    first = pages[:, : -(-kv_len // page_tokens)].long()
    return _Places(cosine, sine, page, position % page_tokens, first, mask, context.epsilon)
