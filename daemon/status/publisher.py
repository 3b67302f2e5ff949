"""What is told to people: the faults that stand, and the status as file, text and line."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from daemon.display import shown_name
from daemon.host import files
from daemon.host.clock import now
from daemon.status import (
    STATUS_NAME,
    Done,
    Failed,
    Model,
    Running,
    Snapshot,
    metrics,
    render_status_txt,
    write_snapshot,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from daemon.config import Config
    from daemon.host.systemd import Notifier
    from daemon.journal import Journal
    from daemon.status.faults import Faults
    from daemon.status.metrics import Counters

_INTERVAL_S = 1.0
_N_RECENT = 20
# As often as Prometheus commonly looks; the file's age tells whether the service still lives.
_METRICS_INTERVAL_S = 15.0


class StatusPublisher:
    """Shows the status: in the state folder, in STATUS.txt, and to systemd.

    Attributes:
        config_sha256: of the configuration file that holds, "" for the defaults.
    """

    def __init__(
        self,
        journal: Journal,
        faults: Faults,
        notifier: Notifier,
        counters: Counters,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config_sha256 = ""
        self._model: Model | None = None
        self._counters = counters
        self._started_at = time.time()
        self._loaded_at = 0.0
        self._next_metrics_s = 0.0
        self._step = ""  # how far the model's loading is
        self._line = ""
        self._journal = journal
        self._faults = faults
        self._notifier = notifier
        self._monotonic = monotonic
        self._shown: Snapshot | None = None
        self._next_s = 0.0

    def show_model(self, name: str, device: str) -> None:
        """Remember that the model is there; called from the thread that loads."""
        self._loaded_at = time.time()
        self._model = Model(name, device, now())

    def is_due(self) -> bool:
        """Whether a second has passed since the last look; the status is not written more often."""
        return self._monotonic() >= self._next_s

    def show_step(self, step: str) -> None:
        """Tell systemd at once how far the model's loading is; called from the thread that loads."""
        self._step = step
        self._notifier.status(step)

    def show(
        self, config: Config, state: str, arriving: Iterable[str], waiting: Iterable[str], running: tuple[Running, ...]
    ) -> None:
        """Write the status if anything in it has changed."""
        self._next_s = self._monotonic() + _INTERVAL_S
        snapshot = Snapshot(
            state=state,
            updated_at="",
            model=self._model,
            arriving=tuple(arriving),
            waiting=tuple(waiting),
            running=running,
            done_today=self._journal.done_since(_midnight()),
            recent=tuple(
                Done(past.job.path, past.finished_at, past.audio_s, past.wall_s, past.is_complete)
                for past in self._journal.recent(_N_RECENT)
            ),
            failed=tuple(
                Failed(past.job.path, past.reason or "", past.job.attempts) for past in self._journal.failures()
            ),
            faults=self._faults.standing(),
            config_sha256=self.config_sha256,
        )
        if config.metrics.textfile is not None and (state == "stopped" or self._monotonic() >= self._next_metrics_s):
            self._next_metrics_s = self._monotonic() + _METRICS_INTERVAL_S
            self._write_metrics(config.metrics.textfile, snapshot)
        line = self._one_line(snapshot, config.logging.names)
        if line != self._line:
            self._line = line
            self._notifier.status(line)
        if snapshot == self._shown:
            return
        self._shown = snapshot
        self._write(config, replace(snapshot, updated_at=now()))

    def _one_line(self, snapshot: Snapshot, names: str) -> str:
        """Return the line that `systemctl status` shows."""
        waiting = f"{len(snapshot.waiting)} waiting"
        if snapshot.state == "loading":
            return f"{self._step or 'Starting.'} {waiting}"
        if snapshot.state != "ready":
            return snapshot.state
        first = snapshot.running[0] if snapshot.running else None
        work = f"transcribing {shown_name(first.name, names)} {first.progress * 100:.0f} %" if first else "idle"
        return f"{work}, {waiting}, {snapshot.done_today} done today"

    def _write_metrics(self, target: Path, snapshot: Snapshot) -> None:
        recordings = {
            "arriving": len(snapshot.arriving),
            "waiting": len(snapshot.waiting),
            "running": len(snapshot.running),
            "failed": len(snapshot.failed),
        }
        load_s = self._loaded_at - self._started_at if self._loaded_at else 0.0
        standing = metrics.Gauges(
            snapshot.state, recordings, len(snapshot.faults), self._started_at, self._loaded_at, load_s
        )
        try:
            metrics.write(target, standing, self._counters)
        except OSError as error:
            remedy = f"See that the service may write to {target.parent} (ReadWritePaths= in a drop-in)."
            self._faults.note("metrics", f"The metrics cannot be written: {error.strerror}.", remedy)
        else:
            self._faults.clear("metrics")

    def _write(self, config: Config, snapshot: Snapshot) -> None:
        wanted = config.output.status_file
        try:
            write_snapshot(config.folders.state, snapshot)
            if wanted != "off":
                text = render_status_txt(snapshot, shows_names=wanted == "full", names=config.logging.names)
                files.replace(config.folders.outbox / STATUS_NAME, text.encode(), config.output.mode_bits)
        except OSError as error:
            remedy = "Look at the outbox and the state folder."
            self._faults.note("status", f"The status cannot be written: {error.strerror}.", remedy)
        else:
            self._faults.clear("status")


def _midnight() -> str:
    """Return when today began here, as ISO 8601 in UTC."""
    midnight = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
