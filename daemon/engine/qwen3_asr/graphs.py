"""What makes a GPU fast: compiled layers, and decode steps captured once and replayed.

A step of the real model is some hundred kernels. Launched one by one they take longer than they run
(6-10 ms against 1-2 ms, performance.md); a captured step is one launch. Where a machine cannot compile or
capture, that is said once and the work goes on without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog
import torch

from daemon.engine.failures import explain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from daemon.engine.qwen3_asr.slots import Slots
    from daemon.engine.qwen3_asr.text_decoder import Decoder

_LOG = structlog.get_logger(__name__)

# Between two looks of the host at most so many steps are computed in vain for a row that has ended, against
# 50 us for the look.
_PER_READ: Final = 8
# A step is computed for one of these numbers of rows and of columns, the next one up.
_ROWS: Final = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192)
_COLUMNS: Final = (512, 640, 768, 1024, 1536, 3072, 6144)


class Compiler:
    """Compiles functions, and leaves them as they are from the first one on that cannot be compiled here."""

    def __init__(self, backend: str | Callable[..., Any] = "inductor") -> None:
        self._backend = backend
        self._is_on = True

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function compiled: for the sizes of its first call, then once more for any."""
        compiled = torch.compile(function, fullgraph=True, backend=self._backend)

        def run(*arguments: object) -> object:
            if self._is_on:
                try:
                    return compiled(*arguments)
                except Exception as error:
                    if explain(error) is not None:
                        raise
                    self._is_on = False
                    _LOG.warning("engine.compile_failed", reason=_tell(error), consequence="slower")
            return function(*arguments)

        return run


class Capture(Protocol):
    """Makes functions fast that always do the same."""

    def __call__(self, step: Callable[[], None]) -> Callable[[], None]:
        """Run a function, maybe twice, and return what does it again."""
        ...


class CapturedSteps:
    """Replays decode steps; see `Steps`. Capture and replay happen on the thread of the engine."""

    per_read = _PER_READ

    def __init__(self, decoder: Decoder, make_capture: Callable[[], Capture]) -> None:
        self._decoder = decoder
        self._make_capture = make_capture
        self._can_capture = True
        self._replays: dict[tuple[int, int], Callable[[], None]] = {}

    def adopt(self, slots: Slots) -> None:
        """Capture a step over these slots for each size, the largest first, so that the others fit its memory."""
        self.drop()
        capture = self._make_capture()
        for n_rows in reversed(sizes_up_to(slots.shape.n_slots, _ROWS)):
            for n_columns in reversed(sizes_up_to(slots.shape.n_tokens, _COLUMNS)):
                if self._can_capture:
                    self._adopt_size(slots, n_rows, n_columns, capture)

    def drop(self) -> None:
        """Forget the slots and the memory of the captured steps."""
        self._replays.clear()

    def run(self, slots: Slots, n_rows: int, n_columns: int) -> None:
        """Take one step of the next size that was captured."""
        n_rows = _next_up(n_rows, sizes_up_to(slots.shape.n_slots, _ROWS))
        n_columns = _next_up(n_columns, sizes_up_to(slots.shape.n_tokens, _COLUMNS))
        replay = self._replays.get((n_rows, n_columns))
        if replay is None:
            self._decoder.step(slots, n_rows, n_columns)
        else:
            replay()

    def _adopt_size(self, slots: Slots, n_rows: int, n_columns: int, capture: Capture) -> None:
        def step() -> None:
            # No row is live yet, so that trying this changes nothing that is read.
            self._decoder.step(slots, n_rows, n_columns)

        try:
            self._replays[n_rows, n_columns] = capture(step)
        except Exception as error:
            if explain(error) is not None:
                raise
            self._can_capture = False
            self.drop()
            _LOG.warning("engine.capture_failed", reason=_tell(error), consequence="slower")


class GraphCapture:
    """Captures functions as CUDA graphs that share their memory: only one of them runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Callable[[], None]) -> Callable[[], None]:
        """Capture what a function does on the GPU, after running it once; return what does it again."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch types only parts of itself
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use CUDA meanwhile; only what this one does is captured.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            step()
        return graph.replay


def sizes_up_to(largest: int, sizes: Sequence[int]) -> list[int]:
    """Return the sizes below the largest, and that."""
    return [*(size for size in sizes if size < largest), largest]


def _next_up(wanted: int, sizes: Sequence[int]) -> int:
    return next((size for size in sizes if size >= wanted), sizes[-1])


def _tell(error: Exception) -> str:
    """Return an error of a library on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
