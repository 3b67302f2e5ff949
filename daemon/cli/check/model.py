"""The model: whether it is complete, fits into memory, and understands speech."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon import checkpoint, configfile
from daemon.cli.check.finding import Finding
from daemon.errors import ExitCode, ScribedError
from daemon.host import gpu, memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.cli.check.finding import Installation


def check_model(installation: Installation) -> Iterator[Finding]:
    """Check that the model's folder holds a complete model, without reading the weights."""
    path = installation.config.model.path
    try:
        found = checkpoint.inspect(checkpoint.find_folder(path))
    except ScribedError as error:
        yield Finding("fault", f"model: {error.what}", error.remedy, ExitCode.MODEL_UNAVAILABLE)
        return
    yield Finding("ok", f"model: {found.folder} ({found.n_bytes / 1e6:,.0f} MB)")
    if str(path) == configfile.DEMO_MODEL:
        remedy = "It knows 174 English words spoken by synthetic voices: fine for trying scribed, not for real work."
        yield Finding("warning", "model: the demo model is configured", remedy)


def check_memory(installation: Installation) -> Iterator[Finding]:
    """Check that the model fits into the memory that is free now. Weights for a GPU pass through it too."""
    try:
        found = checkpoint.inspect(checkpoint.find_folder(installation.config.model.path))
    except ScribedError:  # reported with the model
        return
    is_cpu = installation.config.model.device == "cpu" or not gpu.is_present()
    for room in memory.find_room():
        needed_bytes = found.address_bytes if room.is_limit else found.memory_bytes(is_cpu=is_cpu)
        if room.n_bytes < needed_bytes:
            needs = f"the model needs about {needed_bytes / 1e9:.1f} GB"
            what = f"memory: {room.n_bytes / 1e9:.1f} GB {room.where}, {needs}"
            if room.is_limit:
                yield Finding("fault", what, room.remedy, ExitCode.MODEL_UNAVAILABLE)
            else:
                yield Finding("warning", what, room.remedy)
            return
    yield Finding("ok", f"memory: {memory.find_room()[0].n_bytes / 1e9:.1f} GB {memory.find_room()[0].where}")
