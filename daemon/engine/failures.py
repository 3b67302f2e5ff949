"""What the errors of torch mean for the engine, and which of them a smaller try may avoid."""

from __future__ import annotations

import torch

from daemon.errors import EngineLostError, TransientError

_MEMORY_SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
_DEVICE_SIGNS = ("CUDA error", "CUDA driver error", "CUBLAS_STATUS", "CUDNN_STATUS")


def explain(error: Exception) -> TransientError | EngineLostError | None:
    """Say what an error of torch means for the engine; None where it means nothing for it.

    The answer holds no traceback: that would hold the memory of the work that failed.
    """
    message = str(error)
    # A plain RuntimeError tells of short memory on the CPU (DefaultCPUAllocator) and in cuBLAS.
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _has(message, _MEMORY_SIGNS, error):
        return TransientError(
            "The memory of the device is too short for this piece.",
            "Free memory on the GPU, or set a smaller segment.max_chunk_s.",
        )
    if isinstance(error, torch.AcceleratorError) or _has(message, _DEVICE_SIGNS, error):
        return EngineLostError(
            f"The GPU stopped answering: {message.splitlines()[0]}",
            "The daemon ends and systemd starts it again; if this repeats, look into `journalctl -k` for Xid errors.",
        )
    return None


def _has(message: str, signs: tuple[str, ...], error: Exception) -> bool:
    return isinstance(error, RuntimeError) and any(sign in message for sign in signs)
