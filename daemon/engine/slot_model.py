"""What the scheduler needs of a model: chunks are prefilled into slots, then decoded step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from daemon.engine.slots import round_up

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from daemon.engine.protocol import ChunkRequest, ChunkResponse, Fallback
    from daemon.engine.slots import Generated, KVCacheSpec, Slots, SlotShape

# Prompts and slots are padded to a multiple of this: shapes repeat, and kernels like multiples of eight.
TOKENS_MULTIPLE: Final = 32
# Hardly any text takes more than this share of the tokens that its chunk may generate.
LIKELY_SHARE: Final = 1 / 3


@dataclass(frozen=True, slots=True, eq=False)
class PreparedChunk:
    """A chunk whose prompt is known.

    Attributes:
        samples: as in the request.
        input_ids: the prompt, with one audio token for each audio state; shape (n_prompt_tokens,).
        max_new_tokens: the most tokens to generate.
        language: the language the prompt asks for, or None.
    """

    samples: NDArray[np.float32]
    input_ids: NDArray[np.int64]
    max_new_tokens: int
    language: str | None

    @property
    def n_prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.input_ids)

    @property
    def n_slot_tokens(self) -> int:
        """Tokens of a slot that the chunk needs; its padded prompt must fit too."""
        return round_up(self.n_prompt_tokens + self.max_new_tokens, TOKENS_MULTIPLE)

    @property
    def n_likely_tokens(self) -> int:
        """Tokens of a slot that the chunk will hardly exceed."""
        return self.n_prompt_tokens + round(LIKELY_SHARE * self.max_new_tokens)


class SlotModel(Protocol):
    """A resident model. Only the device thread may call it, except for `prepare` and `fit_hotwords`."""

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        ...

    @property
    def fallbacks(self) -> Sequence[Fallback]:
        """See `LoadedEngine`."""
        ...

    @property
    def kv_cache_spec(self) -> KVCacheSpec:
        """Size of a token in the KV cache."""
        ...

    @property
    def usual_slot_tokens(self) -> int:
        """Tokens of a slot that holds any chunk of SLOT_S."""
        ...

    @property
    def likely_slot_tokens(self) -> int:
        """Tokens of a slot that a chunk of SLOT_S without hotwords will hardly exceed."""
        ...

    @property
    def longest_slot_tokens(self) -> int:
        """Tokens of a slot that holds any chunk of MAX_CHUNK_S."""
        ...

    @property
    def page_tokens(self) -> int | None:
        """Tokens of a page of the KV cache; None if each slot has a page of its own."""
        ...

    @property
    def working_bytes(self) -> int:
        """Memory that a prefill takes for a short time, beyond weights and slots."""
        ...

    @property
    def steps_per_sync(self) -> int:
        """Decode steps to run before the host reads what the device has decided."""
        ...

    @property
    def min_rows_ahead(self) -> int | None:
        """From this many running rows on, steps are launched before the last ones are read; None for never."""
        ...

    def count_builds(self) -> int:
        """Return how many functions have been compiled or captured so far."""
        ...

    def count_free_bytes(self) -> int | None:
        """Return the memory that could still be allocated on the device; None if unknown (on a CPU)."""
        ...

    def fit_hotwords(self, hotwords: Sequence[str]) -> tuple[tuple[str, ...], int]:
        """Return the leading hotwords that fit into the context, and how many were left out."""
        ...

    def prepare(self, chunk: ChunkRequest) -> PreparedChunk:
        """Build the prompt of a chunk, on the host alone; it may raise any error."""
        ...

    def make_slots(self, shape: SlotShape, heartbeat: Callable[[], None]) -> Slots:
        """Allocate empty slots and make the decode step ready for them.

        Args:
            shape: of the slots.
            heartbeat: called at least every few seconds; an exception it raises aborts.
        """
        ...

    def release_memory(self) -> None:
        """Forget the slots and return unused memory to the device."""
        ...

    def prefill(
        self, slots: Slots, chunks: Sequence[PreparedChunk], rows: Sequence[int], heartbeat: Callable[[], None]
    ) -> None:
        """Read the prompts of chunks into free rows and generate the first token of each.

        Args:
            slots: slots long enough for the chunks.
            chunks: at least one.
            rows: a free row for each chunk.
            heartbeat: called at every layer; an exception it raises aborts the prefill.
        """
        ...

    def decode_step(self, slots: Slots, n_rows: int, kv_len: int) -> None:
        """Generate one more token in each live row, without waiting for the device.

        Args:
            slots: the rows.
            n_rows: only the first n_rows are computed; no row beyond them may be live.
            kv_len: columns of the cache that are attended to; every live row's position must be below it.
        """
        ...

    def make_response(self, generated: Generated, chunk: PreparedChunk, *, has_failed: bool) -> ChunkResponse:
        """Return the text of a finished chunk.

        Raises:
            JobError: a logit was NaN or infinite.
        """
        ...
