"""The engine: the only package that imports torch and transformers, and only when `load` is called."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING

from daemon import checkpoint
from daemon.decode import SAMPLE_RATE_HZ
from daemon.engine.protocol import SLOT_S, ChunkRequest, ChunkResponse, Engine, Fallback, LoadedEngine, TextToken
from daemon.errors import EngineUnavailableError
from daemon.host import compiler, gpu, memory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.checkpoint import Checkpoint
    from daemon.config import ModelSettings
    from daemon.host.memory import Room

__all__ = [
    "SAMPLE_RATE_HZ",
    "SLOT_S",
    "ChunkRequest",
    "ChunkResponse",
    "Engine",
    "Fallback",
    "LoadedEngine",
    "TextToken",
    "load",
]


def load(
    settings: ModelSettings, cache: Path, report: Callable[[str], None], *, is_captured: bool | None = None
) -> LoadedEngine:
    """Load the configured model and return its engine, after a successful test inference.

    Args:
        settings: the section `model` of the configuration.
        cache: folder for kernels compiled for this GPU; it is kept between starts.
        report: called with one sentence per step, for STATUS= and the terminal.
        is_captured: whether layers are compiled and decode steps captured; None where that is faster, on a GPU.

    Raises:
        EngineUnavailableError: the model or the device is missing or broken, or there is too little memory.
    """
    # An extra precaution beside local_files_only; the unit is what really blocks the network. transformers has
    # contacted the hub despite local_files_only: https://github.com/huggingface/transformers/issues/45545
    os.environ["HF_HUB_OFFLINE"] = "1"
    for variable, name in compiler.CACHES:
        os.environ.setdefault(variable, str(_claim_cache(cache / name)))
    # Few functions are compiled, and the pool of compiler processes would outlive them by hours.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    found = checkpoint.inspect(checkpoint.find_folder(settings.path))
    rooms = memory.find_room()
    is_cpu = settings.device == "cpu" or (settings.device == "auto" and not gpu.is_present())
    short = next((room for room in rooms if _is_short(room, found, is_cpu=is_cpu)), None)
    if short is not None:
        raise _too_little_memory(found, short)
    try:
        # torch takes seconds to import, so it is imported only once the configuration and the model have been checked.
        from daemon.engine.qwen3_asr.loading import load_engine  # noqa: PLC0415  # see the line above

        return load_engine(settings, found, report, is_captured=is_captured)
    except (EngineUnavailableError, ImportError, OSError, RuntimeError, MemoryError) as error:
        _drop_locals(error)
        if not memory.is_shortage(error) or not rooms:
            raise
        raise _too_little_memory(found, rooms[0]) from error


def _is_short(room: Room, found: Checkpoint, *, is_cpu: bool) -> bool:
    """Whether loading cannot succeed, or the kernel would end a program to make room for the weights."""
    if room.is_limit:
        return room.n_bytes < _address_bytes(found)
    return is_cpu and room.n_bytes + memory.count_free_swap() < found.n_bytes


def _address_bytes(found: Checkpoint) -> int:
    """Return the least address space that loading still needs; libraries stay loaded."""
    return found.n_bytes if "torch" in sys.modules else found.address_bytes


def _drop_locals(error: BaseException) -> None:
    """Free what was loaded before an error: its traceback holds the frames, and a caller may keep the error."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__
    if "daemon.engine.device" in sys.modules:
        from daemon.engine.device import release_memory  # noqa: PLC0415  # as above

        with suppress(RuntimeError):  # of a GPU that does not respond; the error at hand says so
            release_memory()


def _claim_cache(folder: Path) -> Path:
    """Return a folder for compiled kernels that no other user can write to: they run with the service's rights."""
    with suppress(OSError):  # without a cache, kernels are compiled at each start, if they are needed at all
        folder.mkdir(0o700, parents=True, exist_ok=True)
    doubt = compiler.find_doubt(folder)
    if doubt is not None:
        raise EngineUnavailableError(*doubt)
    return folder


def _too_little_memory(found: Checkpoint, room: Room) -> EngineUnavailableError:
    needed_bytes = _address_bytes(found) if room.is_limit else found.memory_bytes(is_cpu=True)
    has, needs = f"{room.n_bytes / 1e9:.1f} GB {room.where}", f"at least {needed_bytes / 1e9:.1f} GB"
    if round(needed_bytes / 1e9, 1) <= round(room.n_bytes / 1e9, 1):  # an estimate, and it was too low or just met
        needs = "more"
    return EngineUnavailableError(f"Too little memory for the model: {has}, it needs {needs}.", room.remedy)
