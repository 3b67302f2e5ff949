"""Signals that arrive while `scribed run` starts."""

from __future__ import annotations

import subprocess
import sys

_FIRST_MOMENT = """
import signal, sys
sys.argv = ["scribed", "run"]
import daemon.cli
print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, "typer" in sys.modules)
"""
_HANDLERS = """
import signal, sys
from daemon.cli import run
signals = run._Signals()
signal.raise_signal(signal.SIGHUP)
print(signals.flags.is_reload_wanted.is_set(), signals.flags.is_stopping.is_set())
signal.raise_signal(signal.SIGTERM)
print(signals.flags.is_stopping.is_set(), signals.is_interrupted)
signal.raise_signal(signal.SIGINT)
print(signals.is_interrupted)
print([name for name in ("torch", "numpy", "pydantic", "structlog", "daemon.engine") if name in sys.modules])
"""


def run_python(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_hangup_is_ignored_before_anything_slow_is_imported() -> None:
    assert run_python(_FIRST_MOMENT) == ["True False"]


def test_signals_are_noted_before_anything_slow_is_imported() -> None:
    assert run_python(_HANDLERS) == ["True False", "True False", "True", "[]"]
