"""What may differ from recording to recording, and the `scribed.yaml` of a folder that sets it."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from daemon.config.reading import check
from daemon.configfile import BrokenFileError, Fault, KeyPath, clip, parse, read_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from daemon.config.schema import Config

FOLDER_SETTINGS_NAME = "scribed.yaml"
MAX_FOLDER_SETTINGS_BYTES = 16 * 1024

# The keys a folder may set; each is a field of RecordingSettings too.
_FOLDER_KEYS = {
    "transcribe": ("language", "hotwords"),
    "output": ("formats", "timestamps"),
    "preprocess": ("highpass_hz", "normalize"),
}


@dataclass(frozen=True, slots=True)
class RecordingSettings:
    """The settings that hold for one recording.

    Attributes:
        language: the model's name of the language it must write, or None where it detects it.
        hotwords: names and terms to expect.
        formats: documents to write, such as ("txt", "json").
        timestamps: whether the txt has the time before each paragraph.
        highpass_hz: lowest frequency that is kept, 0 keeps all.
        normalize: "peak", "loudness" or "off".
    """

    language: str | None
    hotwords: tuple[str, ...]
    formats: tuple[str, ...]
    timestamps: bool
    highpass_hz: float
    normalize: str

    @classmethod
    def of(cls, config: Config) -> RecordingSettings:
        """Return the settings of a recording for which no folder says otherwise."""
        return cls(
            language=config.transcribe.forced_language,
            hotwords=config.transcribe.hotwords,
            formats=config.output.formats,
            timestamps=config.output.timestamps,
            highpass_hz=config.preprocess.highpass_hz,
            normalize=config.preprocess.normalize,
        )


def read_folder_settings(
    inbox: Path, folder: str, outer: RecordingSettings
) -> tuple[RecordingSettings, tuple[str, ...]]:
    """Apply the `scribed.yaml` of the inbox and of each folder on the way down to `folder`.

    The nearest folder wins, key by key. Senders write these files: no link is followed, on the way
    or at its end, and a broken one changes nothing.

    Args:
        inbox: the inbox.
        folder: where the recording lay within it, such as "a/b"; "" is the inbox itself.
        outer: what holds where no folder says otherwise.

    Returns:
        (the settings, the faults of broken files, one line each).
    """
    settings = outer
    faults: list[str] = []
    for prefix, descriptor in _open_folders(inbox, folder):
        try:
            raw = read_file(FOLDER_SETTINGS_NAME, MAX_FOLDER_SETTINGS_BYTES, descriptor)
            if raw is not None:
                settings = replace(settings, **_read_changes(raw))
        except BrokenFileError as error:
            faults += [f"{clip(prefix, 300)}{FOLDER_SETTINGS_NAME}: {fault}" for fault in error.faults]
    return settings, tuple(faults)


def _open_folders(inbox: Path, folder: str) -> Iterator[tuple[str, int]]:
    """Yield ("a/", its descriptor) of each folder, first the inbox itself as "".

    Each is opened by its name in the one before it, so that a folder which is replaced by a link
    meanwhile leads nowhere. Where one is gone, or is no folder, the way ends.
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


def _read_changes(raw: bytes) -> dict[str, Any]:
    """Return the fields of RecordingSettings that a file sets.

    Raises:
        BrokenFileError: with every fault of it.
    """
    document = parse(raw, has_aliases=False)
    values: dict[str, object] = {}
    refused: list[KeyPath] = []
    for section, keys in document.values.items():
        allowed = _FOLDER_KEYS.get(section, ())
        if allowed and isinstance(keys, dict):
            values[section] = {key: value for key, value in keys.items() if key in allowed}
            refused += [(section, key) for key in keys if key not in allowed]
        elif allowed:
            values[section] = keys
        else:
            refused.append((section,))
    settable = ", ".join(f"{section}.{key}" for section, keys in _FOLDER_KEYS.items() for key in keys)
    faults = [
        Fault(key, document.find_line(key), "cannot be set for a folder", f"what can: {settable}") for key in refused
    ]
    checked = check(replace(document, values=values), base=None)
    faults += checked.faults
    if faults:
        raise BrokenFileError(*sorted(faults, key=lambda fault: fault.line or 0))
    settings = RecordingSettings.of(checked.config)
    return {key: getattr(settings, key) for keys in values.values() if isinstance(keys, dict) for key in keys}
