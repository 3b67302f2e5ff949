"""What makes a GPU fast: compiled layers, and decode steps captured as CUDA graphs and replayed.

A step of the 1.7B model is several hundred kernels. Launching them one by one takes longer than running them
(estimated 6-10 ms against 1-2 ms); a captured step is a single launch. If this machine cannot compile or
capture, the engine logs that once and goes on without.
"""

from __future__ import annotations

import importlib
import sys
import time
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import structlog
import torch

from daemon.engine import kernels
from daemon.engine.failures import classify, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from daemon.engine.qwen3_asr.decode_steps import Capture
    from daemon.engine.qwen3_asr.text_decoder import TextDecoder
    from daemon.engine.slots import Slots, SlotShape

log = structlog.get_logger()

# Steps between two reads of the host: at most so many are computed in vain for a finished row, while a read
# takes 50 us.
_STEPS_PER_SYNC: Final = 8
# A step is captured for each of these numbers of rows, and of columns if slots share no pages; the next larger one is
# replayed.
_ROWS: Final = (1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224)
_KV_LENS: Final = (512, 640, 768, 1024, 1536, 3072, 6144)
# A compilation may fail for a reason that passes, such as a warning raised as an error or a full cache disk: it is
# tried again at once, so that captured steps still get it, and a last time after a pause.
_MAX_FAILURES: Final = 3
_RETRY_S: Final = 60.0


class Compiler:
    """Compiles functions, and falls back to the functions themselves if compilation fails repeatedly.

    Args:
        backend: torch.compile's backend.
        monotonic: clock in seconds, injectable for tests.
    """

    def __init__(
        self, backend: str | Callable[..., Any] = "inductor", monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._backend = backend
        self._monotonic = monotonic
        self._n_failures = 0
        self._retry_s = 0.0
        if backend == "inductor":
            # Importing inductor raises a DeprecationWarning of torch's own code (torch.jit.script_method). Where
            # warnings are errors, the first compilation would fail because of it.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                importlib.import_module("torch._inductor.compile_fx")
            # float32 stays exact: what the compiler recommends instead would change texts.
            warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)

    def __call__(self, function: Callable[..., Any], *, is_packed: bool = False) -> Callable[..., Any]:
        """Return the function compiled: for the sizes of its first call, then once more for any sizes.

        Args:
            function: takes tensors, tuples of them, modules and numbers.
            is_packed: the first dimension of its tensors has many sizes, none of them 1: compile once, for all of them.
        """
        compiled = torch.compile(function, fullgraph=True, backend=self._backend)

        def run(*arguments: object) -> object:
            if self._may_compile():
                try:
                    if is_packed:
                        _mark_first_dimensions(arguments)
                    return compiled(*arguments)
                except Exception as error:
                    if classify(error) is not None:
                        raise
                    self._note_failure(error)
            return function(*arguments)

        return run

    def _may_compile(self) -> bool:
        if self._n_failures == 0:
            return True
        if self._n_failures >= _MAX_FAILURES or self._monotonic() < self._retry_s:
            return False
        return not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())

    def _note_failure(self, error: Exception) -> None:
        self._n_failures += 1
        self._retry_s = self._monotonic() + (_RETRY_S if self._n_failures > 1 else 0.0)
        will_retry = self._n_failures < _MAX_FAILURES
        log.warning("engine.compile_failed", reason=one_line(error), consequence="slower", will_retry=will_retry)


def _mark_first_dimensions(arguments: tuple[object, ...]) -> None:
    """Tell the compiler that the first dimension of tensors, other than weights, has many sizes."""
    for argument in arguments:
        if isinstance(argument, tuple):
            _mark_first_dimensions(argument)
        elif isinstance(argument, torch.Tensor) and not isinstance(argument, torch.nn.Parameter):
            torch._dynamo.maybe_mark_dynamic(argument, 0)  # noqa: SLF001  # its public name


class CapturedSteps:
    """Replays captured decode steps; see `DecodeSteps`. The device thread captures and replays.

    Args:
        decoder: runs the steps that are captured.
        measure: returns how long a captured step takes, in any unit; by default milliseconds on the GPU.
    """

    per_sync = _STEPS_PER_SYNC

    def __init__(self, decoder: TextDecoder, measure: Callable[[Callable[[], None]], float] | None = None) -> None:
        self._decoder = decoder
        self._measure = measure or _time_on_gpu
        self._can_capture = True
        self._replays: dict[tuple[int, int], Callable[[], None]] = {}

    def bind(self, slots: Slots, capture: Capture | None, heartbeat: Callable[[], None]) -> None:
        """Capture a step over these slots for each size, the largest first, so that the others fit its memory."""
        self.unbind()
        for n_rows in reversed(sizes_up_to(slots.shape.n_slots, _ROWS)):
            for kv_len in reversed(_columns(slots.shape)):
                heartbeat()
                if self._can_capture and capture is not None:
                    self._capture(slots, n_rows, kv_len, capture)

    def unbind(self) -> None:
        """Free the captured steps and their memory."""
        self._replays.clear()

    def run(self, slots: Slots, n_rows: int, kv_len: int) -> None:
        """Run one step of the next larger captured size."""
        n_rows = _next_size(n_rows, sizes_up_to(slots.shape.n_slots, _ROWS))
        kv_len = _next_size(kv_len, _columns(slots.shape))
        replay = self._replays.get((n_rows, kv_len))
        if replay is None:
            self._decoder.decode_step(slots, n_rows, kv_len)
        else:
            replay()

    def _capture(self, slots: Slots, n_rows: int, kv_len: int, capture: Capture) -> None:
        # No row is live yet, so running a step changes nothing that is read later.
        def step() -> None:
            self._decoder.decode_step(slots, n_rows, kv_len)

        def step_with_few_rows() -> None:
            self._decoder.decode_step(slots, n_rows, kv_len, with_few_rows=True)

        few_rows = self._decoder.few_rows
        try:
            replay = capture(step)
            if few_rows is not None and n_rows <= few_rows.max_rows:
                # Which is faster depends on the card.
                replay = min(capture(step_with_few_rows), replay, key=self._measure)
            self._replays[n_rows, kv_len] = replay
        except Exception as error:
            if classify(error) is not None:
                raise
            self._can_capture = False
            self.unbind()
            log.warning("engine.capture_failed", reason=one_line(error), consequence="slower")


class GraphCapture:
    """Captures functions as CUDA graphs that share one memory pool: only one of them runs at a time.

    Args:
        note: called for each capture.
    """

    def __init__(self, note: Callable[[], None] = lambda: None) -> None:
        self._note = note
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Callable[[], None]) -> Callable[[], None]:
        """Run a function once, then capture its work on the GPU; return a function that replays it."""
        self._note()
        side = _warm_up_stream(torch.cuda.current_device())
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use CUDA meanwhile; only the work of this thread is captured.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            step()
        return graph.replay


@cache
def _warm_up_stream(device_index: int) -> torch.cuda.Stream:
    """Return the stream on which functions run before they are captured.

    There is one for each device, because cuBLAS keeps up to 32 MiB for each stream that it has seen.
    """
    return torch.cuda.Stream(device_index)  # type: ignore[no-untyped-call]  # torch types only parts of itself


def count_compiled() -> int:
    """Return how many functions and kernels this process has compiled, or loaded from a cache."""
    # torch's compiler is imported only where it is used.
    dynamo = sys.modules.get("torch._dynamo.utils")
    n_functions = 0 if dynamo is None else int(dynamo.counters["stats"]["unique_graphs"])
    return n_functions + kernels.count_compiled()


def _time_on_gpu(replay: Callable[[], None], n_times: int = 10) -> float:
    """Return how many milliseconds a captured step takes."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # as above
    for index in range(n_times + 1):
        if index == 1:
            start.record()
        replay()
    end.record()
    end.synchronize()
    elapsed_ms: float = start.elapsed_time(end)
    return elapsed_ms / n_times


def sizes_up_to(largest: int, sizes: Sequence[int]) -> list[int]:
    """Return the sizes below the largest, then the largest itself."""
    return [*(size for size in sizes if size < largest), largest]


def _columns(shape: SlotShape) -> list[int]:
    """Return the numbers of columns that steps are captured for; the kernel that reads pages needs only one."""
    return [shape.n_tokens] if shape.page_tokens is not None else sizes_up_to(shape.n_tokens, _KV_LENS)


def _next_size(wanted: int, sizes: Sequence[int]) -> int:
    return next((size for size in sizes if size >= wanted), sizes[-1])
