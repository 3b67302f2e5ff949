"""What folders of the inbox set for their recordings, and the problems of files that cannot be used."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from daemon.config import RecordingSettings, read_folder_settings
from daemon.configfile import clip
from daemon.display import shown_name

if TYPE_CHECKING:
    from daemon.config import BrokenSettings, Config
    from daemon.status.faults import Faults

_MAX_NAME_CHARS: Final = 300
_REMEDY: Final = "Fix or remove it. Until then, the settings around it apply."


class FolderSettings:
    """Reads the `scribed.yaml` of folders; any thread may call.

    Args:
        faults: where a file that cannot be used is noted, for as long as it is like that.
    """

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._lock = threading.Lock()
        self._broken: frozenset[str] = frozenset()  # folders whose file is noted

    def of(self, folder: str, config: Config) -> RecordingSettings:
        """Return the settings of recordings from one folder of the inbox, "" for the inbox itself."""
        with self._lock:
            settings, broken = read_folder_settings(config.folders.inbox, folder, RecordingSettings.of(config))
            self._note(folder, broken, config)
        return settings.with_notes(f"settings were not used: {each.describe()}" for each in broken)

    def recheck(self, config: Config) -> None:
        """Clear the problems of files that were fixed or removed."""
        with self._lock:
            for folder in self._broken:
                self._note(
                    folder, read_folder_settings(config.folders.inbox, folder, RecordingSettings.of(config))[1], config
                )

    def _note(self, folder: str, broken: tuple[BrokenSettings, ...], config: Config) -> None:
        for each in broken:
            self._note_one(each, clip(shown_name(each.folder, config.logging.names), _MAX_NAME_CHARS))
        found = {each.folder for each in broken}
        for fixed in self._broken & _with_parents(folder) - found:
            self._faults.clear(_key(fixed))
        self._broken = self._broken - _with_parents(folder) | found

    def _note_one(self, broken: BrokenSettings, name: str) -> None:
        what = f"The settings in {broken.describe(lambda _: name)}."
        self._faults.note(_key(broken.folder), what, _REMEDY, names=(name,) if broken.folder else ())


def _key(folder: str) -> str:
    return f"settings of {folder}"


def _with_parents(folder: str) -> set[str]:
    """Return a folder and all folders above it, up to the inbox."""
    parts = folder.split("/")
    return {"", *("/".join(parts[: n + 1]) for n in range(len(parts)))}
