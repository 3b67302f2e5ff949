"""STATUS.txt: the status for people who only use the folders. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from daemon.display import escape, shown_name
from daemon.status.people import bar, is_on_day_of, say_clock, say_fully, say_left, say_when
from daemon.status.snapshot import MAX_LISTED, due_at

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from daemon.inbox import Arriving
    from daemon.status.snapshot import Delivered, Running, Snapshot

_STATES: Final = {
    "waiting": "scribed is waiting for one of its folders. Recordings stay where they are until it is back.",
    "loading": "scribed is loading the speech model. Recordings are transcribed as soon as it is ready.",
    "ready": "scribed is running.",
    "idle": "scribed is running. The speech model is unloaded and will be loaded for the next recording.",
    "draining": "scribed is stopping.",
    "stopped": "scribed is stopped. Recordings stay where they are until it runs again.",
}


def render_status_txt(snapshot: Snapshot, *, shows_names: bool, names: str, now: datetime) -> str:
    """Return the text of STATUS.txt.

    Args:
        snapshot: what to show.
        shows_names: False leaves only counts (`status_file: counts`).
        names: "full" or "hashed", as in the section `logging`.
        now: the current time. Other times are relative to it while the service runs, which writes the file again at
            midnight; a service that has stopped does not.
    """
    counts = (
        (len(snapshot.arriving), "arriving"),
        (len(snapshot.waiting), "waiting"),
        (len(snapshot.running), "being transcribed"),
        (snapshot.done_today, "done today"),
        (snapshot.n_failed, "failed"),
    )
    read_at = None if snapshot.state == "stopped" else now
    lines = [_STATES[snapshot.state], ", ".join(f"{n} {what}" for n, what in counts) + "."]
    for fault in snapshot.faults:
        lines += ["", f"NEEDS ATTENTION since {say_when(fault.since, read_at)}: {escape(fault.what)}"]
        lines += [f"  What to do: {escape(fault.remedy)}"] if fault.remedy else []
    if shows_names:
        lines += _named_lines(snapshot, names, now, read_at)
    lines += ["", f"Last updated {say_fully(now)}."]
    return "\n".join(lines) + "\n"


def _named_lines(snapshot: Snapshot, names: str, now: datetime, read_at: datetime | None) -> list[str]:
    def show(name: str) -> str:
        return escape(shown_name(name, names))

    def show_running(running: Running) -> str:
        left = say_left(running.progress, running.audio_s, running.rtfx)
        return f"{show(running.name)}  {bar(running.progress)} {running.progress:.0%}{f', {left}' if left else ''}"

    def show_arriving(arriving: Arriving) -> str:
        due = due_at(arriving)
        when = f"; claimed at {say_clock(due)} if it does not change" if due else ""
        return f"{show(arriving.path)}: {arriving.reason}{when}"

    def show_delivered(delivered: Delivered) -> str:
        missing = "  (parts of the speech are missing)" if delivered.complete is False else ""
        return f"{show(delivered.name)}  {say_when(delivered.finished_at, read_at)}{missing}"

    running, arriving = snapshot.running, snapshot.arriving[:MAX_LISTED]
    waiting, failed = snapshot.waiting[:MAX_LISTED], snapshot.failed[:MAX_LISTED]
    today = [one for one in snapshot.recent if is_on_day_of(one.finished_at, now)]
    earlier = [one for one in snapshot.recent if one not in today]
    return [
        *_group("Being transcribed", [show_running(one) for one in running], len(running)),
        *_group("Waiting for their turn", [show(name) for name in waiting], len(snapshot.waiting)),
        *_group("Arriving (claimed when complete)", [show_arriving(file) for file in arriving], len(snapshot.arriving)),
        *_group("Done today", [show_delivered(one) for one in today], max(snapshot.done_today, len(today))),
        *_group(
            "Failed (the .error.txt file next to each recording in the failed folder says what to do)",
            [f"{show(f.name)}: {_hide(escape(f.reason), f.name, names)}" for f in failed],
            snapshot.n_failed,
        ),
        *_group("Done before", [show_delivered(one) for one in earlier], len(earlier)),
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
