"""How decode steps run: launched kernel by kernel here, captured and replayed on a GPU (`graphs`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from daemon.engine.slots import round_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.engine.qwen3_asr.text_decoder import TextDecoder
    from daemon.engine.slots import Slots

# The cache is attended to up to a multiple of this, so that few sizes of memory are allocated.
_KV_LEN_MULTIPLE: Final = 32


class Capture(Protocol):
    """Makes functions fast that always do the same."""

    def __call__(self, step: Callable[[], None]) -> Callable[[], None]:
        """Run a function, possibly twice, and return a function that repeats it."""
        ...


class DecodeSteps(Protocol):
    """Runs decode steps over the slots it is bound to."""

    @property
    def per_sync(self) -> int:
        """Steps to run before the host reads what the device has decided."""
        ...

    def bind(self, slots: Slots, capture: Capture | None, heartbeat: Callable[[], None]) -> None:
        """Get ready for new slots, all of them empty.

        Args:
            slots: the slots.
            capture: what makes steps over these slots fast; None where nothing does.
            heartbeat: called before each capture.
        """
        ...

    def unbind(self) -> None:
        """Forget the slots."""
        ...

    def run(self, slots: Slots, n_rows: int, kv_len: int) -> None:
        """Run one step; see `TextDecoder.decode_step`. More rows and columns than given may be computed."""
        ...


class EagerSteps:
    """Launches every kernel of every step; on a CPU that costs little.

    Args:
        decoder: runs the steps.
        per_sync: steps between two reads of the host.
    """

    def __init__(self, decoder: TextDecoder, per_sync: int = 1) -> None:
        self._decoder = decoder
        self.per_sync = per_sync

    def bind(self, slots: Slots, capture: Capture | None, heartbeat: Callable[[], None]) -> None:
        """Do nothing: there is nothing to get ready."""

    def unbind(self) -> None:
        """Do nothing: no slots are held."""

    def run(self, slots: Slots, n_rows: int, kv_len: int) -> None:
        """Run one step."""
        self._decoder.decode_step(slots, n_rows, min(round_up(kv_len, _KV_LEN_MULTIPLE), slots.shape.n_tokens))
