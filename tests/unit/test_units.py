"""The unit files as systemd sees them; tests/system runs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from daemon.status.metrics import Counters, Gauges, render

UNITS = Path(__file__).parents[2] / "systemd"
SERVICE = UNITS / "scribed.service"
TEMPLATE = UNITS / "scribed@.service"
DROP_INS = sorted((UNITS / "examples").glob("*.conf"))
MAX_EXPOSURE = 0.5

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def analyze(*words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:", "LC_ALL": "C.UTF-8"}
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False, env=environment)


def place(unit: Path, folder: Path, name: str, drop_in: Path | None = None) -> Path:
    """Copy a unit into a folder, with a program that exists here."""
    target = folder / name
    target.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE))
    if drop_in is not None:
        (folder / f"{name}.d").mkdir()
        shutil.copy(drop_in, folder / f"{name}.d")
    return target


def test_instance_unit_differs_only_in_its_folders() -> None:
    """There are two files because an instance must not reach the folders of another."""
    single = SERVICE.read_text().splitlines()
    template = TEMPLATE.read_text().splitlines()
    assert len(single) == len(template)
    for line, other in zip(single, template, strict=True):
        assert other.replace("-%i", "").replace("/%i.yaml", "/config.yaml").replace(" (%i)", "") == line
    assert {other for line, other in zip(single, template, strict=True) if line == other and "scribed" in line} == {
        "Documentation=file:/opt/scribed/share/README.md file:/opt/scribed/share/operations.md",
        "User=scribed",
        "Group=scribed",
    }


@pytest.mark.parametrize("unit", [SERVICE, TEMPLATE], ids=lambda path: path.name)
def test_start_that_a_hangup_ended_is_begun_again(unit: Path) -> None:
    """Systemd takes the default action of SIGHUP for a clean end, after which Restart=on-failure does nothing."""
    lines = unit.read_text().splitlines()
    assert "Restart=on-failure" in lines
    assert "RestartForceExitStatus=SIGHUP" in lines
    assert not any(line.startswith("RestartPreventExitStatus=") and "SIGHUP" in line for line in lines)


@needs_systemd
@pytest.mark.parametrize("drop_in", [None, *DROP_INS], ids=lambda path: path.name if path else "none")
@pytest.mark.parametrize("unit", [SERVICE, TEMPLATE], ids=lambda path: path.name)
def test_systemd_verifies_the_units(unit: Path, drop_in: Path | None, tmp_path: Path) -> None:
    placed = place(unit, tmp_path, unit.name.replace("@", "@court"), drop_in)
    done = analyze("verify", "--man=no", "--recursive-errors=no", placed, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("unit", [SERVICE, TEMPLATE], ids=lambda path: path.name)
def test_exposure_is_at_most_0_5(unit: Path, tmp_path: Path) -> None:
    placed = place(unit, tmp_path, unit.name.replace("@", "@court"))
    limit = f"--threshold={round(10 * MAX_EXPOSURE)}"
    done = analyze("security", "--offline=true", "--no-pager", limit, placed, folder=tmp_path)
    found = re.search(r"exposure level for .*: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= MAX_EXPOSURE
    assert done.returncode == 0


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_prometheus_accepts_alerts_and_metrics() -> None:
    rules = subprocess.run(
        ["promtool", "check", "rules", UNITS / "examples" / "alerts.yaml"], capture_output=True, text=True, check=False
    )
    assert rules.returncode == 0, rules.stdout
    figures = render(Gauges("ready", {"waiting": 1}, 0, 0.0, 0.0, 0.0), Counters())
    lint = subprocess.run(["promtool", "check", "metrics"], input=figures, capture_output=True, text=True, check=False)
    assert (lint.returncode, lint.stdout, lint.stderr) == (0, "", "")


def test_alerts_use_existing_metrics() -> None:
    rules = yaml.safe_load((UNITS / "examples" / "alerts.yaml").read_text())["groups"][0]["rules"]
    figures = render(Gauges("ready", {"waiting": 1}, 0, 0.0, 0.0, 0.0), Counters())
    known = {line.split()[2] for line in figures.splitlines() if line.startswith("# TYPE")}
    for rule in rules:
        asked = set(re.findall(r"scribed_[a-z_]+", rule["expr"]))
        assert asked <= known, rule["alert"]
    assert len(rules) >= 5
