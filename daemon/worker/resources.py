"""What a worker works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from daemon.status.metrics import Counters

if TYPE_CHECKING:
    from daemon.engine import Engine
    from daemon.errors import EngineLostError
    from daemon.frontend import FrontEnd
    from daemon.journal import Journal
    from daemon.spool import Spool
    from daemon.status.faults import Faults


class EngineSource(Protocol):
    """Where the worker finds the engine, and reports that it is lost."""

    @property
    def engine(self) -> Engine | None:
        """The loaded engine, None until there is one."""
        ...

    def lose(self, error: EngineLostError) -> None:
        """Record that the engine is lost."""
        ...


@dataclass(frozen=True, slots=True)
class Resources:
    """Spool, journal, front end and engine, and where faults and figures are noted."""

    spool: Spool
    journal: Journal
    faults: Faults
    front_end: FrontEnd
    engines: EngineSource
    counters: Counters = field(default_factory=Counters)
