"""What the daemon shows of itself: one snapshot, as JSON for programs and as STATUS.txt for people.

The snapshot lies in the state folder, readable for the group, so that `scribed status` needs neither
the daemon nor its journal. Whether an instance runs is told by its lock, not by the snapshot.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from daemon.display import escape, printable, shown_name
from daemon.errors import NoPermissionError, ScribedError
from daemon.host import files

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.status.faults import Fault

SCHEMA = "scribed.status/1"
SNAPSHOT_NAME = "status.json"
STATUS_NAME = "STATUS.txt"
LOCK_NAME = "lock"
_SNAPSHOT_MODE = 0o640
# A list of ten thousand names helps nobody; the counts beside the lists are always whole.
_MAX_LISTED = 100


@dataclass(frozen=True, slots=True)
class Model:
    """The resident model; all None while it loads."""

    name: str
    device: str
    loaded_at: str


@dataclass(frozen=True, slots=True)
class Running:
    """A recording in work: `progress` from 0 to 1, `rtfx` None until a chunk is done."""

    name: str
    progress: float
    audio_s: float | None
    rtfx: float | None


@dataclass(frozen=True, slots=True)
class Done:
    """A recording that was delivered."""

    name: str
    finished_at: str
    audio_s: float | None
    wall_s: float | None
    complete: bool | None


@dataclass(frozen=True, slots=True)
class Failed:
    """A recording that was set aside."""

    name: str
    reason: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything `scribed status` tells, at one instant."""

    state: str  # loading, ready, draining or stopped
    updated_at: str
    model: Model | None = None
    arriving: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    running: tuple[Running, ...] = ()
    done_today: int = 0
    recent: tuple[Done, ...] = ()
    failed: tuple[Failed, ...] = ()
    faults: tuple[Fault, ...] = field(default=())
    config_sha256: str = ""  # of the configuration file that holds; "" for the defaults


def as_dict(snapshot: Snapshot) -> dict[str, Any]:
    """Return the snapshot in the schema `scribed.status/1`."""
    return {
        "schema": SCHEMA,
        "state": snapshot.state,
        "updated_at": snapshot.updated_at,
        "model": asdict(snapshot.model) if snapshot.model else {"name": None, "device": None, "loaded_at": None},
        "queue": {
            "arriving": [printable(name) for name in snapshot.arriving[:_MAX_LISTED]],
            "waiting": [printable(name) for name in snapshot.waiting[:_MAX_LISTED]],
            "running": [_shown(running) for running in snapshot.running],
            "n_arriving": len(snapshot.arriving),
            "n_waiting": len(snapshot.waiting),
        },
        "done_today": snapshot.done_today,
        "recent": [_shown(done) for done in snapshot.recent],
        "failed": [_shown(failed) for failed in snapshot.failed[:_MAX_LISTED]],
        "n_failed": len(snapshot.failed),
        "faults": [_shown(fault) for fault in snapshot.faults],
        "config_sha256": snapshot.config_sha256,
    }


def write_snapshot(state: Path, snapshot: Snapshot) -> None:
    """Put the snapshot into the state folder."""
    text = json.dumps(as_dict(snapshot), ensure_ascii=False, indent=2) + "\n"
    files.replace(state / SNAPSHOT_NAME, text.encode(), _SNAPSHOT_MODE)


def read_status(state: Path) -> dict[str, Any]:
    """Return the last snapshot, with the state "stopped" where no instance holds the lock.

    Raises:
        NoPermissionError: the state folder may not be read.
        ScribedError: the snapshot is damaged.
    """
    try:
        status: dict[str, Any] = json.loads((state / SNAPSHOT_NAME).read_bytes())
        if not isinstance(status, dict) or status.get("schema") != SCHEMA:
            raise ValueError("it is not a status")  # noqa: TRY301 - told like any other damage, below
    except FileNotFoundError:
        if not os.access(state.parent if not state.exists() else state, os.X_OK):
            raise _not_for_you(state) from None
        status = as_dict(Snapshot(state="stopped", updated_at=""))
    except PermissionError as error:
        raise _not_for_you(state) from error
    except ValueError as error:
        remedy = "It is written anew when the service starts."
        raise ScribedError(f"{state / SNAPSHOT_NAME} is damaged.", remedy) from error
    if not files.is_locked(state / LOCK_NAME):
        status |= {"state": "stopped", "queue": {**status["queue"], "running": []}}
    return status


def was_read(state: Path, config_sha256: str) -> bool:
    """Whether a daemon with this state folder has read this very configuration file, and found it right."""
    try:
        status = json.loads((state / SNAPSHOT_NAME).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(status, dict) and status.get("config_sha256") == config_sha256


def _not_for_you(state: Path) -> NoPermissionError:
    remedy = "Ask an administrator to make you a member of the service's group."
    return NoPermissionError(f"You may not read {state}.", remedy)


def render_status_txt(snapshot: Snapshot, *, shows_names: bool, names: str) -> str:
    """Return STATUS.txt: what people without a shell want to know.

    Args:
        snapshot: what to tell.
        shows_names: False leaves only counts (`status_file: counts`).
        names: "full" or "hashed", as in the section `logging`.
    """
    counts = (
        ("arriving", len(snapshot.arriving)),
        ("waiting", len(snapshot.waiting)),
        ("in work", len(snapshot.running)),
        ("done today", snapshot.done_today),
        ("failed", len(snapshot.failed)),
    )
    states = {
        "loading": "scribed is starting: the model is being loaded",
        "ready": "scribed is running",
        "draining": "scribed is stopping",
        "stopped": "scribed is stopped; recordings stay where they are until it runs again",
    }
    lines = [f"{states[snapshot.state]}.", ", ".join(f"{n} {what}" for what, n in counts) + "."]
    for fault in snapshot.faults:
        lines += ["", f"NEEDS ATTENTION since {fault.since}: {escape(fault.what)}"]
        lines += [f"  {escape(fault.remedy)}"] if fault.remedy else []
    if shows_names:
        lines += _named_lines(snapshot, names)
    lines += ["", f"As of {snapshot.updated_at} (UTC)."]
    return "\n".join(lines) + "\n"


def _named_lines(snapshot: Snapshot, names: str) -> list[str]:
    def show(name: str) -> str:
        return escape(shown_name(name, names))

    groups = (
        ("In work", [f"{show(r.name)}  {r.progress:.0%}" for r in snapshot.running]),
        ("Arriving", [show(name) for name in snapshot.arriving]),
        ("Waiting", [show(name) for name in snapshot.waiting]),
        ("Failed (see the note beside each in the folder of failed recordings)",
         [f"{show(f.name)}: {escape(f.reason)}" for f in snapshot.failed]),
        ("Done last", [f"{show(d.name)}{'  (incomplete)' if d.complete is False else ''}" for d in snapshot.recent]),
    )  # fmt: skip
    lines: list[str] = []
    for title, entries in groups:
        if entries:
            lines += ["", f"{title}:", *(f"  {entry}" for entry in entries[:_MAX_LISTED])]
            if len(entries) > _MAX_LISTED:
                lines.append(f"  and {len(entries) - _MAX_LISTED} more")
    return lines


def _shown(part: Running | Done | Failed | Fault) -> dict[str, Any]:
    """Return the fields of a part; whatever tells of a file's name may hold bytes that are no UTF-8."""
    return {key: printable(value) if isinstance(value, str) else value for key, value in asdict(part).items()}
