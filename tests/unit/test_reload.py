"""SIGHUP: what a broken configuration does, and what the status says about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from daemon import config as configuration
from daemon import logs
from daemon.config import Settings
from daemon.service.reload import reload_settings
from daemon.status.faults import Faults

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _logs_closed() -> Iterator[None]:
    yield
    logs.close()


def test_broken_file_changes_nothing_and_the_remedy_names_its_first_fault(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("watch:\n  scan_s: 3\n")
    settings, faults = Settings(configuration.load(path)), Faults()
    path.write_text("watch:\n  scan_s: never\nretry: {max_attempts: 0}\n")
    reload_settings(settings, path, faults)
    assert settings.current.watch.scan_s == 3
    (fault,) = faults.standing()
    assert "watch.scan_s (line 2): invalid value 'never'" in fault.remedy
    assert "1 more" in fault.remedy
    path.write_text("watch:\n  scan_s: 4\n")
    reload_settings(settings, path, faults)
    assert settings.current.watch.scan_s == 4
    assert faults.standing() == ()


def test_log_file_that_can_no_longer_be_opened_does_not_end_the_service(tmp_path: Path) -> None:
    folder, path = tmp_path / "log", tmp_path / "config.yaml"
    folder.mkdir()
    path.write_text("logging: {file: log/scribed.log}\n")
    settings, faults = Settings(configuration.load(path)), Faults()
    folder.rmdir()
    path.write_text("logging: {file: log/scribed.log}\nwatch: {scan_s: 3}\n")
    reload_settings(settings, path, faults)
    assert settings.current.watch.scan_s == 2
    (fault,) = faults.standing()
    assert "scribed.log cannot be opened" in fault.remedy
