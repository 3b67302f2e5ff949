"""`scribed prepare`: the cleaned audio of one recording, as the model hears it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from daemon import audio_export, logs
from daemon.cli import command, config_option, inputs, outputs
from daemon.display import escape
from daemon.errors import ExitCode, JobError, NoPermissionError
from daemon.frontend import FrontEnd

if TYPE_CHECKING:
    from pathlib import Path


def prepare(word: str, output: Path, option: Path | None, *, is_json: bool, is_forced: bool) -> int:
    """Write the audio as the model hears it; with `is_json` print the receipt.

    Args:
        word: the recording as typed: a path, or `-` for standard input.
        output: OUT.wav, .mp3, .m4a or .opus.
        option: the configuration file, None for the usual places.
        is_json: whether to print what was found in the recording and done to it.
        is_forced: whether an existing OUT may be overwritten; the recording itself never is.
    """
    audio_export.check_target(output)
    found = inputs.find([word])
    read = [facts for _, facts in found]
    outputs.refuse_taken([output], read, is_forced=is_forced)
    config = command.with_usable_cache(config_option.read(option)[0])
    logs.configure_command(config.logging)
    with inputs.opened(found, config.folders.cache) as (recording,):
        front_end = FrontEnd(config.folders.cache, n_processes=1)
        try:
            prepared = front_end.prepare(
                recording.source, config.preprocess, config.segment.vad, command.stop_on_signals(), config.transcribe
            )
        except (JobError, NoPermissionError) as error:
            logs.write_error(f"scribed: {recording.shown}: {escape(str(error))}")
            return error.exit_code
        finally:
            front_end.close()
        with prepared.waveform as waveform:
            outputs.refuse_taken([output], read, is_forced=is_forced)
            audio_export.write(waveform, output, is_forced=is_forced)
    if is_json:
        facts = asdict(prepared.receipt)
        facts["complete"] = facts.pop("is_complete")
        del facts["peaks"]  # for pages that draw the sound
        outputs.print_json(facts)
    return ExitCode.OK
