"""`scribed check --deep`: a known recording goes through the real model, and its words must come out."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import resources
from typing import TYPE_CHECKING, Final

from daemon import configfile
from daemon.cli.check.finding import Finding
from daemon.errors import ExitCode, ScribedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from daemon.cli.check.finding import Installation
    from daemon.engine import Fallback
    from daemon.frontend import FrontEnd
    from daemon.transcript import ModelIdentity, Transcript

_MAX_ERRORS: Final = 1
_DEMO_SAMPLE: Final = "memo.wav"


@dataclass(frozen=True, slots=True)
class _Sample:
    """A recording and the words spoken in it."""

    path: Path
    text: str
    is_bundled: bool


def check_transcription(installation: Installation) -> Iterator[Finding]:
    """Transcribe a known recording with every engine path of this device; at most one word may be wrong."""
    # torch is slow to import and loads for --deep only.
    from daemon import logs
    from daemon.frontend import FrontEnd

    logs.configure_command(installation.config.logging)
    with ExitStack() as stack:
        front_end = FrontEnd(installation.config.folders.cache, n_processes=1)
        stack.callback(front_end.close)
        try:
            sample = _choose_sample(installation, stack)
            transcript, fallbacks = _transcribe(installation, sample, front_end, is_captured=None)
            yield Finding("ok", f"model: digest {transcript.model.digest}")
            for fallback in fallbacks:
                what = f"model: it runs without its {fallback.part}, so {fallback.cost}; reason: {fallback.reason}"
                yield Finding("warning", what, fallback.remedy)
            yield _compare(sample, transcript.model, transcript.text, "")
            if transcript.model.device.startswith("cuda"):
                reference, _ = _transcribe(installation, sample, front_end, is_captured=False)
                yield _compare(sample, reference.model, reference.text, " without CUDA graphs")
        except ScribedError as error:
            yield Finding("fault", f"test: {error.what}", error.remedy, error.exit_code)


def _choose_sample(installation: Installation, stack: ExitStack) -> _Sample:
    """Return the sample that the user named, else the bundled one that the configured model understands."""
    if installation.sample is not None:
        if not installation.sample.is_file():
            raise UsageError(f"No such file: {installation.sample}.")
        return _Sample(installation.sample.resolve(), installation.sample_text, is_bundled=False)
    package = resources.files("daemon")
    if str(installation.config.model.path) == configfile.DEMO_MODEL:
        recordings = package / "demo" / "recordings"
        text = json.loads((recordings / "references.json").read_text())[_DEMO_SAMPLE]
        return _Sample(stack.enter_context(resources.as_file(recordings / _DEMO_SAMPLE)), text, is_bundled=True)
    samples = package / "samples"
    text = (samples / "jfk.txt").read_text()
    return _Sample(stack.enter_context(resources.as_file(samples / "jfk.flac")), text, is_bundled=True)


def _transcribe(
    installation: Installation, sample: _Sample, front_end: FrontEnd, *, is_captured: bool | None
) -> tuple[Transcript, Sequence[Fallback]]:
    from daemon import engine
    from daemon.config import RecordingSettings, Transcribe
    from daemon.pipeline import Forgetful, Recording, RunControl, transcribe

    config = installation.config
    settings = RecordingSettings.of(config)
    if sample.is_bundled:  # English, and none of the user's words
        settings = replace(settings, asr=Transcribe())
    model = engine.load(config.model, config.folders.cache, lambda _: None, is_captured=is_captured)
    try:
        control = RunControl(lambda: None, lambda _: None, Forgetful())
        recording = Recording("check", sample.path, sample.path.name, settings)
        return transcribe(recording, config, front_end, model, control), model.fallbacks
    finally:
        model.close()


def _compare(sample: _Sample, identity: ModelIdentity, heard: str, engine_path: str) -> Finding:
    """Compare what the model heard with what was spoken.

    Args:
        sample: the recording.
        identity: the model that heard it.
        heard: what it heard.
        engine_path: which of several ways to compute it was used, to be added to the device.
    """
    from daemon.text import count_word_errors

    n_errors, n_words = count_word_errors(sample.text, heard)
    test = f"test: {identity.name} on {identity.device} as {identity.dtype}{engine_path}"
    if n_errors <= _MAX_ERRORS:
        return Finding("ok", f'{test} heard "{heard}"')
    what = f'{test} got {n_errors} of {n_words} words wrong: heard "{heard}", spoken was "{sample.text.strip()}"'
    remedy = (
        "Try model.dtype: float32, then model.device: cpu. "
        "If the words stay wrong, fetch the model again: sudo scribed fetch-model --force"
    )
    return Finding("fault", what, remedy, ExitCode.MODEL_UNAVAILABLE)
