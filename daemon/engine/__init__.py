"""The engine: the only part that knows torch and transformers, which load with `load`, not with this package."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from daemon import checkpoint
from daemon.engine.protocol import SAMPLE_RATE_HZ, SLOT_S, ChunkRequest, ChunkResponse, Engine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.config import ModelSettings

__all__ = ["SAMPLE_RATE_HZ", "SLOT_S", "ChunkRequest", "ChunkResponse", "Engine", "load"]


def load(settings: ModelSettings, cache: Path, report: Callable[[str], None]) -> Engine:
    """Load the model which the settings name and return its engine, which has passed a test inference.

    Args:
        settings: the section `model` of the configuration.
        cache: a folder for kernels compiled for this GPU, kept from start to start.
        report: called with a sentence at each step, for STATUS= and the terminal.

    Raises:
        EngineUnavailableError: no such model, a broken one, no such device, or it does not fit there.
    """
    # A courtesy beside local_files_only: the guarantee of no network is the unit's own.
    # transformers has asked home despite it: https://github.com/huggingface/transformers/issues/45545
    os.environ["HF_HUB_OFFLINE"] = "1"
    # The driver compiles for cards newer than its torch; a service has no home folder to keep that in.
    os.environ.setdefault("CUDA_CACHE_PATH", str(cache / "cuda"))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "inductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(cache / "triton"))
    # One function of some kernels is compiled: a pool of processes for that would outlive it by hours.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    # torch takes seconds to import, so it waits until configuration and model are known to be valid.
    checkpoint.inspect(checkpoint.find_folder(settings.path))
    from daemon.engine.qwen3_asr.loading import load_engine  # noqa: PLC0415  # see the line above

    return load_engine(settings, report)
