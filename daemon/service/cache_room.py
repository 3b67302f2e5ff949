"""Whether the disk for decoded audio has room for one more recording, before it is claimed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from daemon.display import shortened, shown_name
from daemon.errors import NoPermissionError, TransientError
from daemon.host import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from daemon.config import Config, RecordingSettings
    from daemon.frontend import FrontEnd
    from daemon.inbox import Arrival
    from daemon.job import Fingerprint
    from daemon.spool import Spool
    from daemon.spool.claims import Claim

_SPARE_BYTES: Final = 256 << 20  # for listening copies, clips, and what headers do not say
# A file with 2 kbit/s would take this many times its size; a larger share of the disk is worth opening it.
_MOST_TIMES_SIZE: Final = 128
_USUAL_TIMES_SIZE: Final = 16
_REMEDY: Final = "Free some space, or move folders.cache to a larger disk; the recording waits in the inbox until then."


@dataclass(frozen=True, slots=True)
class Shortage:
    """What is wrong where the audio of a recording does not fit, what to do, and the name in it."""

    what: str
    remedy: str
    name: str


class CacheRoom:
    """Counts what is free, and what recordings that are claimed and not decoded yet will take of it.

    Args:
        config: returns the current configuration.
        settings_of: returns the settings of recordings in a folder of the inbox.
        spool: opens what has arrived.
        front_end: reads headers.
        find_undecoded: returns those of some jobs whose audio is not on the disk yet.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        settings_of: Callable[[str], RecordingSettings],
        spool: Spool,
        front_end: FrontEnd,
        find_undecoded: Callable[[Iterable[str]], frozenset[str]],
    ) -> None:
        self._config = config
        self._settings_of = settings_of
        self._spool = spool
        self._front_end = front_end
        self._find_undecoded = find_undecoded
        self._n_free: int | None = None
        self._promised: dict[str, int] = {}  # bytes, by job
        self._chosen: dict[str, int] = {}  # by path: what is about to be claimed
        self._measured: dict[str, tuple[Fingerprint, int]] = {}

    def begin(self, arrivals: Iterable[Arrival]) -> None:
        """Start a turn in which some of these may be claimed."""
        self._chosen.clear()
        try:
            self._n_free = files.free_bytes(self._config().folders.cache)
        except OSError:  # the claim finds out, and says what is wrong
            self._n_free = None
        undecoded = self._find_undecoded(self._promised) if self._promised else frozenset()
        self._promised = {job_id: n_bytes for job_id, n_bytes in self._promised.items() if job_id in undecoded}
        if self._measured:
            paths = {arrival.path for arrival in arrivals}
            self._measured = {path: each for path, each in self._measured.items() if path in paths}

    def take(self, arrival: Arrival) -> Shortage | None:
        """Use up room for a recording; return what is wrong where there is not enough for it."""
        if self._n_free is None:
            return None
        n_free = self._n_free - _SPARE_BYTES - sum(self._promised.values()) - sum(self._chosen.values())
        n_bytes = arrival.fingerprint.n_bytes
        if _MOST_TIMES_SIZE * n_bytes <= n_free:
            self._chosen[arrival.path] = _USUAL_TIMES_SIZE * n_bytes
            return None
        needed = self._measure(arrival)
        if needed <= n_free:
            self._chosen[arrival.path] = needed
            return None
        config = self._config()
        name = shortened(shown_name(arrival.path, config.logging.names))
        n_mib = -(-(needed + _SPARE_BYTES) >> 20)  # a figure that stays the same, as long as this recording waits
        room = f"The disk of {config.folders.cache} has less than the {n_mib} MiB left"
        return Shortage(f"{room} that the audio of {name} may take.", _REMEDY, name)

    def note_claimed(self, claims: Iterable[Claim]) -> None:
        """Keep the room of what was claimed in this turn until it is decoded."""
        for claim in claims:
            self._promised[claim.job.job_id] = self._chosen.get(claim.arrival.path, 0)

    def _measure(self, arrival: Arrival) -> int:
        """Return how many bytes the audio of a recording takes; 0 where it will not be decoded."""
        known = self._measured.get(arrival.path)
        if known is not None and known[0] == arrival.fingerprint:
            return known[1]
        folder = arrival.path.rpartition("/")[0]
        try:
            with self._spool.arrived(arrival.path) as path:
                settings = self._settings_of(folder)
                found = self._front_end.measure_room(path, settings.audio, settings.asr)
        except (OSError, NoPermissionError, TransientError):  # gone, or closed to us: the claim finds out
            return 0
        self._measured[arrival.path] = arrival.fingerprint, found or 0
        return found or 0
