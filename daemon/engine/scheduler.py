"""Continuous batching: chunks of all jobs are scheduled on slots, and a slot is refilled as soon as it is free."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Final

import structlog

from daemon.engine.device import release_memory
from daemon.engine.queue import Request, RequestQueue
from daemon.engine.slots import SlotShape
from daemon.errors import EngineLostError, StoppedError, TransientError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from daemon.engine.device_loop import DeviceLoop
    from daemon.engine.protocol import ChunkRequest, ChunkResponse, Fallback
    from daemon.engine.slot_model import SlotModel
    from daemon.engine.slots import Generated, RowSnapshot, RowState, Slots
    from daemon.transcript import ModelIdentity

log = structlog.get_logger()

# How long `close` waits for the device thread; the service has ten seconds to stop.
_CLOSE_S: Final = 5.0
# A device that has not finished its work by then hangs.
_UNLOAD_S: Final = 60.0
# After running out of memory the engine keeps fewer slots for this long before it tries to get them back.
_REGROW_S: Final = 600.0


@dataclass(slots=True, eq=False)
class _Running:
    """A scheduled request.

    Attributes:
        request: the request.
        number: requests are numbered in the order in which they were scheduled.
        kv_len: an upper bound of the tokens that its row holds.
    """

    request: Request
    number: int
    kv_len: int

    @property
    def max_generated(self) -> int:
        """An upper bound of the tokens that its row has generated."""
        return self.kv_len - self.request.chunk.n_prompt_tokens


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """Rows that are on their way to the host, and which request was in each: rows may have been moved since."""

    snapshot: RowSnapshot
    running: dict[int, _Running]


class ContinuousEngine:
    """An `Engine` that decodes chunks of all jobs together, in slots that are refilled as they become free.

    Args:
        model: the resident model; from now on only the device thread calls it, except for `prepare` and
            `fit_hotwords`.
        identity: which model it is.
        n_slots: how many chunks of SLOT_S are decoded at the same time.
        loop: the thread of the model's device.
        slot_tokens: tokens of the KV cache for each slot, on average; None for as many as any chunk of SLOT_S takes.
    """

    def __init__(
        self,
        model: SlotModel,
        identity: ModelIdentity,
        n_slots: int,
        loop: DeviceLoop,
        slot_tokens: int | None = None,
    ) -> None:
        self.identity = identity
        self._model = model
        self._loop = loop
        self._n_slots_full = n_slots
        self._n_builds_while_loading = 0
        self._slot_tokens = slot_tokens or model.usual_slot_tokens
        # Written by the device thread alone.
        self._slots: Slots | None = None
        self._running: dict[int, _Running] = {}
        self._looks: deque[_Look] = deque()
        self._n_scheduled = 0
        self._n_slots = n_slots
        self._n_slots_changed_s = loop.monotonic()
        self._lock = Lock()  # guards the attributes below
        self._queue = RequestQueue()
        self._end: StoppedError | EngineLostError | None = None
        loop.add(self)

    @property
    def max_in_flight(self) -> int:
        """How many chunks of SLOT_S keep the engine busy."""
        return self._n_slots

    @property
    def fallbacks(self) -> Sequence[Fallback]:
        """What would make it faster and does not work on this machine."""
        return self._model.fallbacks

    def note_loaded(self) -> None:
        """Count builds from now on; see `count_late_builds`."""
        self._n_builds_while_loading = self._model.count_builds()

    def count_late_builds(self) -> int:
        """Return how many functions were compiled or captured since it was loaded."""
        return self._model.count_builds() - self._n_builds_while_loading

    def submit(self, chunk: ChunkRequest, /) -> Future[ChunkResponse]:
        """Queue a chunk and return at once."""
        try:
            request = Request(self._model.prepare(chunk), chunk.job_id)
        except Exception as error:  # noqa: BLE001  # an error that this chunk causes reaches its caller as its result
            return _failed(error)
        with self._lock:
            end = self._end
            if end is None:
                self._queue.add(request)
        if end is None:
            self._loop.wake()
        else:
            _fail([request], end)
        return request.future

    def fit_hotwords(self, hotwords: tuple[str, ...], /) -> tuple[tuple[str, ...], int]:
        """Return the leading hotwords that fit into the model's context, and how many were left out."""
        return self._model.fit_hotwords(hotwords)

    def is_alive(self) -> bool:
        """Whether the engine can work."""
        return self._end is None and self._loop.is_alive()

    def close(self) -> None:
        """Stop within seconds; queued and running chunks end with `StoppedError`. Safe to call twice."""
        self.end(StoppedError("The engine was stopped."))
        self._loop.remove(self, _CLOSE_S)

    def unload(self) -> None:
        """Close, and free the model's memory; afterwards only `close` may be called.

        Raises:
            EngineLostError: the device does not respond.
        """
        self.end(StoppedError("The model was unloaded."))
        if not self._loop.remove(self, _UNLOAD_S):
            raise EngineLostError(
                "The GPU stopped responding: the memory of the model was not freed.",
                "The service exits and systemd restarts it. If this repeats, look for Xid errors in `journalctl -k`.",
            )
        # Whatever still refers to the engine must not keep the model.
        del self._model
        release_memory()

    # For the device loop

    @property
    def is_closed(self) -> bool:
        """Whether the engine takes no more chunks."""
        return self._end is not None

    @property
    def working_bytes(self) -> int:
        """Memory that a prefill takes for a short time."""
        return self._model.working_bytes

    def has_work(self) -> bool:
        """Whether chunks are running or waiting."""
        with self._lock:
            return bool(self._running) or len(self._queue) > 0

    def run_iteration(self) -> None:
        """Schedule waiting chunks, run some decode steps in all slots, and return what is finished."""
        slots = self._ready_slots()
        self._schedule(slots)
        if self._running:
            self._decode(slots)
            self._look_at_rows(slots)

    def recover(self, failure: Exception) -> None:
        """Retry each running chunk or end it with what it caused; no chunk is lost."""
        requests = self._clear_running()
        self._drop_slots()
        if isinstance(failure, TransientError) and self._n_slots > 1:
            self._halve_slots(requests)
        elif len(requests) > 1:
            for request in requests:
                request.is_suspect = True
            self._put_back(requests)
        else:
            self._fail_only(requests, failure)

    def end(self, reason: StoppedError | EngineLostError) -> None:
        """Take no more chunks and end those that wait. Only the first reason counts."""
        with self._lock:
            if self._end is not None:
                return
            self._end = reason
            waiting = self._queue.take_all()
        _fail(waiting, reason)

    def release(self) -> None:
        """End running chunks and free the slots."""
        if self._end is not None:
            _fail(self._clear_running(), self._end)
        self._drop_slots()

    # One iteration, on the device thread

    def _ready_slots(self) -> Slots:
        """Return slots of the wanted shape; slots in use keep their shape until they are empty."""
        self._regrow_slots()
        if self._slots is not None and (self._running or self._slots.shape == self._wanted_shape()):
            return self._slots
        self._drop_slots()
        self._slots = self._model.make_slots(self._wanted_shape(), self._heartbeat)
        return self._slots

    def _wanted_shape(self) -> SlotShape:
        """Return slots long enough for the longest chunk, and as many as take the memory of `n_slots` usual ones.

        Where slots share pages, all of them may be long, and there are as many pages as the longest chunk needs.
        """
        usual, page_tokens = self._model.usual_slot_tokens, self._model.page_tokens
        with self._lock:
            needs = [request.chunk.n_slot_tokens for request in self._queue]
        needs += [running.request.chunk.n_slot_tokens for running in self._running.values()]
        if page_tokens is None:
            n_tokens = max(usual, *needs, 0)
            return SlotShape(max(1, self._n_slots * usual // n_tokens), n_tokens)
        n_pages = -(-max(self._n_slots * self._slot_tokens, usual, *needs) // page_tokens)
        return SlotShape(self._n_slots, max(self._model.longest_slot_tokens, *needs, 0), page_tokens, n_pages)

    def _schedule(self, slots: Slots) -> None:
        """Prefill waiting requests into free rows."""
        free = [row for row in range(slots.shape.n_slots) if row not in self._running]
        if not free or slots.shape != self._wanted_shape():
            return
        rows: list[int] = []
        with self._lock:
            while free and (request := self._queue.take(lambda waiting: self._may_start(slots, waiting))) is not None:
                row = free.pop(0)
                self._n_scheduled += 1
                self._running[row] = _Running(request, self._n_scheduled, request.chunk.n_prompt_tokens + 1)
                slots.grow(row, self._running[row].kv_len)
                rows.append(row)
        if rows:
            slots.upload_pages()
            self._model.prefill(slots, [self._running[row].request.chunk for row in rows], rows, self._heartbeat)

    def _may_start(self, slots: Slots, request: Request) -> bool:
        """Whether a request may run beside those that are running: a suspect runs alone, and memory must be free."""
        running = self._running.values()
        if not running:
            return True
        if request.is_suspect or any(other.request.is_suspect for other in running):
            return False
        n_free = slots.n_free_tokens
        if n_free is None:
            return True
        # What is running will probably take so many more.
        n_promised = sum(
            max(0, one.request.chunk.n_likely_tokens - slots.count_held_tokens(row))
            for row, one in self._running.items()
        )
        return n_free - n_promised >= request.chunk.n_likely_tokens

    def _decode(self, slots: Slots) -> None:
        self._grow_rows(slots)
        n_rows = max(self._running) + 1
        for _ in range(self._model.steps_per_sync):
            self._heartbeat()
            kv_len = min(max(running.kv_len for running in self._running.values()), slots.shape.n_tokens)
            self._model.decode_step(slots, n_rows, kv_len)
            for running in self._running.values():
                running.kv_len += 1

    def _grow_rows(self, slots: Slots) -> None:
        """Give each row pages for the next steps. If they run out, the request scheduled last is put back."""
        n_steps = self._model.steps_per_sync
        for row, one in sorted(self._running.items(), key=lambda item: item[1].number):
            n_tokens = min(one.kv_len + n_steps, one.request.chunk.n_slot_tokens)
            while row in self._running and not slots.grow(row, n_tokens):
                self._put_back_last(slots)
        slots.upload_pages()

    def _put_back_last(self, slots: Slots) -> None:
        row = max(self._running, key=lambda row: self._running[row].number)
        request = self._running.pop(row).request
        slots.stop(row)
        slots.release(row)
        self._put_back([request])
        log.info("engine.chunk_put_back", n_running=len(self._running), reason="The KV cache is full.")

    def _look_at_rows(self, slots: Slots) -> None:
        """Collect what is finished: at once, or with many rows only after the next steps have been launched."""
        min_rows = self._model.min_rows_ahead
        is_ahead = min_rows is not None and len(self._running) >= min_rows
        max_generated = max(one.max_generated for one in self._running.values())
        snapshot = slots.snapshot(is_deferred=is_ahead, max_generated=max_generated)
        self._looks.append(_Look(snapshot, dict(self._running)))
        while len(self._looks) > is_ahead:
            self._collect_finished(slots, self._looks.popleft())

    def _collect_finished(self, slots: Slots, look: _Look) -> None:
        """Return the responses of the requests that were finished at a look."""
        states = look.snapshot.read_states()
        row_now = {id(running): row for row, running in self._running.items()}
        finished = [row for row, one in look.running.items() if not states[row].is_live and id(one) in row_now]
        outputs = look.snapshot.read_generated(finished, [states[row].n_generated for row in finished])
        for row, generated in zip(finished, outputs, strict=True):
            current = row_now[id(look.running[row])]
            self._respond(self._running.pop(current).request, generated, states[row])
            if states[row].has_failed:
                slots.clear(current)
            slots.release(current)
        self._compact_rows(slots)

    def _respond(self, request: Request, generated: Generated, state: RowState) -> None:
        try:
            response = self._model.make_response(generated, request.chunk, has_failed=state.has_failed)
        except Exception as error:  # noqa: BLE001  # it reaches the caller's thread through the future
            request.future.set_exception(error)
        else:
            request.future.set_result(response)

    def _compact_rows(self, slots: Slots) -> None:
        """Close the gaps between rows if no request waits to fill them: rows are computed up to the last one."""
        with self._lock:
            if len(self._queue):
                return
        while self._running and (last := max(self._running)) >= len(self._running):
            gap = next(row for row in range(last) if row not in self._running)
            slots.move(last, gap)
            self._running[gap] = self._running.pop(last)

    def _heartbeat(self) -> None:
        """Show progress, and abort the iteration if the engine was closed."""
        if self._end is not None:
            raise StoppedError("The engine was stopped.")
        self._loop.heartbeat()

    # After a failure, on the device thread

    def _halve_slots(self, requests: list[Request]) -> None:
        """Go on with half the slots: memory that ran out once will run out again."""
        self._n_slots //= 2
        self._n_slots_changed_s = self._loop.monotonic()
        self._put_back(requests)
        log.warning("engine.slots_halved", n_running=len(requests), n_slots=self._n_slots)

    def _regrow_slots(self) -> None:
        """Double the slots again if enough memory is free some time after they were halved."""
        now_s = self._loop.monotonic()
        if self._n_slots == self._n_slots_full or now_s - self._n_slots_changed_s < _REGROW_S:
            return
        self._n_slots_changed_s = now_s
        n_slots = min(2 * self._n_slots, self._n_slots_full)
        slot_bytes = self._slot_tokens * self._model.kv_cache_spec.token_bytes
        needed_bytes = (n_slots - self._n_slots) * slot_bytes + self._loop.count_other_bytes(self)
        free_bytes = self._model.count_free_bytes()
        if free_bytes is not None and free_bytes < needed_bytes:
            log.info("engine.slots_kept", n_slots=self._n_slots, free_bytes=free_bytes, needed_bytes=needed_bytes)
            return
        self._n_slots = n_slots
        log.info("engine.slots_doubled", n_slots=n_slots)

    def _fail_only(self, requests: list[Request], failure: Exception) -> None:
        """End the only running request with the failure; if none was running, the next one that waits."""
        with self._lock:
            if not requests and (waiting := self._queue.take(lambda _: True)) is not None:
                requests = [waiting]
        for request in requests:
            request.future.set_exception(failure)

    def _clear_running(self) -> list[Request]:
        requests = [running.request for running in self._running.values()]
        self._running.clear()
        return requests

    def _put_back(self, requests: list[Request]) -> None:
        with self._lock:
            end = self._end
            if end is None:
                self._queue.put_back(requests)
        if end is not None:  # closed meanwhile: the queue has been emptied permanently
            _fail(requests, end)

    def _drop_slots(self) -> None:
        """Free the slots; after a failure their contents cannot be trusted."""
        self._looks.clear()
        if self._slots is not None:
            self._slots = None
            self._model.release_memory()


def _failed(error: Exception) -> Future[ChunkResponse]:
    future: Future[ChunkResponse] = Future()
    future.set_exception(error)
    return future


def _fail(requests: Iterable[Request], end: StoppedError | EngineLostError) -> None:
    """End each request with an error of its own: a shared one would collect the tracebacks of all who raise it."""
    for request in requests:
        if request.start():
            request.future.set_exception(type(end)(end.what, end.remedy))
