"""A few power cuts; `make faults` makes one at every step."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.faults.powercut import why_no_disk
from tests.faults.steps import why_not

_EVERY = 25


def test_finished_recordings_survive_a_power_cut() -> None:
    if reason := why_not() or why_no_disk():
        pytest.skip(f"the power cut cannot be tried: {reason}")
    words = ["-m", "tests.faults.powercut", "--every", str(_EVERY)]
    ended = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=280, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "as it has to" in ended.stdout
