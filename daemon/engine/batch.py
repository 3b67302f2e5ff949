"""The engine of batches: one thread, which alone touches the model, answers what many threads submit."""

from __future__ import annotations

import time
import traceback
from threading import Condition, Thread
from typing import TYPE_CHECKING, Final

import structlog

from daemon.engine.queue import Request, RequestQueue
from daemon.errors import EngineLostError, StoppedError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future

    from daemon.engine.model import ResidentModel
    from daemon.engine.protocol import Piece, PieceText
    from daemon.transcript import ModelIdentity

_LOG = structlog.get_logger(__name__)

# The model pulses at each layer and token. The longest stretch between two pulses is one layer over
# a whole batch, seconds even on a slow CPU; a device that hangs never pulses again.
_STUCK_S: Final = 300.0
# Between two pulses of a stop; the caller has ten seconds for everything.
_JOIN_S: Final = 5.0
# The piece that a slot is made for, the longest by default; of longer ones fewer go together.
SLOT_S: Final = 30.0


class BatchedEngine:
    """Answers pieces in batches of similar length, the jobs taking turns; see `Engine` for what callers may rely on."""

    def __init__(
        self,
        model: ResidentModel,
        identity: ModelIdentity,
        n_slots: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.identity = identity
        self._model = model
        self._n_slots = n_slots
        self._monotonic = monotonic
        # Of the batch that runs, None while idle; written by the engine's thread alone.
        self._last_sign_at: float | None = None
        self._changed = Condition()  # guards what stands below
        self._queue = RequestQueue()
        self._end: StoppedError | EngineLostError | None = None
        # A daemon thread: a process that must end is not held by a device that hangs.
        self._thread = Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def max_pieces(self) -> int:
        """How many pieces keep it busy."""
        return self._n_slots

    def submit(self, piece: Piece) -> Future[PieceText]:
        """Queue a piece and return at once."""
        request = Request(piece)
        with self._changed:
            if self._end is None:
                self._queue.add(request)
                self._changed.notify()
            else:
                _fail([request], self._end)
        return request.future

    def fit_hotwords(self, hotwords: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
        """Return the leading hotwords that fit the model's context, and how many were cut."""
        return self._model.fit_hotwords(hotwords)

    def is_alive(self) -> bool:
        """Whether it works, or could."""
        last_sign_at = self._last_sign_at
        is_stuck = last_sign_at is not None and self._monotonic() - last_sign_at > _STUCK_S
        return self._end is None and self._thread.is_alive() and not is_stuck

    def close(self) -> None:
        """Stop within seconds; what waits or runs ends with `StoppedError`. Safe to call twice."""
        self._finish(StoppedError("The engine was stopped."))
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        while batch := self._wait_for_batch():
            self._answer(batch)

    def _wait_for_batch(self) -> list[Request]:
        """Return what goes to the model next; empty at the end."""
        with self._changed:
            while self._end is None:
                if not len(self._queue):
                    self._changed.wait()
                elif batch := self._queue.take_batch(self._n_slots, self._n_slots * SLOT_S):
                    return batch
        return []

    def _answer(self, batch: Sequence[Request]) -> None:
        """Give each request its text or what kept it from one; a failure is narrowed down to the request it is from."""
        failure = self._end or self._attempt(batch)
        if failure is None:
            return
        if isinstance(failure, EngineLostError):
            self._finish(failure)
        if self._end is not None:
            _fail(batch, self._end)
        elif len(batch) == 1:
            batch[0].future.set_exception(failure)
        elif isinstance(failure, TransientError):
            self._halve(batch)
        else:
            middle = len(batch) // 2
            self._answer(batch[:middle])
            self._answer(batch[middle:])

    def _attempt(self, batch: Sequence[Request]) -> Exception | None:
        """Run one batch; return what went wrong."""
        self._last_sign_at = self._monotonic()
        try:
            texts = self._model.transcribe([request.piece for request in batch], self._pulse)
        except Exception as error:  # noqa: BLE001  # it crosses to the caller's thread through its future
            # The frames hold the batch's tensors, and the caller may keep the error for long.
            traceback.clear_frames(error.__traceback__)
            return error
        finally:
            self._last_sign_at = None
        for request, text in zip(batch, texts, strict=True):
            request.future.set_result(text)
        return None

    def _pulse(self) -> None:
        """Called by the model many times a second: a sign of life, and the way out."""
        if self._end is not None:
            raise StoppedError("The engine was stopped.")
        self._last_sign_at = self._monotonic()

    def _halve(self, batch: Sequence[Request]) -> None:
        """Go on with half of what this batch was; memory that was too short once will be again."""
        longest_s = max(request.piece.duration_s for request in batch)
        with self._changed:
            self._n_slots = max(1, int(len(batch) * max(longest_s / SLOT_S, 1)) // 2)
            self._queue.put_back(batch)
        _LOG.warning("engine.batch_halved", n_failed=len(batch), longest_s=round(longest_s), n_slots=self._n_slots)

    def _finish(self, end: StoppedError | EngineLostError) -> None:
        """Take no more; everything that waits ends with this. Only the first end counts."""
        with self._changed:
            if self._end is not None:
                return
            self._end = end
            waiting = self._queue.take_all()
            self._changed.notify_all()
        if isinstance(end, EngineLostError):
            _LOG.error("engine.lost", reason=end.what)
        _fail(waiting, end)


def _fail(requests: Iterable[Request], end: StoppedError | EngineLostError) -> None:
    """End requests with an error of their own each: a shared one would gather the tracebacks of all who raise it."""
    for request in requests:
        if request.begin():
            request.future.set_exception(type(end)(end.what, end.remedy))
