"""STATUS.txt: the status for people who only use the folders. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from daemon.display import escape, shown_name
from daemon.status.snapshot import MAX_LISTED, due_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.inbox import Arriving
    from daemon.status.snapshot import Snapshot

_STATES: Final = {
    "waiting": "scribed is waiting for one of its folders. Recordings stay where they are until it is back.",
    "loading": "scribed is starting and loading the speech model. Recordings are transcribed as soon as it is ready.",
    "ready": "scribed is running.",
    "idle": "scribed is running. The speech model is unloaded and will be loaded for the next recording.",
    "draining": "scribed is stopping.",
    "stopped": "scribed is stopped. Recordings stay where they are until it runs again.",
}


def render_status_txt(snapshot: Snapshot, *, shows_names: bool, names: str) -> str:
    """Return the text of STATUS.txt.

    Args:
        snapshot: what to show.
        shows_names: False leaves only counts (`status_file: counts`).
        names: "full" or "hashed", as in the section `logging`.
    """
    counts = (
        (len(snapshot.arriving), "arriving"),
        (len(snapshot.waiting), "waiting"),
        (len(snapshot.running), "being transcribed"),
        (snapshot.done_today, "done today"),
        (snapshot.n_failed, "failed"),
    )
    lines = [_STATES[snapshot.state], ", ".join(f"{n} {what}" for n, what in counts) + "."]
    for fault in snapshot.faults:
        lines += ["", f"NEEDS ATTENTION since {_time(fault.since)}: {escape(fault.what)}"]
        lines += [f"  What to do: {escape(fault.remedy)}"] if fault.remedy else []
    if shows_names:
        lines += _named_lines(snapshot, names)
    lines += ["", f"Last updated {_time(snapshot.updated_at)}."]
    return "\n".join(lines) + "\n"


def _named_lines(snapshot: Snapshot, names: str) -> list[str]:
    def show(name: str) -> str:
        return escape(shown_name(name, names))

    def show_arriving(arriving: Arriving) -> str:
        due = due_at(arriving)
        when = f"; claimed at {due[11:19]} UTC if it does not change" if due else ""
        return f"{show(arriving.path)}: {arriving.reason}{when}"

    running, arriving = snapshot.running, snapshot.arriving[:MAX_LISTED]
    waiting, failed, recent = snapshot.waiting[:MAX_LISTED], snapshot.failed[:MAX_LISTED], snapshot.recent
    return [
        *_group("Being transcribed", [f"{show(r.name)}  {r.progress:.0%}" for r in running], len(running)),
        *_group("Arriving (claimed when complete)", [show_arriving(file) for file in arriving], len(snapshot.arriving)),
        *_group("Waiting for their turn", [show(name) for name in waiting], len(snapshot.waiting)),
        *_group(
            "Failed (the .error.txt file next to each recording in the failed folder says what to do)",
            [f"{show(f.name)}: {_hide(escape(f.reason), f.name, names)}" for f in failed],
            snapshot.n_failed,
        ),
        *_group(
            "Recently finished",
            [f"{show(d.name)}{'  (parts of the speech are missing)' if d.complete is False else ''}" for d in recent],
            len(recent),
        ),
    ]


def _hide(text: str, path: str, names: str) -> str:
    """Keep a recording's own name out of its reason where names are hashed."""
    if names != "hashed":
        return text
    for name in (path, path.rpartition("/")[2]):
        text = text.replace(escape(name), shown_name(name, names))
    return text


def _group(title: str, entries: Sequence[str], n_all: int) -> list[str]:
    if not entries:
        return []
    more = [f"  and {n_all - len(entries)} more"] if n_all > len(entries) else []
    return ["", f"{title}:", *(f"  {entry}" for entry in entries), *more]


def _time(when: str) -> str:
    """Return an ISO 8601 time in UTC as people read it."""
    return f"{when[:10]} {when[11:19]} UTC" if when else "an unknown time"
