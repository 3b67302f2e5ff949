"""The engine: one thread, which alone touches the model, keeps all slots busy with what many threads submit."""

from __future__ import annotations

import time
import traceback
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Condition, Thread
from typing import TYPE_CHECKING, Final

import structlog
import torch

from daemon.engine.failures import explain
from daemon.engine.protocol import SLOT_S
from daemon.engine.queue import Request, RequestQueue
from daemon.engine.qwen3_asr.model import count_slot_tokens
from daemon.engine.qwen3_asr.slots import SlotShape
from daemon.errors import EngineLostError, StoppedError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from daemon.engine.protocol import ChunkRequest, ChunkResponse
    from daemon.engine.qwen3_asr.model import ResidentModel
    from daemon.engine.qwen3_asr.slots import RowState, Slots
    from daemon.transcript import ModelIdentity

_LOG = structlog.get_logger(__name__)

# The model pulses at each layer and step. The longest stretch between two pulses is one layer over
# a whole prefill, seconds even on a slow CPU; a device that hangs never pulses again.
_STUCK_S: Final = 300.0
# Between two pulses of a stop; the caller has ten seconds for everything.
_JOIN_S: Final = 5.0
# Whoever else took memory on the device is given this long before slots that were given up are tried again.
_REGROW_S: Final = 600.0


@dataclass(slots=True, eq=False)
class _Row:
    """A request in work: `n_tokens` is how many its row may hold by now."""

    request: Request
    n_tokens: int


class ContinuousEngine:
    """Answers pieces of all jobs in slots that are filled as they come free; see `Engine` for what callers rely on."""

    def __init__(
        self,
        model: ResidentModel,
        identity: ModelIdentity,
        n_slots: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the engine's thread.

        Args:
            model: nobody else may call it, but for `prepare` and `fit_hotwords`.
            identity: which model it is.
            n_slots: how many pieces of 30 s are in work at the same time.
            monotonic: the clock, in seconds.
        """
        self.identity = identity
        self._model = model
        self._monotonic = monotonic
        self._n_slots_full = n_slots
        # Written by the engine's thread alone: the slots, what is in them, and when it was last alive in its work.
        self._slots: Slots | None = None
        self._rows: dict[int, _Row] = {}
        self._n_slots = n_slots
        self._n_slots_changed_at = monotonic()
        self._last_sign_at: float | None = None
        self._changed = Condition()  # guards what stands below
        self._queue = RequestQueue()
        self._end: StoppedError | EngineLostError | None = None
        # A daemon thread: a process that must end is not held by a device that hangs.
        self._thread = Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def max_in_flight(self) -> int:
        """How many pieces keep it busy."""
        return self._n_slots

    def submit(self, piece: ChunkRequest) -> Future[ChunkResponse]:
        """Queue a piece and return at once."""
        try:
            request = Request(self._model.prepare(piece), piece.job_id)
        except Exception as error:  # noqa: BLE001  # whatever this piece causes reaches its caller through the future
            return _failed(error)
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

    # The engine's thread

    def _run(self) -> None:
        with torch.inference_mode(), self._model.on_device():
            while self._wait_for_work():
                self._last_sign_at = self._monotonic()
                error = self._attempt_turn()
                self._last_sign_at = None
                if error is not None:
                    self._recover(error)
            if self._end is not None:
                _fail(self._give_up_rows(), self._end)
            self._drop_slots()

    def _wait_for_work(self) -> bool:
        """Wait until something is to be done; False at the end."""
        with self._changed:
            while self._end is None and not self._rows and not len(self._queue):
                self._changed.wait()
            return self._end is None

    def _attempt_turn(self) -> Exception | None:
        """Take a turn; return what went wrong."""
        try:
            self._run_iteration()
        except Exception as error:  # noqa: BLE001  # it is told apart in _recover, and reaches callers through futures
            # The frames hold the turn's tensors, and a caller may keep the error for long.
            traceback.clear_frames(error.__traceback__)
            return error
        return None

    def _run_iteration(self) -> None:
        """Fill free slots, take some steps in all of them, and answer what has come to its end."""
        slots = self._fit_slots()
        self._admit(slots)
        if self._rows:
            self._advance(slots)
            self._collect_finished(slots)

    def _fit_slots(self) -> Slots:
        """Return slots of the shape that is wanted now; slots in work stay as they are until they are empty."""
        self._regrow()
        if self._slots is not None and (self._rows or self._slots.shape == self._wanted_shape()):
            return self._slots
        self._drop_slots()
        self._slots = self._model.make_slots(self._wanted_shape())
        return self._slots

    def _wanted_shape(self) -> SlotShape:
        """Return as many tokens for each slot as the longest piece needs, and slots for the memory of `n_slots`."""
        usual = count_slot_tokens(SLOT_S)
        with self._changed:
            needs = [request.piece.n_slot_tokens for request in self._queue]
        needs += [row.request.piece.n_slot_tokens for row in self._rows.values()]
        n_tokens = max(usual, *needs, 0)
        return SlotShape(max(1, self._n_slots * usual // n_tokens), n_tokens)

    def _admit(self, slots: Slots) -> None:
        """Give free slots to those whose turn it is."""
        free = [row for row in range(slots.shape.n_slots) if row not in self._rows]
        if not free or slots.shape != self._wanted_shape():
            return
        admitted: list[int] = []
        with self._changed:
            while free and (request := self._queue.take(self._may_begin)) is not None:
                row = free.pop(0)
                self._rows[row] = _Row(request, request.piece.n_prompt_tokens + 1)
                admitted.append(row)
        if admitted:
            self._model.begin(slots, [self._rows[row].request.piece for row in admitted], admitted, self._heartbeat)

    def _may_begin(self, request: Request) -> bool:
        """Whether a request may begin beside those in work: a suspect and its like run alone."""
        return not self._rows or not (request.is_suspect or any(row.request.is_suspect for row in self._rows.values()))

    def _advance(self, slots: Slots) -> None:
        n_rows = max(self._rows) + 1
        for _ in range(self._model.steps_per_read):
            self._heartbeat()
            n_columns = min(max(row.n_tokens for row in self._rows.values()), slots.shape.n_tokens)
            self._model.advance(slots, n_rows, n_columns)
            for row in self._rows.values():
                row.n_tokens += 1

    def _collect_finished(self, slots: Slots) -> None:
        """Answer the requests whose rows have come to their end."""
        states = slots.read()
        ended = [row for row in self._rows if not states[row].is_live]
        if ended:
            answers = slots.read_answers(ended, [states[row].n_answer for row in ended])
            for row, tokens in zip(ended, answers, strict=True):
                self._answer(self._rows.pop(row).request, tokens, states[row])
                if states[row].has_failed:
                    slots.clear(row)
        self._compact_rows(slots)

    def _answer(self, request: Request, tokens: list[int], state: RowState) -> None:
        try:
            text = self._model.finish(tokens, request.piece, has_failed=state.has_failed)
        except Exception as error:  # noqa: BLE001  # it crosses to the caller's thread through its future
            request.future.set_exception(error)
        else:
            request.future.set_result(text)

    def _compact_rows(self, slots: Slots) -> None:
        """Where nothing waits to fill them, do away with the gaps: only rows up to the last one are computed."""
        with self._changed:
            if len(self._queue):
                return
        while self._rows and (last := max(self._rows)) >= len(self._rows):
            gap = next(row for row in range(last) if row not in self._rows)
            slots.move(last, gap)
            self._rows[gap] = self._rows.pop(last)

    def _heartbeat(self) -> None:
        """Called many times a second: a sign of life, and the way out."""
        if self._end is not None:
            raise StoppedError("The engine was stopped.")
        self._last_sign_at = self._monotonic()

    # What goes wrong

    def _recover(self, error: Exception) -> None:
        """Give each request in work another try, or what kept it from its text; nothing is lost."""
        failure = self._end or explain(error) or error
        requests = self._give_up_rows()
        self._drop_slots()
        if isinstance(failure, EngineLostError):
            self._finish(failure)
        if self._end is not None:
            _fail(requests, self._end)
        elif isinstance(failure, TransientError) and self._n_slots > 1:
            self._shrink(requests)
        elif len(requests) > 1:
            for request in requests:
                request.is_suspect = True
            self._put_back(requests)
        else:
            self._blame(requests, failure)

    def _shrink(self, requests: list[Request]) -> None:
        """Go on with half of the slots: memory that was too short once will be again."""
        self._n_slots //= 2
        self._n_slots_changed_at = self._monotonic()
        self._put_back(requests)
        _LOG.warning("engine.slots_halved", n_in_work=len(requests), n_slots=self._n_slots)

    def _regrow(self) -> None:
        """Try again to have twice the slots when memory has been short for some time, or say why not."""
        now_s = self._monotonic()
        if self._n_slots == self._n_slots_full or now_s - self._n_slots_changed_at < _REGROW_S:
            return
        self._n_slots_changed_at = now_s
        n_slots = min(2 * self._n_slots, self._n_slots_full)
        n_more_bytes = (n_slots - self._n_slots) * count_slot_tokens(SLOT_S) * self._model.cache_sizes.token_bytes
        free_bytes = self._model.count_free_bytes()
        if free_bytes is not None and free_bytes < n_more_bytes:
            _LOG.info("engine.slots_kept", n_slots=self._n_slots, free_bytes=free_bytes, needed_bytes=n_more_bytes)
            return
        self._n_slots = n_slots
        _LOG.info("engine.slots_doubled", n_slots=n_slots)

    def _blame(self, requests: list[Request], failure: Exception) -> None:
        """Let the only request there was end with the failure; without one, the next that waits."""
        with self._changed:
            if not requests and (waiting := self._queue.take(lambda _: True)) is not None:
                requests = [waiting]
        for request in requests:
            request.future.set_exception(failure)

    def _give_up_rows(self) -> list[Request]:
        requests = [row.request for row in self._rows.values()]
        self._rows.clear()
        return requests

    def _put_back(self, requests: list[Request]) -> None:
        with self._changed:
            self._queue.put_back(requests)

    def _drop_slots(self) -> None:
        """Let go of the slots; their state after a failure is anybody's guess."""
        if self._slots is not None:
            self._slots = None
            self._model.release_memory()

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


def _failed(error: Exception) -> Future[ChunkResponse]:
    future: Future[ChunkResponse] = Future()
    future.set_exception(error)
    return future


def _fail(requests: Iterable[Request], end: StoppedError | EngineLostError) -> None:
    """End requests with an error of their own each: a shared one would gather the tracebacks of all who raise it."""
    for request in requests:
        if request.begin():
            request.future.set_exception(type(end)(end.what, end.remedy))
