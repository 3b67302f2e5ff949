"""The part of `scribed check` that looks at systemd: its version, our unit, and whether the unit holds."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.cli.check.finding import Finding
from daemon.configfile import SYSTEM_PATH
from daemon.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from daemon.config import Config

_MIN_VERSION = 252  # Debian 12
_MAX_EXPOSURE = (
    0.5  # what our unit reaches; https://www.freedesktop.org/software/systemd/man/latest/systemd-analyze.html
)
_TIMEOUT_S = 5.0
_PROPERTIES = (
    "LoadState",
    "ActiveState",
    "UnitFileState",
    "FragmentPath",
    "MainPID",
    "NeedDaemonReload",
    "ReadWritePaths",
)
_SHARED = ("inbox", "outbox", "processed", "failed")


def _unit_of(config_path: Path | None) -> str:
    """Return the unit that runs with this configuration: scribed@NAME with /etc/scribed/NAME.yaml; "" for none."""
    if config_path is None or config_path == SYSTEM_PATH:
        return "scribed.service"
    return f"scribed@{config_path.stem}.service" if config_path.parent == SYSTEM_PATH.parent else ""


def look(config: Config, config_path: Path | None) -> Iterator[Finding]:
    """Yield what systemd knows of the service; to be called before root is given up, as others may not ask all."""
    has_systemd = Path("/run/systemd/system").is_dir()
    version = re.search(r"systemd (\d+)", _run("systemctl", "--version")) if has_systemd else None
    if version is None:
        yield Finding("warning", "systemd: it does not run this machine; `scribed run` has to be started otherwise")
        return
    if int(version[1]) < _MIN_VERSION:
        remedy = "Debian 12 and Ubuntu 24.04 have a newer one."
        yield Finding(
            "warning", f"systemd: {version[1]} is older than {_MIN_VERSION}, for which the unit is made", remedy
        )
    else:
        yield Finding("ok", f"systemd: {version[1]}")
    unit = _unit_of(config_path)
    if unit:
        yield from _look_at(unit, config)


def _look_at(unit: str, config: Config) -> Iterator[Finding]:
    told = _run("systemctl", "show", unit, *(f"--property={name}" for name in _PROPERTIES))
    facts = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
    if not facts:
        yield Finding("warning", f"{unit}: systemd does not answer", "Run it as root: sudo scribed check")
    elif facts["LoadState"] != "loaded":
        yield Finding("warning", f"{unit}: not installed", "sudo make install")
    else:
        yield _state(unit, facts)
        yield from _exposure(unit, facts)
        yield from _writable(unit, facts, config)
        yield from _network(unit, facts)


def _state(unit: str, facts: Mapping[str, str]) -> Finding:
    state = f"{unit}: {facts['ActiveState']}, {facts['UnitFileState'] or 'not enabled'}"
    if facts["NeedDaemonReload"] == "yes":
        return Finding(
            "warning", f"{state}, changed on disk", f"sudo systemctl daemon-reload && sudo systemctl restart {unit}"
        )
    if facts["ActiveState"] == "failed":
        return Finding("warning", state, f"journalctl -u {unit} -p warning says why")
    if facts["ActiveState"] == "inactive" or facts["UnitFileState"] == "disabled":
        return Finding("warning", state, f"sudo systemctl enable --now {unit}")
    return Finding("ok", state)


def _exposure(unit: str, facts: Mapping[str, str]) -> Iterator[Finding]:
    told = _run("systemd-analyze", "security", "--offline=true", "--no-pager", facts["FragmentPath"])
    found = re.search(r"exposure level for .*: ([0-9.]+)", told)
    if found is None:
        return  # an older systemd-analyze, or none: it is a bonus
    if float(found[1]) > _MAX_EXPOSURE:
        remedy = f"`systemctl cat {unit}` shows the drop-ins, `systemd-analyze security {unit}` what they open."
        yield Finding("warning", f"{unit}: exposure {found[1]}, more than {_MAX_EXPOSURE}", remedy)
    else:
        yield Finding("ok", f"{unit}: exposure {found[1]} (0 is the best, 10 the worst)")


def _writable(unit: str, facts: Mapping[str, str], config: Config) -> Iterator[Finding]:
    """Look whether the unit lets the service write to its folders: all the rest is read-only to it."""
    allowed = [Path(path.lstrip("-+")) for path in facts["ReadWritePaths"].split()]
    for name in _SHARED:
        folder: Path = getattr(config.folders, name)
        if not any(folder.is_relative_to(path) for path in allowed):
            remedy = (
                f"sudo systemctl edit {unit}, and there: [Service] ReadWritePaths={folder.parent} "
                f"NoExecPaths={folder.parent}, each on a line (/opt/scribed/share/examples/folders.conf)"
            )
            yield Finding("fault", f"{unit}: may not write to the {name} {folder}", remedy, ExitCode.NO_PERMISSION)


def _network(unit: str, facts: Mapping[str, str]) -> Iterator[Finding]:
    """Look which network interfaces the running service sees; any process may ask that."""
    if facts["MainPID"] == "0":
        return
    try:
        lines = Path("/proc", facts["MainPID"], "net", "dev").read_text().splitlines()[2:]
    except OSError:  # it has ended since
        return
    names = {line.partition(":")[0].strip() for line in lines} - {"lo"}
    if names:
        remedy = f"PrivateNetwork=yes belongs to the unit; `systemctl cat {unit}` shows who took it out."
        yield Finding("warning", f"network: the service sees {', '.join(sorted(names))}", remedy)
    else:
        yield Finding("ok", "network: the service has none")


def _run(*words: str) -> str:
    """Return what a command prints, "" where there is none or it takes too long."""
    program = shutil.which(words[0])
    if program is None:
        return ""
    try:
        done = subprocess.run([program, *words[1:]], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)  # noqa: S603 - named above, by us
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
