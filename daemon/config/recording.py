"""Settings of one recording, and the `scribed.yaml` of a folder that changes them."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from daemon.config.reading import check
from daemon.config.schema import LATER, Transcribe
from daemon.configfile import FOLDER_SETTINGS_NAME, BrokenFileError, ConfigFault, KeyPath, clip, parse, read_file
from daemon.text import LANGUAGES
from daemon.text.corrections import Correction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from pydantic import BaseModel

    from daemon.config.schema import Config, Output, Preprocess
    from daemon.configfile import Document

MAX_FOLDER_SETTINGS_BYTES: Final = 16 * 1024

# The sections of which a folder may set something, by their field of RecordingSettings, and their keys.
_SECTIONS: Final = {"transcribe": "asr", "output": "output", "preprocess": "audio"}
FOLDER_KEYS: Final = {
    "transcribe": tuple(Transcribe.model_fields),
    "output": ("formats", "timestamps", "sound_events", "listening_copy"),
    "preprocess": ("highpass_hz", "normalize", "leveling"),
}


@dataclass(frozen=True, slots=True)
class BrokenSettings:
    """A `scribed.yaml` that was not used.

    Attributes:
        folder: where it is within the inbox, "" for the inbox itself.
        faults: one line each.
    """

    folder: str
    faults: tuple[str, ...]

    def describe(self, show: Callable[[str], str] = str) -> str:
        """Return the file and its first fault on one line.

        Args:
            show: returns how a folder of this path is to be called.
        """
        where = f"{clip(show(self.folder), 300)}/" if self.folder else ""
        more = f" (and {len(self.faults) - 1} more)" if len(self.faults) > 1 else ""
        return f"{where}{FOLDER_SETTINGS_NAME}: {self.faults[0]}{more}"


@dataclass(frozen=True, slots=True)
class RecordingSettings:
    """The settings of one recording.

    Attributes:
        audio: what is done to the audio before the model hears it.
        asr: language, hotwords, and what is done with the words.
        output: the documents.
        notes: what the receipt says about where settings come from.
    """

    audio: Preprocess
    asr: Transcribe
    output: Output
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Config) -> RecordingSettings:
        """Return the settings of a recording without settings of its folder."""
        return cls(audio=config.preprocess, asr=config.transcribe, output=config.output)

    def with_hotwords(self, more: Iterable[str]) -> RecordingSettings:
        """Return the settings with more hotwords, each once."""
        words = tuple(dict.fromkeys((*self.asr.hotwords, *more)))
        if words == tuple(self.asr.hotwords):
            return self
        return replace(self, asr=self.asr.model_copy(update={"hotwords": words}))

    def with_notes(self, more: Iterable[str]) -> RecordingSettings:
        """Return the settings with more notes for the receipt."""
        notes = (*self.notes, *more)
        return replace(self, notes=notes) if len(notes) > len(self.notes) else self

    def of_name(self, name: str) -> RecordingSettings:
        """Return the settings with the language that the name of the recording carries, if it may carry one."""
        language = find_language(name) if self.asr.language_from_name else None
        if language is None:
            return self
        asr = self.asr.model_copy(update={"language": language})
        return replace(self, asr=asr).with_notes((f"the language, {language}, is taken from the name of the file",))


def find_language(name: str) -> str | None:
    """Return the language in the name of a recording, such as Cantonese for talk.yue.m4a; None if there is none.

    It is one of the model's codes, in lower case, between the rest of the name and its ending.
    """
    stem, ending = os.path.splitext(name)  # noqa: PTH122  # Path drops the dot of "talk."
    code = os.path.splitext(stem)[1][1:]  # noqa: PTH122  # the same
    return LANGUAGES.get(code) if ending else None


def read_folder_settings(
    inbox: Path, folder: str, outer: RecordingSettings
) -> tuple[RecordingSettings, tuple[BrokenSettings, ...]]:
    """Apply the `scribed.yaml` of the inbox and of each folder on the way down to `folder`.

    The nearest folder wins, key by key. Senders write these files: no link is followed, and a broken
    file changes nothing.

    Args:
        inbox: the inbox.
        folder: where the recording was in it, such as "a/b"; "" is the inbox itself.
        outer: the settings without any such file.

    Returns:
        (the settings, the files that were not used).
    """
    settings = outer
    broken: list[BrokenSettings] = []
    for prefix, descriptor in _open_folders(inbox, folder):
        try:
            raw = read_file(FOLDER_SETTINGS_NAME, MAX_FOLDER_SETTINGS_BYTES, descriptor)
            if raw is not None:
                settings = _apply(settings, _read_changes(raw))
        except BrokenFileError as error:
            broken.append(BrokenSettings(prefix[:-1], tuple(map(str, error.faults))))
    return settings, tuple(broken)


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
    faults += [*checked.faults, *_find_expressions(checked.config, document)]
    if faults:
        raise BrokenFileError(*sorted(faults, key=lambda fault: fault.line or 0))
    return {
        section: {key: getattr(getattr(checked.config, section), key) for key in keys}
        for section, keys in values.items()
        if isinstance(keys, dict)
    }


def _find_expressions(config: Config, document: Document) -> Iterator[ConfigFault]:
    """Yield a fault for each correction with a regular expression: one can keep a processor busy."""
    for index, rule in enumerate(config.transcribe.corrections):
        if isinstance(rule, Correction) and rule.is_regex:
            key: KeyPath = ("transcribe", "corrections", index)
            what = f"the regular expression '{clip(rule.find)}' cannot be used in a folder"
            yield ConfigFault(key, document.find_line(key), what, "put it into the main configuration")


def _apply(settings: RecordingSettings, changes: Mapping[str, Mapping[str, object]]) -> RecordingSettings:
    """Return the settings with the changed keys of each section."""
    changed: dict[str, BaseModel] = {}
    for section, keys in changes.items():
        field = _SECTIONS[section]
        old: BaseModel = getattr(settings, field)
        changed[field] = old.model_copy(update=dict(keys))
    return replace(settings, **changed)  # type: ignore[arg-type]  # each section stays of its own type
