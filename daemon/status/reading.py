"""What commands learn from the status that the daemon wrote: it needs neither the daemon nor its journal."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from daemon.errors import NoPermissionError, ScribedError
from daemon.status.heartbeat import judge
from daemon.status.snapshot import SCHEMA, SNAPSHOT_NAME, Snapshot, as_dict

if TYPE_CHECKING:
    from pathlib import Path


def read_status(state: Path) -> dict[str, Any]:
    """Return the last snapshot, with the state "stopped" if the daemon that wrote it no longer runs.

    Raises:
        NoPermissionError: the state folder is not readable.
        ScribedError: there is no state folder, or the snapshot is damaged.
    """
    status = _read(state)
    life = judge(status)
    if status["state"] != "stopped" and not life.is_alive:
        _call_it_stopped(status)
    elif status["state"] != "stopped" and life.is_late:
        what = f"The service runs but has not reported for {life.silent_s:.0f} seconds. It may hang."
        _add_fault(status, what, "See `journalctl -u scribed`; `systemctl restart scribed` loses no recording.")
    for arriving in status["queue"].get("arriving_details", ()):
        arriving["remaining_s"] = _seconds_until(arriving.get("due_at"))
    return status


def is_running(state: Path) -> bool:
    """Whether a daemon with this state folder runs; False where that cannot be read."""
    try:
        return bool(read_status(state)["state"] != "stopped")
    except ScribedError:
        return False


def was_read(state: Path, config_sha256: str) -> bool:
    """Whether a daemon with this state folder has read and validated this very configuration file."""
    try:
        status = json.loads((state / SNAPSHOT_NAME).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(status, dict) and status.get("config_sha256") == config_sha256


def _read(state: Path) -> dict[str, Any]:
    path = state / SNAPSHOT_NAME
    try:
        status = json.loads(path.read_bytes())
    except FileNotFoundError:
        if _is_missing(state):
            remedy = "If the service has run with this configuration, mount the disk or share of that folder."
            raise ScribedError(f"The state folder {state} does not exist.", remedy) from None
        unknown = dict.fromkeys(("updated_at", "alive_at", "process", "config_sha256"))
        return as_dict(Snapshot(state="stopped", updated_at="")) | unknown
    except PermissionError as error:
        raise _not_for_you(state) from error
    except ValueError as error:
        raise _damaged(path) from error
    except OSError as error:
        remedy = "Check its disk or share."
        raise ScribedError(f"The status in {state} cannot be read: {error.strerror}.", remedy) from error
    if not isinstance(status, dict) or status.get("schema") != SCHEMA or not isinstance(status.get("queue"), dict):
        raise _damaged(path)
    return status


def _is_missing(state: Path) -> bool:
    """Whether there is no state folder; raises NoPermissionError if that cannot be seen."""
    above = next(parent for parent in (state, *state.parents) if parent.exists())
    if not os.access(above, os.X_OK):
        raise _not_for_you(state)
    return above != state


def _call_it_stopped(status: dict[str, Any]) -> None:
    """Correct what a daemon that crashed has left: what was running waits for the next start."""
    queue = status["queue"]
    names = [running.get("name") for running in queue.get("running", ())]
    queue["waiting"] = [*names, *queue.get("waiting", ())]
    queue["n_waiting"] = queue.get("n_waiting", 0) + len(names)
    queue["running"] = []
    status["state"] = "stopped"
    what = "The service is not running, and it did not shut down cleanly."
    _add_fault(status, what, "`systemctl status scribed` and `journalctl -u scribed` say why. No recording is lost.")


def _add_fault(status: dict[str, Any], what: str, remedy: str) -> None:
    status["faults"] = [*status.get("faults", ()), {"what": what, "since": status.get("alive_at"), "remedy": remedy}]


def _seconds_until(when: str | None) -> float | None:
    if when is None:
        return None
    return max(0.0, round((datetime.fromisoformat(when) - datetime.now(UTC)).total_seconds(), 1))


def _damaged(path: Path) -> ScribedError:
    return ScribedError(f"{path} is damaged.", "It is written again when the service starts.")


def _not_for_you(state: Path) -> NoPermissionError:
    remedy = "Ask an administrator to add you to the service's group."
    return NoPermissionError(f"You have no permission to read {state}.", remedy)
