"""`scribed eval`: how well this installation reads recordings whose words are known."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from daemon import checkpoint, engine, logs
from daemon.cli import command, config_option, eval_view, outputs
from daemon.config import RecordingSettings, change
from daemon.display import escape
from daemon.errors import (
    EngineUnavailableError,
    ExitCode,
    JobError,
    NoPermissionError,
    ScribedError,
    StoppedError,
    UsageError,
)
from daemon.evaluation import (
    NORMALIZATIONS,
    ChunkFiles,
    StoredCurve,
    curve_path,
    find_references,
    make_report,
    render_page,
    score,
    write_curve,
)
from daemon.frontend import FrontEnd
from daemon.host import gpu
from daemon.host.clock import now
from daemon.host.privileges import become_owner
from daemon.pipeline import Recording, RunControl
from daemon.pipeline import transcribe as transcribe_recording
from daemon.spool.names import new_job_id
from daemon.status import read_status
from daemon.transcript import Calibration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Any

    from daemon.config import Config, ModelSettings
    from daemon.engine import Engine
    from daemon.evaluation import Reference, Report, Score
    from daemon.pipeline import Progress as PipelineProgress
    from daemon.transcript import ModelIdentity, Transcript

BASELINE: Final = "as configured"
_PAGE_UMASK: Final = 0o027  # the page has every text; it may go to a folder that all can read, such as /tmp


def evaluate(
    words: Sequence[str],
    compare: Sequence[str],
    page: Path | None,
    normalization: str,
    option: Path | None,
    *,
    is_json: bool,
    is_forced: bool,
    is_calibrating: bool,
) -> int:
    """Transcribe recordings whose words are known, and report the errors.

    Args:
        words: as typed: folders, recordings, reference texts, corrected JSON documents, tables.
        compare: changes to the configuration, KEY=VALUE, each of which is tried on the same recordings.
        page: the HTML file to write, None for none.
        normalization: a key of NORMALIZATIONS.
        option: the configuration file, None for the usual places.
        is_json: whether to print JSON instead of tables.
        is_forced: whether an existing page may be overwritten.
        is_calibrating: whether to store how far the model's confidence can be trusted, for later documents.
    """
    if normalization not in NORMALIZATIONS:
        raise UsageError(f"Unknown normalization {escape(normalization)}.", f"Choose {' or '.join(NORMALIZATIONS)}.")
    config = config_option.read(option)[0]
    arms = {BASELINE: config} | {assignment: change(config, assignment) for assignment in compare}
    # The files are found and the page is tried out as the user who then reads and writes them.
    become_owner(config.folders.state)
    references = find_references(words, config.folders.processed)
    if page is not None:
        _refuse_page(page, references, is_forced=is_forced)
    for arm in arms.values():
        refuse_busy_gpu(config.folders.state, arm.model)
        checkpoint.inspect(checkpoint.find_folder(arm.model.path))  # before hours of work with another model
    config = command.with_usable_cache(config)
    logs.configure_command(config.logging)
    texts = ChunkFiles(config.folders.cache)
    run = _Measurement(references, normalization, config.folders.cache, texts, command.stop_on_signals())
    try:
        results = [(name, *run.transcribe_all(name, arm)) for name, arm in arms.items()]
    except StoppedError:
        raise StoppedError("Interrupted.", "Run the same command again: it goes on where it stopped.") from None
    for name, reason in run.failures.items():
        logs.write_error(f"{name}: {reason}")
    complete = [index for index, name in enumerate(run.names) if name not in run.failures]
    if complete:
        measured = [
            (name, model, [one for one in scores if one.name not in run.failures]) for name, model, scores in results
        ]
        report = make_report(measured, run.failures, normalization, config.transcribe.hotwords)
        if page is not None:
            os.umask(_PAGE_UMASK)
            outputs.write_file(page, render_page(report).encode(), is_forced=is_forced)
        if is_json:
            outputs.print_json(report.as_dict())
        else:
            eval_view.show(report)
        if is_calibrating:
            _store_calibration(config.folders.state, report)
    texts.erase()
    return ExitCode.SOME_FAILED if run.failures else ExitCode.OK


def refuse_busy_gpu(state: Path, model: ModelSettings) -> None:
    """Make sure that the running daemon does not occupy the GPU that this model needs.

    Raises:
        EngineUnavailableError: it does.
    """
    status: dict[str, Any] = {"state": "stopped"}
    with suppress(ScribedError):
        status = read_status(state)
    if status["state"] == "stopped" or model.device == "cpu":
        return
    held = status["model"]["device"]  # None while the model loads
    if held is None:
        held = "cuda" if gpu.is_present() else "cpu"
    is_other = model.device.startswith("cuda:") and held.startswith("cuda:") and held != model.device
    if held.startswith("cuda") and not is_other:
        raise EngineUnavailableError(
            f"The scribed service is running and its model occupies the GPU ({held}).",
            "Stop it for the measurement: `systemctl stop scribed`; recordings wait in the inbox. Then start it again.",
        )


def _store_calibration(state: Path, report: Report) -> None:
    """Store the curve of the model's confidence, if there is one and this user may, and say so."""
    fit, model = report.calibration, report.arms[0].model
    if fit.curve is None:
        return
    try:
        is_own = state.stat().st_uid == os.geteuid()
    except OSError:
        is_own = False
    if not is_own:
        sys.stderr.write(
            f"The calibration is not stored: {escape(str(state))} is not a folder of this user. "
            "Run `scribed eval` as root or as the service's user to have it in documents.\n"
        )
        return
    write_curve(state, model, StoredCurve(fit.curve, Calibration(now(), fit.n_words, fit.n_recordings)))
    sys.stderr.write(
        f"Documents show calibrated confidence from now on: {escape(str(curve_path(state, model)))}. "
        "Delete this file to have the model's own again.\n"
    )


class _Measurement:
    """The recordings, which go through the pipeline once for each configuration.

    Attributes:
        failures: reason by the name of each recording that could not be transcribed.
    """

    def __init__(
        self,
        references: Sequence[Reference],
        normalization: str,
        cache: Path,
        texts: ChunkFiles,
        raise_if_stopped: Callable[[], None],
    ) -> None:
        self._references = references
        self._normalization = normalization
        self._cache = cache
        self._texts = texts
        self._raise_if_stopped = raise_if_stopped
        self._console = Console(stderr=True, highlight=False)
        self.names = _names_of(references)
        self.failures: dict[str, str] = {}

    def transcribe_all(self, arm: str, config: Config) -> tuple[ModelIdentity, list[Score]]:
        """Return the model and the score of each recording that was transcribed."""
        with self._console.status("Loading the model") as status:
            model = engine.load(config.model, self._cache, status.update)
        front_end = FrontEnd(self._cache, n_processes=1)
        scores = []
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
        try:
            with Progress(*columns, console=self._console, disable=not self._console.is_terminal) as bar:
                task = bar.add_task(escape(arm), total=len(self.names))
                for done, (name, reference) in enumerate(zip(self.names, self._references, strict=True)):
                    bar.update(task, completed=done, description=f"{escape(arm)}: {name}")

                    def show(progress: PipelineProgress, done: int = done) -> None:
                        bar.update(task, completed=done + progress.done)

                    try:
                        transcript = self._transcribe(reference.audio, config, front_end, model, show)
                    except (JobError, NoPermissionError) as error:
                        self.failures[name] = escape(str(error))
                    else:
                        scores.append(score(name, reference.text, transcript.segments, self._normalization))
                bar.update(task, completed=len(self.names), description=escape(arm))
            return model.identity, scores
        finally:
            front_end.close()
            model.close()

    def _transcribe(
        self,
        audio: Path,
        config: Config,
        front_end: FrontEnd,
        model: Engine,
        show: Callable[[PipelineProgress], None],
    ) -> Transcript:
        work = Recording(new_job_id(), audio, audio.name, RecordingSettings.of(config))
        return transcribe_recording(
            work, config, front_end, model, RunControl(self._raise_if_stopped, show, self._texts)
        )


def _names_of(references: Sequence[Reference]) -> list[str]:
    """Return the paths of the recordings below the folder that all share, harmless to a terminal."""
    root = os.path.commonpath([reference.audio.parent for reference in references])
    return [escape(str(reference.audio.relative_to(root))) for reference in references]


def _refuse_page(page: Path, references: Sequence[Reference], *, is_forced: bool) -> None:
    """Make sure before the work that the page can be written."""
    inputs = {path for reference in references for path in (reference.audio, *reference.sources)}
    outputs.refuse_taken([page], [path.stat() for path in inputs], is_forced=is_forced)
    folder = page.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"The folder {escape(str(folder))} does not exist.", "Create it, or choose another name.")
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise NoPermissionError(
            f"The user who runs this may not write into {escape(str(folder))}.",
            "Choose a folder that the service's user can write, such as /tmp.",
        )
