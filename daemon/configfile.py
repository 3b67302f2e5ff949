"""The configuration file: where it is, and its YAML as plain values, with the line of each key.

The meaning of the values is in `config`, which takes longer to load than `scribed status` may take.

YAML is read with the core schema of YAML 1.2, not with that of 1.1 as PyYAML does: `off` and `no` are
texts, as a reader of `normalize: off` or `language: no` expects, and 1:30 is not a number.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import hashlib
import os
import pwd
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from yaml.composer import ComposerError

from daemon.errors import ConfigError

SYSTEM_PATH: Final = Path("/etc/scribed/config.yaml")
LOCAL_PATH: Final = Path("config.yaml")  # this very object is what `find` found; --config config.yaml is another one
STATE_FOLDER: Final = Path("/var/lib/scribed")  # the default
FOLDER_SETTINGS_NAME: Final = "scribed.yaml"  # in a folder of the inbox
DEMO_MODEL: Final = "demo"  # as `model.path`: the model in this package
# The keys of `folders`: those that the group shares, and those of the service alone.
SHARED_FOLDERS: Final = ("inbox", "outbox", "processed", "failed")
OWN_FOLDERS: Final = ("state", "cache")
MAX_FILE_BYTES: Final = 256 * 1024

# A configuration has 5 levels and a few hundred values; these limits stop a hostile file.
MAX_DEPTH: Final = 20
MAX_VALUES: Final = 10_000

KeyPath = tuple[str | int, ...]

_TAG: Final = "tag:yaml.org,2002:"
# More than any number needs. Python refuses to print one of more than 4300 digits.
_MAX_DIGITS: Final = 100


@dataclass(frozen=True, slots=True)
class ConfigFault:
    """One problem of a configuration file.

    Attributes:
        key: where it is, such as ("watch", "settle_s"); empty for the file as a whole.
        line: counted from 1, None if the file does not have the key.
        what: what is wrong.
        remedy: what to do about it.
    """

    key: KeyPath
    line: int | None
    what: str
    remedy: str

    def __str__(self) -> str:
        """Return the fault on one line."""
        # The index of a list entry is left out: its line and its value say more.
        where = ".".join(part for part in self.key if isinstance(part, str)) or "the file"
        line = "" if self.line is None else f" (line {self.line})"
        return f"{clip(where)}{line}: {self.what}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Document:
    """The content of a YAML file.

    Attributes:
        values: mappings, lists, texts, numbers, booleans and None.
        lines: line of each key and list entry, counted from 1.
        faults: duplicate keys, and values that cannot be read.
    """

    values: dict[str, object]
    lines: dict[KeyPath, int]
    faults: tuple[ConfigFault, ...] = ()

    def find_line(self, key: KeyPath) -> int | None:
        """Return the line of a key, or of the nearest enclosing key that has one."""
        return next((self.lines[key[:end]] for end in range(len(key), 0, -1) if key[:end] in self.lines), None)


EMPTY: Final = Document({}, {})


class BrokenFileError(Exception):
    """A file cannot be used at all; `faults` says why."""

    def __init__(self, *faults: ConfigFault) -> None:
        super().__init__("; ".join(str(fault) for fault in faults))
        self.faults = faults


def clip(text: str, longest: int = 60) -> str:
    """Return the text with unprintable characters escaped, cut if it is too long for one line."""
    shown = text if text.isprintable() else repr(text)[1:-1]
    return shown if len(shown) <= longest else f"{shown[:longest]}..."


def find(explicit: Path | None) -> Path | None:
    """Return the configuration file to use, None for the defaults.

    The order: `explicit` (--config), $SCRIBED_CONFIG, ./config.yaml if root or the caller owns it and others cannot
    write to its folder, /etc/scribed/config.yaml. In a shared folder anyone can leave one, or rename a document that
    the service's user has written to it.

    Raises:
        ConfigError: the file of --config or $SCRIBED_CONFIG does not exist.
    """
    named = os.environ.get("SCRIBED_CONFIG", "")
    if explicit is not None or named:
        path = Path(named) if explicit is None else explicit
        if not os.path.lexists(path):
            origin = "$SCRIBED_CONFIG names" if explicit is None else "--config names"
            what = f"{origin} {clip(str(path), 300)}, which does not exist."
            raise ConfigError(what, remedy="Pass an existing file, or omit --config to use the default locations.")
        return path
    local = LOCAL_PATH
    # Of a link, the owners of both link and target: a link to a file of root is still another user's choice.
    owners = {_find_owner(local, is_followed=True), _find_owner(local, is_followed=False)}
    if owners <= {0, os.geteuid()} and _is_closed(local.parent):
        return local
    return SYSTEM_PATH if os.path.lexists(SYSTEM_PATH) else None


def read_file(
    path: str, limit_bytes: int, folder: int | None = None, owners: frozenset[int] | None = None
) -> bytes | None:
    """Return the content of a small regular file, None if it does not exist.

    Args:
        path: the file.
        limit_bytes: a larger one is not read.
        folder: descriptor of the folder that `path` is in; then `path` must not be a link.
        owners: ids of the users whose file it may be; None for all.

    Raises:
        BrokenFileError: it cannot be read, or it is too large.
    """
    # O_NONBLOCK: opening a FIFO must not wait for its writer.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if folder is None else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags, dir_fd=folder)
        try:
            if owners is not None and os.fstat(descriptor).st_uid not in owners:
                raise BrokenFileError(ConfigFault((), None, "belongs to another user", "name it with --config"))
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BrokenFileError(ConfigFault((), None, "is not a regular file", "put a YAML file there"))
            with open(descriptor, "rb", closefd=False) as file:
                raw = file.read(limit_bytes + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except PermissionError:
        remedy = "give the user or the group scribed read permission"
        raise BrokenFileError(ConfigFault((), None, "is not readable for this user", remedy)) from None
    except OSError as error:
        what = "is a link" if error.errno == errno.ELOOP else f"cannot be read ({error.strerror})"
        raise BrokenFileError(ConfigFault((), None, what, "replace it with a regular file")) from None
    if len(raw) > limit_bytes:
        raise BrokenFileError(ConfigFault((), None, f"is larger than {limit_bytes // 1024} KiB", "shorten it"))
    return raw


def read_document(path: Path) -> Document:
    """Read a configuration file.

    Raises:
        BrokenFileError: it cannot be used at all.
    """
    return parse(_read_raw(path), has_aliases=True)


def glance(path: Path | None) -> tuple[Path, str] | None:
    """Return the state folder that a configuration names and the file's sha256, "" for the defaults.

    The rest of the file is not validated; None if only the schema can tell.
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
    owners = frozenset({0, os.geteuid()}) if path is LOCAL_PATH else None  # it may have been replaced since `find`
    raw = read_file(os.fspath(path), MAX_FILE_BYTES, owners=owners)
    if raw is None:
        raise BrokenFileError(ConfigFault((), None, "does not exist", "pass an existing file"))
    return raw


def parse(raw: bytes, *, has_aliases: bool) -> Document:
    """Read a YAML file.

    Args:
        raw: the content of the file, UTF-8.
        has_aliases: whether anchors and aliases may be used.

    Raises:
        BrokenFileError: it is not UTF-8, not YAML, too large, or not a mapping.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BrokenFileError(ConfigFault((), line, "is not UTF-8 text", "save it as UTF-8")) from None
    node = _compose(text, has_aliases=has_aliases)
    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}null"):
        return EMPTY
    if not isinstance(node, yaml.MappingNode):
        raise BrokenFileError(ConfigFault((), _line_of(node), "has no sections", "see config.example.yaml"))
    reader = _Reader()
    return Document(reader.read_mapping(node, ()), reader.lines, tuple(reader.faults))


class _CoreLoader(yaml.SafeLoader):
    """PyYAML's parser up to the nodes, with the types of YAML 1.2 and a limit on nesting.

    PyYAML recurses at each level; a thousand levels would end in a RecursionError.
    """

    # Without this, the resolvers of YAML 1.1 are inherited; ours are added below.
    yaml_implicit_resolvers = {}  # noqa: RUF012  # the name and type are PyYAML's
    has_aliases = True
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the next node, counting the levels."""
        if self.check_event(yaml.AliasEvent) and not self.has_aliases:
            raise ComposerError(None, None, "an alias (*name) is not allowed here", self.get_mark())
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
    """Return the nodes of the text, None if it has only comments."""
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
        what, remedy = f"cannot be read: {clip(error.problem or 'it is not YAML')}", _remedy_for(error.problem or "")
    except (yaml.YAMLError, ValueError, OverflowError):
        # ValueError and OverflowError: PyYAML raises them, for instance on "\UFFFFFFFF".
        what, remedy = "cannot be read", "check the quoted text on this line"
    raise BrokenFileError(ConfigFault((), line, what, remedy))


def _remedy_for(problem: str) -> str:
    if "'\\t'" in problem:
        return "indent with spaces, not with tabs"
    if "alias" in problem:
        return "write out the values"
    return "compare the lines near it with config.example.yaml"


def _line_of(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


class _Reader:
    """Turns nodes into values, and collects lines and faults."""

    def __init__(self) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.faults: list[ConfigFault] = []
        self._n_values = 0

    def read_mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, object]:
        """Return the mapping; of a duplicate key, the first value."""
        values: dict[str, object] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.faults.append(
                    ConfigFault(path, _line_of(key_node), "has a key that is not a word", "write key: value")
                )
                continue
            key = key_node.value
            where = (*path, key)
            if key in values:
                what = f"duplicate key (first on line {self.lines[where]})"
                self.faults.append(ConfigFault(where, _line_of(key_node), what, "remove one"))
                continue
            self.lines[where] = _line_of(key_node)
            values[key] = self._read(value_node, where)
        return values

    def _read(self, node: yaml.Node, path: KeyPath) -> object:
        self._n_values += 1
        # An alias inside its own anchor is a loop, and aliases of aliases make millions of values.
        if self._n_values > MAX_VALUES or len(path) > MAX_DEPTH:
            raise BrokenFileError(
                ConfigFault(path[:2], _line_of(node), "has too many values", "write it without aliases")
            )
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self.read_mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self._read_entry(entry, (*path, index)) for index, entry in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            with contextlib.suppress(ValueError):
                return _to_value(node.tag.removeprefix(_TAG), node.value)
        what = f"has a value that cannot be read as {clip(node.tag.removeprefix(_TAG))}"
        self.faults.append(ConfigFault(path, _line_of(node), what, "use a plain value, without a tag (!)"))
        return None

    def _read_entry(self, node: yaml.Node, path: KeyPath) -> object:
        self.lines[path] = _line_of(node)
        return self._read(node, path)


def _to_value(kind: str, text: str) -> object:
    """Return the value of a scalar; raise ValueError if the text is not of its kind."""
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


def _is_closed(folder: Path) -> bool:
    """Whether only root and the caller can rename files in a folder."""
    try:
        facts = folder.stat()
    except OSError:
        return False
    if facts.st_uid not in (0, os.geteuid()):
        return False
    if facts.st_mode & stat.S_ISVTX or not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return True
    return not facts.st_mode & stat.S_IWOTH and facts.st_gid == os.getegid() and _is_private(facts.st_gid)


def _is_private(group: int) -> bool:
    """Whether a group has no members besides the user it is named after, as systems with umask 002 set them up."""
    try:
        found = grp.getgrgid(group)
        return set(found.gr_mem) <= {found.gr_name} and pwd.getpwuid(os.geteuid()).pw_name == found.gr_name
    except KeyError:
        return False


def _find_owner(path: Path, *, is_followed: bool) -> int | None:
    try:
        return path.stat(follow_symlinks=is_followed).st_uid
    except OSError:
        return None
