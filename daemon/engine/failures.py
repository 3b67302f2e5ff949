"""What errors of torch mean for the engine."""

from __future__ import annotations

from typing import Final

import torch

from daemon.errors import EngineLostError, ScribedError, TransientError

_MEMORY_SIGNS: Final = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
_DEVICE_SIGNS: Final = ("CUDA error", "CUDA driver error", "CUBLAS_STATUS", "CUDNN_STATUS")


def classify(error: Exception) -> TransientError | EngineLostError | None:
    """Return what an error of torch means: out of memory, device lost, or None for any other error.

    The returned error has no traceback, because a traceback would keep the memory of the failed work alive.
    """
    message = str(error)
    # The CPU allocator and cuBLAS report exhausted memory with a plain RuntimeError.
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _contains(message, _MEMORY_SIGNS, error):
        return TransientError(
            "Out of memory on the device while transcribing this chunk.",
            "Free memory on the GPU, or set a smaller segment.max_chunk_s.",
        )
    if isinstance(error, torch.AcceleratorError) or _contains(message, _DEVICE_SIGNS, error):
        return EngineLostError(
            f"The GPU stopped responding: {message.splitlines()[0]}",
            "The service exits and systemd restarts it. If this repeats, look for Xid errors in `journalctl -k`.",
        )
    return None


def one_line(error: Exception) -> str:
    """Return an error as a single line of at most 500 characters, without a final full stop."""
    what = error.what if isinstance(error, ScribedError) else f"{type(error).__name__}: {error}"
    return " ".join(what.split()).rstrip(".")[:500]


def _contains(message: str, signs: tuple[str, ...], error: Exception) -> bool:
    return isinstance(error, RuntimeError) and any(sign in message for sign in signs)
