"""The faults that a scan of the inbox finds: files and folders that cannot be read, examined or watched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from daemon.display import shortened, shown_name

if TYPE_CHECKING:
    from daemon.inbox import FolderFault, Scan, WatchShortage
    from daemon.status.faults import Faults

_UNREADABLE: Final = "unreadable"
_UNWATCHED: Final = "watches"
_FOLDER: Final = "inbox: "
_MORE: Final = "inbox more"
# More of them are counted: a share that goes away can take a thousand folders with it.
_MAX_FOLDERS: Final = 5
_SYSCTL_FILE: Final = "/etc/sysctl.d/60-scribed.conf"


def report_scan(faults: Faults, scan: Scan, names: str) -> None:
    """Note what this scan found and clear what it no longer found.

    Args:
        faults: where to note them.
        scan: of the inbox.
        names: "full" or "hashed".
    """
    _report_unreadable(faults, scan.unreadable, names)
    _report_folders(faults, scan.faults, names)
    if scan.shortage is None:
        faults.clear(_UNWATCHED)
    else:
        faults.note(_UNWATCHED, *_explain(scan.shortage))


def _report_unreadable(faults: Faults, paths: tuple[str, ...], names: str) -> None:
    if not paths:
        faults.clear(_UNREADABLE)
        return
    first = shortened(shown_name(paths[0], names))
    what = f"The service has no permission to read {first} in the inbox"
    if len(paths) > 1:
        what += f" and {len(paths) - 1} more"
    remedy = "Give the service's user read permission on it; it is taken then."
    faults.note(_UNREADABLE, f"{what}.", remedy, names=(first,))


def _report_folders(faults: Faults, found: tuple[FolderFault, ...], names: str) -> None:
    listed = {f"{_FOLDER}{fault.path}": fault for fault in found[:_MAX_FOLDERS]}
    for key in faults.keys(_FOLDER) - listed.keys():
        faults.clear(key)
    for key, fault in listed.items():
        shown = shortened(shown_name(fault.path, names))
        what = f"{shown} in the inbox cannot be used: {fault.reason}. Everything else in the inbox is claimed as usual."
        remedy = "Check its disk or share, or move what is in it to another folder of the inbox."
        faults.note(key, what, remedy, names=(shown,))
    if len(found) > len(listed):
        what = f"{len(found) - len(listed)} more folders in the inbox cannot be used."
        faults.note(_MORE, what, "Check their disk or share.")
    else:
        faults.clear(_MORE)


def _explain(shortage: WatchShortage) -> tuple[str, str]:
    line = f"{shortage.sysctl}={shortage.wanted}"
    remedy = f"Run `sysctl {line}` as root, and add the line `{line}` to {_SYSCTL_FILE} to make it permanent."
    where = {0: "the inbox", 1: "one folder of the inbox"}.get(
        shortage.n_folders, f"{shortage.n_folders} folders of the inbox"
    )
    what = (
        f"The system does not report changes in {where}: the limit {shortage.sysctl} ({shortage.limit}) is used up. "
        "A slow upload there may be taken before it is complete."
    )
    return what, remedy
