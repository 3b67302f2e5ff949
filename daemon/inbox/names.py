"""Which names in the inbox can be recordings, and which never are. Pure."""

from __future__ import annotations

from typing import Final

from daemon.configfile import FOLDER_SETTINGS_NAME

CLAIM_FOLDER: Final = ".scribed"
HOTWORDS_SUFFIX: Final = ".hotwords.txt"
ERROR_SUFFIX: Final = ".error.txt"

# What editors, browsers, transfer and sync programs call a file that is not complete, and what desktops, file
# servers and recycle bins leave behind. Compared without case. A scan asks this for each of a hundred thousand
# names, so the comparison takes a twentieth of fnmatch's time.
_TEMPORARY_STARTS: Final = (".", "~")
_TEMPORARY_ENDS: Final = (
    "~", ".part", ".partial", ".filepart", ".crdownload", ".crswap", ".download", ".tmp", ".temp", ".!sync",
    ":zone.identifier",
)  # fmt: skip
_TEMPORARY_PART: Final = ".octransferid"
_FOREIGN_NAMES: Final = frozenset({
    "thumbs.db", "desktop.ini", "@eadir", "__macosx",
    "#recycle", "@recycle", "$recycle.bin", "system volume information", "lost+found",
})  # fmt: skip


def is_temporary(name: str) -> bool:
    """Whether a file or folder of this name is never claimed."""
    folded = name.casefold()
    return (
        folded.startswith(_TEMPORARY_STARTS)
        or folded.endswith(_TEMPORARY_ENDS)
        or folded in _FOREIGN_NAMES
        or _TEMPORARY_PART in folded
    )


def is_companion(name: str) -> bool:
    """Whether a file of this name belongs to recordings without being one."""
    return name == FOLDER_SETTINGS_NAME or name.endswith((HOTWORDS_SUFFIX, ERROR_SUFFIX))
