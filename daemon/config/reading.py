"""Reading the configuration file: all its faults at once, never a traceback."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from daemon.config.schema import LATER, Config, json_schema
from daemon.config.wording import explain
from daemon.configfile import EMPTY, BrokenFileError, Document, Fault, KeyPath, clip, read_document
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# What SIGHUP applies; of logging only the level.
RELOADED = ("watch", "transcribe", "output", "retry", "retention")


def load(path: Path | None) -> Config:
    """Return the configuration in `path`; None stands for the defaults.

    Relative paths in it start at the folder it lies in.

    Raises:
        ConfigError: with every fault of the file.
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
    """Return `old` with what may change while the daemon runs taken from `path`.

    Returns:
        (the merged configuration, key paths whose change needs a restart and was not taken).

    Raises:
        ConfigError: the file is broken; the old configuration holds.
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
    """What a document gives: its good keys, the defaults for the bad ones, and why they are bad."""

    config: Config
    faults: tuple[Fault, ...]

    def has_faults_in(self, keys: Iterable[KeyPath]) -> bool:
        """Return whether one of these keys, or its whole section, is bad."""
        bad = {fault.key[:2] for fault in self.faults}
        return any(key in bad or key[:1] in bad for key in keys)


def check(document: Document, base: Path | None) -> Checked:
    """Check each key by itself; relative paths start at `base`."""
    values: dict[str, Any] = {
        section: dict(keys) if isinstance(keys, dict) else keys
        for section, keys in document.values.items()
        if keys is not None  # a section with nothing in it is as good as none
    }
    for section, *key in (fault.key[:2] for fault in document.faults if fault.key):
        if key and isinstance(values.get(str(section)), dict):
            values[str(section)].pop(key[0], None)
    faults = [*document.faults, *_take_out_later(values, document)]
    try:
        config = Config.model_validate(values, context={"base": base})
    except ValidationError as error:
        schema = json_schema()
        # By key: a value that fits no branch of a union is found once for each of them.
        found = {fault.key: fault for fault in (explain(detail, document, schema) for detail in error.errors())}
        # A bad entry leaves its list too short: the entry is what is wrong.
        faults += [fault for key, fault in found.items() if not any(key == other[:-1] for other in found)]
        for section, *key in {fault[:2] for fault in found}:
            if key:
                del values[str(section)][key[0]]
            else:
                del values[str(section)]
        config = Config.model_validate(values, context={"base": base})
    return Checked(config, tuple(faults))


def _take_out_later(values: dict[str, Any], document: Document) -> list[Fault]:
    """Take the keys that are not built yet out of `values`; return these and the choices that are not."""
    faults = []
    for entry in sorted(LATER):
        name, _, choice = entry.partition(": ")
        section, key = name.split(".")
        keys = values.get(section)
        if not isinstance(keys, dict) or key not in keys:
            continue
        default = getattr(getattr(Config(), section), key)
        if choice:  # a word that the type knows: the list may stay, for the others in it to be checked
            if isinstance(keys[key], list) and choice in keys[key]:
                where: KeyPath = (section, key, keys[key].index(choice))
                faults.append(Fault(where, document.find_line(where), f"{choice} is not built yet", "leave it out"))
        elif keys[key] != (list(default) if isinstance(default, tuple) else default):
            where = (section, key)
            faults.append(Fault(where, document.find_line(where), "not built yet", "leave the key out"))
            del keys[key]
    return faults


def _find_conflicts(checked: Checked, document: Document) -> Iterator[Fault]:
    """Find keys that are good by themselves and do not go together."""
    for keys, what, remedy in (*_compare_folders(checked.config), *_compare_cuts(checked.config)):
        if not checked.has_faults_in(keys):
            # Point at the key that the file sets; where it sets both, at the first one.
            key = next((key for key in keys if key in document.lines), keys[0])
            yield Fault(key, document.find_line(key), what, remedy)


_Conflict = tuple[tuple[KeyPath, KeyPath], str, str]


def _compare_folders(config: Config) -> Iterator[_Conflict]:
    # As the kernel sees them: two paths can be one folder behind a link.
    real = {name: Path(os.path.realpath(path)) for name, path in config.folders}
    for one, other in itertools.combinations(real, 2):
        inner, outer = (one, other) if real[one].is_relative_to(real[other]) else (other, one)
        if real[inner].is_relative_to(real[outer]):
            place = "is the same folder as" if real[inner] == real[outer] else "lies inside"
            what = f"{clip(str(real[inner]), 300)} {place} folders.{outer}, {clip(str(real[outer]), 300)}"
            yield (("folders", inner), ("folders", outer)), what, "give each folder a place of its own"
    for section, key in (("logging", "file"), ("metrics", "textfile")):
        path = getattr(getattr(config, section), key)
        if path is not None and Path(os.path.realpath(path)).is_relative_to(real["inbox"]):
            what = f"{clip(str(path), 300)} lies in the inbox and would be taken for a recording"
            yield ((section, key), ("folders", "inbox")), what, "put it elsewhere"


def _compare_cuts(config: Config) -> Iterator[_Conflict]:
    overlap_s, max_chunk_s = config.segment.overlap_s, config.segment.max_chunk_s
    if overlap_s >= max_chunk_s / 2:
        what = f"overlap_s ({overlap_s:g}) is not less than half of max_chunk_s ({max_chunk_s:g})"
        yield (("segment", "overlap_s"), ("segment", "max_chunk_s")), what, "lower overlap_s"


def _to_config_error(name: str, faults: Iterable[Fault]) -> ConfigError:
    lines = [str(fault) for fault in sorted(faults, key=lambda fault: fault.line or 0)]
    count = "1 fault" if len(lines) == 1 else f"{len(lines)} faults"
    return ConfigError(f"{name} has {count}:", tuple(lines))
