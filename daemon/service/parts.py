"""The parts of a running instance, and how they are put together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from daemon.documents import FORMATS, load_format
from daemon.frontend import FrontEnd
from daemon.inbox import Inbox
from daemon.search import INDEX_NAME, discard
from daemon.service.engine_holder import EngineHolder
from daemon.service.health import Health
from daemon.service.hook_runner import HookRunner
from daemon.service.index_keeper import IndexKeeper
from daemon.service.intake import Intake
from daemon.service.load_delay import LoadDelay
from daemon.service.residency import Residency
from daemon.service.start_backoff import StartBackoff
from daemon.spool import SharedFolders, Spool
from daemon.status.metrics import Counters
from daemon.status.publisher import StatusPublisher
from daemon.worker import Resources, Worker, count_decoders

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.config import Settings
    from daemon.engine import LoadedEngine
    from daemon.host.systemd import Notifier
    from daemon.journal import Journal
    from daemon.service.engine_holder import LoadEngine
    from daemon.service.flags import Flags
    from daemon.status.faults import Faults

_FALLBACK: Final = "engine: "


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an instance receives from outside.

    Attributes:
        settings: the current configuration.
        config_path: the file that a reload reads again, None for the defaults.
        load_engine: loads the model; called on a thread of its own with a function that takes a line on its progress.
        notifier: reports to systemd.
        flags: what signal handlers ask for.
        monotonic: clock in seconds, injectable for tests.
    """

    settings: Settings
    config_path: Path | None
    load_engine: LoadEngine
    notifier: Notifier
    flags: Flags
    monotonic: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything the loop works with."""

    inbox: Inbox
    journal: Journal
    resources: Resources
    worker: Worker
    intake: Intake
    publisher: StatusPublisher
    holder: EngineHolder
    residency: Residency
    health: Health
    starts: StartBackoff
    hooks: HookRunner
    index_keeper: IndexKeeper | None


def build(around: Surroundings, shared: SharedFolders, journal: Journal, faults: Faults, *, once: bool) -> Parts:
    """Build the parts of an instance whose folders are locked and whose journal is open."""
    settings, monotonic, wake = around.settings, around.monotonic, around.flags.wake.set
    config = settings.current
    for name in FORMATS:  # now, not with the first document: an upgrade may replace the files of a running service
        load_format(name)
    counters = Counters()
    publisher = StatusPublisher(journal, faults, around.notifier, counters, monotonic)

    def announce(engine: LoadedEngine | None) -> None:
        for key in faults.keys(_FALLBACK):
            faults.clear(key)
        if engine is None:
            publisher.show_unloaded()
            return
        publisher.show_model(engine.identity.name, engine.identity.device, holder.count_late_builds)
        for fallback in engine.fallbacks:
            faults.note(
                f"{_FALLBACK}{fallback.part}",
                f"The model runs without its {fallback.part}, so {fallback.cost}. Reason: {fallback.reason}.",
                fallback.remedy,
            )

    hooks = HookRunner(settings, journal, shared, faults, counters)
    holder = EngineHolder(around.load_engine, publisher.show_step, announce, wake, monotonic)
    resources = Resources(
        Spool(shared, journal, lambda job_id: settings.of(job_id).output, looks_again=not once, hook=hooks),
        journal,
        faults,
        FrontEnd(config.folders.cache, count_decoders() + 1),  # the worker uses one more for short recordings only
        holder,
        counters,
    )
    worker = Worker(resources, settings, wake, monotonic)
    inbox = Inbox(config.folders.inbox, lambda: settings.current.watch, around.flags.look, monotonic, is_once=once)
    index_keeper = _build_index_keeper(settings, shared, journal, faults)
    is_supervised = around.notifier.is_heard and not once
    intake = Intake(settings, inbox, resources, worker, monotonic)
    idle_s = 60.0 * config.model.idle_unload_min
    residency = Residency(
        holder,
        intake.has_work,
        publisher,
        faults,
        LoadDelay(config.model, monotonic),
        math.inf if once or idle_s == 0 else idle_s,
        monotonic,
    )
    return Parts(
        inbox=inbox,
        journal=journal,
        resources=resources,
        worker=worker,
        intake=intake,
        publisher=publisher,
        holder=holder,
        residency=residency,
        health=Health(publisher, holder, worker, around.notifier),
        starts=StartBackoff(config.folders.state, config.model, is_supervised=is_supervised, monotonic=monotonic),
        hooks=hooks,
        index_keeper=index_keeper,
    )


def _build_index_keeper(
    settings: Settings, shared: SharedFolders, journal: Journal, faults: Faults
) -> IndexKeeper | None:
    """Build what keeps the search index; where it is turned off, the words of an earlier one are removed."""
    config = settings.current
    folders = config.folders
    if config.search.enabled:
        return IndexKeeper(folders.state, shared, journal, faults, lambda: settings.current.watch.scan_s)
    try:
        discard(folders.state)
    except OSError as error:
        what = f"The search index is turned off, and its file cannot be removed: {error.strerror}."
        faults.note("search", what, f"Delete {folders.state / INDEX_NAME}: it holds words of recordings.")
    return None
