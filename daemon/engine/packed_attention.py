"""Attention within sequences that are packed one behind another, without padding.

The kernels read the lengths of the sequences on the device and plan nothing for a shape, so a captured call serves any
lengths. `attend_plainly` defines what they compute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it

if TYPE_CHECKING:
    from collections.abc import Callable

    # (query, key, value, sequences) to what the queries attend to; see `attend_plainly`.
    PackedAttention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, "Sequences"], torch.Tensor]

# The flash kernels compute in 16 bits, on Ampere and newer.
_HAS_FLASH: Final = (8, 0)
_CAUSAL_FROM_TOP_LEFT: Final = 1


class Sequences(NamedTuple):
    """Where packed sequences begin, and what their tokens attend to.

    Attributes:
        starts: int32, the first key of each sequence, then the end of the last; shape (n_sequences + 1,).
        longest: no sequence has more keys.
        query_starts: the same for the queries.
        longest_query: no sequence has more queries.
        is_causal: whether the k-th query of a sequence attends to its first k keys only.
    """

    starts: torch.Tensor
    longest: int
    query_starts: torch.Tensor
    longest_query: int
    is_causal: bool


def choose_packed_attention(device: torch.device, dtype: torch.dtype) -> PackedAttention:
    """Return the fastest way to attend on a device in a dtype."""
    if device.type != "cuda":
        return attend_plainly
    is_new = torch.cuda.get_device_capability(device) >= _HAS_FLASH
    if is_new and dtype.itemsize == torch.float16.itemsize and torch.backends.cuda.is_flash_attention_available():
        return _attend_flash
    return _attend_efficiently


def attend_plainly(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sequences: Sequences) -> torch.Tensor:
    """Return what each token attends to within its sequence.

    Args:
        query: shape (n_queries, n_heads, head_dim).
        key: shape (n_keys, n_kv_heads, head_dim); each head of keys serves as many consecutive heads of queries.
        value: the same.
        sequences: which of them belong together.

    Returns:
        The shape of query.
    """
    query_place, query_sequence = _find_places(sequences.query_starts, len(query))
    key_place, key_sequence = _find_places(sequences.starts, len(key))
    mask = query_sequence[:, None] == key_sequence
    if sequences.is_causal:
        mask &= query_place[:, None] >= key_place
    n_groups = query.shape[1] // key.shape[1]
    keys, values = (part.repeat_interleave(n_groups, 1).transpose(0, 1)[None] for part in (key, value))
    attended = F.scaled_dot_product_attention(query.transpose(0, 1)[None], keys, values, attn_mask=mask)
    return attended[0].transpose(0, 1)


def _find_places(starts: torch.Tensor, n_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the place of each token in its sequence, and the number of the sequence."""
    tokens = torch.arange(n_tokens, dtype=starts.dtype, device=starts.device)
    sequence = torch.searchsorted(starts, tokens, right=True) - 1
    return tokens - starts[sequence], sequence


def _attend_flash(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sequences: Sequences) -> torch.Tensor:
    starts, longest, query_starts, longest_query, is_causal = sequences
    bounds = (query_starts, starts, longest_query, longest)
    # The public name, in torch.nn.attention.varlen, has other parameters in each version of torch so far.
    attended: torch.Tensor = torch.ops.aten._flash_attention_forward(  # noqa: SLF001  # see above
        query, key, value, *bounds, 0.0, is_causal, return_debug_mask=False
    )[0]
    return attended


def _attend_efficiently(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sequences: Sequences
) -> torch.Tensor:
    starts, longest, query_starts, longest_query, is_causal = sequences
    bounds = (query_starts, starts, longest_query, longest)
    n_groups = query.shape[1] // key.shape[1]
    context = (part.repeat_interleave(n_groups, 1)[None] for part in (key, value))
    mask = _CAUSAL_FROM_TOP_LEFT if is_causal else 0
    attended: torch.Tensor = torch.ops.aten._efficient_attention_forward(  # noqa: SLF001  # no public name
        query[None], *context, None, *bounds, 0.0, mask
    )[0]
    return attended[0]
