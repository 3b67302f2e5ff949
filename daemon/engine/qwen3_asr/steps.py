"""How decode steps run: one by one here, captured on a GPU (`daemon.engine.qwen3_asr.graphs`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from daemon.engine.qwen3_asr.slots import Slots
    from daemon.engine.qwen3_asr.text_decoder import Decoder

# Keys are attended to up to a multiple of this, so that memory is asked for in few sizes.
_COLUMNS_MULTIPLE: Final = 32


class Steps(Protocol):
    """Runs decode steps over slots it has been shown."""

    @property
    def per_read(self) -> int:
        """Steps that are worth taking before the host looks at what the device has decided."""
        ...

    def adopt(self, slots: Slots) -> None:
        """Make ready for new slots, none of them in work."""
        ...

    def drop(self) -> None:
        """Forget the slots."""
        ...

    def run(self, slots: Slots, n_rows: int, n_columns: int) -> None:
        """Take one step; see `Decoder.step`. More rows and columns may be computed than asked for."""
        ...


class EagerSteps:
    """Launches every kernel of every step. On a CPU that costs little beside the work."""

    def __init__(self, decoder: Decoder, per_read: int = 1) -> None:
        self._decoder = decoder
        self.per_read = per_read

    def adopt(self, slots: Slots) -> None:
        """Do nothing: there is nothing to make ready."""

    def drop(self) -> None:
        """Do nothing: no slots are held."""

    def run(self, slots: Slots, n_rows: int, n_columns: int) -> None:
        """Take one step."""
        n_columns = -(-n_columns // _COLUMNS_MULTIPLE) * _COLUMNS_MULTIPLE
        self._decoder.step(slots, n_rows, min(n_columns, slots.shape.n_tokens))
