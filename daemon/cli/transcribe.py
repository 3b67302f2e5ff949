"""`scribed transcribe`: transcribe files in place."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from daemon import engine, logs
from daemon.cli import command, config_option, inputs, outputs
from daemon.cli.formats import choose_formats, make_folder
from daemon.config import RecordingSettings
from daemon.display import escape
from daemon.documents import LISTENING_COPIES, Sound, render
from daemon.errors import ExitCode, JobError, NoPermissionError, UsageError
from daemon.evaluation import read_curve
from daemon.frontend import FrontEnd
from daemon.host import files
from daemon.pipeline import Forgetful, Recording, RunControl, finish, make_clips, make_listening_copy, prepare
from daemon.spool.names import new_job_id, outcome_names

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Sequence

    from daemon.cli.inputs import Input
    from daemon.config import Config
    from daemon.documents import Clip
    from daemon.engine import Engine
    from daemon.pipeline import Progress as PipelineProgress
    from daemon.transcript import Transcript


def transcribe(
    words: Sequence[str], outbox: Path | None, formats: str | None, option: Path | None, *, is_forced: bool
) -> int:
    """Transcribe recordings one after the other; without a folder, print their text.

    Args:
        words: the recordings as typed: paths, and `-` for standard input.
        outbox: the folder for documents, None for standard output.
        formats: such as "txt,srt"; None for those of the configuration, or txt on standard output.
        option: the configuration file, None for the usual places.
        is_forced: whether existing documents may be overwritten; a recording never is.
    """
    chosen = _choose_formats(formats, has_folder=outbox is not None)
    config = command.with_usable_cache(config_option.read(option)[0])
    logs.configure_command(config.logging)
    found = inputs.find(words)
    wanted = chosen or config.output.formats
    targets: list[dict[str, Path]] = [{} for _ in words]
    if outbox is not None:
        make_folder(outbox)
        copy = config.output.listening_copy
        targets = _name_documents(outbox, words, [*wanted, *([LISTENING_COPIES[copy]] if copy else [])])
        every = [path for documents in targets for path in documents.values()]
        outputs.refuse_taken(every, [facts for _, facts in found], is_forced=is_forced)
    with inputs.opened(found, config.folders.cache) as recordings:
        run = _Batch(config, wanted, command.stop_on_signals(), Console(stderr=True, highlight=False))
        n_failed = run.transcribe_all(recordings, targets, is_forced=is_forced)
    return ExitCode.SOME_FAILED if n_failed else ExitCode.OK


class _Batch:
    """One model, one decoder process, and the recordings that go through them."""

    def __init__(
        self, config: Config, formats: Sequence[str], raise_if_stopped: Callable[[], None], console: Console
    ) -> None:
        self._config = config
        self._formats = formats
        self._raise_if_stopped = raise_if_stopped
        self._console = console

    def transcribe_all(
        self, recordings: Sequence[Input], targets: Sequence[dict[str, Path]], *, is_forced: bool
    ) -> int:
        """Transcribe and deliver each recording; return how many failed."""
        with self._console.status("Loading the model") as status:
            model = engine.load(self._config.model, self._config.folders.cache, status.update)
        front_end = FrontEnd(self._config.folders.cache, n_processes=1)
        n_failed = 0
        try:
            for recording, documents in zip(recordings, targets, strict=True):
                try:
                    transcript, copy, clips = self._transcribe(recording, front_end, model, has_copy=bool(documents))
                except (JobError, NoPermissionError) as error:
                    what = f"{recording.shown}: {escape(str(error))}"
                    self._console.print(what, style="red", soft_wrap=True, markup=False)
                    n_failed += 1
                    continue
                with copy or nullcontext():
                    written = self._render(recording, transcript, documents, copy, clips)
                    self._deliver(recording, written, documents, is_alone=len(recordings) == 1, is_forced=is_forced)
        finally:
            front_end.close()
            model.close()
        return n_failed

    def _transcribe(
        self, recording: Input, front_end: FrontEnd, model: Engine, *, has_copy: bool
    ) -> tuple[Transcript, io.FileIO | None, Sequence[Clip]]:
        """Return the transcript, the listening copy if one is wanted, and the clips for the page."""
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
        console = self._console
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(recording.shown, total=1.0)

            def show(progress: PipelineProgress) -> None:
                bar.update(task, completed=progress.done)

            work = Recording(new_job_id(), recording.source, recording.name, RecordingSettings.of(self._config))
            curve = read_curve(self._config.folders.state, model.identity)
            control = RunControl(self._raise_if_stopped, show, Forgetful(), curve)
            with prepare(work, self._config, front_end, control) as prepared:
                transcript = finish(prepared, self._config, model, control)
                clips: list[Clip] = []
                copy, problems = None, []
                if "html" in self._formats:
                    clips, problem = make_clips(prepared, transcript, front_end, self._raise_if_stopped)
                    problems.append(problem)
                if has_copy:
                    copy, problem = make_listening_copy(prepared, front_end, self._raise_if_stopped)
                    problems.append(problem)
                for note in filter(None, problems):
                    transcript = transcript.with_note(note)
                return transcript, copy, clips

    def _render(
        self,
        recording: Input,
        transcript: Transcript,
        targets: dict[str, Path],
        copy: io.FileIO | None,
        clips: Sequence[Clip],
    ) -> dict[str, files.Content]:
        folders = []
        if targets and isinstance(recording.source, Path):
            outbox = os.path.realpath(next(iter(targets.values())).parent)
            folders = [os.path.relpath(recording.source.parent, outbox)]
        form = self._config.output.listening_copy
        copies: dict[str, files.Content] = {} if copy is None or form is None else {LISTENING_COPIES[form]: copy}
        return copies | render(
            transcript,
            self._formats,
            has_timestamps=self._config.output.timestamps,
            sound=Sound(tuple(folders), tuple(copies), tuple(clips)),
        )

    def _deliver(
        self,
        recording: Input,
        documents: dict[str, files.Content],
        targets: dict[str, Path],
        *,
        is_alone: bool,
        is_forced: bool,
    ) -> None:
        if not targets:
            if not is_alone:
                sys.stdout.write(f"== {escape(recording.name)} ==\n")
            sys.stdout.flush()
            for document in documents.values():
                sys.stdout.buffer.writelines(files.blocks_of(document))
            sys.stdout.buffer.flush()
            return
        for name, content in documents.items():
            outputs.refuse_taken([targets[name]], [recording.facts], is_forced=is_forced)
            outputs.write_file(targets[name], content, is_forced=is_forced)
            sys.stderr.write(f"{escape(str(targets[name]))}\n")


def _choose_formats(formats: str | None, *, has_folder: bool) -> tuple[str, ...]:
    if formats is None:
        return () if has_folder else ("txt",)
    wanted = choose_formats(formats)
    if not has_folder and len(wanted) > 1:
        raise UsageError("Several formats need an output folder.", "Specify one with -o DIR.")
    return wanted


def _name_documents(outbox: Path, words: Sequence[str], formats: Sequence[str]) -> list[dict[str, Path]]:
    """Return the paths of each recording's documents by format, no two of them the same."""
    taken: set[str] = set()
    named = []
    for word in words:
        name = inputs.name_of(word)
        stem = next(stem for stem, _ in outcome_names(name) if stem not in taken)
        taken.add(stem)
        named.append({ending: outbox / f"{stem}.{ending}" for ending in formats})
    return named
