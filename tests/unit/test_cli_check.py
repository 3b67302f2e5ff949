"""Single checks, on folders and limits made for the test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from daemon.cli.check import kernel
from daemon.cli.check.finding import Installation
from daemon.config import Config, Folders, Watch
from daemon.host import sandbox

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    folders = {name: tmp_path / name for name in Folders.model_fields}
    for folder in folders.values():
        folder.mkdir()
    return Installation(Config(folders=Folders(**folders)), None)


def write_limits(root: Path, **limits: int) -> Path:
    for name, value in limits.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return root


def test_inotify_limits_that_are_high_enough_are_ok(installation: Installation, tmp_path: Path) -> None:
    root = write_limits(tmp_path / "sys", fs__inotify__max_user_watches=8192, fs__inotify__max_user_instances=128)
    assert [found.level for found in kernel.check_inotify(installation, root)] == ["ok"]


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("fs__inotify__max_user_watches", 30),
        ("user__max_inotify_watches", 8191),
        ("fs__inotify__max_user_instances", 10),
        ("user__max_inotify_instances", 0),
    ],
)
def test_low_inotify_limit_is_named_with_the_command_that_raises_it(
    name: str, limit: int, installation: Installation, tmp_path: Path
) -> None:
    root = write_limits(tmp_path / "sys", **{name: limit})
    (found,) = kernel.check_inotify(installation, root)
    sysctl = name.replace("__", ".")
    assert found.level == "warning"
    assert f"{sysctl} is {limit}" in found.what
    assert f"{sysctl}=" in found.remedy


def test_inbox_with_more_folders_than_half_the_watches_is_a_warning(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "_COUNT_S", 60.0)  # however busy the machine
    for number in range(20):
        (installation.config.folders.inbox / f"{number}" / "sub").mkdir(parents=True)
    root = write_limits(tmp_path / "sys", fs__inotify__max_user_watches=8192)
    assert [found.level for found in kernel.check_inotify(installation, root)] == ["ok"]
    for number in range(4100):
        (installation.config.folders.inbox / "0" / f"{number}").mkdir()
    (found,) = kernel.check_inotify(installation, root)
    assert "the inbox has 4141 folders" in found.what


def test_polled_inbox_needs_no_watches(installation: Installation, tmp_path: Path) -> None:
    polled = installation.config.model_copy(update={"watch": Watch(mode="poll")})
    root = write_limits(tmp_path / "sys", fs__inotify__max_user_watches=0)
    assert list(kernel.check_inotify(Installation(polled, None), root)) == []


def test_missing_confinement_of_decoders_is_a_warning(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [found.level for found in kernel.check_confinement(installation)] in (["ok"], ["warning"], ["warning"] * 2)
    missing = (sandbox.Missing("This kernel has no Landlock.", "Use Linux 5.13 or newer."),)
    monkeypatch.setattr(sandbox, "find_missing", lambda: missing)
    (found,) = kernel.check_confinement(installation)
    assert (found.level, found.what) == ("warning", "decoder: This kernel has no Landlock.")
