"""The device a model runs on: which one, in which dtype, and how many slots fit into its memory."""

from __future__ import annotations

import gc
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from daemon.engine.failures import classify, one_line
from daemon.errors import EngineUnavailableError, TransientError
from daemon.host import gpu, memory

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

# With more rows a decode step takes longer and the throughput no longer rises (roofline of the 1.7B model).
_MAX_SLOTS: Final = 256
CPU_SLOTS: Final = 8
# Kept free for kernels, the widest layers of a prefill, and fragmentation.
_RESERVE_BYTES: Final = 450_000_000

# They empty the caches of cuBLAS and of pinned memory; torch has no public functions for that.
_PRIVATE_CACHES: Final = ("_cuda_clearCublasWorkspaces", "_host_emptyCache")

# Compute capabilities: Ampere has tensor cores for bfloat16, Volta and Turing for float16.
_HAS_BFLOAT16: Final = (8, 0)
_HAS_FAST_FLOAT16: Final = (7, 0)
# Another dtype changes the text slightly, so bfloat16 has to be clearly faster than float32 on a CPU.
_MIN_SPEEDUP: Final = 1.3
_MIN_MEASURED_WEIGHTS: Final = 1_000_000


def choose_device(setting: str, root: Path = Path("/")) -> torch.device:
    """Return the device that `model.device` means on this machine.

    Args:
        setting: "auto", "cuda", "cuda:N" or "cpu".
        root: the folder that holds /dev and /proc.

    Raises:
        EngineUnavailableError: a GPU is configured, or present and therefore expected, and cannot be used.
    """
    # torch is asked too: under WSL a GPU has no such device file.
    if setting == "cpu" or (setting == "auto" and not gpu.is_present(root) and not torch.cuda.is_available()):
        return torch.device("cpu")
    device = torch.device("cuda", 0) if setting in ("auto", "cuda") else torch.device(setting)
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch that was built without CUDA
        if isinstance(classify(error), TransientError):
            raise EngineUnavailableError(
                f"The memory of the GPU {device} is in use by other programs.",
                "Free memory there (`nvidia-smi` lists the processes that use it).",
            ) from error
        n_gpus = torch.cuda.device_count()
        if torch.version.cuda is None:
            reason, remedy = "this torch was built without CUDA", "Install a torch that was built with CUDA"
        elif 0 < n_gpus <= device.index:
            reason, remedy = f"this machine has {n_gpus}, numbered from 0", "Set model.device to one of them"
        else:
            reason, remedy = one_line(error), "Check that `nvidia-smi` lists the GPU"
        raise EngineUnavailableError(
            f"The GPU {device} cannot be used: {reason}.",
            f"{remedy}, or set model.device to cpu, which is many times slower.",
        ) from error
    return device


def choose_dtype(
    setting: str, device: torch.device, measure: Callable[[torch.dtype], float] | None = None
) -> torch.dtype:
    """Return the dtype of the weights that `model.dtype` means on this device.

    "auto" is the model's own bfloat16 on GPUs that compute in it (compute capability 8.0 or higher), float16 on
    Volta and Turing (7.0 or higher), where the text decoder keeps its sums in float32, and float32 on older
    GPUs. On a CPU it is whichever of bfloat16 and float32 is faster there.

    Args:
        setting: "auto" or the name of a dtype.
        device: where the model is to run.
        measure: returns the seconds that a sample of the model's work takes in a dtype; None if the model is too
            small to measure.
    """
    if setting != "auto":
        dtype: torch.dtype = getattr(torch, setting)
        return dtype
    if device.type == "cpu":
        is_faster = measure is not None and measure(torch.bfloat16) * _MIN_SPEEDUP < measure(torch.float32)
        return torch.bfloat16 if is_faster else torch.float32
    capability = torch.cuda.get_device_capability(device)
    if capability >= _HAS_BFLOAT16:
        return torch.bfloat16
    return torch.float16 if capability >= _HAS_FAST_FLOAT16 else torch.float32


def measure_matmuls(n_in: int, n_out: int) -> Callable[[torch.dtype], float] | None:
    """Return a function that times one layer's matrix products for one chunk: its prefill, then its decode steps.

    Returns:
        A function from a dtype to seconds; None if the layer is so small that other work dominates.
    """
    if n_in * n_out < _MIN_MEASURED_WEIGHTS:
        return None

    def measure(dtype: torch.dtype) -> float:
        weight = torch.ones(n_out, n_in, dtype=dtype)
        return sum(n_times * _time_matmul(weight, n_rows) for n_rows, n_times in ((420, 1), (CPU_SLOTS, 15)))

    return measure


def _time_matmul(weight: torch.Tensor, n_rows: int) -> float:
    rows = torch.ones(n_rows, weight.shape[1], dtype=weight.dtype)
    times_s = []
    for _ in range(4):
        started_s = time.perf_counter()
        torch.nn.functional.linear(rows, weight)
        times_s.append(time.perf_counter() - started_s)
    return min(times_s)


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """How many chunks are decoded together, and how many tokens of the KV cache there are for each, on average."""

    n_slots: int
    slot_tokens: int


def plan_slots(
    free_bytes: int, token_bytes: int, usual_tokens: int, likely_tokens: int, n_slots: int | None = None
) -> SlotPlan:
    """Return how many slots fit into free memory, at least one.

    Args:
        free_bytes: memory that the KV cache may take; see `count_cache_bytes`.
        token_bytes: KV cache of one token.
        usual_tokens: tokens of a slot that holds any chunk.
        likely_tokens: tokens that most chunks hold at most; the same as usual_tokens if slots share no memory.
        n_slots: wanted slots; None for as many as are useful.
    """
    n_tokens = max(0, free_bytes) // token_bytes
    wanted = n_slots or max(1, min(_MAX_SLOTS, n_tokens // likely_tokens))
    return SlotPlan(wanted, max(likely_tokens, min(usual_tokens, n_tokens // wanted)))


def count_cache_bytes(free_bytes: int, working_bytes: int, other_bytes: int = 0) -> int:
    """Return the memory that the KV cache may take; it may be negative.

    Args:
        free_bytes: free memory once the weights of all resident models are loaded.
        working_bytes: what this model's prefills take.
        other_bytes: what the other resident models on the device still need.
    """
    return free_bytes - _RESERVE_BYTES - working_bytes - other_bytes


def count_free_bytes(device: torch.device) -> int | None:
    """Return the memory that could still be allocated on a device; None on a CPU, where it is unknown."""
    if device.type != "cuda":
        return None
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return free_bytes + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def count_total_bytes(device: torch.device) -> int | None:
    """Return the memory of a device; None on a CPU."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def prepare_memory(device: torch.device) -> None:
    """Let buffers that a prefill frees be reused by the next one. On a GPU torch does so itself."""
    if device.type == "cpu":
        memory.reuse_buffers()


def _do_nothing() -> None:
    """Replace a function that this version of torch lacks."""


def release_memory() -> None:
    """Return unreferenced memory to the operating system and the driver, for other programs.

    On a GPU the context of this process, a few hundred megabytes, stays until the process ends. Compiled functions stay
    too: they take the weights as arguments, and serve the next model of these sizes.
    """
    gc.collect()  # models contain reference cycles
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch types only parts of itself
        for name in _PRIVATE_CACHES:
            getattr(torch._C, name, _do_nothing)()  # noqa: SLF001  # see there
        torch.cuda.empty_cache()
    memory.trim()


def activate(device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a thread uses this device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def describe(device: torch.device) -> str:
    """Return a device's name for people."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "the CPU"
