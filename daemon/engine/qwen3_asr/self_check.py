"""At load the engine checks what makes it fast against plain definitions, on the very device, and goes on without it.

Kernels may fail to build (no C compiler, an old card), or a new compiler or driver may make them wrong. A wrong
transcript would be worse than a slow one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import structlog
import torch

from daemon.engine.failures import classify, one_line
from daemon.engine.qwen3_asr.decode_attention import KernelAttention, PlainAttention, StepContext
from daemon.host import compiler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from daemon.engine.qwen3_asr.decode_attention import DecodeAttention
    from daemon.engine.qwen3_asr.layers import DecoderSizes
    from daemon.engine.slot_model import PreparedChunk
    from daemon.engine.slots import Slots

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

_ATTENTION_COST: Final = "decoding takes about twice as long and long recordings more memory"
_PREFILL_COST: Final = "transcribing takes up to twice as long"


class Fallback(NamedTuple):
    """Something fast that this machine does not have.

    Attributes:
        part: what.
        reason: why.
        cost: what it costs.
        remedy: what to do.
    """

    part: str
    reason: str
    cost: str
    remedy: str


class MismatchError(Exception):
    """A kernel does not compute what its definition says."""


def find_attention_kernel(sizes: DecoderSizes, dtype: torch.dtype, device: torch.device) -> KernelAttention | Fallback:
    """Return the kernel for decode steps, after comparing it with its definition, or why it cannot be used."""
    try:
        # Triton comes with torch for CUDA alone, and checks the machine when it is imported.
        from daemon.engine.kernels import decode_attention  # noqa: PLC0415  # see the line above

        if not decode_attention.can_attend(sizes.n_heads, sizes.n_kv_heads, sizes.head_dim):
            return _fall_back("attention kernel", f"it has no version for heads of {sizes.head_dim} values")
        attention = KernelAttention(decode_attention.attend)
        for n_rows in _N_ROWS:
            compare_attention(attention, sizes, n_rows, dtype, device)
    except Exception as error:
        if classify(error) is not None:
            raise
        return _fall_back("attention kernel", one_line(error))
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
        error = ((found.double() - wanted).norm() / wanted.norm()).item()
        if not error < _TOLERANCES[dtype]:  # also if it is NaN
            raise MismatchError(f"{name} of {n_rows} rows differ from their definition by {error:.2g}")


def _fall_back(part: str, reason: str, cost: str = _ATTENTION_COST) -> Fallback:
    missing = compiler.find_missing()
    if missing:
        remedy = f"Install {' and '.join(missing)} (`{compiler.INSTALL}`), then restart the service."
    else:
        remedy = "The engine works without it. Please report the reason to the authors of scribed."
    fallback = Fallback(part, reason, cost, remedy)
    log.warning("engine.fallback", **fallback._asdict())
    return fallback
