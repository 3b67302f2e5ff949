"""The text decoder (Qwen3) over slots: prefills several prompts together, then generates one token per row and step.

The layers are written out here, over the weights that transformers has loaded: no KV cache of transformers lets
each row have its own position, and a decode step is bound by its number of kernels, about 1,400 (12 ms of host
time) in transformers. Tests compare the output with `generate`, token for token.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it

from daemon.engine.compiling import uncompiled
from daemon.engine.packed_attention import Sequences, choose_packed_attention
from daemon.engine.protocol import Fallback
from daemon.engine.qwen3_asr import choice as choices
from daemon.engine.qwen3_asr.decode_attention import PlainAttention, StepContext
from daemon.engine.qwen3_asr.few_rows import FewRows
from daemon.engine.qwen3_asr.layers import (
    DecoderSizes,
    after_attention,
    attention_mask,
    join_weights,
    project,
    project_qkv,
)
from daemon.engine.qwen3_asr.self_check import (
    find_attention_kernel,
    find_choice_kernel,
    find_few_rows_kernels,
)
from daemon.engine.slots import KVCacheSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import Qwen3ASRForConditionalGeneration

    from daemon.engine.compiling import Compile
    from daemon.engine.qwen3_asr.decode_attention import Attend, DecodeAttention
    from daemon.engine.qwen3_asr.layers import DecoderLayer
    from daemon.engine.slots import Slots

    # Writes the tokens that follow from the logits into the rows; see `choice.settle`.
    Settle = Callable[[Slots, torch.Tensor, torch.Tensor], None]


class Prompts(NamedTuple):
    """Prompts to prefill, padded on the right.

    Attributes:
        inputs_embeds: shape (n_prompts, n_tokens, d_text).
        n_tokens: tokens of each prompt, shape (n_prompts,).
        rows: the row of the slots for each prompt.
        max_new_tokens: the most tokens to generate for each.
    """

    inputs_embeds: torch.Tensor
    n_tokens: torch.Tensor
    rows: torch.Tensor
    max_new_tokens: torch.Tensor


class RowStarts(NamedTuple):
    """What the rows of prompts begin with, each of shape (n_prompts,).

    Attributes:
        rows: the row of the slots for each prompt.
        n_tokens: tokens of each prompt.
        max_new_tokens: the most tokens to generate for each.
    """

    rows: torch.Tensor
    n_tokens: torch.Tensor
    max_new_tokens: torch.Tensor


class PackedPrompts(NamedTuple):
    """Prompts to prefill, one behind the other; see `packing.Pack`.

    Attributes:
        inputs_embeds: shape (n_tokens, d_text).
        token_rows: the row of each token, shape (n_tokens,).
        positions: its position in its prompt, shape (n_tokens,).
        sequences: the prompts, then what fills up the tokens.
        last: the last token of each prompt, shape (n_prompts,).
        starts: of the prompts.
    """

    inputs_embeds: torch.Tensor
    token_rows: torch.Tensor
    positions: torch.Tensor
    sequences: Sequences
    last: torch.Tensor
    starts: RowStarts


class _PackedContext(NamedTuple):
    """What all layers of a packed prefill share.

    Attributes:
        cosine: rotary embedding at each token's position, shape (n_tokens, 1, 1, head_dim).
        sine: the same.
        pages: the page of the KV cache for each token, shape (n_tokens,).
        offsets: its place there, shape (n_tokens,).
    """

    cosine: torch.Tensor
    sine: torch.Tensor
    pages: torch.Tensor
    offsets: torch.Tensor


class TextDecoder:
    """The text decoder's weights and its two ways of running: `prefill` and `decode_step`.

    Args:
        model: in evaluation mode, on its device; it goes on sharing its weights.
        end_tokens: tokens that end the output.
        compiled: returns a faster version of one layer's function.

    Attributes:
        attention: how decode steps attend.
        few_rows: products of decode steps with few rows; None where the usual ones are used.
        sizes: of its heads.
    """

    def __init__(
        self,
        model: Qwen3ASRForConditionalGeneration,
        end_tokens: Sequence[int],
        compiled: Compile = uncompiled,
    ) -> None:
        text = model.model.language_model
        config = text.config
        self._layers = [join_weights(layer) for layer in text.layers]
        self._norm: torch.Tensor = text.norm.weight
        self._head: torch.Tensor = model.get_output_embeddings().weight
        self._embedding: torch.Tensor = model.get_input_embeddings().weight
        self._rotary = text.rotary_emb
        self.sizes = DecoderSizes(
            config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.rms_norm_eps
        )
        self._end_tokens = torch.tensor(list(end_tokens), device=self._head.device)
        self.attention: DecodeAttention = PlainAttention(compiled)
        self.few_rows: FewRows | None = None
        self._prefill_layer = compiled(_prefill_layer)
        self._project, self._next_project, self._finish = (
            compiled(project),
            compiled(_next_project),
            compiled(after_attention),
        )
        self._project_packed = compiled(_project_packed, is_packed=True)
        self._next_project_packed = compiled(_next_project_packed, is_packed=True)
        self._finish_packed = compiled(after_attention, is_packed=True)
        self._attend_packed = choose_packed_attention(self._head.device, self._head.dtype)
        self._logprob = compiled(choices.compute_logprob)
        self._settle: Settle = partial(choices.settle, logprob=self._logprob)
        self._residual_dtype = torch.float32 if self._head.dtype == torch.float16 else self._head.dtype
        self._rotary_cache: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def kv_cache_spec(self) -> KVCacheSpec:
        """Size of a token in the KV cache."""
        head = self._head
        return KVCacheSpec(len(self._layers), self.sizes.n_kv_heads, self.sizes.head_dim, head.dtype, head.device)

    @property
    def working_token_bytes(self) -> int:
        """Memory of a prefill for each of its tokens: the states within a layer, and those between layers."""
        layer = self._layers[0]
        n_values = layer.gate_up.shape[0] + layer.down.shape[1] + 2 * layer.qkv.shape[0] + 4 * layer.qkv.shape[1]
        return n_values * layer.qkv.dtype.itemsize

    def use_kernels(self) -> list[Fallback]:
        """Use the kernels that work on this device; return those that do not."""
        attention = find_attention_kernel(self.sizes, self._head.dtype, self._head.device)
        kernels = find_few_rows_kernels(self._layers[0], self.sizes, self._residual_dtype)
        if not isinstance(attention, Fallback):
            self.attention = attention
        if kernels is not None and not isinstance(kernels, Fallback):
            self.few_rows = FewRows(kernels, self._layers, self.sizes, self._norm, self._head)
        settle = find_choice_kernel(len(self._head), self._head.dtype, self._end_tokens)
        if not isinstance(settle, Fallback):
            self._settle = settle
        return [part for part in (attention, kernels, settle) if isinstance(part, Fallback)]

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of tokens."""
        return F.embedding(input_ids, self._embedding)

    def prefill(self, slots: Slots, prompts: Prompts, heartbeat: Callable[[], None]) -> None:
        """Read prompts into their rows and generate the first token of each.

        Padding on the right needs no mask: attention is causal, and a row's next keys overwrite the padding.
        """
        n_tokens = prompts.inputs_embeds.shape[1]
        cosine, sine = (table[None, None, :n_tokens] for table in self._rotary_tables(slots))
        hidden = prompts.inputs_embeds.to(self._residual_dtype)
        where = slots.locate(prompts.rows, n_tokens)
        for index, layer in enumerate(self._layers):
            heartbeat()
            if layer is not self._layers[-1]:
                hidden, key, value = self._prefill_layer(layer, self.sizes, hidden, cosine, sine)
            else:
                hidden, key, value = _last_prefill_layer(
                    layer, self.sizes, hidden, (cosine, sine), prompts.n_tokens - 1
                )
            slots.write_prompts(index, where, key, value)
        self._start_rows(slots, RowStarts(prompts.rows, prompts.n_tokens, prompts.max_new_tokens), hidden[:, 0])

    def prefill_packed(self, slots: Slots, prompts: PackedPrompts) -> None:
        """Read packed prompts into their rows and generate the first token of each, on the device alone."""
        cosine, sine = (table[prompts.positions][:, None, None] for table in self._rotary_tables(slots))
        page_tokens = slots.keys[0].shape[2]
        pages = slots.pages[prompts.token_rows, prompts.positions // page_tokens].long()
        context = _PackedContext(cosine, sine, pages, prompts.positions % page_tokens)
        hidden = prompts.inputs_embeds[:, None].to(self._residual_dtype)
        caches = list(zip(slots.keys, slots.values, strict=True))
        query, key, value = self._project_packed(self._layers[0], self.sizes, hidden, context, caches[0])
        for layer, following, cache in zip(self._layers, self._layers[1:], caches[1:], strict=False):
            attended = self._attend_packed(query, key, value, prompts.sequences).flatten(1)[:, None]
            layers, states = (layer, following), (hidden, attended)
            hidden, query, key, value = self._next_project_packed(layers, self.sizes, states, context, cache)
        # Of the last layer only the last token of each prompt is needed.
        last = _last_of_each(prompts.sequences, len(prompts.last))
        attended = self._attend_packed(query[prompts.last], key, value, last).flatten(1)[:, None]
        hidden = self._finish_packed(self._layers[-1], self.sizes, hidden[prompts.last], attended)
        self._start_rows(slots, prompts.starts, hidden[:, 0])

    def _start_rows(self, slots: Slots, starts: RowStarts, hidden: torch.Tensor) -> None:
        """Choose the first token of each prompt, given the hidden state of its last one, and write it into its row."""
        rows, choice = starts.rows, choices.choose(self._compute_logits(hidden), self._logprob)
        token, is_number = choice.token, choice.is_number
        slots.token[rows] = token
        slots.position[rows] = starts.n_tokens
        slots.n_generated[rows] = torch.ones_like(token)
        slots.max_new_tokens[rows] = starts.max_new_tokens
        slots.has_failed[rows] = (~is_number).long()
        slots.is_live[rows] = (
            is_number & ~choices.is_end(token, self._end_tokens) & (starts.max_new_tokens > 1)
        ).long()
        slots.generated[rows, 0] = token
        slots.logprobs[rows, 0] = choice.logprob

    def decode_step(self, slots: Slots, n_rows: int, kv_len: int, *, with_few_rows: bool = False) -> None:
        """Generate one more token in each live row, without waiting for the device.

        Args:
            slots: the rows.
            n_rows: only the first n_rows are computed.
            kv_len: columns of the cache that are attended to; every live row's position must be below it.
            with_few_rows: use `few_rows`, which must be there and have room for n_rows.
        """
        tables, rows = self._rotary_tables(slots), slice(n_rows)
        context = StepContext(*tables, slots.pages[rows], slots.position[rows], slots.is_live[rows], self.sizes.epsilon)
        attend = self.attention.start(context, kv_len, slots.keys[0].shape[2])
        hidden = self.embed(slots.token[rows]).to(self._residual_dtype)
        cache = list(zip(slots.keys, slots.values, strict=True))
        if with_few_rows and self.few_rows is not None:
            logits = self.few_rows.run_layers(hidden, attend, cache)
        else:
            logits = self._run_layers(hidden, attend, cache)
        self._settle(slots, logits, self._end_tokens)

    def _run_layers(
        self, hidden: torch.Tensor, attend: Attend, cache: Sequence[tuple[torch.Tensor, torch.Tensor]]
    ) -> torch.Tensor:
        """Return the logits of one token per row."""
        qkv = self._project(self._layers[0], self.sizes, hidden)
        for layer, following, (keys, values) in zip(self._layers, self._layers[1:], cache[:-1], strict=False):
            attended = attend(qkv, layer.qk_norm, keys, values)
            hidden, qkv = self._next_project(layer, following, self.sizes, hidden, attended)
        last = self._layers[-1]
        attended = attend(qkv, last.qk_norm, *cache[-1])
        return self._compute_logits(self._finish(last, self.sizes, hidden, attended))

    def _rotary_tables(self, slots: Slots) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosine and sine of all positions, each of shape (n_tokens, head_dim)."""
        n_tokens = slots.shape.n_tokens
        if self._rotary_cache is None or len(self._rotary_cache[0]) < n_tokens:
            positions = torch.arange(n_tokens, device=self._head.device)[None]
            cosine, sine = self._rotary(self._head[:1, None], positions)
            self._rotary_cache = cosine[0], sine[0]
        return self._rotary_cache

    def _compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        normed = F.rms_norm(hidden, self._norm.shape, self._norm.to(hidden.dtype), self.sizes.epsilon)
        return F.linear(normed.to(self._head.dtype), self._head)


def _prefill_layer(
    layer: DecoderLayer, sizes: DecoderSizes, hidden: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (hidden, keys, values) of one layer over whole prompts; keys: (n, n_kv_heads, n_tokens, head_dim)."""
    query, key, value = project_qkv(layer, sizes, hidden, cosine, sine)
    n_groups = sizes.n_heads // sizes.n_kv_heads
    attended = F.scaled_dot_product_attention(
        query, key.repeat_interleave(n_groups, 1), value.repeat_interleave(n_groups, 1), is_causal=True
    )
    return after_attention(layer, sizes, hidden, attended.transpose(1, 2).flatten(2)), key, value


def _last_prefill_layer(
    layer: DecoderLayer,
    sizes: DecoderSizes,
    hidden: torch.Tensor,
    rotary: tuple[torch.Tensor, torch.Tensor],
    last: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the same as `_prefill_layer`, but the hidden state of the token at `last` alone, the only one needed."""
    query, key, value = project_qkv(layer, sizes, hidden, *rotary)
    rows = torch.arange(len(hidden), device=hidden.device)
    context = (key, value, attention_mask(last, hidden.shape[1], query.dtype))
    return _attend(layer, sizes, hidden[rows, last][:, None], query[rows, :, last], context), key, value


def _project_packed(
    layer: DecoderLayer,
    sizes: DecoderSizes,
    hidden: torch.Tensor,
    context: _PackedContext,
    cache: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return queries, keys and values of packed tokens, each (n_tokens, heads, head_dim); the cache gets the latter."""
    query, key, value = (part[:, :, 0] for part in project_qkv(layer, sizes, hidden, context.cosine, context.sine))
    for pages, new in zip(cache, (key, value), strict=True):
        pages[context.pages, :, context.offsets] = new
    return query, key, value


def _next_project_packed(
    layers: tuple[DecoderLayer, DecoderLayer],
    sizes: DecoderSizes,
    states: tuple[torch.Tensor, torch.Tensor],
    context: _PackedContext,
    cache: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the output of a layer, given its input and what it attends to, and what `_project_packed` returns next."""
    layer, following = layers
    hidden = after_attention(layer, sizes, *states)
    return hidden, *_project_packed(following, sizes, hidden, context, cache)


def _last_of_each(sequences: Sequences, n_prompts: int) -> Sequences:
    """Return the first n_prompts sequences, each with a single query, which attends to all of its sequence."""
    one_each = torch.arange(n_prompts + 1, dtype=torch.int32, device=sequences.starts.device)
    return Sequences(sequences.starts[: n_prompts + 1], sequences.longest, one_each, 1, is_causal=False)


def _next_project(
    layer: DecoderLayer, following: DecoderLayer, sizes: DecoderSizes, hidden: torch.Tensor, attended: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the output of a layer, and the queries, keys and values of the one that follows."""
    hidden = after_attention(layer, sizes, hidden, attended)
    return hidden, project(following, sizes, hidden)


def _attend(
    layer: DecoderLayer,
    sizes: DecoderSizes,
    hidden: torch.Tensor,
    query: torch.Tensor,
    context: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Return the hidden states of one token per row, which attends to (keys, values, attention_mask)."""
    # Heads that share keys take the place of the tokens of a longer query, so that no key has to be repeated.
    packed = query.reshape(len(hidden), sizes.n_kv_heads, -1, sizes.head_dim)
    keys, values, attention_mask = context
    attended = F.scaled_dot_product_attention(packed, keys, values, attn_mask=attention_mask)
    return after_attention(layer, sizes, hidden, attended.reshape(len(hidden), 1, -1))
