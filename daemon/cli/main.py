"""The command `scribed`: its options, and the exit code it ends with.

Slow imports happen when a command runs, so that `--help`, `status` and `check` answer at once.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

import daemon
from daemon.errors import ExitCode, ScribedError

app = typer.Typer(
    name="scribed",
    help="Transcribe recordings dropped into a folder. Audio and text never leave this machine.",
    epilog="Exit codes: 0 done, 1 some recordings failed, 2 wrong usage, 69 model or GPU not available, "
    "73 cannot write, 75 already running, 77 no permission, 78 configuration error, 130 interrupted.",
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="PATH",
        help="Configuration file. Default: $SCRIBED_CONFIG, then ./config.yaml, then /etc/scribed/config.yaml.",
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ForceFlag = Annotated[bool, typer.Option("--force", help="Overwrite existing files. A recording is never overwritten.")]


@app.command()
def run(config: ConfigOption = None) -> None:
    """Run the daemon in the foreground, as systemd does."""
    from daemon.cli.run import run as run_daemon

    raise typer.Exit(run_daemon(config, once=False))


@app.command()
def once(config: ConfigOption = None) -> None:
    """Transcribe what is in the inbox, then exit.

    Recordings that are still being written are reported and stay there.
    """
    from daemon.cli.run import run as run_daemon

    raise typer.Exit(run_daemon(config, once=True))


@app.command()
def transcribe(
    recordings: Annotated[list[str], typer.Argument(metavar="FILE", hidden=True)],
    outbox: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Write documents to DIR, not to stdout.")
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option("-f", "--format", metavar="FORMAT,...", help="Any of txt, md, docx, html, json, srt, vtt."),
    ] = None,
    force: ForceFlag = False,
    config: ConfigOption = None,
) -> None:
    """Transcribe files in place, without the folders.

    FILE is a recording, a link to one, or a pipe; `-` is standard input, and its documents are named stdin.
    Without -o the text goes to standard output.
    """
    from daemon.cli.transcribe import transcribe as transcribe_files

    raise typer.Exit(transcribe_files(recordings, outbox, formats, config, is_forced=force))


@app.command()
def render(
    sources: Annotated[list[Path], typer.Argument(metavar="FILE.json", hidden=True)],
    formats: Annotated[
        str, typer.Option("-f", "--format", metavar="FORMAT,...", help="Any of txt, md, docx, html, json, srt, vtt.")
    ],
    folder: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Write to DIR. Default: the folder of FILE.json."),
    ] = None,
    force: ForceFlag = False,
    config: ConfigOption = None,
) -> None:
    """Write other documents of a finished transcript.

    FILE.json is a document that scribed delivered, or a corrected copy. Neither the model nor the audio is needed.
    """
    from daemon.cli.render import render as render_files

    raise typer.Exit(render_files(sources, folder, formats, config, is_forced=force))


@app.command()
def recorder(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.html", help="File to write.")],
    force: ForceFlag = False,
    config: ConfigOption = None,
) -> None:
    """Write a page that records from the microphone.

    It opens in a browser from a file, needs no server, and saves finished recordings to the inbox.
    """
    from daemon.cli.recorder import write_recorder

    del config  # every command takes one; the page is the same for all
    raise typer.Exit(write_recorder(output, is_forced=force))


@app.command()
def prepare(
    recording: Annotated[str, typer.Argument(metavar="FILE", hidden=True)],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT", help="File to write: OUT.wav, .mp3, .m4a or .opus.")
    ],
    json_: Annotated[bool, typer.Option("--json", help="Print what was found and changed, as JSON.")] = False,
    force: ForceFlag = False,
    config: ConfigOption = None,
) -> None:
    """Write the audio as the model hears it.

    FILE is a recording, a link to one, or a pipe; `-` is standard input. The result is mono, 16 kHz, cleaned and
    normalized as configured.
    """
    from daemon.cli.prepare import prepare as prepare_file

    raise typer.Exit(prepare_file(recording, output, config, is_json=json_, is_forced=force))


@app.command()
def status(
    json_: JsonFlag = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every second until Ctrl-C.")] = False,
    config: ConfigOption = None,
) -> None:
    """Show what the daemon is doing.

    The model, the queue, recordings in progress, recent results, failures and problems.
    """
    from daemon.cli.status import show

    raise typer.Exit(show(config, is_json=json_, is_watched=watch))


@app.command()
def search(
    words: Annotated[list[str] | None, typer.Argument(metavar="WORDS", hidden=True)] = None,
    lines: Annotated[int, typer.Option("--lines", min=1, max=100_000, help="Print at most this many lines.")] = 100,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make the index again from the outbox.")] = False,
    config: ConfigOption = None,
) -> None:
    """Find words in delivered transcripts.

    Prints the file, the time and the line of each place that has all WORDS. Words in quotes must be next to one
    another; a star at the end stands for the rest of a word. For root and the service's user.
    """
    from daemon.cli.search import search as find

    raise typer.Exit(find(words or [], config, n_lines=lines, is_rebuilt=rebuild))


@app.command()
def retry(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", hidden=True)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Retry all failed recordings.")] = False,
    config: ConfigOption = None,
) -> None:
    """Move failed recordings back to the inbox.

    NAME is the name of a failed recording, or its path within `failed`.
    """
    from daemon.cli import jobs

    raise typer.Exit(jobs.retry(names or [], config, is_all=everything))


@app.command()
def cancel(
    name: Annotated[str, typer.Argument(metavar="NAME", hidden=True)],
    config: ConfigOption = None,
) -> None:
    """Cancel a recording; its audio is moved to `failed`.

    NAME is the name of a recording that is waiting or in progress, its path within the inbox, or its job id.
    """
    from daemon.cli import jobs

    raise typer.Exit(jobs.cancel(name, config))


@app.command()
def forget(
    name: Annotated[str, typer.Argument(metavar="NAME", hidden=True)],
    config: ConfigOption = None,
) -> None:
    """Erase all records of a recording.

    NAME is the name of a recording that is done or failed, or its path within the inbox. Its audio and documents stay.
    """
    from daemon.cli import jobs

    raise typer.Exit(jobs.forget(name, config))


@app.command()
def check(
    deep: Annotated[bool, typer.Option("--deep", help="Also load the model and transcribe a known recording.")] = False,
    sample: Annotated[
        Path | None, typer.Option("--sample", metavar="FILE", help="With --deep: use this recording.")
    ] = None,
    text: Annotated[str, typer.Option("--text", metavar="WORDS", help="The words spoken in the sample.")] = "",
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of the configuration.")] = False,
    config: ConfigOption = None,
) -> None:
    """Check the installation and suggest fixes."""
    from daemon.cli import check as checks

    raise typer.Exit(checks.print_schema() if schema else checks.check(config, is_deep=deep, sample=sample, text=text))


@app.command("fetch-model")
def fetch_model(
    model_id: Annotated[str | None, typer.Argument(metavar="ID", hidden=True)] = None,
    source: Annotated[str, typer.Option("--from", metavar="hub|modelscope|DIR", help="Where to get it.")] = "hub",
    force: Annotated[bool, typer.Option("--force", help="Replace the model's folder if it exists.")] = False,
    config: ConfigOption = None,
) -> None:
    """Fetch the model from the network or a folder.

    ID names the model, by default Qwen/Qwen3-ASR-1.7B-hf. This is the only command that uses the network.
    """
    from daemon.cli.fetch_model import fetch_model as fetch

    raise typer.Exit(fetch(model_id, source, config, is_forced=force))


@app.command()
def demo(
    into: Annotated[
        Path | None, typer.Option("--into", metavar="DIR", help="Folder for the demo. Default: a temporary one.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Delete what an earlier demo left in DIR.")] = False,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="PATH", help="Use the model of this configuration.")
    ] = None,
) -> None:
    """Try scribed on sample recordings.

    Runs the daemon with the embedded demo model and prints what it heard.
    """
    from daemon.cli.demo import demo as run_demo

    raise typer.Exit(run_demo(into, config, is_forced=force))


@app.command()
def bench(json_: JsonFlag = False, config: ConfigOption = None) -> None:
    """Measure the throughput of this machine.

    Uses the configured model and the daemon's own engine.
    """
    from daemon.cli.bench import bench as measure

    raise typer.Exit(measure(config, is_json=json_))


@app.command("eval")
def evaluate(
    recordings: Annotated[list[str], typer.Argument(metavar="DIR|FILE", hidden=True)],
    compare: Annotated[
        list[str] | None,
        typer.Option("--compare", metavar="KEY=VALUE", help="Also measure with this setting changed; may be repeated."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="PAGE", help="Write a page with the aligned texts.")
    ] = None,
    normalize: Annotated[
        str, typer.Option("--normalize", metavar="standard|none", help="none: case and punctuation count.")
    ] = "standard",
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate/--no-calibrate", help="Store how far the confidence can be trusted; documents then use it."
        ),
    ] = True,
    json_: JsonFlag = False,
    force: ForceFlag = False,
    config: ConfigOption = None,
) -> None:
    """Measure the accuracy on recordings of your own.

    DIR or FILE leads to recordings whose words are known: talk.wav beside talk.ref.txt, a corrected transcript in JSON,
    or a CSV or TSV table with the columns file and text. An interrupted measurement goes on where it stopped.
    """
    from daemon.cli.eval import evaluate as measure

    code = measure(
        recordings,
        compare or [],
        html,
        normalize,
        config,
        is_json=json_,
        is_forced=force,
        is_calibrating=calibrate,
    )
    raise typer.Exit(code)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"scribed {daemon.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


def main() -> None:
    """Run the command line and end the process with the contract's exit code."""
    _stop_if_shadowed()
    from daemon.cli import outputs

    outputs.guard_standard_streams()
    code = _run()
    if any(thread.daemon and thread is not threading.current_thread() for thread in threading.enumerate()):
        # A thread inside a native library (a model that is still loading, a generation that missed the
        # stop) can crash the interpreter during its cleanup. The journal is closed, so exit at once.
        os._exit(code)
    sys.exit(code)


def _stop_if_shadowed() -> None:
    """End with a plain message where another package has replaced the first file of ours."""
    if getattr(daemon, "__title__", "") != "scribed":
        sys.stderr.write(
            f"scribed: {daemon.__file__} belongs to another Python package named `daemon` (python-daemon?), "
            "which has overwritten scribed's. Uninstall it, then install scribed again.\n"
        )
        sys.exit(int(ExitCode.MODEL_UNAVAILABLE))


def _run() -> int:
    from daemon.cli.outputs import StandardOutputClosedError

    code = int(ExitCode.OK)
    try:
        try:
            app(prog_name="scribed")
        except SystemExit as ended:  # typer's way to end; it has printed what was wrong with the usage
            code = int(ended.code or 0)
        sys.stdout.flush()
    except StandardOutputClosedError:  # `scribed status | head -1`
        return int(ExitCode.OK)
    except ScribedError as error:
        _print_error(error)
        code = int(error.exit_code)
    except KeyboardInterrupt:
        code = int(ExitCode.INTERRUPTED)
    return code


def _print_error(error: ScribedError) -> None:
    from daemon import logs
    from daemon.display import escape

    # The lines of a ConfigError are its faults; a name within a line cannot make another one.
    lines = [f"{error.what} {error.remedy}".rstrip(), *(f"  {fault}" for fault in getattr(error, "faults", ()))]
    logs.write_error("\n".join(["scribed: " + escape(lines[0]), *map(escape, lines[1:])]))
