"""Settings of one recording, and the `scribed.yaml` of a folder that changes them."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from daemon.config.reading import check
from daemon.config.schema import LATER, Transcribe
from daemon.configfile import FOLDER_SETTINGS_NAME, BrokenFileError, ConfigFault, KeyPath, clip, parse, read_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from pydantic import BaseModel

    from daemon.config.schema import Config, Output, Preprocess

MAX_FOLDER_SETTINGS_BYTES: Final = 16 * 1024

# The sections of which a folder may set something, by their field of RecordingSettings, and their keys.
_SECTIONS: Final = {"transcribe": "asr", "output": "output", "preprocess": "audio"}
FOLDER_KEYS: Final = {
    "transcribe": tuple(Transcribe.model_fields),
    "output": ("formats", "timestamps"),
    "preprocess": ("highpass_hz", "normalize"),
}


@dataclass(frozen=True, slots=True)
class RecordingSettings:
    """The settings of one recording.

    Attributes:
        audio: what is done to the audio before the model hears it.
        asr: language, hotwords, and what is done with the words.
        output: the documents.
    """

    audio: Preprocess
    asr: Transcribe
    output: Output

    @classmethod
    def of(cls, config: Config) -> RecordingSettings:
        """Return the settings of a recording without settings of its folder."""
        return cls(audio=config.preprocess, asr=config.transcribe, output=config.output)

    def with_hotwords(self, more: Iterable[str]) -> RecordingSettings:
        """Return the settings with more hotwords, each once."""
        words = tuple(dict.fromkeys((*self.asr.hotwords, *more)))
        return replace(self, asr=self.asr.model_copy(update={"hotwords": words}))


def read_folder_settings(
    inbox: Path, folder: str, outer: RecordingSettings, show: Callable[[str], str] = str
) -> tuple[RecordingSettings, tuple[str, ...]]:
    """Apply the `scribed.yaml` of the inbox and of each folder on the way down to `folder`.

    The nearest folder wins, key by key. Senders write these files: no link is followed, and a broken
    file changes nothing.

    Args:
        inbox: the inbox.
        folder: where the recording was in it, such as "a/b"; "" is the inbox itself.
        outer: the settings without any such file.
        show: returns how a fault calls a folder of this path, as `logging.names` wants it.

    Returns:
        (the settings, the faults of broken files, one line each).
    """
    settings = outer
    faults: list[str] = []
    for prefix, descriptor in _open_folders(inbox, folder):
        try:
            raw = read_file(FOLDER_SETTINGS_NAME, MAX_FOLDER_SETTINGS_BYTES, descriptor)
            if raw is not None:
                settings = _apply(settings, _read_changes(raw))
        except BrokenFileError as error:
            where = f"{clip(show(prefix[:-1]), 300)}/" if prefix else ""
            faults += [f"{where}{FOLDER_SETTINGS_NAME}: {fault}" for fault in error.faults]
    return settings, tuple(faults)


def _open_folders(inbox: Path, folder: str) -> Iterator[tuple[str, int]]:
    """Yield ("a/", its descriptor) of each folder, first the inbox itself as "".

    Each is opened by its name in its parent, so that a folder that is replaced by a link meanwhile
    is not followed. The walk ends at one that is missing or not a folder.
    """
    with ExitStack() as opened:
        parent: int | None = None
        prefix = ""
        for name in [None, *filter(None, folder.split("/"))]:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if name is None else os.O_NOFOLLOW)
            try:
                parent = os.open(name or inbox, flags, dir_fd=parent)
            except OSError:
                return
            opened.callback(os.close, parent)
            prefix = f"{prefix}{name}/" if name else ""
            yield prefix, parent


def _read_changes(raw: bytes) -> dict[str, dict[str, object]]:
    """Return the keys that a file sets, by section.

    Raises:
        BrokenFileError: with all its faults.
    """
    document = parse(raw, has_aliases=False)
    values: dict[str, object] = {}
    refused: list[KeyPath] = []
    for section, keys in document.values.items():
        allowed = FOLDER_KEYS.get(section, ())
        if allowed and isinstance(keys, dict):
            values[section] = {key: value for key, value in keys.items() if key in allowed}
            refused += [(section, key) for key in keys if key not in allowed]
        elif allowed:
            values[section] = keys
        else:
            refused.append((section,))
    names = [f"{section}.{key}" for section, keys in FOLDER_KEYS.items() for key in keys]
    settable = ", ".join(name for name in names if name not in LATER)
    faults = [
        ConfigFault(key, document.find_line(key), "cannot be set for a folder", f"valid keys: {settable}")
        for key in refused
    ]
    checked = check(replace(document, values=values), base=None)
    faults += checked.faults
    if faults:
        raise BrokenFileError(*sorted(faults, key=lambda fault: fault.line or 0))
    return {
        section: {key: getattr(getattr(checked.config, section), key) for key in keys}
        for section, keys in values.items()
        if isinstance(keys, dict)
    }


def _apply(settings: RecordingSettings, changes: Mapping[str, Mapping[str, object]]) -> RecordingSettings:
    """Return the settings with the changed keys of each section."""
    changed: dict[str, BaseModel] = {}
    for section, keys in changes.items():
        field = _SECTIONS[section]
        old: BaseModel = getattr(settings, field)
        changed[field] = old.model_copy(update=dict(keys))
    return replace(settings, **changed)  # type: ignore[arg-type]  # each section stays of its own type
