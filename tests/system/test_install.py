"""`make install`, `make uninstall`, and `scribed check` afterwards."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.conftest import SAMPLES
from tests.system.unit import TIMEOUT_S, Unit, wait_until

if TYPE_CHECKING:
    from tests.system.box import Box

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(TIMEOUT_S)]

GPUS = ("/dev/nvidia0", "/dev/nvidia1", "/dev/nvidia10", "/dev/nvidia-caps/nvidia-cap2")


def test_reinstall_and_uninstall_keep_configuration_and_recordings(unit: Unit) -> None:
    box = unit.box
    unit.start()
    unit.drop(SAMPLES / "memo.wav", "kept.wav")
    unit.wait_for("kept.wav")
    config = box.path(unit.config).read_text()
    pretend_gpus(box)
    said = box.install()
    assert "runs on with the old version" in said
    assert f"GPU devices the service may use: {' '.join(GPUS)}" in said
    assert unit.is_active()
    allowed = unit.show("DeviceAllow").splitlines()
    assert {f"{gpu} rw" for gpu in GPUS} | {"char-nvidia-uvm rw"} <= set(allowed)
    # The installed unit is as valid and as restricted as the one in the repository.
    assert "nvidia" not in box.run("systemd-analyze", "verify", "--man=no", unit.name).stderr
    assert "exposure level for scribed.service: 0.5" in box.do("systemd-analyze", "security", unit.name)
    take_gpus_away(box)

    assert "Kept: /srv/scribed" in box.uninstall()
    for gone in ("/opt/scribed", "/usr/local/bin/scribed", "/usr/local/lib/systemd/system/scribed.service"):
        assert not box.path(gone).exists()
    assert "scribed.service" not in box.do("systemctl", "list-unit-files")
    assert box.path(unit.config).read_text() == config
    assert unit.path("outbox", "kept.json").exists()
    assert unit.path("processed", "kept.wav").exists()
    assert unit.path("state", "journal.sqlite3").exists()
    box.do("id", "scribed")

    box.do("make", "-C", "/run/source", "uninstall")  # nothing left to remove: no error
    box.install()
    assert box.path(unit.config).read_text() == config
    assert not box.path(f"/etc/systemd/system/{unit.name}.d/50-gpus.conf").exists()
    unit.start()
    assert unit.status()["recent"][0]["name"] == "kept.wav"


def pretend_gpus(box: Box) -> None:
    """Create the device nodes of a machine with three GPUs, the last one with a MIG partition."""
    box.do("mount", "-t", "tmpfs", "tmpfs", "/proc/driver")
    box.write("/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module\n")
    box.do("mkdir", "-p", "/dev/nvidia-caps")
    for minor, node in enumerate((*GPUS, "/dev/nvidiactl")):
        box.do("mknod", node, "c", "195", str(minor))


def take_gpus_away(box: Box) -> None:
    box.do("umount", "/proc/driver")
    box.do("rm", "-r", "/dev/nvidia-caps", "/dev/nvidiactl", *GPUS[:-1])


def test_check_reports_whether_the_installation_is_ready(unit: Unit) -> None:
    box = unit.box
    unit.start()
    box.do("systemctl", "enable", unit.name)
    output = box.do("scribed", "check", "--deep", timeout_s=400)
    for line in (
        "scribed.service: active, enabled",
        "scribed.service: exposure 0.5",
        "network: the service has none",
        "sub-folders: the service can use those that members make",
        "group scribed: dora, rita",
        "model: digest",
        "test: demo on cpu as float32 heard",
    ):
        assert re.search(f"^ok +{re.escape(line)}", output, re.MULTILINE), output
    assert "fault" not in output
    unit.drop_in("[Service]\nPrivateNetwork=no\nProtectSystem=no\n")
    unit.configure(folders={"inbox": "/opt/inbox"})
    box.do("install", "-d", "-o", "scribed", "-g", "scribed", "-m", "2770", "/opt/inbox")
    spoilt = box.run("scribed", "check")
    assert spoilt.returncode == 77
    assert "fault   scribed.service: may not write to the inbox /opt/inbox" in spoilt.stdout
    assert "exposure 0.5" not in spoilt.stdout
    box.do("systemctl", "disable", unit.name)


def test_destdir_install_writes_only_below_destdir(box: Box) -> None:
    places = ("/etc/systemd/system", "/usr/lib/systemd/system", "/usr/lib/sysusers.d", "/usr/lib/tmpfiles.d")
    before = box.do("find", *places)
    box.install("/run/package")
    assert box.do("find", *places) == before
    script = box.path("/run/package/opt/scribed/venv/bin/scribed").read_text()
    assert script.startswith("#!/opt/scribed/venv/bin/python")
    assert "/run/package" not in script + box.path("/run/package/opt/scribed/venv/pyvenv.cfg").read_text()
    files = box.do("find", "/run/package", "-not", "-path", "/run/package/opt/scribed/venv/*", "-not", "-type", "d")
    assert {line.removeprefix("/run/package/") for line in files.splitlines()} >= {
        "usr/lib/systemd/system/scribed.service",
        "usr/lib/systemd/system/scribed@.service",
        "usr/lib/sysusers.d/scribed.conf",
        "usr/lib/tmpfiles.d/scribed.conf",
        "usr/local/bin/scribed",
        "opt/scribed/share/config.example.yaml",
        "opt/scribed/share/examples/folders.conf",
    }


def test_folders_are_closed_to_everyone_outside_the_group(box: Box) -> None:
    assert box.do("stat", "--format=%U:%G:%a", "/srv/scribed").strip() == "scribed:scribed:750"
    for folder in ("/inbox", "/outbox", "/processed", "/failed"):
        assert box.do("stat", "--format=%U:%G:%a", f"/srv/scribed{folder}").strip() == "scribed:scribed:2770"


def test_example_drop_ins_write_log_file_and_metrics(unit: Unit) -> None:
    box, log, figures = unit.box, "/var/log/scribed/scribed.log", "/var/lib/prometheus/node-exporter/scribed.prom"
    # As the comments in metrics.conf say it.
    box.do("install", "-d", "/var/lib/prometheus/node-exporter")
    box.do("chgrp", "scribed", "/var/lib/prometheus/node-exporter")
    box.do("chmod", "2775", "/var/lib/prometheus/node-exporter")
    unit.drop_in(box.path("/opt/scribed/share/examples/metrics.conf").read_text())
    unit.configure(logging={"file": log}, metrics={"textfile": figures})
    box.do("install", "-d", "-o", "scribed", "-g", "scribed", "-m", "0750", "/var/log/scribed")
    box.write(log, "x" * 9_999_900 + "\n")  # nearly full: 10 MB
    box.do("chown", "scribed:scribed", log)
    unit.start()
    wait_until(lambda: box.path(f"{log}.1").exists(), "the full file is put aside")
    events = [json.loads(line)["event"] for line in box.path(log).read_text().splitlines()]
    assert "engine.loaded" in events
    assert box.path(log).stat().st_mode & 0o777 == 0o640
    wait_until(box.path(figures).exists, "the figures are written")
    assert "scribed_up 1" in box.do("cat", figures, user="stranger")
    unit.stop()
    assert "scribed_up 0" in box.do("cat", figures, user="stranger")
