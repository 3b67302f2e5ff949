"""The parts of a layer of the text decoder that prefill and decode steps share: weights, projections, feed-forward."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it

from daemon.engine.weights import join_weights_of

# float16 ends at 65,504, and some values of this model family are larger: the residual stream, and what the second
# half of a layer adds to it. The residual stream is kept in float32, and those products are divided by this.
_HEADROOM: Final = 64.0


class DecoderLayer(NamedTuple):
    """The weights of one layer; weights that multiply the same input are joined.

    `qk_norm` scales every query head and every key head, shape (n_heads + n_kv_heads, 1, head_dim).
    """

    input_norm: torch.Tensor
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    qk_norm: torch.Tensor
    out: torch.Tensor
    out_bias: torch.Tensor | None
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class DecoderSizes(NamedTuple):
    """What the layers need to know besides the weights."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    epsilon: float


def join_weights(layer: Any) -> DecoderLayer:  # noqa: ANN401  # a layer of transformers, which ships no types
    """Join weights that multiply the same input, and make the layer's own weights views of the joined ones."""
    attention, mlp = layer.self_attn, layer.mlp
    projections: tuple[torch.nn.Linear, ...] = (attention.q_proj, attention.k_proj, attention.v_proj)
    biases = [projection.bias for projection in projections]
    return DecoderLayer(
        input_norm=layer.input_layernorm.weight,
        qkv=join_weights_of(projections),
        qkv_bias=None if biases[0] is None else torch.cat([bias.detach() for bias in biases]),
        qk_norm=_stack_qk_norm(attention),
        out=attention.o_proj.weight,
        out_bias=attention.o_proj.bias,
        mlp_norm=layer.post_attention_layernorm.weight,
        gate_up=join_weights_of((mlp.gate_proj, mlp.up_proj)),
        down=mlp.down_proj.weight,
    )


def _stack_qk_norm(attention: Any) -> torch.Tensor:  # noqa: ANN401  # as above
    norms = ((attention.q_proj, attention.q_norm), (attention.k_proj, attention.k_norm))
    scales = [
        norm.weight.detach().expand(projection.out_features // attention.head_dim, -1) for projection, norm in norms
    ]
    return torch.nn.Parameter(torch.cat(scales)[:, None], requires_grad=False)


def project(layer: DecoderLayer, sizes: DecoderSizes, hidden: torch.Tensor) -> torch.Tensor:
    """Return queries, keys and values as the weights make them, shape (..., (n_heads + 2 * n_kv_heads) * head_dim)."""
    normed = _norm(hidden, layer.input_norm, sizes).to(layer.qkv.dtype)
    return F.linear(normed, layer.qkv, layer.qkv_bias)


def project_qkv(
    layer: DecoderLayer, sizes: DecoderSizes, hidden: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return normed and rotated queries and keys, and values, each of shape (n, heads, n_tokens, head_dim)."""
    heads = torch.unflatten(project(layer, sizes, hidden), -1, (-1, sizes.head_dim)).transpose(1, 2)
    query_key, value = torch.split(heads, [sizes.n_heads + sizes.n_kv_heads, sizes.n_kv_heads], dim=1)
    query_key = F.rms_norm(query_key, (sizes.head_dim,), eps=sizes.epsilon) * layer.qk_norm
    rotated = apply_rotary(query_key, cosine, sine)
    query, key = torch.split(rotated, [sizes.n_heads, sizes.n_kv_heads], dim=1)
    return query, key, value


def after_attention(
    layer: DecoderLayer, sizes: DecoderSizes, hidden: torch.Tensor, attended: torch.Tensor
) -> torch.Tensor:
    """Return the layer's output, given what its heads have attended to, shape (..., n_heads * head_dim)."""
    hidden = hidden + F.linear(attended, layer.out, layer.out_bias)
    normed = _norm(hidden, layer.mlp_norm, sizes).to(layer.gate_up.dtype)
    gate, up = F.linear(normed, layer.gate_up).chunk(2, -1)
    if hidden.dtype == layer.down.dtype:
        return hidden + F.linear(F.silu(gate) * up, layer.down)
    product = F.silu(gate.to(hidden.dtype)) * up / _HEADROOM
    return hidden + F.linear(product.to(layer.down.dtype), layer.down).to(hidden.dtype) * _HEADROOM


def _norm(hidden: torch.Tensor, weight: torch.Tensor, sizes: DecoderSizes) -> torch.Tensor:
    return F.rms_norm(hidden, weight.shape, weight.to(hidden.dtype), sizes.epsilon)


def apply_rotary(heads: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Rotate pairs of values by the angle of their position (RoPE, https://arxiv.org/abs/2104.09864)."""
    left, right = heads.chunk(2, -1)
    return heads * cosine + torch.cat((-right, left), -1) * sine


def attention_mask(position: torch.Tensor, kv_len: int, dtype: torch.dtype) -> torch.Tensor:
    """Return 0 for the columns up to each row's position and -inf beyond; shape (n_rows, 1, 1, kv_len)."""
    mask = torch.zeros((len(position), kv_len), dtype=dtype, device=position.device)
    is_beyond = torch.arange(kv_len, device=position.device) > position[:, None]
    return mask.masked_fill_(is_beyond, -torch.inf)[:, None, None]
