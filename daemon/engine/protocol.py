"""The engine as the rest of the program sees it: chunks of audio go in, their texts come out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from daemon.decode import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    import numpy as np
    from numpy.typing import NDArray

    from daemon.transcript import ModelIdentity

# The chunk that a slot is sized for: the longest by default. Fewer chunks run together when they are longer.
SLOT_S: Final = 30.0
# The longest chunk that segment.max_chunk_s allows.
MAX_CHUNK_S: Final = 300.0


@dataclass(frozen=True, slots=True, eq=False)
class ChunkRequest:
    """One model input.

    Attributes:
        samples: float32 in [-1, 1], shape (n_samples,), 16 kHz mono.
        language: the model's name of the language to write, such as "English"; None lets the model detect it.
        hotwords: names and terms to expect, already limited by `Engine.fit_hotwords`.
        job_id: the job the chunk belongs to; jobs take turns.
    """

    samples: NDArray[np.float32]
    language: str | None
    hotwords: tuple[str, ...]
    job_id: str

    @property
    def duration_s(self) -> float:
        """Length of the audio in seconds."""
        return len(self.samples) / SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True)
class TextToken:
    """The part of a response's text that one token wrote, or several tokens that only together make a character.

    Attributes:
        text: the parts of all tokens, joined, are the text of the response.
        logprob: natural logarithm of the probability that the model gave to this part.
    """

    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class ChunkResponse:
    """What the model wrote for one chunk.

    Attributes:
        text: one line, without the model's special tokens; "" if the model heard no speech.
        language: the model's name of the language; None if the text is empty or the model named no language.
        is_finished: False if the model was still writing when it reached the chunk's max_new_tokens.
            The text is then incomplete: split the chunk and submit the parts.
        tokens: the text in parts, with the model's confidence in each; empty if unknown. Not compared, because
            probabilities are rounded differently in batches of different size.
    """

    text: str
    language: str | None
    is_finished: bool
    tokens: tuple[TextToken, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Fallback:
    """Something fast that the engine does without on this machine.

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


class Engine(Protocol):
    """A resident model that transcribes chunks submitted from any thread."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is."""
        ...

    @property
    def max_in_flight(self) -> int:
        """How many chunks of SLOT_S keep the engine busy; callers keep at least that many submitted."""
        ...

    def submit(self, chunk: ChunkRequest, /) -> Future[ChunkResponse]:
        """Queue a chunk and return at once.

        The future ends with the response, or with `StoppedError` (engine closed), `TransientError` (out of
        memory), `EngineLostError` (the process must be restarted), or an error that this chunk alone caused.
        Cancelling the future drops the chunk unless its prefill has started.
        """
        ...

    def fit_hotwords(self, hotwords: tuple[str, ...], /) -> tuple[tuple[str, ...], int]:
        """Return the leading hotwords that fit into the model's context, and how many were left out."""
        ...

    def is_alive(self) -> bool:
        """Whether the engine can work: its thread runs, its device responds, nothing hangs."""
        ...

    def close(self) -> None:
        """Stop within seconds; queued and running chunks end with `StoppedError`. Safe to call twice."""
        ...


class LoadedEngine(Engine, Protocol):
    """An engine as `load` returns it, which also knows what its speed depends on, and can be unloaded."""

    @property
    def fallbacks(self) -> Sequence[Fallback]:
        """What would make it faster and does not work on this machine."""
        ...

    def count_late_builds(self) -> int:
        """Return how many functions were compiled or captured since it was loaded; each makes chunks wait."""
        ...

    def unload(self) -> None:
        """Close it and free its memory; afterwards only `close` may be called.

        Raises:
            EngineLostError: the device does not respond.
        """
        ...
