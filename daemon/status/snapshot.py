"""The state of the daemon at one instant, and its JSON in the schema `scribed.status/1`. Pure."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from daemon.display import printable

if TYPE_CHECKING:
    from daemon.inbox import Arriving

SCHEMA: Final = "scribed.status/1"
SNAPSHOT_NAME: Final = "status.json"
STATUS_NAME: Final = "STATUS.txt"
# A list of ten thousand names is of no use; the counts next to the lists are always complete.
MAX_LISTED: Final = 100


@dataclass(frozen=True, slots=True)
class Model:
    """The model; all None until it is loaded for the first time.

    Attributes:
        name: the name of its folder.
        device: where it runs.
        loaded_at: since when it is in memory (UTC); None while it is unloaded or being loaded again.
    """

    name: str
    device: str
    loaded_at: str | None


@dataclass(frozen=True, slots=True)
class Running:
    """A recording that is being transcribed: `progress` from 0 to 1, `rtfx` None until a chunk is done."""

    name: str
    progress: float
    audio_s: float | None
    rtfx: float | None
    job_id: str = ""


@dataclass(frozen=True, slots=True)
class Delivered:
    """A recording whose transcript was delivered; `complete` is None where that is unknown."""

    name: str
    finished_at: str
    audio_s: float | None
    wall_s: float | None
    complete: bool | None
    job_id: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """A recording that was moved to failed."""

    name: str
    reason: str
    attempts: int
    job_id: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """A problem that a person has to fix: what is wrong, since when (UTC), and what to do.

    Attributes:
        names: of recordings and folders, as these texts have them, besides paths below a shared folder.
    """

    what: str
    since: str
    remedy: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the status shows. Each recording is in exactly one of the lists.

    Attributes:
        state: waiting (for a folder), loading, ready, idle (model unloaded), draining or stopped.
        updated_at: when this was gathered (UTC).
        waiting: paths of recordings that are complete and have not been begun.
        done_today: how many were delivered since midnight, local time.
        failed: the latest of the failed recordings.
        n_failed: how many there are in all.
        config_sha256: of the configuration file in use; "" for the defaults.
    """

    state: str
    updated_at: str
    model: Model | None = None
    arriving: tuple[Arriving, ...] = ()
    waiting: tuple[str, ...] = ()
    running: tuple[Running, ...] = ()
    done_today: int = 0
    recent: tuple[Delivered, ...] = ()
    failed: tuple[Failed, ...] = ()
    n_failed: int = 0
    faults: tuple[Fault, ...] = ()
    config_sha256: str = ""


def as_dict(snapshot: Snapshot) -> dict[str, Any]:
    """Return the snapshot in the schema `scribed.status/1`; lists are cut after 100 names, counts are not."""
    return {
        "schema": SCHEMA,
        "state": snapshot.state,
        "updated_at": snapshot.updated_at,
        "model": asdict(snapshot.model) if snapshot.model else {"name": None, "device": None, "loaded_at": None},
        "queue": {
            "arriving": [printable(arriving.path) for arriving in snapshot.arriving[:MAX_LISTED]],
            "arriving_details": [_arriving(arriving) for arriving in snapshot.arriving[:MAX_LISTED]],
            "waiting": [printable(name) for name in snapshot.waiting[:MAX_LISTED]],
            "running": [_printable(running) for running in snapshot.running],
            "n_arriving": len(snapshot.arriving),
            "n_waiting": len(snapshot.waiting),
        },
        "done_today": snapshot.done_today,
        "recent": [_printable(delivered) for delivered in snapshot.recent],
        "failed": [_printable(failed) for failed in snapshot.failed[:MAX_LISTED]],
        "n_failed": snapshot.n_failed,
        "faults": [
            {"what": printable(fault.what), "since": fault.since, "remedy": printable(fault.remedy)}
            for fault in snapshot.faults
        ],
        "config_sha256": snapshot.config_sha256,
    }


def due_at(arriving: Arriving) -> str | None:
    """Return when a file is taken if it does not change, as ISO 8601 in UTC; None where that is unknown."""
    if not math.isfinite(arriving.due_s):
        return None
    return datetime.fromtimestamp(math.ceil(arriving.due_s), UTC).isoformat().replace("+00:00", "Z")


def _arriving(arriving: Arriving) -> dict[str, Any]:
    return {
        "name": printable(arriving.path),
        "bytes": arriving.n_bytes,
        "reason": arriving.reason,
        "due_at": due_at(arriving),
    }


def _printable(part: Running | Delivered | Failed) -> dict[str, Any]:
    """Return the fields of a part; what repeats a file's name may hold bytes that are not UTF-8."""
    return {key: printable(value) if isinstance(value, str) else value for key, value in asdict(part).items()}
