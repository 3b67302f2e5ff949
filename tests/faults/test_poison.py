"""A short run of poison and kills; `make faults` has all of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.faults.steps import why_not


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can be")
def test_poison_moves_to_failed_and_all_other_recordings_are_delivered() -> None:
    command = [sys.executable, "-m", "tests.faults.poison", "--short"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "poison: 6 delivered, 3 in failed with 3 reasons" in ended.stdout
    assert "outside kills: 5 delivered" in ended.stdout
