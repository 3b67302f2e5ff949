"""Functions written for GPUs in Triton, each with a plain PyTorch definition that tests compare it with.

Only the modules of this package import Triton, which comes with torch for CUDA and is missing elsewhere.
"""

from __future__ import annotations

from typing import Any, Final

_COUNTED: Final[list[Any]] = []


def counted(kernel: Any) -> Any:  # noqa: ANN401  # a function of Triton, which ships no types
    """Count how often a kernel is compiled; a decorator."""
    _COUNTED.append(kernel)
    return kernel


def count_compiled() -> int:
    """Return how many variants of the kernels this process has compiled, or loaded from the cache."""
    caches = (cache for kernel in _COUNTED for cache in getattr(kernel, "device_caches", {}).values())
    return sum(len(variants) for variants, *_ in caches)
