"""`scribed check`: is this installation ready? Every line says ok, warning or fault, and what to do."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from daemon import checkpoint, files
from daemon import config as configuration
from daemon.cli import settings
from daemon.errors import ConfigError, ExitCode, ScribedError
from daemon.privileges import become_owner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.config import Config

_STYLES = {"ok": "green", "warning": "yellow", "fault": "red"}
_LOW_BYTES = 2 << 30
_DRIVER = Path("/proc/driver/nvidia/version")
_SPEECH_S = 3


@dataclass(frozen=True, slots=True)
class _Finding:
    level: str  # ok, warning or fault
    what: str
    remedy: str = ""
    exit_code: ExitCode = ExitCode.OK


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


def _findings(option: Path | None, *, is_deep: bool) -> Iterator[_Finding]:
    try:
        config, path = settings.read(option)
    except ConfigError as error:
        yield _Finding("fault", error.what, error.remedy, ExitCode.BAD_CONFIG)
        for fault in error.faults:
            yield _Finding("fault", fault)
        return
    if path is None:
        remedy = "Copy config.example.yaml to /etc/scribed/config.yaml and change what you need."
        yield _Finding("warning", "configuration: no file found, the defaults hold", remedy)
    else:
        yield _Finding("ok", f"configuration: {path}")
    become_owner(config.folders.state)
    yield from _check_folders(config)
    yield from _check_programs()
    yield from _check_device(config)
    is_model_there = True
    for finding in _check_model(config):
        is_model_there = finding.level != "fault"
        yield finding
    if is_deep and is_model_there:
        yield _try_model(config)


def _check_folders(config: Config) -> Iterator[_Finding]:
    folders = config.folders
    named: dict[str, Path] = {name: getattr(folders, name) for name in type(folders).model_fields}
    for name, folder in named.items():
        if not folder.is_dir():
            remedy = f"sudo install -d -o scribed -g scribed -m 2770 {folder}"
            yield _Finding("fault", f"folder {name}: {folder} does not exist", remedy, ExitCode.CANNOT_WRITE)
        elif not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            remedy = f"Give this user read and write permission on {folder}."
            yield _Finding("fault", f"folder {name}: {folder} may not be used", remedy, ExitCode.NO_PERMISSION)
        elif files.free_bytes(folder) < _LOW_BYTES:
            free = files.free_bytes(folder) >> 20
            yield _Finding("warning", f"folder {name}: {folder} has only {free} MiB left", "Free some space.")
        else:
            yield _Finding("ok", f"folder {name}: {folder}")
    for name in ("processed", "failed"):
        if folders.inbox.is_dir() and named[name].is_dir() and folders.inbox.stat().st_dev != named[name].stat().st_dev:
            remedy = "This works, but every recording is copied; one file system for both is quicker."
            yield _Finding("warning", f"{name} is on another file system than the inbox", remedy)


def _check_programs() -> Iterator[_Finding]:
    if shutil.which("ffmpeg") is None:
        remedy = "sudo apt-get install ffmpeg (only `scribed prepare` to mp3, m4a or opus needs it)"
        yield _Finding("warning", "ffmpeg is not installed", remedy)
    else:
        yield _Finding("ok", "ffmpeg: installed")
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            remedy = "Run `make install` again."
            yield _Finding("fault", f"the Python package {package} is missing", remedy, ExitCode.MODEL_UNAVAILABLE)


def _check_device(config: Config) -> Iterator[_Finding]:
    has_device = any(Path("/dev").glob("nvidia[0-9]*"))
    wanted = config.model.device
    if wanted == "cpu":
        yield _Finding("ok", "device: cpu, as configured")
    elif not has_device and wanted == "auto":
        remedy = "Fine for trying; the 1.7B model is slow there."
        yield _Finding("warning", "device: no NVIDIA device, the CPU will be used", remedy)
    elif not has_device:
        remedy = "Install the driver (`nvidia-smi` must work), or set model.device: auto."
        yield _Finding("fault", f"device: {wanted} is configured, there is none", remedy, ExitCode.MODEL_UNAVAILABLE)
    elif not _DRIVER.exists():
        remedy = "Install the NVIDIA driver; `nvidia-smi` must work."
        yield _Finding("fault", "device: the NVIDIA driver is not loaded", remedy, ExitCode.MODEL_UNAVAILABLE)
    else:
        yield _Finding("ok", f"device: NVIDIA, {_DRIVER.read_text().splitlines()[0]}")


def _check_model(config: Config) -> Iterator[_Finding]:
    try:
        found = checkpoint.inspect(checkpoint.find_folder(config.model.path))
    except ScribedError as error:
        yield _Finding("fault", f"model: {error.what}", error.remedy, ExitCode.MODEL_UNAVAILABLE)
        return
    yield _Finding("ok", f"model: {found.folder} ({found.n_bytes / 1e6:,.0f} MB)")
    if str(config.model.path) == checkpoint.DEMO:
        remedy = "It knows some hundred English words of a computer voice: good for trying, not for work."
        yield _Finding("warning", "model: the demo model is configured", remedy)


def _try_model(config: Config) -> _Finding:
    """Load the model and let it transcribe the beginning of a sample recording."""
    # torch loads after the configuration is known to be valid, and only for --deep
    from daemon import engine
    from daemon.decode import SAMPLE_RATE_HZ
    from daemon.frontend import FrontEnd

    speech = resources.files("daemon") / "demo" / "recordings" / "memo.wav"
    front_end = FrontEnd(config.folders.cache, n_decoders=1)
    try:
        with resources.as_file(speech) as path:
            prepared = front_end.prepare(path, config.preprocess, "off")
        with prepared.waveform as waveform:
            samples = waveform.read(0, min(waveform.n_samples, _SPEECH_S * SAMPLE_RATE_HZ))
        model = engine.load(config.model, config.folders.cache, lambda _: None)
        try:
            said = model.submit(engine.Piece(samples, None, (), "check")).result()
        finally:
            model.close()
    except ScribedError as error:
        return _Finding("fault", f"test: {error.what}", error.remedy, ExitCode.MODEL_UNAVAILABLE)
    finally:
        front_end.close()
    identity = model.identity
    return _Finding("ok", f'test: {identity.name} on {identity.device} as {identity.dtype} heard "{said.text}"')
