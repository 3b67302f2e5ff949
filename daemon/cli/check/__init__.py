"""`scribed check`: examine the installation. To add a check, write a function and name it in `CHECKS`.

A check takes an `Installation` and yields findings. It must not import torch or transformers unless
it is marked `is_deep`: `scribed check` answers in under half a second.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.text import Text

from daemon import config as configuration
from daemon.cli import config_option
from daemon.cli.check import device, folders, hook, kernel, members, model, package, programs, systemd, transcription
from daemon.cli.check.finding import Finding, Installation
from daemon.display import escape
from daemon.errors import ConfigError, ExitCode, UsageError
from daemon.host import files
from daemon.host.privileges import become_owner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the registry.

    Attributes:
        name: the first word of its findings.
        find: examines one thing and yields what it found.
        needs_root: runs before root is given up, since other users may not ask systemd everything.
        is_deep: runs with `--deep` only, after all others, and not where there is no usable model or GPU.
    """

    name: str
    find: Callable[[Installation], Iterable[Finding]]
    needs_root: bool = False
    is_deep: bool = False


CHECKS: Final = (
    Check("package", package.check_package),
    Check("systemd", systemd.check_systemd, needs_root=True),
    Check("sub-folders", members.check_member_folders, needs_root=True),
    Check("folder", folders.check_folders),
    Check("claimed", folders.check_displaced),
    Check("group", folders.check_group),
    Check("ffmpeg", programs.check_ffmpeg),
    Check("packages", programs.check_packages),
    Check("hook", hook.check_program),
    Check("decoder", kernel.check_confinement),
    Check("inotify", kernel.check_inotify),
    Check("device", device.check_device),
    Check("kernels", device.check_kernels),
    Check("model", model.check_model),
    Check("memory", model.check_memory),
    Check("test", transcription.check_transcription, is_deep=True),
)

_STYLES: Final = {"ok": "green", "warning": "yellow", "fault": "red"}


def print_schema() -> int:
    """Print the JSON Schema of the configuration, for editors."""
    sys.stdout.write(json.dumps(configuration.json_schema(), indent=2, ensure_ascii=False) + "\n")
    return ExitCode.OK


def check(option: Path | None, *, is_deep: bool, sample: Path | None = None, text: str = "") -> int:
    """Examine the installation, print each finding, and return the exit code of the first fault."""
    if (sample is None) != (not text) or (sample is not None and not is_deep):
        raise UsageError("--sample FILE, --text WORDS and --deep belong together.", "Give all three, or --deep alone.")
    console = Console(highlight=False, soft_wrap=True)
    code = ExitCode.OK
    for finding in _examine(option, sample, text, is_deep=is_deep):
        console.print(Text.assemble((f"{finding.level:<8}", _STYLES[finding.level]), escape(finding.what)))
        if finding.remedy:
            console.print(Text(f"{'':<8}{escape(finding.remedy)}"))
        code = code or finding.exit_code
    return code


def _examine(option: Path | None, sample: Path | None, text: str, *, is_deep: bool) -> Iterator[Finding]:
    try:
        config, path = config_option.read(option)
    except ConfigError as error:
        yield Finding("fault", error.what, error.remedy, ExitCode.BAD_CONFIG)
        for fault in error.faults:
            yield Finding("fault", fault)
        return
    if path is None:
        remedy = "Copy config.example.yaml to /etc/scribed/config.yaml and change what you need."
        yield Finding("warning", "configuration: no file found, using the defaults", remedy)
    else:
        yield Finding("ok", f"configuration: {path}")
    installation = Installation(config, path, sample, text)
    yield from _run([row for row in CHECKS if row.needs_root], installation)
    become_owner(config.folders.state)
    can_transcribe = True
    for finding in _run([row for row in CHECKS if not row.needs_root and not row.is_deep], installation):
        can_transcribe = can_transcribe and finding.exit_code is not ExitCode.MODEL_UNAVAILABLE
        yield finding
    if is_deep and can_transcribe:
        yield from _run([row for row in CHECKS if row.is_deep], installation)
    elif is_deep:
        yield Finding("warning", "test: skipped", "Fix the faults above first.")


def _run(checks: Iterable[Check], installation: Installation) -> Iterator[Finding]:
    """Run checks; one that fails on a disk or a share does not keep the others from running."""
    for row in checks:
        try:
            yield from row.find(installation)
        except OSError as error:
            yield Finding("fault", f"{row.name}: cannot be examined: {files.describe_error(error)}")
