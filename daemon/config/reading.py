"""Reading the configuration file: all faults at once, never a traceback."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from daemon.config.schema import LATER, Config, json_schema
from daemon.config.wording import explain
from daemon.configfile import (
    EMPTY,
    SHARED_FOLDERS,
    BrokenFileError,
    ConfigFault,
    Document,
    KeyPath,
    clip,
    read_document,
)
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# What SIGHUP applies; of logging only the level.
RELOADED: Final = ("watch", "transcribe", "output", "retry", "retention", "hooks")


def load(path: Path | None) -> Config:
    """Return the configuration in `path`, or the defaults for None.

    Relative paths in it start at its own folder.

    Raises:
        ConfigError: with all faults of the file.
    """
    name = "The built-in configuration" if path is None else f"The configuration {clip(str(path), 300)}"
    document, base = EMPTY, None
    if path is not None:
        try:
            document, base = read_document(path), path.absolute().parent
        except BrokenFileError as error:
            raise _to_config_error(name, error.faults) from None
    checked = check(document, base)
    faults = [*checked.faults, *_find_conflicts(checked, document)]
    if faults:
        raise _to_config_error(name, faults)
    return checked.config


def reload(old: Config, path: Path | None) -> tuple[Config, tuple[str, ...]]:
    """Return `old` with those settings of `path` that may change while the daemon runs.

    Returns:
        (the merged configuration, key paths of changes that need a restart and were not applied).

    Raises:
        ConfigError: the file has faults; the old configuration stays in effect.
    """
    new = load(path)
    taken: dict[str, object] = {name: getattr(new, name) for name in RELOADED}
    taken["logging"] = old.logging.model_copy(update={"level": new.logging.level})
    merged = old.model_copy(update=taken)
    refused = (
        f"{section}.{key}"
        for section, settings in new
        for key, value in settings
        if getattr(getattr(merged, section), key) != value
    )
    return merged, tuple(refused)


@dataclass(frozen=True, slots=True)
class Checked:
    """The configuration of a document, with defaults in place of bad keys, and the faults of these."""

    config: Config
    faults: tuple[ConfigFault, ...]

    def has_faults_in(self, keys: Iterable[KeyPath]) -> bool:
        """Return whether one of these keys, or a whole section of theirs, has a fault."""
        bad = {fault.key[:2] for fault in self.faults}
        return any(key in bad or key[:1] in bad for key in keys)


def check(document: Document, base: Path | None) -> Checked:
    """Validate each key by itself; relative paths start at `base`."""
    values: dict[str, Any] = {
        section: dict(keys) if isinstance(keys, dict) else keys
        for section, keys in document.values.items()
        if keys is not None  # an empty section is the same as none
    }
    for section, *key in (fault.key[:2] for fault in document.faults if fault.key):
        if key and isinstance(values.get(str(section)), dict):
            values[str(section)].pop(key[0], None)
    faults = [*document.faults, *_take_out_later(values, document)]
    try:
        config = Config.model_validate(values, context={"base": base})
    except ValidationError as error:
        schema = json_schema()
        # By key: a value that matches no branch of a union has one error for each.
        found = {fault.key: fault for fault in (explain(detail, document, schema) for detail in error.errors())}
        # A list that is too short only because of a bad entry: the entry is the fault.
        faults += [fault for key, fault in found.items() if not any(key == other[:-1] for other in found)]
        for section, *key in {fault[:2] for fault in found}:
            if key:
                del values[str(section)][key[0]]
            else:
                del values[str(section)]
        config = Config.model_validate(values, context={"base": base})
    return Checked(config, tuple(faults))


def _take_out_later(values: dict[str, Any], document: Document) -> list[ConfigFault]:
    """Remove keys that are not implemented yet from `values`; return faults for them and for such choices."""
    faults = []
    for entry in sorted(LATER):
        name, _, choice = entry.partition(": ")
        section, key = name.split(".")
        keys = values.get(section)
        if not isinstance(keys, dict) or key not in keys:
            continue
        value = keys[key]
        if choice:
            # One entry of a list, whose other entries are still validated, or the value itself.
            where: KeyPath = (section, key, value.index(choice)) if isinstance(value, list) and choice in value else ()
            where = where or ((section, key) if value == choice else ())
            if where:
                what = f"{choice} is not implemented yet"
                faults.append(ConfigFault(where, document.find_line(where), what, "remove it"))
        elif value != _plain(getattr(getattr(Config(), section), key)):
            where = (section, key)
            faults.append(ConfigFault(where, document.find_line(where), "not implemented yet", "remove the key"))
            del keys[key]
    return faults


def _plain(default: object) -> object:
    """Return a default as a file has it."""
    match default:
        case tuple():
            return list(default)
        case Path():
            return str(default)
        case _:
            return default


def _find_conflicts(checked: Checked, document: Document) -> Iterator[ConfigFault]:
    """Find valid keys that contradict one another."""
    config = checked.config
    conflicts = (_compare_folders, compare_lengths, _compare_formats, _compare_program)
    for keys, what, remedy in itertools.chain.from_iterable(find(config) for find in conflicts):
        if not checked.has_faults_in(keys):
            # Name the key that the file sets; if it sets both, the first one.
            key = next((key for key in keys if key in document.lines), keys[0])
            yield ConfigFault(key, document.find_line(key), what, remedy)


_Conflict = tuple[tuple[KeyPath, KeyPath], str, str]


def _compare_folders(config: Config) -> Iterator[_Conflict]:
    # With links resolved: two paths can be the same folder.
    real = {name: Path(os.path.realpath(path)) for name, path in config.folders}
    for one, other in itertools.combinations(real, 2):
        inner, outer = (one, other) if real[one].is_relative_to(real[other]) else (other, one)
        if real[inner].is_relative_to(real[outer]):
            place = "is the same folder as" if real[inner] == real[outer] else "is inside"
            what = f"{clip(str(real[inner]), 300)} {place} folders.{outer}, {clip(str(real[outer]), 300)}"
            yield (("folders", inner), ("folders", outer)), what, "use separate folders"
    for section, key in (("logging", "file"), ("metrics", "textfile")):
        path = getattr(getattr(config, section), key)
        if path is not None and Path(os.path.realpath(path)).is_relative_to(real["inbox"]):
            what = f"{clip(str(path), 300)} is in the inbox and would be taken for a recording"
            yield ((section, key), ("folders", "inbox")), what, "move it elsewhere"


def _compare_program(config: Config) -> Iterator[_Conflict]:
    """Refuse a program that members of the group could replace: it runs with the rights of the service."""
    if config.hooks.delivered is None or not config.hooks.delivered[0].startswith("/"):
        return
    program = Path(os.path.realpath(config.hooks.delivered[0]))
    for name in SHARED_FOLDERS:
        if program.is_relative_to(os.path.realpath(getattr(config.folders, name))):
            what = f"{clip(str(program), 300)} is in the {name}, where others could replace it"
            yield (("hooks", "delivered"), ("folders", name)), what, "move it elsewhere, such as to /usr/local/bin"


def _compare_formats(config: Config) -> Iterator[_Conflict]:
    if "json" in config.output.formats:
        return
    if config.search.enabled:
        what = "the search index is made from json documents, and output.formats has none"
        yield (("search", "enabled"), ("output", "formats")), what, "add json to output.formats"
    if config.hooks.delivered is not None:
        what = "the program needs the json document, but output.formats does not include json"
        yield (("hooks", "delivered"), ("output", "formats")), what, "add json to output.formats"


def compare_lengths(config: Config) -> Iterator[_Conflict]:
    """Find lengths that contradict one another: (keys, what, remedy)."""
    overlap_s, max_chunk_s = config.segment.overlap_s, config.segment.max_chunk_s
    if overlap_s >= max_chunk_s / 2:
        what = f"overlap_s ({overlap_s:g}) must be less than half of max_chunk_s ({max_chunk_s:g})"
        yield (("segment", "overlap_s"), ("segment", "max_chunk_s")), what, "lower overlap_s"


def _to_config_error(name: str, faults: Iterable[ConfigFault]) -> ConfigError:
    lines = [str(fault) for fault in sorted(faults, key=lambda fault: fault.line or 0)]
    count = "1 fault" if len(lines) == 1 else f"{len(lines)} faults"
    return ConfigError(f"{name} has {count}:", tuple(lines))
