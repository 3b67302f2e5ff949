"""The command `scribed`: what can be typed, and what it ends with.

Whatever is slow to import is imported when a command runs, so that `--help`, `status` and `check`
answer at once. The words are read by the standard library for the same reason.
"""

from __future__ import annotations

import os
import sys
import threading
from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from daemon import __version__
from daemon.errors import ExitCode, ScribedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ABOUT = "A scribe daemon: drop a recording into a folder, pick its transcript up from another."


@dataclass(frozen=True, slots=True)
class _Command:
    """What can be typed after `scribed`.

    Attributes:
        about: one sentence for `--help`.
        add: adds its words to the parser.
        act: does it; returns the exit code.
        config: what its `--config` is.
    """

    about: str
    add: Callable[[ArgumentParser], object]
    act: Callable[[Namespace], int]
    config: str = "configuration file; without it $SCRIBED_CONFIG, ./config.yaml, /etc/scribed/config.yaml"


def _run_daemon(words: Namespace) -> int:
    from daemon.cli import daemonize

    return daemonize.run(words.config, once=False)


def _once(words: Namespace) -> int:
    from daemon.cli import daemonize

    return daemonize.run(words.config, once=True)


def _add_transcribe(parser: ArgumentParser) -> None:
    _add_names(parser, "recordings", "FILE", "+", "recordings; they stay where they are")
    parser.add_argument(
        "-o", "--output", dest="outbox", type=Path, metavar="DIR", help="write documents there; else text to stdout"
    )
    parser.add_argument("-f", "--format", dest="formats", metavar="txt,srt,...", help="formats: txt, json, srt, vtt")


def _transcribe(words: Namespace) -> int:
    from daemon.cli import single

    return single.transcribe_files([Path(name) for name in words.recordings], words.outbox, words.formats, words.config)


def _add_prepare(parser: ArgumentParser) -> None:
    parser.add_argument("recording", type=Path, metavar="FILE", help="a recording")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", required=True, help="OUT.wav, .mp3, .m4a or .opus")
    _add_json(parser)


def _prepare(words: Namespace) -> int:
    from daemon.cli import single

    return single.prepare(words.recording, words.output, words.config, is_json=words.json)


def _add_status(parser: ArgumentParser) -> None:
    _add_json(parser)
    parser.add_argument("--watch", action="store_true", help="go on showing it until Ctrl-C")


def _status(words: Namespace) -> int:
    from daemon.cli import standing

    return standing.show(words.config, is_json=words.json, is_watched=words.watch)


def _add_retry(parser: ArgumentParser) -> None:
    _add_names(parser, "names", "NAME", "*", "names of failed recordings")
    parser.add_argument("--all", action="store_true", help="retry all failed recordings")


def _retry(words: Namespace) -> int:
    from daemon.cli import jobs

    return jobs.retry(words.names, words.config, is_all=words.all)


def _cancel(words: Namespace) -> int:
    from daemon.cli import jobs

    return jobs.cancel(words.name, words.config)


def _forget(words: Namespace) -> int:
    from daemon.cli import jobs

    return jobs.forget(words.name, words.config)


def _add_check(parser: ArgumentParser) -> None:
    parser.add_argument("--deep", action="store_true", help="load the model and transcribe a second of speech")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of the configuration")


def _check(words: Namespace) -> int:
    from daemon.cli import doctor

    return doctor.print_schema() if words.schema else doctor.check(words.config, is_deep=words.deep)


def _add_fetch_model(parser: ArgumentParser) -> None:
    parser.add_argument("model_id", nargs="?", metavar="ID", help="such as Qwen/Qwen3-ASR-1.7B-hf")
    parser.add_argument(
        "--from", dest="source", default="hub", metavar="hub|modelscope|DIR", help="where to take it from"
    )


def _fetch_model(words: Namespace) -> int:
    from daemon.cli import fetching

    return fetching.fetch_model(words.model_id, words.source, words.config)


def _demo(words: Namespace) -> int:
    from daemon.cli import demonstration

    return demonstration.demo(words.into, words.config)


def _bench(words: Namespace) -> int:
    from daemon.cli import throughput

    return throughput.bench(words.config, is_json=words.json)


def _add_names(parser: ArgumentParser, name: str, shown: str, n: str, about: str) -> None:
    parser.add_argument(name, nargs=n, metavar=shown, help=about)


def _add_json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def _add_nothing(parser: ArgumentParser) -> None:
    del parser


_COMMANDS = {
    "run": _Command("Run the daemon in the foreground; this is what systemd starts.", _add_nothing, _run_daemon),
    "once": _Command("Transcribe what is in the inbox now, then exit.", _add_nothing, _once),
    "transcribe": _Command("Transcribe named files with the same pipeline.", _add_transcribe, _transcribe),
    "prepare": _Command("Write the cleaned 16 kHz sound exactly as the model hears it.", _add_prepare, _prepare),
    "status": _Command("Show model, queue, what is in work, results, failures and faults.", _add_status, _status),
    "retry": _Command("Put failed recordings back into the inbox.", _add_retry, _retry),
    "cancel": _Command(
        'Give a claimed recording back: it moves to failed with the reason "cancelled".',
        lambda parser: parser.add_argument("name", metavar="NAME", help="a recording in work or waiting"),
        _cancel,
    ),
    "forget": _Command(
        "Erase what the state folder remembers of a recording.",
        lambda parser: parser.add_argument("name", metavar="NAME", help="a recording that is done or failed"),
        _forget,
    ),
    "check": _Command(
        "Is this installation ready? Each line ok, warning or fault, with what to do.", _add_check, _check
    ),
    "fetch-model": _Command("Fetch the model: the one command that uses the network.", _add_fetch_model, _fetch_model),
    "demo": _Command(
        "Run the daemon on sample recordings with the embedded demo model.",
        lambda parser: parser.add_argument("--into", type=Path, metavar="DIR", help="where its folders go"),
        _demo,
        "take the model of this configuration instead",
    ),
    "bench": _Command("Measure the throughput of this machine with this model.", _add_json, _bench),
}


def _read(words: Sequence[str]) -> tuple[_Command, Namespace]:
    """Return the command that was typed, and its words; ends with 2 where they make no sense."""
    width = max(map(len, _COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {command.about}" for name, command in _COMMANDS.items())
    usage = ArgumentParser(
        "scribed",
        description=f"{_ABOUT}\n\ncommands:\n{listed}",
        epilog="`scribed COMMAND --help` shows the words of a command.",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    usage.add_argument("--version", action="version", version=f"scribed {__version__}")
    usage.add_argument("command", choices=_COMMANDS, metavar="COMMAND", help=SUPPRESS)
    if not words:
        usage.print_help(sys.stderr)
        sys.exit(ExitCode.USAGE)
    name = usage.parse_args(words[:1]).command
    command = _COMMANDS[name]
    parser = ArgumentParser(f"scribed {name}", description=command.about, allow_abbrev=False)
    command.add(parser)
    parser.add_argument("--config", type=Path, metavar="PATH", help=command.config)
    # Names and options in any order: `transcribe one.wav -o DIR two.wav`.
    return command, parser.parse_intermixed_args(words[1:])


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
        command, words = _read(sys.argv[1:])
        return command.act(words)
    except SystemExit as ended:  # how argparse ends, with its own words where the usage is wrong
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
