"""Gathers the status and shows it: to systemd, in status.json, in STATUS.txt and to Prometheus."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from daemon.display import shown_name
from daemon.errors import ScribedError
from daemon.host.clock import now
from daemon.status import metrics
from daemon.status.hiding import conceal_names, shared_folders
from daemon.status.snapshot import MAX_LISTED, Delivered, Failed, Model, Running, Snapshot
from daemon.status.targets import StatusFiles, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from daemon.config import Config, Settings
    from daemon.host.systemd import Notifier
    from daemon.inbox import Arriving
    from daemon.journal import Journal
    from daemon.status.faults import Faults
    from daemon.status.metrics import Counters

_INTERVAL_S: Final = 1.0
_N_RECENT: Final = 20
# As often as Prometheus commonly looks; the file's age shows whether the service still lives.
_METRICS_INTERVAL_S: Final = 15.0


class StatusPublisher:
    """Writes the status to each target, even if others fail.

    Args:
        journal: what is known of past recordings.
        faults: the current faults.
        notifier: systemd.
        counters: figures since the start.
        monotonic: clock, injectable for tests.
    """

    def __init__(
        self,
        journal: Journal,
        faults: Faults,
        notifier: Notifier,
        counters: Counters,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model: Model | None = None
        self._count_late_builds: Callable[[], int] = lambda: 0
        self._counters = counters
        self._started_epoch_s = time.time()
        self._load_began_epoch_s = self._started_epoch_s
        self._loaded_epoch_s = 0.0
        self._load_s = 0.0
        self._next_metrics_s = 0.0
        self._n_hooks_waiting = 0
        self._step = ""  # how far the model's loading is
        self._line = ""
        self._journal = journal
        self._faults = faults
        self._notifier = notifier
        self._monotonic = monotonic
        self._files = StatusFiles(faults, monotonic)
        self._metrics = Target(faults, "The metrics file")
        self._past = Snapshot(state="loading", updated_at="")
        self._next_s = 0.0

    def show_model(self, name: str, device: str, count_late_builds: Callable[[], int] = lambda: 0) -> None:
        """Record that the model is loaded; called from the loading thread.

        Args:
            name: of the model.
            device: where it runs.
            count_late_builds: returns how many functions were compiled or captured since then.
        """
        self._count_late_builds = count_late_builds
        self._loaded_epoch_s = time.time()
        self._load_s = self._loaded_epoch_s - self._load_began_epoch_s
        self._model = Model(name, device, now())

    def show_unloaded(self) -> None:
        """Record that the model is unloaded; called from the thread that did it."""
        if self._model is not None:
            self._model = replace(self._model, loaded_at=None)

    def begin_load(self, step: str) -> None:
        """Record that the model is being loaded again, with the first line on its progress."""
        self._load_began_epoch_s = time.time()
        self.show_step(step)

    def is_due(self) -> bool:
        """Whether a second has passed since the last write; the status is not written more often."""
        return self._monotonic() >= self._next_s

    def show_step(self, step: str) -> None:
        """Report to systemd at once how far the model has loaded; called from the loading thread."""
        self._step = step
        self._notifier.status(step)

    def beat(self) -> None:
        """Write the heartbeat; to be called every few seconds, even if nothing changes."""
        self._files.beat()

    def show(
        self,
        settings: Settings,
        state: str,
        arriving: Iterable[Arriving],
        waiting: Iterable[str],
        running: tuple[Running, ...],
    ) -> None:
        """Write the status wherever anything in it has changed."""
        self._next_s = self._monotonic() + _INTERVAL_S
        config = settings.current
        snapshot = self._gather(state, tuple(arriving), tuple(waiting), running)
        snapshot = replace(snapshot, config_sha256=settings.sha256)
        conceal_names(self._faults, config, snapshot)
        self._write_metrics(config, snapshot)
        self._files.show(config, snapshot)
        self._files.beat()
        line = self._one_line(snapshot, config.logging.names)
        if line != self._line:
            self._line = line
            self._notifier.status(line)

    def _gather(
        self, state: str, arriving: tuple[Arriving, ...], waiting: tuple[str, ...], running: tuple[Running, ...]
    ) -> Snapshot:
        try:
            self._past = read_past(self._journal)
            self._n_hooks_waiting = self._journal.count_hooks()
        except ScribedError as error:  # then the previous state is shown, with the reason
            self._faults.note("status: journal", error.what, error.remedy)
        else:
            self._faults.clear("status: journal")
        # One may have ended between the two questions, and each recording is in one list.
        ended = {*(past.job_id for past in self._past.recent), *(past.job_id for past in self._past.failed)}
        return Snapshot(
            state=state,
            updated_at="",
            model=self._model,
            arriving=arriving,
            waiting=waiting,
            running=tuple(part for part in running if not part.job_id or part.job_id not in ended),
            done_today=self._past.done_today,
            recent=self._past.recent,
            failed=self._past.failed,
            n_failed=self._past.n_failed,
            faults=self._faults.standing(),
        )

    def _one_line(self, snapshot: Snapshot, names: str) -> str:
        """Return the line that `systemctl status` shows."""
        waiting = f"{len(snapshot.waiting)} waiting"
        if snapshot.state == "loading":
            return f"{self._step or 'Starting.'} {waiting}"
        if snapshot.state not in {"ready", "idle"}:
            return snapshot.state
        first = snapshot.running[0] if snapshot.running else None
        rest = "idle, model unloaded" if snapshot.state == "idle" else "idle"
        work = f"transcribing {shown_name(first.name, names)} {first.progress * 100:.0f} %" if first else rest
        line = f"{work}, {waiting}, {snapshot.done_today} done today"
        faults = self._faults.standing()
        if faults:
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            line += f"; needs attention: {faults[0].what}{more}"
        return line

    def _write_metrics(self, config: Config, snapshot: Snapshot) -> None:
        path = config.metrics.textfile
        if path is None or (snapshot.state != "stopped" and self._monotonic() < self._next_metrics_s):
            return
        self._next_metrics_s = self._monotonic() + _METRICS_INTERVAL_S
        recordings = {
            "arriving": len(snapshot.arriving),
            "waiting": len(snapshot.waiting),
            "running": len(snapshot.running),
            "failed": snapshot.n_failed,
        }
        gauges = metrics.Gauges(
            snapshot.state,
            recordings,
            len(snapshot.faults),
            self._started_epoch_s,
            self._loaded_epoch_s,
            self._load_s,
            self._count_late_builds(),
            snapshot.model is not None and snapshot.model.loaded_at is not None,
            self._n_hooks_waiting,
        )
        shared = shared_folders(config.folders)
        self._metrics.show(object(), path, lambda: metrics.write(path, gauges, self._counters, shared))


def read_past(journal: Journal) -> Snapshot:
    """Return what the journal knows of recordings that are done or failed.

    Raises:
        TransientError: the journal cannot be read.
    """
    recent, failed = journal.recent(_N_RECENT), journal.failures(MAX_LISTED)
    return Snapshot(
        state="stopped",
        updated_at="",
        done_today=journal.done_since(_midnight()),
        recent=tuple(
            Delivered(past.job.path, past.finished_at, past.audio_s, past.wall_s, past.is_complete, past.job.job_id)
            for past in recent
        ),
        failed=tuple(Failed(past.job.path, past.reason or "", past.job.attempts, past.job.job_id) for past in failed),
        n_failed=journal.count_failures(),
    )


def show_stopped(config: Config, journal: Journal, faults: Faults) -> None:
    """Rewrite status.json and STATUS.txt from the journal while no daemon runs, as after `scribed forget`.

    Where a file cannot be written, `faults` says so.
    """
    past = read_past(journal)
    unfinished = tuple(job.path for job in journal.unfinished())
    StatusFiles(faults).show(
        config,
        Snapshot(
            state="stopped",
            updated_at="",
            waiting=unfinished,
            done_today=past.done_today,
            recent=past.recent,
            failed=past.failed,
            n_failed=past.n_failed,
            faults=faults.standing(),
        ),
    )


def _midnight() -> str:
    """Return when today began here, as ISO 8601 in UTC."""
    midnight = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
