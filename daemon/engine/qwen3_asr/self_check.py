"""At load the engine checks what makes it fast against plain definitions, on the very device, and goes on without it.

Kernels may fail to build (no C compiler, an old card), or a new compiler or driver may make them wrong. A wrong
transcript would be worse than a slow one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
import torch

from daemon.engine.failures import classify, one_line
from daemon.engine.protocol import Fallback
from daemon.engine.qwen3_asr import choice, few_rows
from daemon.engine.qwen3_asr.decode_attention import KernelAttention, PlainAttention, StepContext
from daemon.engine.slots import KVCacheSpec, Slots, SlotShape
from daemon.host import compiler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from daemon.engine.qwen3_asr.decode_attention import DecodeAttention
    from daemon.engine.qwen3_asr.few_rows import FewRowsKernels
    from daemon.engine.qwen3_asr.layers import DecoderLayer, DecoderSizes
    from daemon.engine.slot_model import PreparedChunk

    Settle = Callable[[Slots, torch.Tensor, torch.Tensor], None]
    Prefill = Callable[[Slots, Sequence[PreparedChunk], Sequence[int], Callable[[], None]], None]

log = structlog.get_logger()

# How much a kernel may differ from the definition in float64, relative to the size of the result: rounding explains it.
_TOLERANCES: Final = {torch.float32: 1e-4, torch.float16: 3e-3, torch.bfloat16: 2e-2}
# Few rows share their tokens among programs, many do not.
_N_ROWS: Final = (3, 40)
_PAGES_PER_ROW: Final = 5
# How much the keys and values of the last layer may differ between two prefills: errors of rounding grow from layer to
# layer, and a wrong mask or a wrong place changes everything.
_PREFILL_TOLERANCES: Final = {torch.float32: 0.02, torch.float16: 0.25, torch.bfloat16: 0.25}

_ATTENTION_COST: Final = "decoding takes about a third longer, and fewer chunks fit into memory"
_FEW_ROWS_COST: Final = "a single recording takes up to a third longer"
_PREFILL_COST: Final = "transcribing takes up to twice as long"


class MismatchError(Exception):
    """A kernel does not compute what its definition says."""


def find_attention_kernel(sizes: DecoderSizes, dtype: torch.dtype, device: torch.device) -> KernelAttention | Fallback:
    """Return the kernel for decode steps, after comparing it with its definition, or why it cannot be used."""
    try:
        # Triton comes with torch for CUDA alone, and checks the machine when it is imported.
        from daemon.engine.kernels import decode_attention  # noqa: PLC0415  # see the line above

        if not decode_attention.can_attend(sizes.n_heads, sizes.n_kv_heads, sizes.head_dim):
            return _fall_back(
                "attention kernel", f"it has no version for heads of {sizes.head_dim} values", _ATTENTION_COST
            )
        attention = KernelAttention(decode_attention.attend)
        for n_rows in _N_ROWS:
            compare_attention(attention, sizes, n_rows, dtype, device)
    except Exception as error:
        if classify(error) is not None:
            raise
        return _fall_back("attention kernel", one_line(error), _ATTENTION_COST)
    return attention


def find_prefill_fault(
    slots: Slots, chunks: Sequence[PreparedChunk], packed: Prefill, padded: Prefill
) -> Fallback | None:
    """Prefill chunks in two ways and compare what the slots hold; return why the first way cannot be used.

    Args:
        slots: new slots, which are empty again afterwards.
        chunks: as many as there are slots are used.
        packed: the fast way.
        padded: the definition.
    """
    used = chunks[: slots.shape.n_slots]
    rows = [row for row, chunk in enumerate(used) if slots.grow(row, chunk.n_slot_tokens)]
    used = [used[row] for row in rows]
    if not used:
        return None
    slots.upload_pages()
    held = []
    try:
        # The definition is not worth being compiled.
        for prefill, stance in ((packed, "default"), (padded, "force_eager")):
            with torch.compiler.set_stance(stance):
                prefill(slots, used, rows, _go_on)
            held.append(
                torch.cat([_last_keys_and_values(slots, row, chunk) for row, chunk in zip(rows, used, strict=True)])
            )
        error = ((held[0] - held[1]).norm() / held[1].norm()).item()
    except Exception as failure:
        if classify(failure) is not None:
            raise
        return _fall_back("packed prefill", one_line(failure), _PREFILL_COST)
    finally:
        for row in rows:
            slots.clear(row)
            slots.release(row)
        slots.upload_pages()
    if error < _PREFILL_TOLERANCES[slots.spec.dtype]:
        return None
    reason = f"keys and values differ from those of a padded prefill by {error:.2g}"
    return _fall_back("packed prefill", reason, _PREFILL_COST)


def _last_keys_and_values(slots: Slots, row: int, chunk: PreparedChunk) -> torch.Tensor:
    """Return what the last layer holds of a prompt, in float64, shape (n,)."""
    n_pages = -(-chunk.n_prompt_tokens // slots.keys[0].shape[2])
    pages = slots.pages[row, :n_pages].long()
    caches = (slots.keys[-1], slots.values[-1])
    tokens = (cache[pages].transpose(0, 1).flatten(1, 2)[:, : chunk.n_prompt_tokens] for cache in caches)
    return torch.cat([part.flatten() for part in tokens]).double()


def _go_on() -> None:
    """Do nothing at a heartbeat."""


def find_few_rows_kernels(
    layer: DecoderLayer, sizes: DecoderSizes, residual_dtype: torch.dtype
) -> FewRowsKernels | Fallback | None:
    """Return the kernels for few rows, after comparing them with their definition, or why they cannot be used.

    Args:
        layer: one of the layers.
        sizes: of its heads.
        residual_dtype: of the hidden states.

    Returns:
        None if this model has no use for them.
    """
    if residual_dtype != layer.qkv.dtype or layer.qkv_bias is not None or layer.out_bias is not None:
        return None
    try:
        from daemon.engine.kernels import few_rows as kernels  # noqa: PLC0415  # as above

        for n_rows in (1, kernels.MAX_ROWS):
            compare_products(kernels, layer, sizes, n_rows)
    except Exception as error:
        if classify(error) is not None:
            raise
        return _fall_back("products for few rows", one_line(error), _FEW_ROWS_COST)
    return kernels


def compare_products(kernels: FewRowsKernels, layer: DecoderLayer, sizes: DecoderSizes, n_rows: int) -> None:
    """Compare the products of a layer for few rows with their definition, on random rows.

    Raises:
        MismatchError: they differ by more than rounding explains.
    """
    dtype, epsilon = layer.qkv.dtype, sizes.epsilon
    random = torch.Generator().manual_seed(n_rows)

    def draw(n: int) -> torch.Tensor:
        return torch.randn(n_rows, n, generator=random).to(layer.qkv.device, dtype)

    hidden, attended, gated = draw(layer.qkv.shape[1]), draw(layer.out.shape[1]), draw(layer.down.shape[1])
    norm, mlp_norm = layer.input_norm.float(), layer.mlp_norm.float()
    exact = (hidden.float(), attended.float(), gated.float())
    for name, found, wanted in (
        (
            "queries, keys and values",
            kernels.product(hidden, layer.qkv, norm=layer.input_norm, epsilon=epsilon),
            few_rows.product(exact[0], layer.qkv.float(), norm=norm, epsilon=epsilon),
        ),
        (
            "attention output",
            kernels.product(attended, layer.out, residual=hidden),
            few_rows.product(exact[1], layer.out.float(), residual=exact[0]),
        ),
        (
            "gated products",
            kernels.gated_product(hidden, layer.gate_up, layer.mlp_norm, epsilon),
            few_rows.gated_product(exact[0], layer.gate_up.float(), mlp_norm, epsilon),
        ),
        (
            "layer output",
            kernels.product(gated, layer.down, residual=hidden),
            few_rows.product(exact[2], layer.down.float(), residual=exact[0]),
        ),
    ):
        _check_error(f"{name} of {n_rows} rows", found, wanted, _TOLERANCES[dtype])


def find_choice_kernel(n_vocab: int, dtype: torch.dtype, end_tokens: torch.Tensor) -> Settle | Fallback:
    """Return the kernel that ends a decode step, after comparing it with its definition, or why it cannot be used."""
    try:
        from daemon.engine.kernels import choice as kernels  # noqa: PLC0415  # as above

        for n_rows in _N_ROWS:
            compare_choices(kernels.settle, n_rows, n_vocab, dtype, end_tokens)
    except Exception as error:
        if classify(error) is not None:
            raise
        return _fall_back("choice of tokens", one_line(error), "a decode step takes up to 0.2 ms longer")
    return kernels.settle


def compare_choices(settle: Settle, n_rows: int, n_vocab: int, dtype: torch.dtype, end_tokens: torch.Tensor) -> None:
    """Compare a way to end a decode step with its definition, on random logits.

    Raises:
        MismatchError: the rows are not in the same state afterwards.
    """
    random = torch.Generator().manual_seed(n_rows)
    logits = torch.randn(n_rows, n_vocab, generator=random).to(end_tokens.device, dtype)
    logits[0, 1] = torch.nan
    logits[1, end_tokens[-1]] = 100
    spec = KVCacheSpec(1, 1, 1, dtype, end_tokens.device)
    states = []
    for run in (settle, choice.settle):
        slots = Slots(SlotShape(n_rows, 8), spec)
        slots.is_live[:n_rows] = 1
        slots.is_live[n_rows // 2] = 0  # of at least three rows: not those above
        slots.n_generated.fill_(3)
        slots.max_new_tokens.fill_(6)
        slots.max_new_tokens[n_rows - 1] = 4
        run(slots, logits, end_tokens)
        states.append(slots)
    found, wanted = states
    for name in ("token", "position", "n_generated", "is_live", "has_failed", "generated"):
        is_same = getattr(found, name)[1:] == getattr(wanted, name)[1:]  # which token a row with NaN gets is left open
        if not is_same.all() or not torch.equal(found.has_failed, wanted.has_failed):
            raise MismatchError(f"the state '{name}' of {n_rows} rows differs from its definition")
    _check_error(f"log probabilities of {n_rows} rows", found.logprobs[1:], wanted.logprobs[1:], 1e-4)


def _check_error(name: str, found: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> None:
    error = ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()
    if not error < tolerance:  # also if it is NaN
        raise MismatchError(f"{name} differ from their definition by {error:.2g}")


def compare_attention(
    attention: DecodeAttention, sizes: DecoderSizes, n_rows: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Compare an attention over pages with its definition, on random numbers.

    Raises:
        MismatchError: they differ by more than rounding explains.
    """
    page_tokens = attention.page_tokens or 64
    n_tokens = page_tokens * _PAGES_PER_ROW
    random = torch.Generator().manual_seed(n_rows)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random).to(device, dtype)

    n_projected = (sizes.n_heads + 2 * sizes.n_kv_heads) * sizes.head_dim
    qkv, qk_norm = draw(n_rows, n_projected), draw(sizes.n_heads + sizes.n_kv_heads, 1, sizes.head_dim)
    cache = (n_rows * _PAGES_PER_ROW + 1, sizes.n_kv_heads, page_tokens, sizes.head_dim)
    keys, values = draw(*cache), draw(*cache)
    keys[0] = values[0] = torch.nan  # the spare page may hold anything
    angles = torch.rand(n_tokens, sizes.head_dim // 2, generator=random).mul_(6).repeat(1, 2)
    # The first and the last token of a page, and any others.
    position = torch.randint(0, n_tokens, (n_rows,), generator=random)
    position[:3] = torch.tensor([0, page_tokens - 1, n_tokens - 1])
    pages = 1 + torch.randperm(n_rows * _PAGES_PER_ROW, generator=random).view(n_rows, -1)
    is_used = torch.arange(_PAGES_PER_ROW) <= (position // page_tokens)[:, None]
    context = StepContext(
        angles.cos().to(device, dtype),
        angles.sin().to(device, dtype),
        (pages * is_used).to(device, torch.int32),
        position.to(device),
        torch.ones(n_rows, dtype=torch.long, device=device),
        sizes.epsilon,
    )
    exact_keys, exact_values = keys.double(), values.double()
    exact_context = context._replace(cosine=context.cosine.double(), sine=context.sine.double())
    exact = PlainAttention().start(exact_context, n_tokens, page_tokens)
    expected = exact(qkv.double(), qk_norm.double(), exact_keys, exact_values)
    attended = attention.start(context, n_tokens, page_tokens)(qkv, qk_norm, keys, values)
    for name, found, wanted in (
        ("attended values", attended, expected),
        ("keys", keys[1:], exact_keys[1:]),
        ("values", values[1:], exact_values[1:]),
    ):
        _check_error(f"{name} of {n_rows} rows", found, wanted, _TOLERANCES[dtype])


def _fall_back(part: str, reason: str, cost: str) -> Fallback:
    missing = compiler.find_missing()
    if missing:
        remedy = f"Install what compiling needs (`sudo {compiler.INSTALL}`), then restart the service."
    else:
        remedy = "The engine works without it. Please report the reason to the authors of scribed."
    fallback = Fallback(part, reason, cost, remedy)
    log.warning("engine.fallback", part=part, reason=reason, cost=cost, remedy=remedy)
    return fallback
