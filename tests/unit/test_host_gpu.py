"""GPUs as the machine shows them, in folders and programs made for the test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from daemon.host import gpu

if TYPE_CHECKING:
    from pathlib import Path


def install_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_machine_without_gpu(tmp_path: Path) -> None:
    assert not gpu.is_present(tmp_path)
    assert gpu.read_driver(tmp_path) is None
    assert list(gpu.signs(tmp_path)) == []


@pytest.mark.parametrize("path", ["dev/nvidia0", "proc/driver/nvidia/gpus/0000:01:00.0"])
def test_gpu_is_present_by_its_device_or_its_driver(path: str, tmp_path: Path) -> None:
    (tmp_path / path).mkdir(parents=True)
    assert gpu.is_present(tmp_path)


def test_control_device_alone_is_not_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "dev/nvidiactl").mkdir(parents=True)
    assert not gpu.is_present(tmp_path)


def test_signs_change_with_driver_and_devices(tmp_path: Path) -> None:
    (tmp_path / "dev/nvidia0").mkdir(parents=True)
    before = list(gpu.signs(tmp_path))
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version: 1\n")
    with_driver = list(gpu.signs(tmp_path))
    (tmp_path / "dev/nvidia1").mkdir()
    assert len({tuple(before), tuple(with_driver), tuple(gpu.signs(tmp_path))}) == 3


def test_gpus_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "NVIDIA H100, 570.1, 70000 MiB, 81559 MiB\\nNVIDIA L4, 570.1, 20000 MiB, 23034 MiB"
    install_smi(tmp_path, monkeypatch, f"printf '{lines}\\n'")
    gpus = gpu.query()
    assert gpus is not None
    assert [(one.name, one.free) for one in gpus] == [("NVIDIA H100", "70000 MiB"), ("NVIDIA L4", "20000 MiB")]


def test_failure_of_nvidia_smi_carries_its_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_smi(tmp_path, monkeypatch, "echo 'Driver/library version mismatch' >&2; exit 18")
    with pytest.raises(gpu.NvidiaSmiError, match="Driver/library version mismatch"):
        gpu.query()


def test_missing_nvidia_smi_is_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.query() is None
