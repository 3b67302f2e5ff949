"""The text decoder (Qwen3) over slots: prompts go in side by side, then every row writes a token a step.

The layers' arithmetic is written out here, over the weights that transformers has loaded, because the cache
is one that no class of transformers offers and because a decode step is bound by its number of kernels: the
stock one is about 1,400 of them and 12 ms of host time. Tests hold it to `generate`, token for token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it

from daemon.engine.qwen3_asr.slots import CacheSizes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import Qwen3ASRForConditionalGeneration

    from daemon.engine.qwen3_asr.slots import Slots


# In float16 numbers end at 65,504, and some of this model family's are larger: the sums over all layers, and
# what the second half of a layer adds to them. Sums are kept in float32, and those products divided by this.
_HEADROOM: Final = 64.0


class _Layer(NamedTuple):
    """The weights of one layer; those that multiply the same input are joined into one.

    `heads_norm` scales every query head and every key head, shape (n_heads + n_kv_heads, 1, head_dim).
    """

    input_norm: torch.Tensor
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    heads_norm: torch.Tensor
    out: torch.Tensor
    out_bias: torch.Tensor | None
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class _Sizes(NamedTuple):
    """What the layers' arithmetic needs to know besides the weights."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    epsilon: float


class _Place(NamedTuple):
    """Where the rows of a step stand.

    Attributes:
        cosine: of each row's position, shape (n_rows, 1, 1, head_dim).
        sine: the same.
        rows: their numbers, shape (n_rows,).
        position: shape (n_rows,).
        bias: 0 at the columns that a row may attend to, -inf at the others; shape (n_rows, 1, 1, n_columns).
    """

    cosine: torch.Tensor
    sine: torch.Tensor
    rows: torch.Tensor
    position: torch.Tensor
    bias: torch.Tensor


class Prompts(NamedTuple):
    """Prompts on their way into slots, padded on the right.

    Attributes:
        embedded: shape (n_prompts, n_tokens, d_text).
        n_tokens: of each prompt, shape (n_prompts,).
        rows: which row of the slots each goes into.
        budgets: the most tokens that each answer may have.
    """

    embedded: torch.Tensor
    n_tokens: torch.Tensor
    rows: torch.Tensor
    budgets: torch.Tensor


class Decoder:
    """The decoder's weights and its two ways of running: `prefill` and `step`."""

    def __init__(
        self,
        model: Qwen3ASRForConditionalGeneration,
        end_tokens: Sequence[int],
        compiled: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function,
    ) -> None:
        """Take the weights of the model, which goes on sharing them.

        Args:
            model: in evaluation mode, on its device.
            end_tokens: tokens that end an answer.
            compiled: what makes one layer's function faster.
        """
        text = model.model.language_model
        config = text.config
        self._layers = [_join(layer) for layer in text.layers]
        self._norm: torch.Tensor = text.norm.weight
        self._head: torch.Tensor = model.get_output_embeddings().weight
        self._embedding: torch.Tensor = model.get_input_embeddings().weight
        self._rotary = text.rotary_emb
        self._sizes = _Sizes(
            config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.rms_norm_eps
        )
        self._end_tokens = torch.tensor(list(end_tokens), device=self._head.device)
        self._prompt_layer, self._step_layer = compiled(_prompt_layer), compiled(_step_layer)
        self._sum_dtype = torch.float32 if self._head.dtype == torch.float16 else self._head.dtype
        self._angles: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def cache_sizes(self) -> CacheSizes:
        """What a token takes in the cache."""
        head = self._head
        return CacheSizes(len(self._layers), self._sizes.n_kv_heads, self._sizes.head_dim, head.dtype, head.device)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of tokens."""
        return F.embedding(tokens, self._embedding)

    def prefill(self, slots: Slots, prompts: Prompts, heartbeat: Callable[[], None]) -> None:
        """Read prompts into their rows and write the first token of each answer.

        Padding on the right needs no mask: no token looks ahead, and a row's next keys overwrite it.
        """
        n_tokens = prompts.embedded.shape[1]
        cosine, sine = (table[None, None, :n_tokens] for table in self._rotate(slots))
        hidden = prompts.embedded.to(self._sum_dtype)
        for layer, keys, values in zip(self._layers, slots.keys, slots.values, strict=True):
            heartbeat()
            if layer is not self._layers[-1]:
                hidden, key, value = self._prompt_layer(layer, self._sizes, hidden, cosine, sine)
            else:
                hidden, key, value = _last_prompt_layer(
                    layer, self._sizes, hidden, (cosine, sine), prompts.n_tokens - 1
                )
            keys[:, :, :n_tokens].index_copy_(0, prompts.rows, key)
            values[:, :, :n_tokens].index_copy_(0, prompts.rows, value)
        token, is_number = self._choose(hidden[:, 0])
        slots.token[prompts.rows] = token
        slots.position[prompts.rows] = prompts.n_tokens
        slots.n_answer[prompts.rows] = torch.ones_like(token)
        slots.budget[prompts.rows] = prompts.budgets
        slots.has_failed[prompts.rows] = (~is_number).long()
        slots.is_live[prompts.rows] = (is_number & ~self._is_end(token) & (prompts.budgets > 1)).long()
        slots.answer[prompts.rows, 0] = token

    def step(self, slots: Slots, n_rows: int, n_columns: int) -> None:
        """Write one more token into each of the first rows that is live; nothing here waits for the device.

        Args:
            slots: the rows.
            n_rows: how many of them are computed.
            n_columns: how much of each is attended to; every live row's position must lie below it.
        """
        position = slots.position[:n_rows]
        cosine, sine = (table[position][:, None, None] for table in self._rotate(slots))
        rows = torch.arange(n_rows, device=position.device)
        place = _Place(cosine, sine, rows, position, _bias(position, n_columns, self._head.dtype))
        hidden = self.embed(slots.token[:n_rows, None]).to(self._sum_dtype)
        for layer, keys, values in zip(self._layers, slots.keys, slots.values, strict=True):
            hidden = self._step_layer(layer, self._sizes, hidden, (keys[:n_rows], values[:n_rows]), place)
        token, is_number = self._choose(hidden[:, 0])
        _write(slots, token, is_number, self._is_end(token))

    def _rotate(self, slots: Slots) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosine and sine of all positions, each of shape (n_tokens, head_dim)."""
        n_tokens = slots.shape.n_tokens
        if self._angles is None or len(self._angles[0]) < n_tokens:
            positions = torch.arange(n_tokens, device=self._head.device)[None]
            cosine, sine = self._rotary(self._head[:1, None], positions)
            self._angles = cosine[0], sine[0]
        return self._angles

    def _choose(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the likeliest token of each row, and whether its score is a number."""
        normed = F.rms_norm(hidden, self._norm.shape, self._norm.to(hidden.dtype), self._sizes.epsilon)
        scores = F.linear(normed.to(self._head.dtype), self._head)
        score, token = scores.max(-1)
        return token, score.isfinite()

    def _is_end(self, token: torch.Tensor) -> torch.Tensor:
        return (token[:, None] == self._end_tokens).any(-1)


def _join(layer: Any) -> _Layer:  # noqa: ANN401  # a layer of transformers, which ships no types
    """Join the weights that multiply the same input, and let the layer's own be views of them."""
    attention, mlp = layer.self_attn, layer.mlp
    in_attention: tuple[torch.nn.Linear, ...] = (attention.q_proj, attention.k_proj, attention.v_proj)
    biases = [projection.bias for projection in in_attention]
    return _Layer(
        input_norm=layer.input_layernorm.weight,
        qkv=_stack(in_attention),
        qkv_bias=None if biases[0] is None else torch.cat([bias.detach() for bias in biases]),
        heads_norm=_scale_of_heads(attention),
        out=attention.o_proj.weight,
        out_bias=attention.o_proj.bias,
        mlp_norm=layer.post_attention_layernorm.weight,
        gate_up=_stack((mlp.gate_proj, mlp.up_proj)),
        down=mlp.down_proj.weight,
    )


def _scale_of_heads(attention: Any) -> torch.Tensor:  # noqa: ANN401  # as above
    norms = ((attention.q_proj, attention.q_norm), (attention.k_proj, attention.k_norm))
    scales = [
        norm.weight.detach().expand(projection.out_features // attention.head_dim, -1) for projection, norm in norms
    ]
    return torch.nn.Parameter(torch.cat(scales)[:, None], requires_grad=False)


def _stack(projections: Sequence[torch.nn.Linear]) -> torch.Tensor:
    joined = torch.cat([projection.weight.detach() for projection in projections])
    parts = torch.split(joined, [projection.out_features for projection in projections])
    for projection, part in zip(projections, parts, strict=True):
        projection.weight = torch.nn.Parameter(part, requires_grad=False)
    # The compiler takes the sizes of parameters for constants.
    return torch.nn.Parameter(joined, requires_grad=False)


def _prompt_layer(
    layer: _Layer, sizes: _Sizes, hidden: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (hidden, keys, values) of one layer over whole prompts; keys: (n, n_kv_heads, n_tokens, head_dim)."""
    query, key, value = _attention_inputs(layer, sizes, hidden, cosine, sine)
    n_groups = sizes.n_heads // sizes.n_kv_heads
    mixed = F.scaled_dot_product_attention(
        query, key.repeat_interleave(n_groups, 1), value.repeat_interleave(n_groups, 1), is_causal=True
    )
    return _after_attention(layer, sizes, hidden, mixed.transpose(1, 2).flatten(2)), key, value


def _last_prompt_layer(
    layer: _Layer,
    sizes: _Sizes,
    hidden: torch.Tensor,
    turn: tuple[torch.Tensor, torch.Tensor],
    last: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what `_prompt_layer` does, but hidden states of the token at `last` alone: no other is asked for."""
    query, key, value = _attention_inputs(layer, sizes, hidden, *turn)
    rows = torch.arange(len(hidden), device=hidden.device)
    attended = (key, value, _bias(last, hidden.shape[1], query.dtype))
    return _attend(layer, sizes, hidden[rows, last][:, None], query[rows, :, last], attended), key, value


def _step_layer(
    layer: _Layer,
    sizes: _Sizes,
    hidden: torch.Tensor,
    cache: tuple[torch.Tensor, torch.Tensor],
    place: _Place,
) -> torch.Tensor:
    """Return the hidden states of one token a row; its keys and values go into the cache at its position."""
    query, key, value = _attention_inputs(layer, sizes, hidden, place.cosine, place.sine)
    keys, values = cache
    keys[place.rows, :, place.position] = key[:, :, 0]
    values[place.rows, :, place.position] = value[:, :, 0]
    n_columns = place.bias.shape[-1]
    return _attend(layer, sizes, hidden, query, (keys[:, :, :n_columns], values[:, :, :n_columns], place.bias))


def _attend(
    layer: _Layer,
    sizes: _Sizes,
    hidden: torch.Tensor,
    query: torch.Tensor,
    attended: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Return the hidden states of one token a row, which attends to keys and values with a bias."""
    # The heads that share keys stand where a longer question would have its tokens: nothing is repeated.
    packed = query.reshape(len(hidden), sizes.n_kv_heads, -1, sizes.head_dim)
    keys, values, bias = attended
    mixed = F.scaled_dot_product_attention(packed, keys, values, attn_mask=bias)
    return _after_attention(layer, sizes, hidden, mixed.reshape(len(hidden), 1, -1))


def _bias(position: torch.Tensor, n_columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Return 0 for the columns up to each row's position and -inf behind; shape (n_rows, 1, 1, n_columns)."""
    bias = torch.zeros((len(position), n_columns), dtype=dtype, device=position.device)
    is_behind = torch.arange(n_columns, device=position.device) > position[:, None]
    return bias.masked_fill_(is_behind, -torch.inf)[:, None, None]


def _attention_inputs(
    layer: _Layer, sizes: _Sizes, hidden: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return queries, keys and values, each of shape (n, heads, n_tokens, head_dim)."""
    normed = _norm(hidden, layer.input_norm, sizes).to(layer.qkv.dtype)
    heads = torch.unflatten(F.linear(normed, layer.qkv, layer.qkv_bias), -1, (-1, sizes.head_dim)).transpose(1, 2)
    turning, value = torch.split(heads, [sizes.n_heads + sizes.n_kv_heads, sizes.n_kv_heads], dim=1)
    turning = F.rms_norm(turning, (sizes.head_dim,), eps=sizes.epsilon) * layer.heads_norm
    query, key = torch.split(_rotated(turning, cosine, sine), [sizes.n_heads, sizes.n_kv_heads], dim=1)
    return query, key, value


def _after_attention(layer: _Layer, sizes: _Sizes, hidden: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
    hidden = hidden + F.linear(mixed, layer.out, layer.out_bias)
    normed = _norm(hidden, layer.mlp_norm, sizes).to(layer.gate_up.dtype)
    gate, up = F.linear(normed, layer.gate_up).chunk(2, -1)
    if hidden.dtype == layer.down.dtype:
        return hidden + F.linear(F.silu(gate) * up, layer.down)
    product = F.silu(gate.to(hidden.dtype)) * up / _HEADROOM
    return hidden + F.linear(product.to(layer.down.dtype), layer.down).to(hidden.dtype) * _HEADROOM


def _norm(hidden: torch.Tensor, weight: torch.Tensor, sizes: _Sizes) -> torch.Tensor:
    return F.rms_norm(hidden, weight.shape, weight.to(hidden.dtype), sizes.epsilon)


def _rotated(heads: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Turn pairs of numbers by the angle of their position (RoPE, https://arxiv.org/abs/2104.09864)."""
    left, right = heads.chunk(2, -1)
    return heads * cosine + torch.cat((-right, left), -1) * sine


def _write(slots: Slots, token: torch.Tensor, is_number: torch.Tensor, is_end: torch.Tensor) -> None:
    """Put the chosen tokens into the rows that are live, and let those end that are at their end."""
    n_rows = len(token)
    live, n_answer = slots.is_live[:n_rows], slots.n_answer[:n_rows]
    # A row that has ended writes behind its answer, where nobody reads.
    slots.answer[:n_rows].scatter_(1, n_answer[:, None], token[:, None])
    slots.token[:n_rows].copy_(torch.where(live.bool(), token, slots.token[:n_rows]))
    slots.has_failed[:n_rows] += live * ~is_number
    slots.position[:n_rows] += live
    n_answer += live
    live *= is_number & ~is_end & (n_answer < slots.budget[:n_rows])
