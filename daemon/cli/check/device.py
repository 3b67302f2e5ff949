"""The device that the model will run on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from daemon.cli.check.finding import Finding
from daemon.errors import ExitCode
from daemon.host import compiler, gpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.cli.check.finding import Installation


def check_device(installation: Installation) -> Iterator[Finding]:
    """Check that the configured device exists and its driver works."""
    wanted = installation.config.model.device
    if wanted == "cpu":
        yield Finding("ok", "device: cpu, as configured")
    elif gpu.is_present():
        yield _check_driver()
        missing = compiler.find_missing()
        if missing:
            what = f"device: no {' and no '.join(missing)}: the GPU runs at up to half its speed"
            yield Finding("warning", what, f"Run: sudo {compiler.INSTALL}")
    elif wanted == "auto":
        remedy = "Fine for trying it out; the 1.7B model is slow on a CPU."
        yield Finding("warning", "device: no NVIDIA GPU found, the CPU will be used", remedy)
    else:
        what = f"device: model.device is {wanted}, but this machine has no NVIDIA GPU"
        remedy = "Install the NVIDIA driver (`nvidia-smi` must work), or set model.device: auto."
        yield Finding("fault", what, remedy, ExitCode.MODEL_UNAVAILABLE)


def check_kernels(installation: Installation) -> Iterator[Finding]:
    """Check that the folders of compiled kernels can be used: the model is not loaded where others can write to one."""
    has_gpu = installation.config.model.device != "cpu" and gpu.is_present()
    for _, name in compiler.CACHES:
        folder = installation.config.folders.cache / name
        doubt = compiler.find_doubt(folder)
        if doubt is not None:
            yield Finding("fault", f"kernels: {doubt[0]}", doubt[1], ExitCode.MODEL_UNAVAILABLE)
        elif has_gpu and folder.exists() and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            what = f"kernels: {folder} is not readable and writable: the GPU runs at up to half its speed"
            yield Finding("warning", what, f"Delete it (`rm -r {folder}`); the next start makes it again.")


def _check_driver() -> Finding:
    """Let the driver's own tool list GPUs and memory: it fails where the driver does."""
    driver = gpu.read_driver()
    if driver is None:
        remedy = "Install the NVIDIA driver; `nvidia-smi` must work."
        return Finding("fault", "device: the NVIDIA driver is not loaded", remedy, ExitCode.MODEL_UNAVAILABLE)
    try:
        gpus = gpu.query()
    except gpu.NvidiaSmiError as error:
        if not str(error):
            remedy = "The driver hangs; restart the machine."
            return Finding("fault", "device: nvidia-smi does not answer", remedy, ExitCode.MODEL_UNAVAILABLE)
        remedy = "Restart the machine if the driver was updated; otherwise install a driver that fits the kernel."
        return Finding("fault", f"device: nvidia-smi failed: {error}", remedy, ExitCode.MODEL_UNAVAILABLE)
    if not gpus:
        return Finding("ok", f"device: NVIDIA, {driver.splitlines()[0]}")
    shown = "; ".join(f"{one.name}, driver {one.driver}, {one.free} of {one.total} free" for one in gpus)
    return Finding("ok", f"device: {shown}")
