"""What is logged, and in which form: structlog on top of logging, so that libraries are logged the same way.

A module logs through `structlog.get_logger()`, with constant names `noun.past_tense` and keys, never
with a word of a transcript. Names of recordings come from strangers: nothing in a value can start
a new line or colour a terminal, and with `names: hashed` no name is shown at all. For that,
a name belongs under one of NAME_KEYS; paths below the shared folders are found in any text.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import re
import stat
import sys
import traceback
import weakref
from collections.abc import Mapping
from logging.handlers import RotatingFileHandler
from typing import TYPE_CHECKING, Any, Final, TextIO

import structlog
from structlog.stdlib import ProcessorFormatter

from daemon.display import conceal_paths, escape, shown_name
from daemon.errors import ConfigError, TransientError
from daemon.host.own_files import open_folder, root_of
from daemon.host.systemd import JOURNAL_SOCKET, JournalSocket

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import TextIOWrapper
    from pathlib import Path

    from structlog.typing import EventDict, Processor

    from daemon.config import Logging
    from daemon.host.folders import Folder

# The keys whose values are names of recordings or made from them.
NAME_KEYS: Final = frozenset({"name", "path", "source", "stem", "file"})

_OWN: Final = "scribed"
_HANDLER_NAMES: Final = frozenset({f"{_OWN}.stream", f"{_OWN}.file"})
_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# https://www.freedesktop.org/software/systemd/man/latest/sd-daemon.html
_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_COLOURS: Final = {
    "debug": "\x1b[2m",
    "info": "\x1b[32m",
    "warning": "\x1b[33m",
    "error": "\x1b[31m",
    "critical": "\x1b[31m",
}
_DIM: Final = "\x1b[2m"
_BOLD: Final = "\x1b[1m"
_PLAIN: Final = "\x1b[0m"

_N_FILES: Final = 10
_FILE_BYTES: Final = 10_000_000
# journald cuts a line at 48 KiB, and the rest would look like another line.
_MAX_VALUE_CHARS: Final = 4000
# A shorter name is part of too many words by chance.
_MIN_HIDDEN_CHARS: Final = 4

# https://www.freedesktop.org/software/systemd/man/latest/sd_journal_print.html
_FIELD_NAME: Final = re.compile("[A-Z0-9_]{1,64}")

_NEEDS_QUOTES: Final = re.compile(r'[\s"=]|^$')


def configure(
    settings: Logging,
    *,
    shared: tuple[Path, ...] = (),
    stream: TextIO | None = None,
    journal: str = JOURNAL_SOCKET,
) -> None:
    """Set up logging for the whole process; called again, the new settings replace the old ones.

    Args:
        settings: the section `logging`.
        shared: the folders into which others may write: a log file below one is reached without following links,
            and names below them are hidden with `names: hashed`.
        stream: where lines go besides the log file, sys.stderr if None.
        journal: journald's socket, where events go if the stream leads to journald.

    Raises:
        ConfigError: the log file cannot be opened; the old settings hold.
    """
    stream = sys.stderr if stream is None else stream
    roots = tuple(map(str, shared)) if settings.names == "hashed" else ()
    cleaner = _Cleaner(settings.names, roots, has_traceback=settings.level == "debug")
    chain: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        cleaner,
    ]
    chosen = _JournalHandler(stream, journal) if _is_journal(stream) else logging.StreamHandler(stream)
    handlers = [_make_handler(chosen, "stream", _choose_renderer(settings.format, stream), chain)]
    if settings.file is not None:
        handlers.append(_make_handler(_open_log_file(settings.file, shared), "file", _render_json, chain))
    threshold = max(_LEVELS[settings.level], logging.WARNING)
    for handler in handlers:
        handler.addFilter(lambda record: record.name == _OWN or record.levelno >= threshold)
    _replace_handlers(handlers)
    logging.getLogger(_OWN).setLevel(logging.DEBUG)  # ours are filtered before they get there
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *chain, ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.level]),
        logger_factory=lambda *_: logging.getLogger(_OWN),
        cache_logger_on_first_use=False,  # a reload may change the level
    )


def configure_command(settings: Logging) -> None:
    """Set up logging for an interactive command: warnings only, to stderr, not into the service's log file."""
    configure(settings.model_copy(update={"level": "warning", "file": None}))


def close() -> None:
    """Undo `configure`: close the log file and give up the stream."""
    _replace_handlers([])
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def _replace_handlers(handlers: list[logging.Handler]) -> None:
    """Replace the handlers that `configure` made before with these."""
    root = logging.getLogger()
    old = [handler for handler in root.handlers if handler.name in _HANDLER_NAMES]
    # In one step, because other threads are logging: none of their lines is lost in between.
    root.handlers = [handler for handler in root.handlers if handler not in old] + handlers
    for handler in old:
        with contextlib.suppress(OSError):  # a full disk refuses what is still in the buffer
            handler.close()


def adopt_library(name: str) -> None:
    """Make a library log through us although it brings handlers of its own, as transformers does when imported."""
    logger = logging.getLogger(name)
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
    logger.propagate = True


def _make_handler(handler: logging.Handler, name: str, renderer: Processor, chain: list[Processor]) -> logging.Handler:
    handler.set_name(f"{_OWN}.{name}")
    handler.setFormatter(ProcessorFormatter(foreign_pre_chain=[_name_library, *chain], processors=[renderer]))
    return handler


def _name_library(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Turn what a library logs into an event of ours."""
    named = {"event": "library.warned", "library": event["_record"].name, "message": event["event"].strip()}
    return named | {"exc_info": event.get("exc_info")}


class _Cleaner:
    """Makes every value of an event safe to show.

    Args:
        names: "full" or "hashed".
        roots: folders below which every name is hidden.
        has_traceback: whether an exception is shown with its traceback.
    """

    def __init__(self, names: str, roots: tuple[str, ...], *, has_traceback: bool) -> None:
        self._names = names
        self._roots = roots
        self._has_traceback = has_traceback

    def __call__(self, _logger: object, _method: str, event: EventDict) -> EventDict:
        exception = _find_exception(event.pop("exc_info", None))
        hidden = self._find_hidden(event, exception)
        if exception is not None:
            event["exception"] = f"{type(exception).__name__}: {exception}"
            if self._has_traceback:
                text = self._hide("".join(traceback.format_exception(exception)), hidden)
                event["traceback"] = text.splitlines()
        return {key: self._clean(value, hidden, is_name=key in NAME_KEYS) for key, value in event.items()}

    def _find_hidden(self, event: EventDict, exception: BaseException | None) -> dict[str, str]:
        """Return the names which other values may repeat, and what to show for them."""
        hidden: dict[str, str] = {}
        if self._names == "hashed":
            known = {*_names_in_event(event), *_names_in_exception(exception)}
            # The longest first: a path contains the name it ends with.
            for name in sorted(known, key=len, reverse=True):
                hidden[name] = hidden[repr(name)[1:-1]] = shown_name(name, self._names)
        return hidden

    def _clean(self, value: object, hidden: dict[str, str], *, is_name: bool = False) -> object:
        if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
            return value
        if isinstance(value, Mapping):
            return {
                escape(str(key)): self._clean(part, hidden, is_name=is_name or key in NAME_KEYS)
                for key, part in value.items()
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [self._clean(part, hidden, is_name=is_name) for part in value]
        text = str(value)
        if is_name:
            return shown_name(text, self._names)
        shown = escape(self._hide(text, hidden))
        return shown if len(shown) <= _MAX_VALUE_CHARS else f"{shown[:_MAX_VALUE_CHARS]}..."

    def _hide(self, text: str, hidden: dict[str, str]) -> str:
        for name, shown in hidden.items():
            text = text.replace(name, shown)
        return conceal_paths(text, self._roots)


def _find_exception(exc_info: object) -> BaseException | None:
    """Return the exception from any of the shapes that logging knows."""
    match exc_info:
        case BaseException():
            return exc_info
        case (_, BaseException() as exception, _):
            return exception
        case True:
            return sys.exception()
    return None


def _names_in_event(event: EventDict) -> Iterator[str]:
    """Yield the names of recordings in an event, and the last part of each path."""
    for key in NAME_KEYS & event.keys():
        value = event[key]
        for name in value if isinstance(value, list | tuple | set | frozenset) else [value]:
            if len(str(name)) >= _MIN_HIDDEN_CHARS:
                yield str(name)
            if len(last := str(name).rpartition("/")[2]) >= _MIN_HIDDEN_CHARS:
                yield last


def _names_in_exception(exception: BaseException | None) -> Iterator[str]:
    """Yield the paths named by the exception and by those that caused it."""
    seen: set[int] = set()
    while exception is not None and id(exception) not in seen:
        seen.add(id(exception))
        if isinstance(exception, OSError):
            for path in (exception.filename, exception.filename2):
                if isinstance(path, str | bytes) and len(path) >= _MIN_HIDDEN_CHARS:
                    yield os.fsdecode(path)
        exception = exception.__cause__ or exception.__context__


def _choose_renderer(kind: str, stream: TextIO) -> Processor:
    """Return the renderer of lines that `logging.format` and the stream call for."""
    if kind == "json":
        return _render_json
    if _is_journal(stream):
        return _LineRenderer(has_time=False, has_colour=False)
    return _LineRenderer(has_time=True, has_colour=stream.isatty() and "NO_COLOR" not in os.environ)


def _is_journal(stream: TextIO) -> bool:
    """Return whether the stream leads to journald, and not elsewhere by a later redirection.

    https://www.freedesktop.org/software/systemd/man/latest/systemd.exec.html#%24JOURNAL_STREAM
    """
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # a stream without a descriptor, or a closed one
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _render_json(_logger: object, _method: str, event: EventDict) -> str:
    first = {key: event[key] for key in ("timestamp", "level", "event")}
    return json.dumps(first | _get_values(event), ensure_ascii=False)


def _get_values(event: EventDict) -> dict[str, Any]:
    """Return what the caller passed, without what logging and the processors added."""
    return {key: value for key, value in event.items() if key not in {"timestamp", "level", "event"} and key[0] != "_"}


class _LineRenderer:
    """Renders `time level event key=value ...`, with a traceback indented below it."""

    def __init__(self, *, has_time: bool, has_colour: bool) -> None:
        self._has_time = has_time
        self._has_colour = has_colour

    def __call__(self, _logger: object, _method: str, event: EventDict) -> str:
        values = _get_values(event)
        below = values.pop("traceback", [])
        words = [f"{key}={_quote(value)}" for key, value in values.items()]
        level = event["level"]
        head = [(_COLOURS.get(level, ""), level), (_BOLD, _quote(event["event"]))]
        if self._has_time:
            head.insert(0, (_DIM, event["timestamp"]))
        shown = [f"{colour}{word}{_PLAIN}" if self._has_colour else word for colour, word in head]
        return "\n    ".join([" ".join([*shown, *words]), *below])


def _quote(value: object) -> str:
    """Return the value as one word, in quotes where it would be read as several."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False) if isinstance(value, str) and _NEEDS_QUOTES.search(text) else text


class _JournalHandler(logging.StreamHandler[TextIO]):
    """Sends each event to journald with its values as fields: `journalctl SCRIBED_JOB_ID=...`.

    Where journald's socket does not answer, the line goes to the stream, with its priority before it.
    """

    def __init__(self, stream: TextIO, address: str) -> None:
        super().__init__(stream)
        self._journal = JournalSocket(address)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one event."""
        try:
            message = self.format(record)
            priority = _PRIORITIES.get(record.levelname.lower(), 5)
            event = record.msg if isinstance(record.msg, dict) else {}
            head = {"MESSAGE": message, "PRIORITY": str(priority), "SYSLOG_IDENTIFIER": _OWN}
            if not self._journal.send(head | _journal_fields(event)):
                self.stream.write(f"{prefix_lines(message, priority)}\n")
                self.flush()
        except Exception:  # noqa: BLE001  # as logging itself does: an error in here must not end any work
            self.handleError(record)

    def close(self) -> None:
        """Close the socket to journald; the stream is not ours."""
        self._journal.close()
        super().close()


def _journal_fields(event: EventDict) -> dict[str, str]:
    """Return the values of an event by names that journald allows."""
    fields = {"SCRIBED_EVENT": str(event["event"])} if "event" in event else {}
    for key, value in _get_values(event).items():
        name = f"SCRIBED_{key.upper()}"
        if value is not None and key != "traceback" and _FIELD_NAME.fullmatch(name):
            fields[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return fields


def prefix_lines(text: str, priority: int) -> str:
    """Put the priority in front of each line; journald removes it again."""
    return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))


def write_error(text: str) -> None:
    """Write an error that ends a command to stderr; in the journal with its priority, so that `-p err` finds it."""
    sys.stderr.write((prefix_lines(text, _PRIORITIES["error"]) if _is_journal(sys.stderr) else text) + "\n")


class _LogFile(RotatingFileHandler):
    """A log file of JSON lines that its group may read; when it is full, it becomes the first of several old ones.

    Args:
        path: of the file.
        folder: its folder, which then stays open as long as this exists; None to go by the path.
    """

    has_failed = False
    is_given_up = False

    def __init__(self, path: Path, folder: Folder | None) -> None:
        self._shared_flags = 0
        if folder is not None:
            self._shared_flags = os.O_NOFOLLOW | os.O_NONBLOCK
            weakref.finalize(self, folder.close)
            path = folder.proc_path / path.name
        super().__init__(path, maxBytes=_FILE_BYTES, backupCount=_N_FILES - 1)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one event; another thread's last one may come after a reload has closed the file, and opens it."""
        super().emit(record)
        if self.is_given_up:
            super().close()

    def close(self) -> None:
        """Close the file."""
        self.is_given_up = True
        super().close()

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=self._open_descriptor)

    def _open_descriptor(self, path: str, flags: int) -> int:
        fd = os.open(path, flags | os.O_CLOEXEC | self._shared_flags, mode=0o640)
        if self._shared_flags and not stat.S_ISREG(os.fstat(fd).st_mode):  # a pipe would hold the service up
            os.close(fd)
            raise OSError(errno.EINVAL, "it is not a regular file", path)
        return fd

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Say once that lines are missing here; logging itself would print a traceback for each of them."""
        del record
        if not self.has_failed:
            self.has_failed = True  # before the line below, which comes here too
            structlog.get_logger().error("log_file.write_failed", exc_info=True)


def _open_log_file(path: Path, shared: tuple[Path, ...]) -> _LogFile:
    try:
        folder = open_folder(path, shared) if root_of(path, shared) else None
        return _LogFile(path, folder)
    except (OSError, TransientError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.what
        fault = f"logging.file: {escape(str(path))} cannot be opened ({reason})"
        remedy = "choose a file in a folder that the user scribed may write to, such as /var/log/scribed"
        raise ConfigError("The log file cannot be used:", (f"{fault}; {remedy}",)) from None
