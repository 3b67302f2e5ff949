"""Names of recordings and folders in the texts of faults, and where they are hidden.

`logging.names: hashed` hides them everywhere. `output.status_file: counts` hides them in STATUS.txt, which everyone can
read who may use the outbox; status.json and the log are for administrators, who have to find the file.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from daemon.display import conceal_paths, shown_name, with_folders
from daemon.status.faults import show_as_it_is
from daemon.status.snapshot import MAX_LISTED

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.config import Config
    from daemon.config.schema import Folders
    from daemon.status.faults import Conceal, Faults
    from daemon.status.snapshot import Snapshot

_HASH: Final = re.compile("name:[0-9a-f]{12}")


def shared_folders(folders: Folders) -> tuple[Path, ...]:
    """Return the folders into which others may write."""
    return folders.inbox, folders.outbox, folders.processed, folders.failed


def names_in(error: OSError, folders: Folders) -> tuple[str, ...]:
    """Return the names in what the system says about a file below a shared folder, as `Faults.note` takes them."""
    path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    roots = (f"{root}/" for root in shared_folders(folders))
    return tuple(f"/{path.removeprefix(root)}" for root in roots if path.startswith(root))


def conceal_names(faults: Faults, config: Config, snapshot: Snapshot) -> None:
    """Keep names of recordings and sub-folders out of the faults from now on, if `logging.names` says so."""
    faults.conceal = _concealer(config, snapshot) if config.logging.names == "hashed" else show_as_it_is


def without_names(snapshot: Snapshot, config: Config) -> Snapshot:
    """Return a snapshot whose faults name no recording and no sub-folder."""
    conceal = _concealer(config, snapshot)
    hidden = (
        replace(fault, what=conceal(fault.what, fault.names), remedy=conceal(fault.remedy, fault.names), names=())
        for fault in snapshot.faults
    )
    return replace(snapshot, faults=tuple(hidden))


def _concealer(config: Config, snapshot: Snapshot) -> Conceal:
    """Return what hides everything below a shared folder; names that the snapshot lists are found whole."""
    paths = (
        *(arriving.path for arriving in snapshot.arriving[:MAX_LISTED]),
        *snapshot.waiting[:MAX_LISTED],
        *(running.name for running in snapshot.running),
        *(delivered.name for delivered in snapshot.recent),
        *(failed.name for failed in snapshot.failed),
    )
    roots = tuple(map(str, shared_folders(config.folders)))

    def conceal(text: str, names: tuple[str, ...]) -> str:
        own = [name[1:] for name in names if name.startswith("/")]
        text = conceal_paths(text, roots, (*paths, *own))
        # Below the folders of an earlier configuration, which are not among the roots.
        parts = (f"/{part}" for path in own for part in with_folders(path))
        for name in sorted({*names, *parts}, key=len, reverse=True):
            text = _hide(text, name)
        return text

    return conceal


def _hide(text: str, name: str) -> str:
    """Hide a name that is hidden nowhere else; only whole words, because a recording may be called "in"."""
    if _HASH.fullmatch(name):
        return text
    slash, bare = ("/", name[1:]) if name.startswith("/") else ("", name)
    before = "" if slash else r"(?<!\w)"
    return re.sub(rf"{before}{re.escape(name)}(?!\w)", f"{slash}{shown_name(bare, 'hashed')}", text)
