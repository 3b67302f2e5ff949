"""systemd: its version, our unit, and whether the unit confines the service."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from daemon.cli.check.finding import Finding
from daemon.cli.check.hook import check_unit
from daemon.configfile import SHARED_FOLDERS, SYSTEM_PATH
from daemon.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from daemon.cli.check.finding import Installation
    from daemon.config import Config

_MIN_VERSION: Final = 252  # Debian 12
# What our unit reaches; https://www.freedesktop.org/software/systemd/man/latest/systemd-analyze.html
_MAX_EXPOSURE: Final = 0.5
_TIMEOUT_S: Final = 5.0
_PROPERTIES: Final = (
    "LoadState",
    "ActiveState",
    "UnitFileState",
    "FragmentPath",
    "MainPID",
    "NeedDaemonReload",
    "ReadWritePaths",
    "NoExecPaths",
    "ExecPaths",
    "ProtectHome",
    "PrivateTmp",
)


def _unit_of(config_path: Path | None) -> str:
    """Return the unit that runs with this configuration: scribed@NAME with /etc/scribed/NAME.yaml; "" for none."""
    if config_path is None or config_path == SYSTEM_PATH:
        return "scribed.service"
    return f"scribed@{config_path.stem}.service" if config_path.parent == SYSTEM_PATH.parent else ""


def check_systemd(installation: Installation) -> Iterator[Finding]:
    """Check what systemd knows about the service. Runs as root where possible: other users may not ask everything."""
    has_systemd = Path("/run/systemd/system").is_dir()
    version = re.search(r"systemd (\d+)", _run("systemctl", "--version")) if has_systemd else None
    if version is None:
        yield Finding("warning", "systemd: not running here", "Start `scribed run` some other way.")
        return
    if int(version[1]) < _MIN_VERSION:
        remedy = "Debian 12 and Ubuntu 24.04 have a newer one."
        yield Finding("warning", f"systemd: {version[1]}, but the unit is made for {_MIN_VERSION} or newer", remedy)
    else:
        yield Finding("ok", f"systemd: {version[1]}")
    unit = _unit_of(installation.config_path)
    if unit:
        yield from _check_unit(unit, installation)


def _check_unit(unit: str, installation: Installation) -> Iterator[Finding]:
    shown = _run("systemctl", "show", unit, *(f"--property={name}" for name in _PROPERTIES))
    facts = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    if not facts:
        yield Finding("warning", f"{unit}: systemd does not answer", "Run as root: sudo scribed check")
    elif facts["LoadState"] != "loaded":
        yield Finding("warning", f"{unit}: not installed", "sudo make install")
    else:
        yield _check_state(unit, facts)
        yield from _check_exposure(unit, facts)
        yield from _check_write_access(unit, facts, installation.config)
        yield from check_unit(unit, facts, installation)
        yield from _check_network(unit, facts)


def _check_state(unit: str, facts: Mapping[str, str]) -> Finding:
    state = f"{unit}: {facts['ActiveState']}, {facts['UnitFileState'] or 'not enabled'}"
    if facts["NeedDaemonReload"] == "yes":
        remedy = f"sudo systemctl daemon-reload && sudo systemctl restart {unit}"
        return Finding("warning", f"{state}, changed on disk", remedy)
    if facts["ActiveState"] == "failed":
        return Finding("warning", state, f"For the reason: journalctl -u {unit} -p warning")
    if facts["ActiveState"] == "inactive" or facts["UnitFileState"] == "disabled":
        return Finding("warning", state, f"sudo systemctl enable --now {unit}")
    return Finding("ok", state)


def _check_exposure(unit: str, facts: Mapping[str, str]) -> Iterator[Finding]:
    report = _run("systemd-analyze", "security", "--offline=true", "--no-pager", facts["FragmentPath"])
    found = re.search(r"exposure level for .*: ([0-9.]+)", report)
    if found is None:
        return  # an older systemd-analyze, or none: the check is optional
    if float(found[1]) > _MAX_EXPOSURE:
        remedy = f"`systemctl cat {unit}` shows the drop-ins, `systemd-analyze security {unit}` what they allow."
        yield Finding("warning", f"{unit}: exposure {found[1]}, more than {_MAX_EXPOSURE}", remedy)
    else:
        yield Finding("ok", f"{unit}: exposure {found[1]} (0 is best, 10 is worst)")


def _check_write_access(unit: str, facts: Mapping[str, str], config: Config) -> Iterator[Finding]:
    """Check that the unit lets the service write to its folders; everything else is read-only."""
    allowed = [Path(path.lstrip("-+")) for path in facts["ReadWritePaths"].split()]
    for name in SHARED_FOLDERS:
        folder: Path = getattr(config.folders, name)
        if not any(folder.is_relative_to(path) for path in allowed):
            remedy = (
                f"sudo systemctl edit {unit}, then add: [Service] ReadWritePaths={folder.parent} "
                f"NoExecPaths={folder.parent}, each on a line of its own (/opt/scribed/share/examples/folders.conf)"
            )
            yield Finding("fault", f"{unit}: may not write to the {name} {folder}", remedy, ExitCode.NO_PERMISSION)


def _check_network(unit: str, facts: Mapping[str, str]) -> Iterator[Finding]:
    """Check which network interfaces the running service sees; any user may ask that."""
    if facts["MainPID"] == "0":
        return
    try:
        lines = Path("/proc", facts["MainPID"], "net", "dev").read_text().splitlines()[2:]
    except OSError:  # it has ended since
        return
    names = {line.partition(":")[0].strip() for line in lines} - {"lo"}
    if names:
        remedy = f"PrivateNetwork=yes belongs to the unit; `systemctl cat {unit}` shows which drop-in removed it."
        yield Finding("warning", f"network: the service sees {', '.join(sorted(names))}", remedy)
    else:
        yield Finding("ok", "network: the service has none")


def _run(*words: str) -> str:
    """Return the output of a command, "" where it is not installed or takes too long."""
    program = shutil.which(words[0])
    if program is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603  # systemd's own programs, found above
            [program, *words[1:]], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
