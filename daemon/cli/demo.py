"""`scribed demo`: the real daemon, real sound, real words, with the embedded demo model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.text import Text

from daemon.cli import config_option as settings
from daemon.errors import ExitCode, ScribedError
from daemon.text import count_word_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOLDERS = ("inbox", "outbox", "processed", "failed", "state", "cache")
_TIMEOUT_S = 300.0
_LOOK_S = 0.2
_STOP_S = 15.0


def demo(into: Path | None, option: Path | None) -> int:
    """Start the daemon on folders of its own, drop the sample recordings, show what comes out."""
    console = Console(highlight=False, soft_wrap=True)
    root = into.absolute() if into is not None else Path(tempfile.mkdtemp(prefix="scribed-demo-"))
    config = _prepare(root, option)
    samples = resources.files("daemon") / "demo" / "recordings"
    references: dict[str, str] = json.loads((samples / "references.json").read_text())
    console.print(f"Inbox   {root / 'inbox'}\nOutbox  {root / 'outbox'}")
    command = [sys.executable, "-m", "daemon", "run", "--config", str(config)]
    with (root / "scribed.log").open("wb") as log_file:
        process = subprocess.Popen(command, stdout=log_file, stderr=log_file)  # noqa: S603, our own interpreter and module
        try:
            for name in references:
                _drop(Path(str(samples / name)), root / "inbox")
                console.print(f"dropped {name}")
            n_done = 0
            for name in _deliveries(root, list(references), process):
                _print(console, root, name, references[name])
                n_done += 1
        finally:
            _stop(process)
    if n_done < len(references):
        raise ScribedError(f"Only {n_done} of {len(references)} recordings came out.", f"Look into {root}/scribed.log.")
    console.print(f"\nThe transcripts are in {root / 'outbox'}, the recordings in {root / 'processed'}.")
    console.print("The demo model knows some hundred words of a computer voice; a real one is fetched with")
    console.print("`scribed fetch-model`. The log of the daemon is scribed.log beside these folders.")
    return ExitCode.OK


def _prepare(root: Path, option: Path | None) -> Path:
    """Make empty folders and a configuration, and return that file; `option` names one whose model to take."""
    model: dict[str, Any] = {"path": "demo", "device": "cpu"}
    if option is not None:
        model = settings.read(option)[0].model.model_dump(mode="json")
    for name in _FOLDERS:
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir(parents=True)
    values = {
        "folders": {name: str(root / name) for name in _FOLDERS},
        "watch": {"settle_s": 1, "scan_s": 1},
        "model": model,
        "output": {"formats": ["txt", "json", "srt"]},
    }
    path = root / "config.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def _drop(sample: Path, inbox: Path) -> None:
    """Copy a recording the careful way: under a temporary name, then renamed."""
    arriving = inbox / f"{sample.name}.part"
    shutil.copyfile(sample, arriving)
    arriving.rename(inbox / sample.name)


def _deliveries(root: Path, names: list[str], process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Yield recordings as they come out, until all have, the daemon ends, or the time is up."""
    waiting = list(names)
    end_s = time.monotonic() + _TIMEOUT_S
    pause = threading.Event()
    while waiting and time.monotonic() < end_s and process.poll() is None:
        for name in list(waiting):
            if (root / "processed" / name).exists():
                waiting.remove(name)
                yield name
            elif (root / "failed" / name).exists():
                waiting.remove(name)
        pause.wait(_LOOK_S)


def _print(console: Console, root: Path, name: str, reference: str) -> None:
    stem = os.path.splitext(name)[0]  # noqa: PTH122, as the daemon names its documents
    document: dict[str, Any] = json.loads((root / "outbox" / f"{stem}.json").read_text())
    n_errors, n_words = count_word_errors(reference, document["text"])
    length, speed = document["audio"]["duration_s"], document["processing"]["rtfx"]
    console.print()
    console.print(Text(f"{name}: {length:.0f} s of sound, {speed:.0f} times real time", style="bold"))
    console.print(Text(document["text"]))
    console.print(Text(f"word error rate {n_errors / n_words:.1%} ({n_errors} of {n_words} words)", style="green"))


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
