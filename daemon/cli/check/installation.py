"""`scribed check`: is this installation ready? Every line says ok, warning or fault, and what to do."""

from __future__ import annotations

import grp
import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from daemon import checkpoint
from daemon import config as configuration
from daemon.cli import config_option as settings
from daemon.cli.check import supervision
from daemon.cli.check.finding import Finding
from daemon.errors import ConfigError, ExitCode, ScribedError
from daemon.host import files
from daemon.host.privileges import become_owner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.config import Config

_STYLES = {"ok": "green", "warning": "yellow", "fault": "red"}
_LOW_BYTES = 2 << 30
_DRIVER = Path("/proc/driver/nvidia/version")
_SPEECH_S = 3
_SHARED = ("inbox", "outbox", "processed", "failed")
# Group may read, write and enter, and what is made inside belongs to the group too.
_SHARED_MODE = stat.S_ISGID | stat.S_IRWXG
_SMI_TIMEOUT_S = 5.0


def print_schema() -> int:
    """Print the JSON Schema of the configuration, for editors."""
    sys.stdout.write(json.dumps(configuration.json_schema(), indent=2, ensure_ascii=False) + "\n")
    return ExitCode.OK


def check(option: Path | None, *, is_deep: bool) -> int:
    """Look at everything the daemon needs; return the exit code of the first fault."""
    console = Console(highlight=False, soft_wrap=True)
    code = ExitCode.OK
    for finding in _findings(option, is_deep=is_deep):
        console.print(Text.assemble((f"{finding.level:<8}", _STYLES[finding.level]), finding.what))
        if finding.remedy:
            console.print(Text(f"{'':<8}{finding.remedy}"))
        code = code or finding.exit_code
    return code


def _findings(option: Path | None, *, is_deep: bool) -> Iterator[Finding]:
    try:
        config, path = settings.read(option)
    except ConfigError as error:
        yield Finding("fault", error.what, error.remedy, ExitCode.BAD_CONFIG)
        for fault in error.faults:
            yield Finding("fault", fault)
        return
    if path is None:
        remedy = "Copy config.example.yaml to /etc/scribed/config.yaml and change what you need."
        yield Finding("warning", "configuration: no file found, the defaults hold", remedy)
    else:
        yield Finding("ok", f"configuration: {path}")
    yield from list(supervision.look(config, path))  # now, for root may ask systemd more than the owner
    become_owner(config.folders.state)
    yield from _check_folders(config)
    yield from _check_group(config)
    yield from _check_programs()
    yield from _check_device(config)
    is_model_there = True
    for finding in _check_model(config):
        is_model_there = finding.level != "fault"
        yield finding
    if is_deep and is_model_there:
        yield from _try_model(config)


def _check_folders(config: Config) -> Iterator[Finding]:
    folders = config.folders
    named: dict[str, Path] = {name: getattr(folders, name) for name in type(folders).model_fields}
    for name, folder in named.items():
        if not folder.is_dir():
            remedy = f"sudo install -d -o scribed -g scribed -m {'2770' if name in _SHARED else '0750'} {folder}"
            yield Finding("fault", f"folder {name}: {folder} does not exist", remedy, ExitCode.CANNOT_WRITE)
        elif not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            remedy = f"Give this user read and write permission on {folder}."
            yield Finding("fault", f"folder {name}: {folder} may not be used", remedy, ExitCode.NO_PERMISSION)
        elif name in _SHARED and folder.stat().st_mode & _SHARED_MODE != _SHARED_MODE:
            remedy = f"sudo chgrp scribed {folder} && sudo chmod 2770 {folder}"
            yield Finding("warning", f"folder {name}: {folder} is not shared with a group", remedy)
        elif files.free_bytes(folder) < _LOW_BYTES:
            free = files.free_bytes(folder) >> 20
            yield Finding("warning", f"folder {name}: {folder} has only {free} MiB left", "Free some space.")
        else:
            yield Finding("ok", f"folder {name}: {folder}")
    for name in ("processed", "failed"):
        if folders.inbox.is_dir() and named[name].is_dir() and folders.inbox.stat().st_dev != named[name].stat().st_dev:
            remedy = "This works, but every recording is copied; one file system for both is quicker."
            yield Finding("warning", f"{name} is on another file system than the inbox", remedy)


def _check_group(config: Config) -> Iterator[Finding]:
    """Name the people who may drop and collect, of the group of the inbox."""
    try:
        group = grp.getgrgid(config.folders.inbox.stat().st_gid)
    except (OSError, KeyError):  # said above, or a group of another machine
        return
    if group.gr_mem:
        yield Finding("ok", f"group {group.gr_name}: {', '.join(sorted(group.gr_mem))}")
    else:
        remedy = f"sudo usermod -aG {group.gr_name} NAME, for each person who may drop and read"
        yield Finding("warning", f"group {group.gr_name}: nobody is in it", remedy)


def _check_programs() -> Iterator[Finding]:
    if shutil.which("ffmpeg") is None:
        remedy = "sudo apt-get install ffmpeg (only `scribed prepare` to mp3, m4a or opus needs it)"
        yield Finding("warning", "ffmpeg is not installed", remedy)
    else:
        yield Finding("ok", "ffmpeg: installed")
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            remedy = "Run `make install` again."
            yield Finding("fault", f"the Python package {package} is missing", remedy, ExitCode.MODEL_UNAVAILABLE)


def _check_device(config: Config) -> Iterator[Finding]:
    has_device = any(Path("/dev").glob("nvidia[0-9]*"))
    wanted = config.model.device
    if wanted == "cpu":
        yield Finding("ok", "device: cpu, as configured")
    elif not has_device and wanted == "auto":
        remedy = "Fine for trying; the 1.7B model is slow there."
        yield Finding("warning", "device: no NVIDIA device, the CPU will be used", remedy)
    elif not has_device:
        remedy = "Install the driver (`nvidia-smi` must work), or set model.device: auto."
        yield Finding("fault", f"device: {wanted} is configured, there is none", remedy, ExitCode.MODEL_UNAVAILABLE)
    elif not _DRIVER.exists():
        remedy = "Install the NVIDIA driver; `nvidia-smi` must work."
        yield Finding("fault", "device: the NVIDIA driver is not loaded", remedy, ExitCode.MODEL_UNAVAILABLE)
    else:
        yield _ask_nvidia()


def _ask_nvidia() -> Finding:
    """Let the driver's own tool name GPUs and memory: it fails where the driver does."""
    asked = ["--query-gpu=name,driver_version,memory.free,memory.total", "--format=csv,noheader"]
    program = shutil.which("nvidia-smi")
    if program is None:
        return Finding("ok", f"device: NVIDIA, {_DRIVER.read_text().splitlines()[0]}")
    try:
        done = subprocess.run(  # noqa: S603 - the driver's own, found above
            [program, *asked], capture_output=True, text=True, check=False, timeout=_SMI_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        remedy = "The driver hangs; restarting the machine helps."
        return Finding("fault", "device: nvidia-smi does not answer", remedy, ExitCode.MODEL_UNAVAILABLE)
    if done.returncode != 0:
        remedy = "Install a driver that fits the kernel, or restart the machine after its update."
        what = f"device: nvidia-smi fails: {' '.join(done.stdout.split())[:200]}"
        return Finding("fault", what, remedy, ExitCode.MODEL_UNAVAILABLE)
    gpus = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()]
    shown = "; ".join(f"{name}, driver {driver}, {free} of {total} free" for name, driver, free, total in gpus)
    return Finding("ok", f"device: {shown}")


def _check_memory(config: Config, n_bytes: int) -> Finding:
    """Look whether the weights fit into the memory that is free now; on a GPU they pass through it too."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free_bytes = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    shown = f"memory: {free_bytes / 1e9:.1f} GB free"
    is_cpu = config.model.device == "cpu" or not any(Path("/dev").glob("nvidia[0-9]*"))
    # bfloat16 in the files, float32 on the CPU.
    if is_cpu and free_bytes < 2 * n_bytes + _LOW_BYTES:
        return Finding(
            "warning", f"{shown}, the model takes up to {2 * n_bytes / 1e9:.1f} GB on the CPU", "Add memory."
        )
    return Finding("ok", shown)


def _check_model(config: Config) -> Iterator[Finding]:
    try:
        found = checkpoint.inspect(checkpoint.find_folder(config.model.path))
    except ScribedError as error:
        yield Finding("fault", f"model: {error.what}", error.remedy, ExitCode.MODEL_UNAVAILABLE)
        return
    yield Finding("ok", f"model: {found.folder} ({found.n_bytes / 1e6:,.0f} MB)")
    yield _check_memory(config, found.n_bytes)
    if str(config.model.path) == checkpoint.DEMO:
        remedy = "It knows some hundred English words of a computer voice: good for trying, not for work."
        yield Finding("warning", "model: the demo model is configured", remedy)


def _try_model(config: Config) -> Iterator[Finding]:
    """Load the model and let it transcribe the beginning of a sample recording."""
    # torch loads after the configuration is known to be valid, and only for --deep
    from daemon import engine, logs
    from daemon.decode import SAMPLE_RATE_HZ
    from daemon.frontend import FrontEnd

    logs.configure_command(config.logging)
    speech = resources.files("daemon") / "demo" / "recordings" / "memo.wav"
    front_end = FrontEnd(config.folders.cache, n_decoders=1)
    try:
        with resources.as_file(speech) as path:
            prepared = front_end.prepare(path, config.preprocess, "off")
        with prepared.waveform as waveform:
            samples = waveform.read(0, min(waveform.n_samples, _SPEECH_S * SAMPLE_RATE_HZ))
        model = engine.load(config.model, config.folders.cache, lambda _: None)
        try:
            said = model.submit(engine.ChunkRequest(samples, None, (), "check")).result()
        finally:
            model.close()
    except ScribedError as error:
        yield Finding("fault", f"test: {error.what}", error.remedy, ExitCode.MODEL_UNAVAILABLE)
        return
    finally:
        front_end.close()
    identity = model.identity
    yield Finding("ok", f"model: digest {identity.digest}")
    yield Finding("ok", f'test: {identity.name} on {identity.device} as {identity.dtype} heard "{said.text}"')
