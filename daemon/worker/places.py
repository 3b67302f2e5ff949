"""Who may give chunks to the engine: at most as many recordings as it has slots, and short ones never wait long."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final

from daemon.pipeline.recognition import most_ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from daemon.engine import Engine

# Recordings in transcription, however many slots there are: each holds audio on the disk.
_MAX_PLACES: Final = 256
# Who waits comes in the order of arrival, but a second of audio counts like a tenth of a second of waiting, so that
# short recordings overtake long ones; a long one loses no more than a minute to them.
_WAIT_PER_AUDIO_S: Final = 0.1
_MAX_HANDICAP_S: Final = 60.0
# A recording gives way to one that is much shorter, but not at once: otherwise it would get nowhere among many.
_MUCH_SHORTER: Final = 4.0
_LEAST_TURN_S: Final = 2.0
# Each recording may always have this many chunks ahead: one that is transcribed, and the next one.
_LEAST_AHEAD: Final = 2


def count_places(engine: Engine) -> int:
    """Return how many recordings may be in transcription with this engine."""
    return max(1, min(engine.max_in_flight, _MAX_PLACES))


class Place:
    """One recording among those that share the engine. Any thread may call.

    It is the `Pace` of the pipeline: without a turn, a recording submits nothing more, and what the engine has of it
    is finished.

    Args:
        places: all of them.
        audio_s: length of the recording in seconds.
        is_suspect: it was in flight at a crash: no other may have chunks at the engine until it has finished one.
    """

    def __init__(self, places: Places, audio_s: float, *, is_suspect: bool) -> None:
        self.audio_s = audio_s
        self.left_s = audio_s
        self.is_suspect = is_suspect
        self.since_s = 0.0  # when it began to wait, or got its turn
        self.n_ahead = 0
        self.ahead_s = 0.0
        self.turn: Future[None] | None = None
        self._places = places

    def may_submit(self, n_ahead: int, ahead_s: float) -> bool:
        """Whether it may submit another chunk now; see `daemon.pipeline.Pace`."""
        return self._places.may_submit(self, n_ahead, ahead_s)

    def next_turn(self) -> Future[None]:
        """Return a future that is done when it has its turn."""
        return self._places.next_turn(self)

    def note(self, done: float) -> None:
        """Record which share of the recording is transcribed, 0 to 1."""
        self.left_s = (1.0 - done) * self.audio_s

    def clear(self) -> None:
        """Record that it has finished a chunk: it is no suspect any more."""
        self._places.clear(self)

    def leave(self) -> None:
        """Give up the place; a second call does nothing."""
        self._places.leave(self)


class Places:
    """Gives turns to recordings that are prepared.

    Args:
        engine: returns the engine, None until there is one.
        monotonic: clock in seconds, injectable for tests.
    """

    def __init__(self, engine: Callable[[], Engine | None], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._waiting: set[Place] = set()
        self._having: set[Place] = set()  # those with a turn
        self._n_ahead = 0
        self._ahead_s = 0.0

    def enter(self, audio_s: float, *, is_suspect: bool) -> Place:
        """Return a place for a recording, which then waits for its turn."""
        place = Place(self, audio_s, is_suspect=is_suspect)
        with self._lock:
            place.since_s = self._monotonic()
            self._waiting.add(place)
            granted = self._admit()
        _tell(granted)
        return place

    def next_turn(self, place: Place) -> Future[None]:
        """Return a future that is done when a recording has its turn."""
        with self._lock:
            if place in self._waiting:
                place.turn = place.turn or Future()
                return place.turn
        now: Future[None] = Future()
        now.set_result(None)
        return now

    def may_submit(self, place: Place, n_ahead: int, ahead_s: float) -> bool:
        """Whether a recording may submit another chunk: it has a turn, and the engine could run short of chunks.

        Each may have its share of what keeps the engine busy, and more while others leave some of theirs.
        """
        with self._lock:
            self._count(place, n_ahead, ahead_s)
            granted = self._admit() if self._waiting else []
            may = place in self._having and self._leaves_room(place)
        _tell(granted)
        return may

    def clear(self, place: Place) -> None:
        """Record that a suspect has finished a chunk."""
        with self._lock:
            place.is_suspect = False
            granted = self._admit()
        _tell(granted)

    def leave(self, place: Place) -> None:
        """Take a recording out."""
        with self._lock:
            if place not in self._having and place not in self._waiting:
                return
            self._having.discard(place)
            self._waiting.discard(place)
            self._count(place, 0, 0.0)
            granted = self._admit()
        _tell(granted)

    def _count(self, place: Place, n_ahead: int, ahead_s: float) -> None:
        self._n_ahead += n_ahead - place.n_ahead
        self._ahead_s += ahead_s - place.ahead_s
        place.n_ahead, place.ahead_s = n_ahead, ahead_s

    def _leaves_room(self, place: Place) -> bool:
        engine = self._engine()
        if place.n_ahead == 0 or engine is None:
            return True
        if place.is_suspect:
            return False  # the first chunk clears it, and others wait for that
        most, most_s = most_ahead(engine)
        share = max(most // len(self._having), _LEAST_AHEAD)
        if place.n_ahead < share and place.ahead_s < most_s / len(self._having):
            return True
        return self._n_ahead < most and self._ahead_s < most_s

    def _admit(self) -> list[Future[None]]:
        """Give turns where there are places, or some give way; return the futures of those who waited for them."""
        granted: list[Future[None]] = []
        while self._waiting and (engine := self._engine()) is not None:
            if any(place.is_suspect for place in self._having):
                break
            suspects = [place for place in self._waiting if place.is_suspect]
            if suspects:
                self._pause(list(self._having))
                if any(place.n_ahead for place in self._waiting):
                    break
            first = min(suspects or self._waiting, key=_rank)
            if len(self._having) >= count_places(engine):
                longest = self._find_one_to_give_way(first)
                if longest is None:
                    break
                self._pause([longest])
            self._waiting.discard(first)
            self._having.add(first)
            first.since_s = self._monotonic()
            if first.turn is not None:
                granted.append(first.turn)
                first.turn = None
        return granted

    def _find_one_to_give_way(self, to: Place) -> Place | None:
        """Return the recording with the most left to do, if that is much more, and it has had its turn for a while."""
        now_s = self._monotonic()
        long = [
            place
            for place in self._having
            if place.left_s >= _MUCH_SHORTER * to.left_s and now_s - place.since_s >= _LEAST_TURN_S
        ]
        return max(long, key=lambda place: place.left_s, default=None)

    def _pause(self, places: Iterable[Place]) -> None:
        for place in places:
            self._having.discard(place)
            self._waiting.add(place)
            place.since_s = self._monotonic()


def _rank(place: Place) -> float:
    return place.since_s + min(_WAIT_PER_AUDIO_S * place.left_s, _MAX_HANDICAP_S)


def _tell(granted: Iterable[Future[None]]) -> None:
    """Complete the futures of those who have their turn now; outside the lock, for others run code on them."""
    for turn in granted:
        turn.set_result(None)
