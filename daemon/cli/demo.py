"""`scribed demo`: the real daemon on sample recordings, with the embedded demo model."""

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
from typing import TYPE_CHECKING, Any, Final

import yaml
from rich.console import Console
from rich.text import Text

from daemon import configfile
from daemon.cli import config_option, outputs
from daemon.display import escape
from daemon.errors import CannotWriteError, ExitCode, ScribedError
from daemon.host import files
from daemon.text import count_word_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOLDERS: Final = configfile.SHARED_FOLDERS + configfile.OWN_FOLDERS
_CONFIG: Final = "config.yaml"
_LOG: Final = "scribed.log"
# The first line of that configuration. Without it, --force deletes nothing in the folder.
_MARK: Final = "# Written by `scribed demo`; the next `scribed demo --force` deletes this folder's contents.\n"
_TIMEOUT_S: Final = 300.0
_POLL_S: Final = 0.2
_STOP_S: Final = 15.0


def demo(into: Path | None, option: Path | None, *, is_forced: bool) -> int:
    """Start the daemon on folders of its own, drop the sample recordings, and show the transcripts.

    Args:
        into: the folder to work in, None for a temporary one.
        option: a configuration file whose model is used; None for the demo model on the CPU.
        is_forced: whether folders and files of an earlier demo in `into` are deleted.
    """
    console = Console(highlight=False, soft_wrap=True)
    root = into.absolute() if into is not None else Path(tempfile.mkdtemp(prefix="scribed-demo-"))
    config = _prepare(root, option, is_forced=is_forced)
    samples = resources.files("daemon") / "demo" / "recordings"
    references: dict[str, str] = json.loads((samples / "references.json").read_text())
    shown = escape(str(root))
    console.print(Text(f"Inbox   {shown}/inbox\nOutbox  {shown}/outbox"))
    command = [sys.executable, "-m", "daemon", "run", "--config", str(config)]
    with (root / _LOG).open("wb") as log_file:
        process = subprocess.Popen(command, stdout=log_file, stderr=log_file)  # noqa: S603  # our own interpreter and module
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
        raise ScribedError(f"Only {n_done} of {len(references)} recordings were transcribed.", f"See {root / _LOG}.")
    console.print(Text(f"\nThe transcripts are in {shown}/outbox, the recordings in {shown}/processed."))
    console.print("The demo model knows 174 words spoken by synthetic voices; `scribed fetch-model` gets")
    console.print(f"a real model. The daemon's log is {_LOG} in the same folder.")
    page = root / "outbox" / f"{_stem(max(references, key=lambda name: len(references[name])))}.html"
    console.print(
        Text(f"\nTo read, hear and correct the longest of them, open this page in a browser:\n{page.as_uri()}")
    )
    return ExitCode.OK


def _prepare(root: Path, option: Path | None, *, is_forced: bool) -> Path:
    """Make empty folders and a configuration, and return the path of that file."""
    model: dict[str, Any] = {"path": configfile.DEMO_MODEL, "device": "cpu"}
    source = None
    if option is not None:
        config, source = config_option.read(option)
        model = config.model.model_dump(mode="json")
    path = root / _CONFIG
    _make_room(root, source, is_forced=is_forced)
    values = {
        "folders": {name: str(root / name) for name in _FOLDERS},
        "watch": {"settle_s": 1, "scan_s": 1},
        "model": model,
        "output": {"formats": ["txt", "json", "srt", "html"]},
    }
    with files.explained(f"{escape(str(root))} cannot be used", root.parent):
        for name in _FOLDERS:
            (root / name).mkdir(parents=True)
        path.write_text(_MARK + yaml.safe_dump(values, sort_keys=False))
    return path


def _make_room(root: Path, source: Path | None, *, is_forced: bool) -> None:
    """Delete what an earlier demo left, if that is wanted; nothing but a demo's folders is ever deleted.

    Raises:
        CannotWriteError: there is something that may not be deleted.
    """
    path, shown = root / _CONFIG, escape(str(root))
    there = [name for name in (*_FOLDERS, _CONFIG, _LOG) if os.path.lexists(root / name)]
    if not there:
        return
    if not is_forced:
        raise CannotWriteError(
            f"{shown} already has {there[0]}.", "Choose another folder, or use --force to delete its contents."
        )
    if source is not None:
        outputs.refuse_taken([path], [source.stat()], is_forced=True)
    if not _is_of_a_demo(root):
        raise CannotWriteError(
            f"{shown} was not made by `scribed demo`: nothing in it is deleted.", "Choose another folder."
        )
    with files.explained(f"{shown} cannot be cleared", root):
        for name in there:
            if (root / name).is_dir() and not (root / name).is_symlink():
                shutil.rmtree(root / name)
            else:
                (root / name).unlink()


def _is_of_a_demo(root: Path) -> bool:
    """Return whether a folder's configuration is one that this command wrote."""
    try:
        with (root / _CONFIG).open() as file:
            return file.readline() == _MARK
    except (OSError, UnicodeDecodeError):
        return False


def _drop(sample: Path, inbox: Path) -> None:
    """Copy a recording as recommended: under a temporary name, then renamed."""
    arriving = inbox / f"{sample.name}.part"
    shutil.copyfile(sample, arriving)
    arriving.rename(inbox / sample.name)


def _deliveries(root: Path, names: list[str], process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Yield recordings as they are delivered, until all are, the daemon ends, or the time is up."""
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
        pause.wait(_POLL_S)


def _print(console: Console, root: Path, name: str, reference: str) -> None:
    document: dict[str, Any] = json.loads((root / "outbox" / f"{_stem(name)}.json").read_text())
    n_errors, n_words = count_word_errors(reference, document["text"])
    length, speed = document["audio"]["duration_s"], document["processing"]["rtfx"]
    console.print()
    console.print(Text(f"{name}: {length:.0f} s of audio, {speed:.0f} x real time", style="bold"))
    console.print(Text(document["text"]))
    console.print(Text(f"word error rate {n_errors / n_words:.1%} ({n_errors} of {n_words} words)", style="green"))


def _stem(name: str) -> str:
    """Return what the daemon calls the documents of a recording."""
    return os.path.splitext(name)[0]  # noqa: PTH122  # as the daemon does


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
