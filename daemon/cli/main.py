"""The command `scribed`: what can be typed, and what it ends with.

Whatever is slow to import is imported when a command runs, so that `--help`, `status` and `check`
answer at once.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from daemon import __version__
from daemon.errors import ExitCode, ScribedError

app = typer.Typer(
    name="scribed",
    help="A scribe daemon: drop a recording into a folder, pick its transcript up from another.",
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
        help="Configuration file; without it $SCRIBED_CONFIG, ./config.yaml, /etc/scribed/config.yaml.",
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command()
def run(config: ConfigOption = None) -> None:
    """Run the daemon in the foreground; this is what systemd starts."""
    from daemon.cli import run as daemonize

    raise typer.Exit(daemonize.run(config, once=False))


@app.command()
def once(config: ConfigOption = None) -> None:
    """Transcribe what is in the inbox now, then exit."""
    from daemon.cli import run as daemonize

    raise typer.Exit(daemonize.run(config, once=True))


@app.command()
def transcribe(
    recordings: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Recordings; they stay where they are.")],
    outbox: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Write documents there; else text to stdout.")
    ] = None,
    formats: Annotated[
        str | None, typer.Option("-f", "--format", metavar="txt,srt,...", help="Formats: txt, json, srt, vtt.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Transcribe named files with the same pipeline."""
    from daemon.cli import transcribe as single

    raise typer.Exit(single.transcribe_files(recordings, outbox, formats, config))


@app.command()
def prepare(
    recording: Annotated[Path, typer.Argument(metavar="FILE", help="A recording.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="OUT.wav, .mp3, .m4a or .opus")],
    json_: JsonFlag = False,
    config: ConfigOption = None,
) -> None:
    """Write the cleaned 16 kHz sound exactly as the model hears it."""
    from daemon.cli import transcribe as single

    raise typer.Exit(single.prepare(recording, output, config, is_json=json_))


@app.command()
def status(
    json_: JsonFlag = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it until Ctrl-C.")] = False,
    config: ConfigOption = None,
) -> None:
    """Show model, queue, what is in work, results, failures and faults."""
    from daemon.cli import status as standing

    raise typer.Exit(standing.show(config, is_json=json_, is_watched=watch))


@app.command()
def retry(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Names of failed recordings.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Retry all failed recordings.")] = False,
    config: ConfigOption = None,
) -> None:
    """Put failed recordings back into the inbox."""
    from daemon.cli import jobs

    raise typer.Exit(jobs.retry(names or [], config, is_all=everything))


@app.command()
def cancel(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a recording in work or waiting.")],
    config: ConfigOption = None,
) -> None:
    """Give a claimed recording back: it moves to failed with the reason "cancelled"."""
    from daemon.cli import jobs

    raise typer.Exit(jobs.cancel(name, config))


@app.command()
def forget(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a recording that is done or failed.")],
    config: ConfigOption = None,
) -> None:
    """Erase what the state folder remembers of a recording."""
    from daemon.cli import jobs

    raise typer.Exit(jobs.forget(name, config))


@app.command()
def check(
    deep: Annotated[bool, typer.Option("--deep", help="Load the model and transcribe a second of speech.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of the configuration.")] = False,
    config: ConfigOption = None,
) -> None:
    """Is this installation ready? Each line ok, warning or fault, with what to do."""
    from daemon.cli.check import installation as doctor

    raise typer.Exit(doctor.print_schema() if schema else doctor.check(config, is_deep=deep))


@app.command("fetch-model")
def fetch_model(
    model_id: Annotated[str | None, typer.Argument(metavar="ID", help="Such as Qwen/Qwen3-ASR-1.7B-hf.")] = None,
    source: Annotated[str, typer.Option("--from", metavar="hub|modelscope|DIR", help="Where to take it from.")] = "hub",
    config: ConfigOption = None,
) -> None:
    """Fetch the model: the one command that uses the network."""
    from daemon.cli import fetch_model as fetching

    raise typer.Exit(fetching.fetch_model(model_id, source, config))


@app.command()
def demo(
    into: Annotated[Path | None, typer.Option("--into", metavar="DIR", help="Where its folders go.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="PATH", help="Take the model of this configuration instead.")
    ] = None,
) -> None:
    """Run the daemon on sample recordings with the embedded demo model."""
    from daemon.cli import demo as demonstration

    raise typer.Exit(demonstration.demo(into, config))


@app.command()
def bench(json_: JsonFlag = False, config: ConfigOption = None) -> None:
    """Measure the throughput of this machine with this model."""
    from daemon.cli import bench as throughput

    raise typer.Exit(throughput.bench(config, is_json=json_))


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"scribed {__version__}")
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
    code = _run()
    sys.stdout.flush()
    sys.stderr.flush()
    if any(thread.daemon and thread is not threading.current_thread() for thread in threading.enumerate()):
        # A thread within a native library (a model that still loads, a generation that did not hear
        # the stop) can crash the interpreter while it clears up. The books are closed: leave.
        os._exit(code)
    sys.exit(code)


def _run() -> int:
    try:
        app()
    except SystemExit as ended:  # how typer ends, with its own words where the usage is wrong
        return int(ended.code or 0)
    except ScribedError as error:
        from daemon import logs

        logs.write_error(f"scribed: {error}")
        return int(error.exit_code)
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:  # `scribed status | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123, it takes the place of stdout until the end
    return int(ExitCode.OK)
