"""The configuration file: where it is, and its YAML as plain values, with the line of each key.

What a value means is known to `config`, whose schema takes longer to load than `scribed status` may take.

The core schema of YAML 1.2 is read, not that of 1.1 which PyYAML has: `off` and `no` are texts here,
as a reader of `normalize: off` or `language: no` expects, and 1:30 is no number of seconds.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import yaml
from yaml.composer import ComposerError

from daemon.errors import ConfigError

SYSTEM_PATH = Path("/etc/scribed/config.yaml")
STATE_FOLDER = Path("/var/lib/scribed")  # where none is configured
MAX_FILE_BYTES = 256 * 1024

# A configuration has 5 levels and some hundred values; these bounds stop a hostile one.
MAX_DEPTH = 20
MAX_VALUES = 10_000

KeyPath = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
# More digits than any number needs; Python refuses to print one of more than 4300.
_MAX_DIGITS = 100


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong in a configuration file.

    Attributes:
        key: where it is, such as ("watch", "settle_s"); empty for the file as a whole.
        line: counted from 1, or None where nothing in the file stands for it.
        what: what is wrong.
        remedy: what to do about it.
    """

    key: KeyPath
    line: int | None
    what: str
    remedy: str

    def __str__(self) -> str:
        """Return the fault on one line."""
        # Which entry of a list it is, its line and the value itself tell better than a number.
        where = ".".join(part for part in self.key if isinstance(part, str)) or "the file"
        line = "" if self.line is None else f" (line {self.line})"
        return f"{clip(where)}{line}: {self.what}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Document:
    """What a YAML file says.

    Attributes:
        values: mappings, lists, texts, numbers, booleans and None.
        lines: line of each key and list entry, counted from 1.
        faults: keys that stand there twice, and values that are none.
    """

    values: dict[str, object]
    lines: dict[KeyPath, int]
    faults: tuple[Fault, ...] = ()

    def find_line(self, key: KeyPath) -> int | None:
        """Return the line of a key, or of the nearest thing around it that has one."""
        return next((self.lines[key[:end]] for end in range(len(key), 0, -1) if key[:end] in self.lines), None)


EMPTY = Document({}, {})


class BrokenFileError(Exception):
    """Nothing of a file can be used; `faults` says why."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__("; ".join(str(fault) for fault in faults))
        self.faults = faults


def clip(text: str, longest: int = 60) -> str:
    """Return the text with all that is not printable escaped, cut where it is too long for a line."""
    shown = text if text.isprintable() else repr(text)[1:-1]
    return shown if len(shown) <= longest else f"{shown[:longest]}..."


def find(explicit: Path | None) -> Path | None:
    """Return the configuration file to use, None where there is none and the defaults hold.

    The order: `explicit` (--config), $SCRIBED_CONFIG, ./config.yaml where it belongs to root or the
    caller (anyone can leave one in a shared folder), /etc/scribed/config.yaml.

    Raises:
        ConfigError: a file that was asked for does not exist.
    """
    named = os.environ.get("SCRIBED_CONFIG", "")
    if explicit is not None or named:
        path = Path(named) if explicit is None else explicit
        if not os.path.lexists(path):
            origin = "$SCRIBED_CONFIG names" if explicit is None else "--config names"
            what = f"{origin} {clip(str(path), 300)}, which does not exist."
            raise ConfigError(what, remedy="Name a configuration file, or none: then the usual places are looked at.")
        return path
    local = Path("config.yaml")
    # Of a link, both it and what it leads to: a link to a file of root's is still another's choice.
    owners = {_find_owner(local, is_followed=True), _find_owner(local, is_followed=False)}
    if owners <= {0, os.geteuid()}:
        return local
    return SYSTEM_PATH if os.path.lexists(SYSTEM_PATH) else None


def read_file(path: str, limit_bytes: int, folder: int | None = None) -> bytes | None:
    """Return the content of a small regular file, None where there is none.

    Args:
        path: the file.
        limit_bytes: a larger one is not read.
        folder: descriptor of the folder `path` starts at; then `path` must not be a link.

    Raises:
        BrokenFileError: it cannot be read, or it is too large.
    """
    # Not waiting for a writer: it may be a FIFO.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if folder is None else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags, dir_fd=folder)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BrokenFileError(Fault((), None, "is no regular file", "put a YAML file there"))
            with open(descriptor, "rb", closefd=False) as file:
                raw = file.read(limit_bytes + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except PermissionError:
        remedy = "let the user or the group scribed read it"
        raise BrokenFileError(Fault((), None, "may not be read by this user", remedy)) from None
    except OSError as error:
        what = "is a link" if error.errno == errno.ELOOP else f"cannot be read ({error.strerror})"
        raise BrokenFileError(Fault((), None, what, "put a regular file there")) from None
    if len(raw) > limit_bytes:
        raise BrokenFileError(Fault((), None, f"is larger than {limit_bytes // 1024} KiB", "make it shorter"))
    return raw


def read_document(path: Path) -> Document:
    """Read a configuration file.

    Raises:
        BrokenFileError: nothing of it can be used.
    """
    return parse(_read_raw(path), has_aliases=True)


def glance(path: Path | None) -> tuple[Path, str] | None:
    """Return the state folder that a configuration names and the file's sha256, "" for the defaults.

    Whether the file is right as a whole is not looked at; None where it takes the schema to tell.
    """
    if path is None:
        return STATE_FOLDER, ""
    try:
        raw = _read_raw(path)
        document = parse(raw, has_aliases=True)
    except BrokenFileError:
        return None
    folders = document.values.get("folders")
    state = folders.get("state", str(STATE_FOLDER)) if isinstance(folders, dict) else str(STATE_FOLDER)
    if document.faults or not isinstance(state, str) or not state.startswith("/") or not state.isprintable():
        return None
    return Path(state), hashlib.sha256(raw).hexdigest()


def _read_raw(path: Path) -> bytes:
    raw = read_file(os.fspath(path), MAX_FILE_BYTES)
    if raw is None:
        raise BrokenFileError(Fault((), None, "does not exist", "name a configuration file that does"))
    return raw


def parse(raw: bytes, *, has_aliases: bool) -> Document:
    """Read a YAML file.

    Args:
        raw: the content of the file, UTF-8.
        has_aliases: whether anchors and aliases may be used.

    Raises:
        BrokenFileError: it is not UTF-8, not YAML, too large, or no mapping.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BrokenFileError(Fault((), line, "is not UTF-8 text", "save it as UTF-8")) from None
    node = _compose(text, has_aliases=has_aliases)
    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}null"):
        return EMPTY
    if not isinstance(node, yaml.MappingNode):
        raise BrokenFileError(Fault((), _line_of(node), "has no sections", "write it as in config.example.yaml"))
    reader = _Reader()
    return Document(reader.read_mapping(node, ()), reader.lines, tuple(reader.faults))


class _CoreLoader(yaml.SafeLoader):
    """PyYAML's parser up to the nodes, with the types of YAML 1.2 and a bound on nesting.

    PyYAML calls itself for each level, and a thousand of them would end in a RecursionError.
    """

    # The resolvers of YAML 1.1 which are inherited otherwise; ours are added below.
    yaml_implicit_resolvers = {}  # noqa: RUF012 - the name and type are PyYAML's
    has_aliases = True
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the next node, counting how deep it lies."""
        if self.check_event(yaml.AliasEvent) and not self.has_aliases:
            raise ComposerError(None, None, "an alias (*name) has no place here", self.get_mark())
        if self.depth > MAX_DEPTH:
            raise ComposerError(None, None, "it is nested too deeply", self.get_mark())
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


# https://yaml.org/spec/1.2.2/#1032-tag-resolution
for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _CoreLoader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"^(?:{_pattern})$"), _first)


def _compose(text: str, *, has_aliases: bool) -> yaml.Node | None:
    """Return the nodes of the text, None where there is nothing but comments."""
    line = 1
    try:
        loader = _CoreLoader(text)
        loader.has_aliases = has_aliases
        try:
            return loader.get_single_node()
        finally:
            line = loader.get_mark().line + 1
            loader.dispose()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what, remedy = "has a character that YAML does not allow", "remove it"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = line if mark is None else mark.line + 1
        what, remedy = f"cannot be read: {clip(error.problem or 'it is no YAML')}", _remedy_for(error.problem or "")
    except (yaml.YAMLError, ValueError, OverflowError):
        # ValueError and OverflowError: PyYAML on "\UFFFFFFFF" and the like.
        what, remedy = "cannot be read", "look at the text in quotes on this line"
    raise BrokenFileError(Fault((), line, what, remedy))


def _remedy_for(problem: str) -> str:
    if "'\\t'" in problem:
        return "indent with spaces, not with tabs"
    if "alias" in problem:
        return "write the values out"
    return "compare the lines around it with config.example.yaml"


def _line_of(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


class _Reader:
    """Turns nodes into values, keeping the lines and what is wrong."""

    def __init__(self) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.faults: list[Fault] = []
        self._n_values = 0

    def read_mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, object]:
        """Return the mapping; of a key that stands there twice, the first value."""
        values: dict[str, object] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.faults.append(Fault(path, _line_of(key_node), "has a key that is no word", "write key: value"))
                continue
            key = key_node.value
            where = (*path, key)
            if key in values:
                what = f"stands there twice, first on line {self.lines[where]}"
                self.faults.append(Fault(where, _line_of(key_node), what, "keep one of them"))
                continue
            self.lines[where] = _line_of(key_node)
            values[key] = self._read(value_node, where)
        return values

    def _read(self, node: yaml.Node, path: KeyPath) -> object:
        self._n_values += 1
        # An alias within its own anchor makes a ring, aliases of aliases make millions of values.
        if self._n_values > MAX_VALUES or len(path) > MAX_DEPTH:
            raise BrokenFileError(Fault(path[:2], _line_of(node), "holds too much", "write it without aliases"))
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self.read_mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self._read_entry(entry, (*path, index)) for index, entry in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            with contextlib.suppress(ValueError):
                return _to_value(node.tag.removeprefix(_TAG), node.value)
        what = f"has a value that cannot be read as {clip(node.tag.removeprefix(_TAG))}"
        self.faults.append(Fault(path, _line_of(node), what, "write a plain value, without a tag (!)"))
        return None

    def _read_entry(self, node: yaml.Node, path: KeyPath) -> object:
        self.lines[path] = _line_of(node)
        return self._read(node, path)


def _to_value(kind: str, text: str) -> object:
    """Return the value of a scalar; ValueError where the text is none of its kind."""
    match kind:
        case "str":
            return text
        case "null":
            return None
        case "bool" if text.lower() in ("true", "false"):
            return text.lower() == "true"
        case "int" if len(text) <= _MAX_DIGITS:
            return int(text, base={"0o": 8, "0x": 16}.get(text[:2], 10))
        case "float":
            return float(re.sub(r"\.(inf|nan)", r"\1", text.lower()))
    raise ValueError(kind)


def _find_owner(path: Path, *, is_followed: bool) -> int | None:
    try:
        return path.stat(follow_symlinks=is_followed).st_uid
    except OSError:
        return None
