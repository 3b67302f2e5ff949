"""What the rest of the program knows of an engine: pieces of sound go in, their texts come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from concurrent.futures import Future

    import numpy as np
    import numpy.typing as npt

    from daemon.transcript import ModelIdentity

# The rate that the model's mel filters are made for.
SAMPLE_RATE_HZ: Final = 16_000
# The piece that a slot is made for, the longest by default; of longer ones fewer go together.
SLOT_S: Final = 30.0


@dataclass(frozen=True, slots=True, eq=False)
class ChunkRequest:
    """One model input.

    Attributes:
        samples: float32 in [-1, 1], shape (n_samples,), 16 kHz mono.
        language: the model's name of the language to write, such as "English"; None lets it detect.
        hotwords: names and terms it should expect, already cut by `Engine.fit_hotwords`.
        job_id: whose piece it is; jobs take turns.
    """

    samples: npt.NDArray[np.float32]
    language: str | None
    hotwords: tuple[str, ...]
    job_id: str

    @property
    def duration_s(self) -> float:
        """Length of the sound."""
        return len(self.samples) / SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True)
class ChunkResponse:
    """What the model wrote for one piece.

    Attributes:
        text: one line, without the model's own marks; "" where it heard no speech.
        language: the model's name for it, None where there is no text or it named none.
        is_finished: False where the model was still writing when the piece's token budget ended.
            The text is then not all that was said: cut the piece smaller and ask again.
    """

    text: str
    language: str | None
    is_finished: bool


class Engine(Protocol):
    """A resident model which answers pieces from any thread."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is."""
        ...

    @property
    def max_in_flight(self) -> int:
        """How many pieces of SLOT_S keep it busy; a caller keeps them, and some more, submitted for each recording."""
        ...

    def submit(self, piece: ChunkRequest) -> Future[ChunkResponse]:
        """Queue a piece and return at once.

        The future ends with the text, or with `StoppedError` (closed), `TransientError` (memory is
        short), `EngineLostError` (only a new process can help), or whatever this piece alone caused.
        A cancelled future's piece is not computed unless its batch has begun.
        """
        ...

    def fit_hotwords(self, hotwords: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
        """Return the leading hotwords that fit the model's context, and how many were cut."""
        ...

    def is_alive(self) -> bool:
        """Whether it works, or could: its thread runs, its device answers, nothing hangs."""
        ...

    def close(self) -> None:
        """Stop within seconds; what waits or runs ends with `StoppedError`. Safe to call twice."""
        ...
