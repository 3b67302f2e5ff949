"""`scribed transcribe` and `scribed prepare`: named files, which stay where they are."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from daemon import audio_export as listening
from daemon import engine, logs
from daemon.cli import config_option as settings
from daemon.config import RecordingSettings
from daemon.display import printable
from daemon.documents import FORMATS, render
from daemon.errors import ExitCode, JobError, NoPermissionError, StoppedError, UsageError
from daemon.frontend import FrontEnd
from daemon.host import files
from daemon.pipeline import Forgetful, Recording, RunControl, transcribe
from daemon.spool.names import new_job_id, outcome_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from daemon.config import Config
    from daemon.engine import Engine
    from daemon.pipeline import Progress as Done
    from daemon.transcript import Transcript


def transcribe_files(recordings: Sequence[Path], outbox: Path | None, formats: str | None, option: Path | None) -> int:
    """Transcribe files one after the other; text goes to stdout where no folder is named."""
    wanted = _choose_formats(formats, has_folder=outbox is not None)
    config = _with_usable_cache(settings.read(option)[0])
    logs.configure_command(config.logging)
    for recording in recordings:
        if not recording.exists():
            raise UsageError(f"There is no file {recording}.")
    if outbox is not None:
        with files.explained(f"{outbox} cannot be used", outbox.parent):
            outbox.mkdir(parents=True, exist_ok=True)
    raise_if_stopped = _stop_on_signals()
    console = Console(stderr=True, highlight=False)
    with console.status("Loading the model") as status:
        model = engine.load(config.model, config.folders.cache, status.update)
    front_end = FrontEnd(config.folders.cache, n_decoders=1)
    n_failed = 0
    try:
        for recording in recordings:
            try:
                transcript = _transcribe_one(
                    recording, config, front_end, model, raise_if_stopped=raise_if_stopped, console=console
                )
            except (JobError, NoPermissionError) as error:
                console.print(f"{printable(str(recording))}: {error}", style="red", soft_wrap=True, markup=False)
                n_failed += 1
                continue
            documents = render(transcript, wanted or config.output.formats, has_timestamps=config.output.timestamps)
            if outbox is None:
                _print_documents(recording, documents, is_one=len(recordings) == 1)
            else:
                _put_down(outbox, recording.name, documents)
    finally:
        front_end.close()
        model.close()
    return ExitCode.SOME_FAILED if n_failed else ExitCode.OK


def prepare(recording: Path, output: Path, option: Path | None, *, is_json: bool) -> int:
    """Write the sound as the model hears it; with `is_json` print the receipt."""
    if not recording.exists():
        raise UsageError(f"There is no file {recording}.")
    listening.check_target(output)
    config = _with_usable_cache(settings.read(option)[0])
    logs.configure_command(config.logging)
    front_end = FrontEnd(config.folders.cache, n_decoders=1)
    try:
        prepared = front_end.prepare(recording, config.preprocess, "off", _stop_on_signals())
    finally:
        front_end.close()
    with prepared.waveform as waveform, files.explained(f"{output} cannot be written", output.absolute().parent):
        listening.write(waveform, output)
    if is_json:
        facts = asdict(prepared.receipt)
        facts["complete"] = facts.pop("is_complete")
        sys.stdout.write(json.dumps(facts, ensure_ascii=False, indent=2) + "\n")
    return ExitCode.OK


def _choose_formats(formats: str | None, *, has_folder: bool) -> tuple[str, ...]:
    if formats is None:
        return () if has_folder else ("txt",)
    wanted = tuple(dict.fromkeys(name.strip().lower() for name in formats.split(",") if name.strip()))
    unknown = [name for name in wanted if name not in FORMATS]
    if unknown or not wanted:
        raise UsageError(f"Unknown format {', '.join(unknown) or formats!r}.", f"Choose among {', '.join(FORMATS)}.")
    if not has_folder and len(wanted) > 1:
        raise UsageError("Several formats need a folder to go to.", "Name it with -o DIR.")
    return wanted


def _with_usable_cache(config: Config) -> Config:
    """Return a configuration whose cache is the caller's: what others leave in the service's it could not write."""
    with contextlib.suppress(OSError):
        if config.folders.cache.stat().st_uid == os.geteuid():
            return config
    folders = config.folders.model_copy(update={"cache": _own_cache()})
    return config.model_copy(update={"folders": folders})


def _own_cache() -> Path:
    """Return a folder that nobody else can write, for it holds code: compiled kernels."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "scribed"
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(cache, os.W_OK | os.X_OK) and cache.stat().st_uid == os.geteuid():
            return cache
    except (OSError, RuntimeError):  # the latter where nobody knows a home
        pass
    cache = Path(tempfile.mkdtemp(prefix="scribed-"))
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    return cache


def _stop_on_signals() -> Callable[[], None]:
    """Return a function that raises StoppedError to end the work after Ctrl-C or SIGTERM."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        seen.append(number)

    signal.signal(signal.SIGINT, note)
    signal.signal(signal.SIGTERM, note)

    def raise_if_stopped() -> None:
        if seen:
            raise StoppedError("Interrupted.")

    return raise_if_stopped


def _transcribe_one(
    path: Path,
    config: Config,
    front_end: FrontEnd,
    model: Engine,
    *,
    raise_if_stopped: Callable[[], None],
    console: Console,
) -> Transcript:
    name = printable(path.name)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=1.0)

        def show(done: Done) -> None:
            bar.update(task, completed=done.done)

        recording = Recording(new_job_id(), path, path.name, RecordingSettings.of(config))
        return transcribe(recording, config, front_end, model, RunControl(raise_if_stopped, show, Forgetful()))


def _print_documents(recording: Path, documents: dict[str, bytes], *, is_one: bool) -> None:
    if not is_one:
        sys.stdout.write(f"== {printable(recording.name)} ==\n")
    for text in documents.values():
        sys.stdout.write(text.decode())
    sys.stdout.flush()


def _put_down(outbox: Path, name: str, documents: dict[str, bytes]) -> None:
    """Write the documents under the first stem that no file in the folder has."""
    umask = os.umask(0)
    os.umask(umask)
    with files.explained("The transcript cannot be written", outbox):
        for stem, _ in outcome_names(name):
            targets = {outbox / f"{stem}.{ending}": text for ending, text in documents.items()}
            if not any(target.exists() or target.is_symlink() for target in targets):
                break
        for target, text in targets.items():
            files.publish(files.write_temporary(target, text, 0o666 & ~umask), target)
            sys.stderr.write(f"{printable(str(target))}\n")
